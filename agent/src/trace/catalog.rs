//! Every break that is told by name, and what it means: the table of docs/trace.md and of `portolan trace --list`.

use serde::Serialize;

/// Why a path ends where it ends.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Break {
    /// For programs, and for people to look it up by.
    pub(crate) name: &'static str,
    /// When it is told.
    #[serde(rename = "toldWhen")]
    pub(crate) told_when: &'static str,
}

macro_rules! breaks {
    ($($id:ident $name:literal $told_when:literal)*) => {
        $(pub(super) const $id: Break = Break { name: $name, told_when: $told_when };)*
        /// All of them, from the pod outwards.
        pub(crate) const ALL: &[&Break] = &[$(&$id),*];
    };
}

breaks! {
    POD_LINK "pod-link" "the pod's own interface is down"
    POD_ADDRESS "pod-address" "the pod's interface does not have the address that it was given"
    POD_ROUTE "pod-route" "the pod has no route to the target"
    POD_NEIGHBOUR "pod-neighbour" "the pod sends to a gateway's MAC that is not the host end's, or does not find it"
    POD_RULES "pod-rules" "rules inside of the pod drop what it sends"
    HOST_END "host-end" "the pod's host end is down"
    FORWARDING "forwarding" "this node does not forward what comes from the pod"
    POLICY_EGRESS "policy-egress" "policy of the pod that sends denies it"
    POLICY_INGRESS "policy-ingress" "policy of the pod that is to get it denies it, on this node or on its own"
    FOREIGN_RULE "foreign-rule" "an iptables rule of others on this node drops or refuses it"
    ROUTE_MISSING "route-missing" "this node has no route to the target"
    ROUTE_NOWHERE "route-nowhere" "the route to the target refuses it: blackhole, unreachable or prohibit"
    ROUTE_FOREIGN "route-foreign" "a route of others takes it another way than ours, and nothing comes back"
    REVERSE_PATH "reverse-path" "strict reverse path filtering drops the answer that comes back to this node"
    LINK_DOWN "link-down" "the link by which it is to leave this node is down"
    NEXT_HOP "next-hop" "the next hop does not answer for its address"
    TUNNEL "tunnel" "it goes into a tunnel, and does not leave this node in it, or nothing comes back from the other end"
    ROUTER "router" "it left this node, and behind the last router that answered nobody has seen it"
    ROUTER_REFUSED "router-refused" "a router on the way, or the target's node, says that it goes no further"
    TARGET_LINK "target-link" "the target is a pod of this node, and its interface is down"
    TARGET_SILENT "target-silent" "the probe got to the target's interface, and the target says nothing"
    LISTENER "listener" "the target is reached, and nothing listens on the port"
    MTU "mtu" "small probes pass, and one as large as the pod's interface takes does not"
    NOT_ARRIVED "not-arrived" "with --arriving: nothing came to this node"
    TUNNEL_IN "tunnel-in" "with --arriving: it came to this node in a tunnel, and does not come out of it"
    ROUTE_BACK "route-back" "with --arriving: the answer has no way back to the sender from this node"
    LOST "lost" "it ends on this node, and nothing that is known there says why"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different_and_of_small_letters() {
        let names: BTreeSet<&str> = ALL.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), ALL.len());
        let is_plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names.iter().all(is_plain), "{names:?}");
    }

    #[test]
    fn the_page_has_every_break_with_these_words() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/trace.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let on_page: Vec<String> = rows
            .map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" | "))
            .collect();
        let wanted: Vec<String> = ALL
            .iter()
            .map(|one| format!("| `{}` | {}", one.name, one.told_when))
            .collect();
        assert_eq!(on_page, wanted);
    }
}
