//! Checks of the kernel's switches: forwarding, reverse path filtering, and the room for connections.

use std::collections::BTreeSet;
use std::fs;

use super::catalog::{CONNTRACK_ROOM, FORWARDING, RP_FILTER};
use super::finding::Finding;
use super::scene::Scene;

/// Of a full table a warning comes from so many percent on.
const NEARLY_FULL: u64 = 90;
/// `rp_filter` of RFC 3704's strict mode.
const STRICT: u64 = 1;

/// What the switches say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    ip_forward: Option<u64>,
    ipv6_forwarding: Option<u64>,
    /// Whether pods here have IPv6.
    has_v6: bool,
    /// Each interface's `forwarding`.
    forwarding: Vec<(String, u64)>,
    rp_filter_all: u64,
    /// Each uplink's `rp_filter`.
    rp_filter: Vec<(String, u64)>,
    /// Connections that there are, and that there may be.
    conntrack: Option<(u64, u64)>,
}

impl Facts {
    /// Reads them for pods' interfaces and uplinks.
    pub(super) fn gather(scene: &Scene) -> Self {
        let uplinks = scene.uplinks();
        let pods = scene.host_ends().map(|link| link.name.clone());
        let watched: BTreeSet<String> = uplinks.iter().cloned().chain(pods).collect();
        let of = |interface: &String, switch: &str| {
            let value = read(&format!("net/ipv4/conf/{interface}/{switch}"))?;
            Some((interface.clone(), value))
        };
        Self {
            ip_forward: read("net/ipv4/ip_forward"),
            ipv6_forwarding: read("net/ipv6/conf/all/forwarding"),
            has_v6: scene.has_v6(),
            forwarding: watched.iter().filter_map(|i| of(i, "forwarding")).collect(),
            rp_filter_all: read("net/ipv4/conf/all/rp_filter").unwrap_or_default(),
            rp_filter: uplinks.iter().filter_map(|i| of(i, "rp_filter")).collect(),
            conntrack: read("net/netfilter/nf_conntrack_count")
                .zip(read("net/netfilter/nf_conntrack_max")),
        }
    }
}

fn read(name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.trim().parse().ok()
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = forwarding(facts);
    findings.push(rp_filter(facts));
    findings.push(conntrack(facts));
    findings
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    let cause = "the agent switches it on when it starts; something switched it off since, such as a sysctl.d file that was \
                 applied again, a firewall's start, or an administrator";
    let mut findings = Vec::new();
    if facts.ip_forward == Some(0) {
        findings.push(FORWARDING.failure(
            "net.ipv4.ip_forward is 0: no IPv4 packet gets from or to a pod",
            cause,
            "sysctl -w net.ipv4.ip_forward=1",
        ));
    } else {
        for (interface, _) in facts.forwarding.iter().filter(|(_, value)| *value == 0) {
            findings.push(FORWARDING.failure(
                format!(
                    "forwarding is 0 for {interface}: IPv4 packets that come by it go no further"
                ),
                cause,
                format!("sysctl -w net/ipv4/conf/{interface}/forwarding=1"),
            ));
        }
    }
    if facts.has_v6 && facts.ipv6_forwarding == Some(0) {
        findings.push(FORWARDING.failure(
            "net.ipv6.conf.all.forwarding is 0: no IPv6 packet gets from or to a pod",
            cause,
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ));
    }
    if findings.is_empty() && facts.ip_forward.is_none() {
        return vec![FORWARDING.skipped("/proc/sys/net/ipv4/ip_forward cannot be read")];
    }
    let count = facts.forwarding.len();
    FORWARDING.or_ok(
        findings,
        format!("on, and for each of {count} interfaces of pods and uplinks"),
    )
}

fn rp_filter(facts: &Facts) -> Finding {
    let strict: Vec<&str> = facts
        .rp_filter
        .iter()
        // ip-sysctl: the larger of `all` and the interface's own counts.
        .filter(|(_, own)| (*own).max(facts.rp_filter_all) == STRICT)
        .map(|(interface, _)| interface.as_str())
        .collect();
    if strict.is_empty() {
        return RP_FILTER.ok("not strict on any uplink");
    }
    let names = strict.join(", ");
    if facts.rp_filter.len() < 2 {
        return RP_FILTER.ok(format!("strict on {names}, the only uplink: harmless"));
    }
    RP_FILTER.warning(
        format!(
            "strict on {names}, one of {} uplinks",
            facts.rp_filter.len()
        ),
        "an answer that comes back by another uplink than the question left by is dropped without a trace; the larger of \
         net.ipv4.conf.all and the interface's own value counts, so that 2 (loose) in `all` is enough",
        "sysctl -w net.ipv4.conf.all.rp_filter=2",
    )
}

fn conntrack(facts: &Facts) -> Finding {
    let Some((count, max)) = facts.conntrack else {
        return CONNTRACK_ROOM.skipped("the kernel does not track connections here");
    };
    if max == 0 || count * 100 < max * NEARLY_FULL {
        return CONNTRACK_ROOM.ok(format!("{count} connections of {max}"));
    }
    let what = format!("{count} connections of {max}");
    let cause = "once it is full the kernel drops new connections of everybody (`nf_conntrack: table full` in its log); \
                 `conntrack -L` says whose they are";
    let remedy = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2);
    if count >= max {
        CONNTRACK_ROOM.failure(what, cause, remedy)
    } else {
        CONNTRACK_ROOM.warning(what, cause, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn fine() -> Facts {
        Facts {
            ip_forward: Some(1),
            ipv6_forwarding: Some(1),
            has_v6: true,
            forwarding: vec![("eth0".to_owned(), 1)],
            rp_filter_all: 0,
            rp_filter: vec![("eth0".to_owned(), 1)],
            conntrack: Some((10, 100)),
        }
    }

    fn verdicts(facts: &Facts) -> Vec<Verdict> {
        judge(facts).iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn what_is_on_is_well_and_each_switch_that_is_off_has_its_own_command() {
        assert_eq!(verdicts(&fine()), [Verdict::Ok; 3]);
        let mut off = fine();
        (off.ip_forward, off.ipv6_forwarding) = (Some(0), Some(0));
        let commands: Vec<String> = judge(&off)
            .into_iter()
            .filter(|finding| finding.verdict == Verdict::Failure)
            .map(|finding| finding.remedy)
            .collect();
        assert_eq!(
            commands,
            [
                "sysctl -w net.ipv4.ip_forward=1",
                "sysctl -w net.ipv6.conf.all.forwarding=1"
            ]
        );
        off = fine();
        off.forwarding.push(("eth1.7".to_owned(), 0));
        assert!(judge(&off)[0].remedy.contains("conf/eth1.7/forwarding=1"));
        off = fine();
        (off.ipv6_forwarding, off.has_v6) = (Some(0), false);
        assert_eq!(judge(&off)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn strict_filtering_is_a_warning_with_several_uplinks_and_the_larger_value_counts() {
        let mut facts = fine();
        facts.rp_filter.push(("eth1".to_owned(), 0));
        assert_eq!(judge(&facts)[1].verdict, Verdict::Warning);
        facts.rp_filter_all = 2;
        assert_eq!(judge(&facts)[1].verdict, Verdict::Ok);
        (facts.rp_filter_all, facts.rp_filter[0].1) = (1, 2);
        let finding = judge(&facts).remove(1);
        assert!(finding.what.starts_with("strict on eth1,"), "{finding:?}");
    }

    #[test]
    fn a_table_of_connections_is_told_from_nine_tenths_on() {
        let of = |count| {
            let facts = Facts {
                conntrack: Some((count, 100)),
                ..fine()
            };
            judge(&facts)[2].verdict
        };
        assert_eq!(
            [of(89), of(90), of(100)],
            [Verdict::Ok, Verdict::Warning, Verdict::Failure]
        );
    }
}
