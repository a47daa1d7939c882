//! kube-router's flags: how they are written, and what becomes of those that no peer is made of.

use serde_json::Value;

use super::super::input::Input;

/// One flag as it stands in a DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: String,
    /// What follows the equals sign or stands in the next argument; `true` for a flag alone.
    pub(super) value: String,
    /// Where it stands.
    pub(super) path: String,
    /// Where its value stands, if that is another argument.
    pub(super) value_path: Option<String>,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It makes the BGPConfiguration or peers.
    Used,
    /// Nothing has to be done.
    Moot(&'static str),
    /// Nothing has to be done if it says this; else why it has no counterpart.
    Unless(&'static str, &'static str),
    /// It has no counterpart.
    None(&'static str),
}

const SOON: &str = "changes are acted on as they come: nothing is synchronised by the clock";
const SERVICES: &str = "write the ranges into the BGPConfiguration (serviceClusterIPs, serviceExternalIPs, serviceLoadBalancerIPs; docs/load-balancer.md) and start \
the agents with `services` or `load-balancer` in --features";
const OVERLAY: &str = "no flag has a tunnel made: an IPPool of the pods' range with `encapsulation: IPIPCrossSubnet` or `VXLANCrossSubnet` does \
(docs/overlay.md), or the network between the nodes must know the pods' routes (peer with it, or put the nodes in one subnet)";
const BALANCER: &str = "write an IPPool of the range with `allowedUses: [LoadBalancer]` and start the agents with `load-balancer` in --features \
(docs/load-balancer.md)";

/// Every flag, whether it is true or false, and what becomes of it.
pub(super) const FLAGS: &[(&str, bool, Fate)] = &[
    (
        "advertise-cluster-ip",
        true,
        Fate::Unless("false", SERVICES),
    ),
    (
        "advertise-external-ip",
        true,
        Fate::Unless("false", SERVICES),
    ),
    (
        "advertise-loadbalancer-ip",
        true,
        Fate::Unless("false", SERVICES),
    ),
    (
        "advertise-pod-cidr",
        true,
        Fate::Unless(
            "true",
            "a node always announces its pods: write a BGPFilter that rejects them in exportV4 and exportV6, and name it in the BGPPeers",
        ),
    ),
    (
        "auto-mtu",
        true,
        Fate::Unless("true", "the agent's flag --mtu says a number"),
    ),
    ("bfd-desired-min-tx-interval", false, Fate::Used),
    ("bfd-detection-multiplier", false, Fate::Used),
    (
        "bfd-port",
        false,
        Fate::Unless(
            "3784",
            "BFD has its ports by RFC 5881 and RFC 5883: 3784, over several hops 4784",
        ),
    ),
    ("bfd-required-min-rx-interval", false, Fate::Used),
    ("bgp-graceful-restart", true, Fate::Used),
    (
        "bgp-graceful-restart-deferral-time",
        false,
        Fate::None("a restarted node waits for its peers' End-of-RIB as long as the restart time"),
    ),
    ("bgp-graceful-restart-time", false, Fate::Used),
    ("bgp-holdtime", false, Fate::Used),
    ("bgp-port", false, Fate::Used),
    (
        "cache-sync-timeout",
        false,
        Fate::Moot("the agent waits as long as it takes, and forwards meanwhile"),
    ),
    (
        "cleanup-config",
        true,
        Fate::Moot("`portolan cleanup` does it"),
    ),
    ("cluster-asn", false, Fate::Used),
    (
        "disable-source-dest-check",
        true,
        Fate::Unless(
            "false",
            "clouds are told by their own controllers: Portolan speaks to none (no harm on premises)",
        ),
    ),
    ("enable-bfd", true, Fate::Used),
    (
        "enable-cni",
        true,
        Fate::Unless(
            "true",
            "the agent's flag --features bgp,policy leaves pods to another plugin",
        ),
    ),
    ("enable-ibgp", true, Fate::Used),
    (
        "enable-ipv4",
        true,
        Fate::Unless("true", "families follow the addresses of nodes and pods"),
    ),
    (
        "enable-ipv6",
        true,
        Fate::Moot("families follow the addresses of nodes and pods"),
    ),
    ("enable-overlay", true, Fate::Unless("false", OVERLAY)),
    (
        "enable-pod-egress",
        true,
        Fate::Unless(
            "false",
            "pods' packets are masqueraded where an IPPool says so: make one of the pods' CIDRs with natOutgoing true and a nodeSelector of !all() (docs/egress.md)",
        ),
    ),
    (
        "enable-pprof",
        true,
        Fate::Unless("false", "Portolan has /metrics and its verbs"),
    ),
    (
        "excluded-cidrs",
        false,
        Fate::Moot("Portolan touches no rules of others"),
    ),
    (
        "gobgp-admin-address",
        false,
        Fate::Moot("`portolan bgp` asks by a socket on the node"),
    ),
    (
        "gobgp-admin-port",
        false,
        Fate::Moot("`portolan bgp` asks by a socket on the node"),
    ),
    ("hairpin-mode", true, Fate::Moot("kube-proxy's concern")),
    (
        "health-addr",
        false,
        Fate::None("the agent's flag --metrics ADDR:PORT serves /livez, /readyz and /metrics"),
    ),
    (
        "health-port",
        false,
        Fate::None("the agent's flag --metrics ADDR:PORT serves /livez, /readyz and /metrics"),
    ),
    ("help", true, Fate::Moot("`portolan --help`")),
    (
        "hostname-override",
        false,
        Fate::None("the agent's flag --node says which node it is on"),
    ),
    ("injected-routes-sync-period", false, Fate::Moot(SOON)),
    ("iptables-sync-period", false, Fate::Moot(SOON)),
    (
        "ipvs-graceful-period",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "ipvs-graceful-termination",
        true,
        Fate::Moot("kube-proxy's concern"),
    ),
    ("ipvs-permit-all", true, Fate::Moot("kube-proxy's concern")),
    (
        "ipvs-sync-period",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "kubeconfig",
        false,
        Fate::Moot("the agent's flag --kubeconfig says it where it does not run in the cluster"),
    ),
    (
        "loadbalancer-default-class",
        true,
        Fate::Moot("kube-router's own controller of load balancers"),
    ),
    ("loadbalancer-ip-range", false, Fate::None(BALANCER)),
    ("loadbalancer-sync-period", false, Fate::Moot(SOON)),
    ("masquerade-all", true, Fate::Moot("kube-proxy's concern")),
    (
        "master",
        false,
        Fate::Moot("the agent's flag --kubeconfig says it where it does not run in the cluster"),
    ),
    (
        "metrics-addr",
        false,
        Fate::None("the agent's flag --metrics ADDR:PORT"),
    ),
    (
        "metrics-path",
        false,
        Fate::Unless("/metrics", "the path is /metrics"),
    ),
    (
        "metrics-port",
        false,
        Fate::Unless("0", "the agent's flag --metrics ADDR:PORT"),
    ),
    (
        "netpol-default-deny",
        true,
        Fate::Unless(
            "false",
            "examples/policy/baseline-default-deny.yaml says it: a ClusterNetworkPolicy of tier Baseline",
        ),
    ),
    (
        "nodeport-bindon-all-ip",
        true,
        Fate::Moot("kube-proxy's concern"),
    ),
    ("nodes-full-mesh", true, Fate::Used),
    (
        "overlay-encap",
        false,
        Fate::Moot("it says how --enable-overlay does it"),
    ),
    (
        "overlay-encap-port",
        false,
        Fate::Moot("it says how --enable-overlay does it"),
    ),
    (
        "overlay-type",
        false,
        Fate::Moot("it says how --enable-overlay does it"),
    ),
    ("override-nexthop", true, Fate::Used),
    ("peer-router-asns", false, Fate::Used),
    ("peer-router-ips", false, Fate::Used),
    ("peer-router-multihop-ttl", false, Fate::Used),
    ("peer-router-passwords", false, Fate::Used),
    ("peer-router-passwords-file", false, Fate::Used),
    ("peer-router-ports", false, Fate::Used),
    (
        "router-id",
        false,
        Fate::Unless(
            "generate",
            "the annotation portolan.io/router-id of each Node says it",
        ),
    ),
    ("routes-sync-period", false, Fate::Moot(SOON)),
    (
        "run-firewall",
        true,
        Fate::Unless(
            "true",
            "the agent's flag --features bgp,cni leaves policy out",
        ),
    ),
    ("run-loadbalancer", true, Fate::Unless("false", BALANCER)),
    (
        "run-router",
        true,
        Fate::Unless(
            "true",
            "the agent's flag --features policy,cni leaves BGP out",
        ),
    ),
    (
        "run-service-proxy",
        true,
        Fate::Unless(
            "false",
            "Portolan does not serve Services yet: run kube-proxy before kube-router goes",
        ),
    ),
    (
        "runtime-endpoint",
        false,
        Fate::Moot("it is for direct server return, which kube-router's proxy does"),
    ),
    (
        "service-cluster-ip-range",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "service-external-ip-range",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "service-node-port-range",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "service-tcp-timeout",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "service-tcpfin-timeout",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "service-udp-timeout",
        false,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "strict-external-ip-validation",
        true,
        Fate::Moot("kube-proxy's concern"),
    ),
    (
        "use-nftables-for-netpol",
        true,
        Fate::Unless(
            "false",
            "the agent uses iptables, by nf_tables where the host does",
        ),
    ),
    (
        "v",
        false,
        Fate::Moot("the agent's flag --log says what is logged"),
    ),
    ("version", true, Fate::Moot("`portolan --version`")),
];

/// What is so where the flag is not there, and matters.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("enable-overlay", "true"),
    ("enable-pod-egress", "true"),
    ("run-service-proxy", "true"),
];

/// What becomes of a flag by name.
pub(super) fn fate(name: &str) -> Option<(bool, Fate)> {
    let found = FLAGS.iter().find(|(known, _, _)| *known == name);
    found.map(|(_, is_switch, fate)| (*is_switch, *fate))
}

/// The containers of a DaemonSet that run kube-router, with the path of each.
pub(super) fn containers(input: &Input) -> Vec<(String, &Value)> {
    const PATH: &str = "spec.template.spec.containers";
    let all = input.get(PATH).and_then(Value::as_array);
    let numbered = all.into_iter().flatten().enumerate();
    let text = |container: &Value, field: &str| -> String {
        let text = container.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    numbered
        .filter(|(_, container)| {
            text(container, "name") == "kube-router"
                || text(container, "image").contains("kube-router")
        })
        .map(|(index, container)| (format!("{PATH}[{index}]"), container))
        .collect()
}

/// The flags of a DaemonSet in order.
pub(super) fn of(input: &Input) -> Vec<Flag> {
    let mut flags = Vec::new();
    for (path, container) in containers(input) {
        for list in ["command", "args"] {
            let values = container.get(list).and_then(Value::as_array);
            let mut words = values
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(index, word)| {
                    Some((format!("{path}.{list}[{index}]"), word.as_str()?))
                })
                .peekable();
            while let Some((path, word)) = words.next() {
                let Some(word) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                    continue;
                };
                let (name, mut value) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.trim_matches('"').to_owned())),
                    None => (word, None),
                };
                let is_switch = fate(name).is_none_or(|(is_switch, _)| is_switch);
                let mut value_path = None;
                if value.is_none()
                    && !is_switch
                    && let Some((path, next)) = words.next_if(|(_, next)| !next.starts_with("--"))
                {
                    value = Some(next.to_owned());
                    value_path = Some(path);
                }
                flags.push(Flag {
                    name: name.to_owned(),
                    value: value.unwrap_or_else(|| "true".to_owned()),
                    path,
                    value_path,
                });
            }
        }
    }
    flags
}
