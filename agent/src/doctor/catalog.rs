//! Every check by name, and when it speaks up: the table of docs/doctor.md and of `portolan doctor --list`.

use super::finding::Check;

macro_rules! checks {
    ($($id:ident $name:literal $speaks_when:literal)*) => {
        $(pub(super) const $id: Check = Check { name: $name, speaks_when: $speaks_when };)*
        /// All of them, in the order in which they are printed.
        pub(crate) const ALL: &[&Check] = &[$(&$id),*];
    };
}

checks! {
    AGENT_ANSWERS "agent-answers" "no agent answers on agent.sock in --run-dir within two seconds"
    AGENT_NAMESPACE "agent-namespace" "the agent is in another network namespace than this command"
    AGENT_VERSION "agent-version" "the agent that runs is of another release than this command"
    AGENT_READY "agent-ready" "the agent waits for something, or says of itself what is wrong"
    AGENT_SOURCE "agent-source" "the API server does not answer this node, or the manifests have mistakes"
    CNI_PLUGIN "cni-plugin" "the plugin is not in the runtime's folder, does not run, or is of another release"
    CNI_CONFIG "cni-config" "the first network configuration by name is missing, another's, damaged, or leads to another agent"
    CNI_STATUS "cni-status" "the plugin, asked as the runtime does, says that no pod can be attached"
    FORWARDING "forwarding" "the kernel does not forward, at all or for packets of one interface"
    RP_FILTER "rp-filter" "reverse path filtering is strict on an uplink, and there are several uplinks"
    ROUTE_LOCALNET "route-localnet" "packets of other hosts may come in for 127.0.0.0/8, and no rule drops them"
    CONNTRACK_ROOM "conntrack-room" "the table of connections is filled to nine tenths or more"
    IPTABLES_BACKEND "iptables-backend" "rules of others, or of ours, are in both iptables back ends"
    FORWARD_ACCEPT "forward-accept" "the policy of FORWARD is DROP, and no rule of ours accepts what policy allowed"
    JUMPS_FIRST "jumps-first" "the way into our chains is missing, or others' rules come before it"
    MARK_CLASH "mark-clash" "a rule of others writes or reads bits of packet marks that are ours"
    BGP_SESSION "bgp-session" "a session is not Established"
    BGP_LISTENER "bgp-listener" "BGP cannot listen on its address"
    BGP_RESTART "bgp-graceful-restart" "an Established peer does not keep our routes while the agent restarts"
    BFD "bfd" "a BGPPeer wants BFD and it is not up; otherwise it says where BFD runs, and what C is"
    SILENT_NODE "silent-node" "addresses of Services are announced to a peer without BFD, which sends to this node long after its death"
    ROUTE_MISSING "route-missing" "a pod's route, or one that BGP chose, is not in the kernel"
    ROUTE_FOREIGN "route-foreign" "a route of others takes packets that are to go by a route of ours"
    ROUTE_DEAD "route-dead" "a route of ours leads to links that are down"
    TUNNEL "tunnel" "a tunnel to other nodes cannot be made or kept, or a node does not answer in it"
    POD_LINK "pod-link" "an attachment has no interface, or one that is down; or an interface has no attachment"
    POD_MTU "pod-mtu" "a pod's interface takes larger packets than the way out, or its two ends differ"
    TUNNEL_CHECKSUM "tunnel-checksum" "packets come in tunnels with wrong checksums, or those vanish whose checksum is left to this node's NIC"
    POLICY_ISOLATES "policy-isolates" "a pod is isolated by NetworkPolicy, and no rule allows anything"
    POLICY_DROPS "policy-drops" "policy denied packets within the last minute"
    SERVICE_PROXY "service-proxy" "there is a cluster, and nothing programs its Services on this node; or another proxy is here beside the agent that should"
    SERVICE_PORTS "service-ports" "a port at which load balancers ask this node is another's"
    SERVICE_ENDPOINTS "service-endpoints" "a Service is refused because it has no endpoints"
    ADDRESS_INTERFACE "address-interface" "this node may answer ARP for addresses of an IPPool with layer2, and has no interface to do it by"
    ADDRESS_ANSWERS "address-answers" "asked by ARP and neighbour discovery, nobody answers for an address of such a pool, or another machine does, too"
    ADDRESS_LEASE "address-lease" "the Leases of such addresses cannot be read or written: an address stays where it is, or comes to nobody"
    DNS "dns" "the cluster's DNS does not answer this node, or does not know the name"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different_and_of_small_letters() {
        let names: BTreeSet<&str> = ALL.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), ALL.len());
        let is_plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names.iter().all(is_plain), "{names:?}");
    }

    #[test]
    fn the_page_has_every_check_with_these_words() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doctor.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let on_page: Vec<String> = rows
            .map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" | "))
            .collect();
        let wanted: Vec<String> = ALL
            .iter()
            .map(|check| format!("| `{}` | {}", check.name, check.speaks_when))
            .collect();
        assert_eq!(on_page, wanted);
    }
}
