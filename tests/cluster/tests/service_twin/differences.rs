//! Where we differ from kube-proxy on purpose: docs/design/services.md ("Differs from kube-proxy") has the same list.

use crate::ask::{Got, Outcome};
use crate::compare::{Kind, Question};

/// A difference that is wanted. One that doesn't show any more fails the test, as one that is not here does.
#[derive(Clone, Copy)]
pub(crate) struct Difference {
    /// As the document has it.
    pub(crate) name: &'static str,
    /// Whether these answers, of kube-proxy's world and of ours, are it.
    pub(crate) is_it: fn(&Question, &Got, &Got) -> bool,
}

/// The list of each mode.
pub(crate) const MODES: &[(&str, &[Difference])] =
    &[("iptables", IPTABLES), ("nftables", NFTABLES)];

/// Against kube-proxy's iptables mode, by ours.
pub(crate) const IPTABLES: &[Difference] = &[
    Difference {
        name: "node ports at 127.0.0.1",
        is_it: |question, kube_proxy, ours| {
            let is_other = !is(kube_proxy, &Outcome::Refused);
            question.kind == Kind::Localhost && is_other && is(ours, &Outcome::Refused)
        },
    },
    Difference {
        name: "a load balancer's address that is an external IP of the same Service, too",
        is_it: |question, kube_proxy, ours| {
            question.service == "ranges-external"
                && question.kind == Kind::External
                && is_answered(kube_proxy)
                && is(ours, &Outcome::Silent)
        },
    },
];

/// Against kube-proxy's nftables mode, by ours.
pub(crate) const NFTABLES: &[Difference] = &[
    Difference {
        name: "node ports at further addresses of the node",
        is_it: |question, kube_proxy, ours| {
            question.kind == Kind::SecondAddress
                && *ours != *kube_proxy
                && is(kube_proxy, &Outcome::Refused)
        },
    },
    Difference {
        name: "source ranges where nobody can be asked",
        is_it: |question, kube_proxy, ours| {
            question.service == "ranges-nobody"
                && question.kind == Kind::LoadBalancer
                && is(kube_proxy, &Outcome::Silent)
                && is(ours, &Outcome::Refused)
        },
    },
    Difference {
        name: "cluster IPs that no Service of ours has",
        is_it: |question, kube_proxy, ours| {
            question.kind == Kind::Cluster
                && is(kube_proxy, &Outcome::Silent)
                && is(ours, &Outcome::Unreachable)
        },
    },
];

fn is(got: &Got, outcome: &Outcome) -> bool {
    got.len() == 1 && got.contains(outcome)
}

fn is_answered(got: &Got) -> bool {
    !got.is_empty()
        && got
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Answered { .. }))
}
