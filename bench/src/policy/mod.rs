//! The rows of policy: what a whole program, a change, a packet and a question cost, each side by side in one run.

pub(crate) mod agent;
pub(crate) mod change;
pub(crate) mod cluster;
mod judge;
pub(crate) mod membership;
mod packet;
mod program;
pub(crate) mod traffic;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::figures::Figures;
use crate::{attach, fleet, ingress, overlay, services};

/// A row of policy, of attaching pods, of a whole cluster, of Services, or of ways between nodes and to outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum NodeRow {
    /// The first whole program.
    #[value(name = "policy-program")]
    #[serde(rename = "policy-program")]
    Program,
    /// One change under churn.
    #[value(name = "policy-change")]
    #[serde(rename = "policy-change")]
    Change,
    /// Throughput and latency between two pods.
    #[value(name = "policy-packet")]
    #[serde(rename = "policy-packet")]
    Packet,
    /// Which flows a change cuts, and what it would mean.
    #[value(name = "policy-judge")]
    #[serde(rename = "policy-judge")]
    Judge,
    /// Pods attached one after another.
    #[value(name = "cni-add")]
    #[serde(rename = "cni-add")]
    CniAdd,
    /// Pods detached one after another.
    #[value(name = "cni-del")]
    #[serde(rename = "cni-del")]
    CniDel,
    /// 50 pods at once.
    #[value(name = "cni-50")]
    #[serde(rename = "cni-50")]
    CniFifty,
    /// An agent in a fleet of 5,000 nodes.
    #[value(name = "fleet")]
    #[serde(rename = "fleet")]
    Fleet,
    /// A live pool into tunnels and back.
    #[value(name = "overlay-switch")]
    #[serde(rename = "overlay-switch")]
    OverlaySwitch,
    /// Throughput and latency by VXLAN.
    #[value(name = "overlay-packet")]
    #[serde(rename = "overlay-packet")]
    OverlayPacket,
    /// Connections of pods to outside.
    #[value(name = "egress-connect")]
    #[serde(rename = "egress-connect")]
    EgressConnect,
    /// Services of our proxy and of kube-proxy.
    #[value(name = "services")]
    #[serde(rename = "services")]
    Services,
    /// Our ingress beside nginx and haproxy.
    #[value(name = "ingress")]
    #[serde(rename = "ingress")]
    Ingress,
}

impl NodeRow {
    /// Its name, as `ONLY` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "policy-program",
            Self::Change => "policy-change",
            Self::Packet => "policy-packet",
            Self::Judge => "policy-judge",
            Self::CniAdd => "cni-add",
            Self::CniDel => "cni-del",
            Self::CniFifty => "cni-50",
            Self::Fleet => "fleet",
            Self::OverlaySwitch => "overlay-switch",
            Self::OverlayPacket => "overlay-packet",
            Self::EgressConnect => "egress-connect",
            Self::Services => "services",
            Self::Ingress => "ingress",
        }
    }

    /// What is measured, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Program => {
                "1,000 policies, 10,000 pods, 110 on the node: from an empty kernel to the first whole program"
            }
            Self::Change => {
                "the same under churn of 100 changes a second: from a change to the kernel"
            }
            Self::Packet => "between two pods of a node with 2 and with 500 isolated pods",
            Self::Judge => {
                "500 isolated pods: 50,000 flows judged; what one changed policy would mean"
            }
            Self::CniAdd => {
                "pods attached one after another, dual stack, their policy in force when ADD returns"
            }
            Self::CniDel => "the same pods detached",
            Self::CniFifty => "50 pods attached at once, then detached at once",
            Self::Fleet => {
                "an agent in a cluster of 5,000 Nodes, 50,000 Pods and 500 policies, on the real API server"
            }
            Self::OverlaySwitch => "a live pool from None to VXLAN and back, under traffic",
            Self::OverlayPacket => {
                "between pods of two nodes in one subnet: directly, by VXLAN, and by a VXLAN device made by hand"
            }
            Self::EgressConnect => {
                "connections of a pod to outside: natOutgoing, and one rule MASQUERADE made by hand"
            }
            Self::Services => {
                "our proxy and kube-proxy with 1, 1,000 and 10,000 Services of 5 endpoints each, on the real API server"
            }
            Self::Ingress => {
                "requests through portolan-ingress, Debian's nginx and Debian's haproxy, before the same backends"
            }
        }
    }

    /// Measures it.
    ///
    /// # Errors
    /// When something can't be set up or doesn't work.
    pub fn measure(self, effort: Effort) -> Result<Figures> {
        match self {
            Self::Program => program::measure(self, effort),
            Self::Change => change::measure(self, effort),
            Self::Packet => packet::measure(self, effort),
            Self::Judge => judge::measure(self, effort),
            Self::CniAdd | Self::CniDel => attach::one_by_one(self, effort),
            Self::CniFifty => attach::at_once(self, effort),
            Self::Fleet => fleet::measure(self, effort),
            Self::OverlaySwitch => overlay::switch(self, effort),
            Self::OverlayPacket => overlay::packet(self, effort),
            Self::EgressConnect => overlay::egress(self, effort),
            Self::Services => services::measure(self, effort),
            Self::Ingress => ingress::measure(self, effort),
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Repetitions of what takes seconds.
    pub repeat: usize,
    /// The part of time and rounds that a whole measurement takes: 1 for all.
    pub scale: f64,
}

impl Effort {
    /// That part of a number, at least one.
    #[must_use]
    pub fn part_of(&self, whole: usize) -> usize {
        ((whole as f64 * self.scale) as usize).max(1)
    }
}

/// The value below which this part of all lies; 0 of none.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = [5.0, 1.0, 3.0];
        let of = |part| quantile(&values, part);
        assert_eq!([of(0.0), of(0.5), of(0.9), of(1.0)], [1.0, 3.0, 5.0, 5.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
