//! Checks of addresses that nodes answer for by ARP and neighbour discovery: by which interface, who answers in fact, and whether
//! nodes can agree who does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use routes::LinkInfo;

use super::bound;
use super::catalog::{ADDRESS_ANSWERS, ADDRESS_INTERFACE, ADDRESS_LEASE};
use super::finding::{Check, Finding};
use super::scene::Scene;
use crate::layer2::{Answering, Heard, Layer2Report, ask};

/// For so many addresses the link is asked.
const ASKED: usize = 32;
/// What there is to judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    node: String,
    layer2: Layer2Report,
    links: Vec<LinkInfo>,
    /// Who said to have an address when it was asked for; an error says why nobody could be asked.
    heard: Result<Heard, String>,
}

impl Facts {
    /// Asks on the link for what the agent says; none without an agent.
    pub(super) fn gather(scene: &Scene) -> Option<Self> {
        let report = scene.report.as_ref()?;
        let layer2 = report.layer2.clone().unwrap_or_default();
        let links = scene.links().to_vec();
        let of = |(address, one): (&IpAddr, &Answering)| {
            let with_carrier = one.interfaces.iter().filter(|name| speaks(&links, name));
            (*address, with_carrier.cloned().collect::<BTreeSet<_>>())
        };
        let wanted: BTreeMap<_, _> = layer2.addresses.iter().map(of).take(ASKED).collect();
        let heard = match wanted.is_empty() {
            true => Ok(Heard::new()),
            false => match bound::asynchronous(ask(wanted)) {
                Ok(asked) => asked.map_err(|error| error.to_string()),
                Err(late) => Err(late.to_string()),
            },
        };
        Some(Self {
            node: report.node.clone(),
            layer2,
            links,
            heard,
        })
    }
}

fn speaks(links: &[LinkInfo], name: &str) -> bool {
    let link = links.iter().find(|link| link.name == name);
    link.is_some_and(|link| link.up && link.carrier)
}

/// Judges.
pub(super) fn judge(facts: Option<&Facts>) -> Vec<Finding> {
    let checks: [&Check; 3] = [&ADDRESS_INTERFACE, &ADDRESS_ANSWERS, &ADDRESS_LEASE];
    let Some(facts) = facts else {
        return checks
            .map(|check| check.skipped("the agent does not answer"))
            .into();
    };
    if facts.layer2.addresses.is_empty() {
        let well = "no Service has an address of an IPPool with layer2";
        return checks.map(|check| check.ok(well)).into();
    }
    let mut findings = interfaces(facts);
    findings.extend(answers(facts));
    findings.extend(leases(facts));
    findings
}

/// A finding for each pool and each reason: addresses of one pool have the same.
fn interfaces(facts: &Facts) -> Vec<Finding> {
    let mut found: BTreeMap<(String, String), (Finding, usize)> = BTreeMap::new();
    for (address, one) in &facts.layer2.addresses {
        if !one.order.contains(&facts.node)
            || one.interfaces.iter().any(|name| speaks(&facts.links, name))
        {
            continue;
        }
        let finding = of_interface(facts, *address, one);
        let key = (one.pool.clone(), finding.remedy.clone());
        let (known, count) = found.entry(key).or_insert((finding.clone(), 0));
        // Of the worst one the words are told.
        if finding.verdict > known.verdict {
            *known = finding;
        }
        *count += 1;
    }
    let findings = found.into_values().map(|(mut finding, count)| {
        if count > 1 {
            finding.what = format!("{} (and so for {} more)", finding.what, count - 1);
        }
        finding
    });
    ADDRESS_INTERFACE.or_ok(
        findings.collect(),
        "this node has an interface for each address that it may answer for",
    )
}

fn of_interface(facts: &Facts, address: IpAddr, one: &Answering) -> Finding {
    let pool = &one.pool;
    let edit = format!("kubectl edit ippool {pool}");
    let is_there = |name: &&String| facts.links.iter().any(|link| link.name == **name);
    let is_down = |name: &&String| {
        facts
            .links
            .iter()
            .any(|link| link.name == **name && !link.up)
    };
    let (state, remedy) = if let Some(name) = one.interfaces.first() {
        (
            format!("{name} has no carrier"),
            format!("ip -s link show dev {name}"),
        )
    } else if let Some(name) = one.named.iter().find(is_down) {
        (
            format!("{name} is down"),
            format!("ip link set dev {name} up"),
        )
    } else if let Some(name) = one.named.iter().find(|name| !is_there(name)) {
        (
            format!("IPPool {pool} names {name}, which is not here"),
            edit,
        )
    } else if let Some(name) = one.named.first() {
        (
            format!("{name}, which IPPool {pool} names, has no hardware address"),
            edit,
        )
    } else {
        (
            "no interface that is up has an address of its subnet, nor this node's InternalIP"
                .to_owned(),
            "ip -br address show".to_owned(),
        )
    };
    let what = format!("this node has no way to answer for {address} of IPPool {pool}: {state}");
    let cause = "the pool's nodeSelector has this node answer for its addresses by `layer2.interfaces`, or the interface of their subnet: \
                 look at the cable and the switch's port, or leave this node out of the pool";
    let other = one.node.as_ref().filter(|node| **node != facts.node);
    match other {
        Some(node) => ADDRESS_INTERFACE.warning(
            format!("{what}; {node} answers, and this node could not follow it"),
            cause,
            remedy,
        ),
        None => ADDRESS_INTERFACE.failure(what, cause, remedy),
    }
}

fn answers(facts: &Facts) -> Vec<Finding> {
    let heard = match &facts.heard {
        Ok(heard) => heard,
        Err(why) => {
            return vec![ADDRESS_ANSWERS.skipped(format!("the link cannot be asked: {why}"))];
        }
    };
    let mut findings = Vec::new();
    for (address, one) in &facts.layer2.addresses {
        let by_link = heard.get(address);
        findings.extend(too_many(facts, *address, one, by_link));
        if one.order.is_empty() {
            findings.push(ADDRESS_ANSWERS.warning(
                format!("no node may answer for {address} of IPPool {}", one.pool),
                "no endpoint of its Service can be asked (with policy Local: none on a node of the pool), or the pool's nodeSelector \
                 names no node, or each of them is excluded from load balancers or about to go",
                "portolan service list",
            ));
        } else if let Some(by_link) = by_link
            && by_link.values().all(BTreeSet::is_empty)
            && one.node.as_ref() != Some(&facts.node)
        {
            findings.push(too_few(*address, one));
        }
    }
    let well = format!(
        "asked on the link for {} addresses: each has one answer",
        heard.len()
    );
    ADDRESS_ANSWERS.or_ok(findings, well)
}

/// Whoever answers besides the one node that should.
fn too_many(
    facts: &Facts,
    address: IpAddr,
    one: &Answering,
    by_link: Option<&BTreeMap<String, BTreeSet<[u8; 6]>>>,
) -> Option<Finding> {
    let answers_here = one.node.as_ref() == Some(&facts.node);
    let right = usize::from(!answers_here && !one.order.is_empty());
    let (link, macs) = by_link?.iter().find(|(_, macs)| macs.len() > right)?;
    let told: Vec<String> = macs.iter().map(|mac| hex(*mac)).collect();
    let who = match (answers_here, one.order.is_empty()) {
        (true, _) => "this node answers for".to_owned(),
        (false, true) => "no node is to answer for".to_owned(),
        (false, false) => "one node is to answer for".to_owned(),
    };
    let pattern = told.join("|");
    Some(ADDRESS_ANSWERS.failure(
        format!("{} say on {link} that they have {address}, which {who}", told.join(" and ")),
        "another machine of the network has the address, or a node whose agent was cut off answers still: clients' packets go now to the \
         one, now to the other",
        format!("ip neigh show dev {link} | grep -iE '{pattern}'; on that machine: ip -o addr show to {address}"),
    ))
}

fn too_few(address: IpAddr, one: &Answering) -> Finding {
    match &one.node {
        Some(node) => ADDRESS_ANSWERS.failure(
            format!("{node} is to answer for {address} of IPPool {}, and nobody does", one.pool),
            "that node is dead and BFD does not run between it and this one, its interface is cut off from this one's, or a switch does \
             not let its answers through: no client finds the address",
            format!("on {node}: portolan doctor"),
        ),
        None => ADDRESS_ANSWERS.failure(
            format!("nobody answers for {address} of IPPool {}, which {} may", one.pool, one.order.join(", ")),
            "none of them runs an agent that could take it, or none can write its Lease: no client finds the address",
            "kubectl -n portolan get leases,pods -o wide",
        ),
    }
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Says whether agents have that right, as deploy/ names them.
fn may(verb: &str) -> String {
    format!(
        "kubectl auth can-i {verb} leases -n portolan --as=system:serviceaccount:portolan:portolan-agent"
    )
}

fn leases(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.layer2.waits_for_leases {
        findings.push(ADDRESS_LEASE.failure(
            "Leases of addresses have not been read since the agent started: this node answers for none",
            "agents have the right to them by deploy/components/layer2 (chart: layer2.enabled); or the API server does not answer",
            may("watch"),
        ));
    }
    if let Some((address, why)) = &facts.layer2.last_failure {
        let has_one = facts.layer2.addresses.get(address);
        let is_answered = has_one.is_some_and(|one| one.node.is_some());
        let what = format!("the Lease portolan-l2-{address} cannot be written: {why}");
        let cause = "agents agree by it who answers, and have the right to it by deploy/components/layer2 (chart: layer2.enabled); while it \
                     cannot be written the address stays where it is, and nobody takes it from a node that dies";
        findings.push(match is_answered {
            true => ADDRESS_LEASE.warning(what, cause, may("update")),
            false => ADDRESS_LEASE.failure(what, cause, may("update")),
        });
    }
    let overdue: Vec<String> = facts
        .layer2
        .addresses
        .iter()
        .filter(|(_, one)| one.is_overdue)
        .map(|(address, _)| address.to_string())
        .collect();
    if !overdue.is_empty() {
        findings.push(ADDRESS_LEASE.warning(
            format!("this node answers for {} although its Lease has ended", overdue.join(", ")),
            "the API server cannot be asked. It goes on until it hears another node announce the address, and no other can take it before the \
             server is back",
            "kubectl get --raw /livez",
        ));
    }
    ADDRESS_LEASE.or_ok(
        findings,
        "Leases of addresses are written, or none are needed",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::scene::tests::link;
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn address() -> IpAddr {
        IpAddr::from([192, 0, 2, 7])
    }

    fn one(node: Option<&str>, interfaces: &[&str]) -> Answering {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Answering {
            node: node.map(str::to_owned),
            is_overdue: false,
            order: vec!["n1".to_owned(), "n2".to_owned()],
            pool: "front".to_owned(),
            interfaces: set(interfaces),
            named: set(&["eth1"]),
        }
    }

    fn facts(one: Answering, heard: &[[u8; 6]]) -> Facts {
        let by_link = BTreeMap::from([("eth1".to_owned(), heard.iter().copied().collect())]);
        Facts {
            node: "n1".to_owned(),
            layer2: Layer2Report {
                addresses: BTreeMap::from([(address(), one)]),
                ..Layer2Report::default()
            },
            links: vec![link("eth1", 2)],
            heard: Ok(BTreeMap::from([(address(), by_link)])),
        }
    }

    #[test]
    fn on_a_healthy_node_all_is_well_and_without_an_agent_nothing_is_said() {
        for (node, heard) in [("n1", &[][..]), ("n2", &[MAC][..])] {
            let findings = judge(Some(&facts(one(Some(node), &["eth1"]), heard)));
            assert!(
                findings.iter().all(|one| one.verdict == Verdict::Ok),
                "{findings:?}"
            );
            assert_eq!(findings.len(), 3);
        }
        assert!(
            judge(None)
                .iter()
                .all(|one| one.verdict == Verdict::Skipped)
        );
    }

    #[test]
    fn another_machine_with_the_address_is_named_by_its_hardware_address() {
        let found = Finding::only_bad(judge(Some(&facts(one(Some("n1"), &["eth1"]), &[MAC]))));
        assert_eq!(
            (found.check, found.verdict),
            ("address-answers", Verdict::Failure)
        );
        assert!(
            found.what.starts_with("02:00:00:00:00:09 say on eth1"),
            "{found:?}"
        );
        let two = facts(one(Some("n2"), &["eth1"]), &[MAC, [2; 6]]);
        let found = Finding::only_bad(judge(Some(&two)));
        assert!(
            found.what.contains("02:00:00:00:00:09 and 02:02"),
            "{found:?}"
        );
        let mut nobodys = one(None, &["eth1"]);
        nobodys.order.clear();
        let findings = judge(Some(&facts(nobodys, &[MAC])));
        assert!(
            findings[1].what.contains("no node is to answer for"),
            "{findings:?}"
        );
        assert_eq!(findings[2].verdict, Verdict::Warning, "and that nobody may");
    }

    #[test]
    fn nobody_who_answers_is_a_failure_wherever_it_should_come_from() {
        let found = Finding::only_bad(judge(Some(&facts(one(Some("n2"), &["eth1"]), &[]))));
        assert!(
            found.what.starts_with("n2 is to answer for 192.0.2.7"),
            "{found:?}"
        );
        let found = Finding::only_bad(judge(Some(&facts(one(None, &["eth1"]), &[]))));
        assert!(
            found.what.contains("nobody answers for 192.0.2.7"),
            "{found:?}"
        );
    }

    #[test]
    fn an_interface_that_is_missing_down_or_without_carrier_is_told() {
        let judged = |node: Option<&str>, interfaces: &[&str], link: Option<LinkInfo>| {
            let mut facts = facts(one(node, interfaces), &[]);
            facts.links = link.into_iter().collect();
            facts.heard = Ok(Heard::new());
            Finding::only_bad(judge(Some(&facts)))
        };
        let found = judged(Some("n2"), &[], None);
        assert_eq!(found.verdict, Verdict::Warning);
        assert_eq!(found.remedy, "kubectl edit ippool front");
        let down = LinkInfo {
            up: false,
            ..link("eth1", 2)
        };
        let found = judged(None, &[], Some(down));
        assert_eq!(found.verdict, Verdict::Failure);
        assert_eq!(found.remedy, "ip link set dev eth1 up");
        let cut = LinkInfo {
            carrier: false,
            ..link("eth1", 2)
        };
        let found = judged(Some("n1"), &["eth1"], Some(cut));
        assert_eq!(found.verdict, Verdict::Failure);
        assert!(found.what.contains("eth1 has no carrier"), "{found:?}");
    }

    #[test]
    fn a_lease_that_cannot_be_written_is_told_and_one_that_has_ended() {
        let mut refused = facts(one(None, &["eth1"]), &[MAC]);
        refused.layer2.last_failure = Some((address(), "403".to_owned()));
        let found = Finding::only_bad(judge(Some(&refused)));
        assert_eq!(
            (found.check, found.verdict),
            ("address-lease", Verdict::Failure)
        );
        let mut unread = facts(one(Some("n2"), &["eth1"]), &[MAC]);
        unread.layer2.waits_for_leases = true;
        let found = Finding::only_bad(judge(Some(&unread)));
        assert!(found.remedy.contains("can-i watch leases"), "{found:?}");
        let mut overdue = one(Some("n1"), &["eth1"]);
        overdue.is_overdue = true;
        let found = Finding::only_bad(judge(Some(&facts(overdue, &[]))));
        assert_eq!(
            (found.check, found.verdict),
            ("address-lease", Verdict::Warning)
        );
        assert_eq!(found.remedy, "kubectl get --raw /livez");
    }
}
