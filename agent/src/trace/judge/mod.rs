//! From what was found out to where the path ends: the hops in their order, each asked only when the one before let the probe through; pure.

mod arriving;
mod back;
mod beyond;
mod inside;
mod pod;
mod size;
#[cfg(test)]
mod tests;
mod tunnel;

use super::evidence::Evidence;
use super::outcome::{Broken, Hop, Outcome, Trace, Verdict};
use super::packet::Transport;

pub(in crate::trace) use inside::leaving;
pub(in crate::trace) use tunnel::is_tunnel;

/// What one part of the path says: it ends there, it is reached, or the next is to be asked.
enum Step {
    Ends(Box<Broken>),
    Reached,
    On,
}

type Part = fn(&mut Walk<'_>) -> Step;

/// The hops so far.
struct Walk<'a> {
    evidence: &'a Evidence,
    hops: Vec<Hop>,
}

impl From<Broken> for Step {
    fn from(broken: Broken) -> Self {
        Self::Ends(Box::new(broken))
    }
}

impl Walk<'_> {
    fn passed(&mut self, hop: impl Into<String>, what: impl Into<String>) {
        self.hops.push(Hop {
            hop: hop.into(),
            verdict: Verdict::Ok,
            what: what.into(),
        });
    }

    fn node(&self) -> String {
        let name = self.evidence.node.name.as_deref();
        name.map_or_else(|| "this node".to_owned(), |name| format!("node {name}"))
    }

    fn target(&self) -> String {
        format!("target {}", self.evidence.ends.target)
    }

    fn host_end(&self) -> String {
        self.evidence.link_name(self.evidence.node.host_end)
    }
}

/// Judges.
pub(super) fn judge(evidence: &Evidence) -> Trace {
    let mut walk = Walk {
        evidence,
        hops: Vec::new(),
    };
    let forth: &[Part] = &[
        pod::judge,
        inside::judge,
        tunnel::judge,
        beyond::judge,
        back::judge,
        size::judge,
    ];
    let arriving: &[Part] = &[
        arriving::came,
        inside::judge,
        beyond::judge,
        arriving::goes_back,
    ];
    let parts = if evidence.is_arriving() {
        arriving
    } else {
        forth
    };
    let mut broken = None;
    for part in parts {
        match part(&mut walk) {
            Step::On => {}
            Step::Reached => break,
            Step::Ends(at) => {
                broken = Some(*at);
                break;
            }
        }
    }
    let mut hops = walk.hops;
    if let Some(broken) = &broken {
        hops.push(Hop {
            hop: broken.hop.clone(),
            verdict: Verdict::Drops,
            what: broken.what.clone(),
        });
    }
    let ends = &evidence.ends;
    Trace {
        from: ends.pod.clone(),
        from_address: ends.from.to_string(),
        to: ends.target.clone(),
        to_address: ends.to.to_string(),
        protocol: match ends.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Icmp => "icmp",
        },
        port: (ends.port > 0).then_some(ends.port),
        outcome: if broken.is_some() {
            Outcome::Dropped
        } else {
            Outcome::Reached
        },
        hops,
        broken,
    }
}

/// `ip`, or for IPv6 where it must be told `ip -6`.
fn ip(is_v4: bool) -> &'static str {
    if is_v4 { "ip" } else { "ip -6" }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
