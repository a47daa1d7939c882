//! Checks of the kernel's routes: ours that are missing, others' that take their packets, and ours that lead to what is down.

use std::path::Path;

use ::overlay::Kind;
use ipnet::IpNet;
use routes::{SeenRoute, Survey};

use super::bound;
use super::catalog::{ROUTE_DEAD, ROUTE_FOREIGN, ROUTE_MISSING, TUNNEL};
use super::finding::Finding;
use super::scene::Scene;
use crate::attachments::host_interface;
use crate::bgp::{BgpAnswer, BgpQuestion};
use crate::control;

/// RTPROT_KERNEL: what follows from an address on an interface.
const KERNEL: u8 = 2;

/// How many routes that BGP chose are compared with the kernel's.
const COMPARED: usize = 20_000;
/// How many findings of one kind are told.
const TOLD: usize = 8;

/// What should be in the kernel besides the pods' routes, as the agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Prefixes that BGP chose and this node wants in its kernel.
    learned: Vec<IpNet>,
    /// Routes that could not be written, and why.
    failed: Vec<(String, String)>,
}

impl Wanted {
    /// Asks the agent.
    pub(super) fn gather(scene: &Scene, run_dir: &Path) -> Self {
        let Some(report) = &scene.report else {
            return Self::default();
        };
        let failed = report.routes.failed.iter();
        let failed = failed.map(|route| (route.prefix.clone(), route.reason.clone()));
        let mut wanted = Self {
            learned: Vec::new(),
            failed: failed.collect(),
        };
        // A pure route reflector wants none of what it learns: then the agent counts none as missing, either.
        let routes = &report.routes;
        if routes.desired > routes.in_kernel {
            let dir = run_dir.to_owned();
            let question = BgpQuestion::Routes {
                within: None,
                limit: COMPARED,
            };
            let asked = bound::blocking(move || control::ask_bgp(&dir, question));
            if let Ok(Ok(BgpAnswer::Routes(best))) = asked {
                let by_peer = best.iter().filter(|route| {
                    let mut paths = route.paths.iter();
                    paths.any(|path| path.best && path.peer.is_some() && path.problem.is_none())
                });
                wanted.learned = by_peer.map(|route| route.prefix).collect();
            }
        }
        wanted
    }
}

/// Judges.
pub(super) fn judge(scene: &Scene, wanted: &Wanted) -> Vec<Finding> {
    let survey = match &scene.survey {
        Ok(survey) => survey,
        Err(why) => {
            return [&ROUTE_MISSING, &ROUTE_FOREIGN, &ROUTE_DEAD, &TUNNEL]
                .map(|check| check.skipped(format!("routes cannot be read: {why}")))
                .into();
        }
    };
    let mut findings = missing(scene, survey, wanted);
    findings.extend(foreign(scene, survey));
    findings.extend(dead(scene, survey));
    findings.extend(tunnels(wanted));
    findings
}

/// Whether that is the device of a kind of tunnel, which the agent reports on as on a route.
fn is_tunnel(name: &str) -> bool {
    Kind::ALL.iter().any(|kind| kind.device() == name)
}

fn tunnels(wanted: &Wanted) -> Vec<Finding> {
    let failed = wanted.failed.iter();
    let failed = failed.filter(|(name, _)| is_tunnel(name));
    let findings = failed.map(|(name, why)| {
        TUNNEL.failure(
            format!("the tunnel {name}: {why}"),
            "the driver is not there, another program has its port or address, the network between the nodes loses its packets, or \
             another node's agent does not run",
            format!("ip -d -s link show dev {name}; portolan status"),
        )
    });
    TUNNEL.or_ok(
        findings.collect(),
        "no tunnel to other nodes is asked for, or all are as they should be",
    )
}

fn ours(survey: &Survey) -> impl Iterator<Item = &SeenRoute> {
    survey.routes.iter().filter(|route| route.is_ours())
}

fn missing(scene: &Scene, survey: &Survey, wanted: &Wanted) -> Vec<Finding> {
    let is_there = |prefix: &IpNet| ours(survey).any(|route| route.prefix == *prefix);
    let is_taken = |prefix: &IpNet| {
        let same = |route: &&SeenRoute| route.prefix == *prefix && route.metric == routes::METRIC;
        survey.routes.iter().any(|route| same(&route))
    };
    let mut findings = Vec::new();
    for lease in scene.leases.iter().flatten() {
        let host_end = host_interface(&lease.holder);
        let link = scene.host_ends().find(|link| link.name == host_end);
        for address in lease.addresses.iter().filter(|_| link.is_some()) {
            let prefix = IpNet::from(*address);
            if !is_taken(&prefix) {
                let pod = lease
                    .pod
                    .as_ref()
                    .map_or_else(String::new, |pod| format!(" of Pod {pod}"));
                findings.push(ROUTE_MISSING.failure(
                    format!("there is no route to {address}{pod} by {host_end}"),
                    "somebody deleted it, or the interface was down for a moment; the agent writes it again within seconds \
                     unless it is not running or the kernel refuses",
                    format!("ip route replace {address} dev {host_end} proto {} metric {}", routes::PROTOCOL, routes::METRIC),
                ));
            }
        }
    }
    let failed = wanted.failed.iter();
    let failed = failed.filter(|(prefix, _)| !is_tunnel(prefix));
    findings.extend(failed.map(|(prefix, why)| {
        ROUTE_MISSING.failure(
            format!("the route to {prefix} cannot be written: {why}"),
            "the kernel refuses its gateway or interface: is the next hop on a link of this node, and is that link up?",
            format!("portolan bgp explain {prefix}; ip route show match {prefix}"),
        )
    }));
    let lost = wanted
        .learned
        .iter()
        .filter(|prefix| !is_taken(prefix) && !is_there(prefix));
    findings.extend(lost.map(|prefix| {
        ROUTE_MISSING.failure(
            format!("the route to {prefix} is chosen by BGP and not in the kernel"),
            "somebody deleted it; the agent writes it again within seconds unless the kernel refuses",
            format!("portolan bgp explain {prefix}; ip route show match {prefix}"),
        )
    }));
    findings.dedup_by(|one, other| one.what == other.what);
    findings.truncate(TOLD);
    let count = ours(survey).count();
    if findings.is_empty() && scene.leases.is_err() && scene.report.is_none() {
        return vec![
            ROUTE_MISSING
                .skipped("neither the agent nor the state folder says what should be there"),
        ];
    }
    ROUTE_MISSING.or_ok(
        findings,
        format!("{count} routes of ours are in the kernel"),
    )
}

/// Whether a route goes by links alone that others of ours have their gateways on.
fn is_uplinks(survey: &Survey, route: &SeenRoute) -> bool {
    let by_gateway = |link: &u32| {
        let mut ours = ours(survey).filter(|one| !one.gateways.is_empty());
        ours.any(|one| one.links.contains(link))
    };
    !route.links.is_empty() && route.links.iter().all(by_gateway)
}

fn foreign(scene: &Scene, survey: &Survey) -> Vec<Finding> {
    let own_cidrs: Vec<IpNet> = ours(survey)
        .filter(|route| route.leads_nowhere)
        .map(|route| route.prefix)
        .collect();
    let mut findings = Vec::new();
    for route in survey.routes.iter().filter(|route| !route.is_ours()) {
        // A router may announce the very subnet that it shares with this node: the node's own word is better, and right.
        let shared = route.protocol == KERNEL && is_uplinks(survey, route);
        let rival = ours(survey).find(|one| {
            one.prefix == route.prefix
                && route.metric < one.metric
                && (one.leads_nowhere || !shared)
        });
        let inside = own_cidrs.iter().find(|cidr| {
            cidr.contains(&route.prefix) && route.prefix.prefix_len() > cidr.prefix_len()
        });
        let why = if rival.is_some() {
            format!(
                "it has metric {}, ours {}: the less wins, so that packets go where it says",
                route.metric,
                routes::METRIC
            )
        } else if route.metric == routes::METRIC {
            "it has our metric, and the agent leaves it alone: ours is not written".to_owned()
        } else if let Some(cidr) = inside {
            format!("it lies in this node's Pod CIDR {cidr}, and takes packets from pods there")
        } else {
            continue;
        };
        let protocol = route.protocol;
        let names: Vec<String> = route
            .links
            .iter()
            .map(|link| scene.name_of(*link))
            .collect();
        let by = match (route.leads_nowhere, names.is_empty()) {
            (true, _) => " (it refuses)".to_owned(),
            (_, true) => String::new(),
            _ => format!(" by {}", names.join(", ")),
        };
        findings.push(ROUTE_FOREIGN.failure(
            format!("a route of protocol {protocol} to {}{by} is in the way", route.prefix),
            format!("{why}; `ip route show proto {protocol}` shows what else is of whoever wrote it, such as an earlier network's leftovers"),
            format!("ip route del {} proto {protocol} metric {}", route.prefix, route.metric),
        ));
    }
    findings.truncate(TOLD);
    ROUTE_FOREIGN.or_ok(findings, "no route of others takes packets of ours")
}

fn dead(scene: &Scene, survey: &Survey) -> Vec<Finding> {
    let works = |index: &u32| {
        let link = survey.links.iter().find(|link| link.index == *index);
        link.is_none_or(|link| link.up && link.carrier)
    };
    let mut by_links: Vec<(Vec<u32>, Vec<IpNet>)> = Vec::new();
    for route in ours(survey) {
        let is_dead = !route.alive || (!route.links.is_empty() && !route.links.iter().any(works));
        if !is_dead {
            continue;
        }
        match by_links.iter_mut().find(|(links, _)| *links == route.links) {
            Some((_, prefixes)) => prefixes.push(route.prefix),
            None => by_links.push((route.links.clone(), vec![route.prefix])),
        }
    }
    let findings = by_links.iter().take(TOLD).map(|(links, prefixes)| {
        let names: Vec<String> = links.iter().map(|link| scene.name_of(*link)).collect();
        let name = names.first().map_or("", String::as_str);
        let is_up = survey.links.iter().any(|link| link.name == name && link.up);
        let (cause, remedy) = match is_up {
            true => (
                "the link has no carrier: its other end is down, or the cable is out",
                format!("ip -s link show dev {name}"),
            ),
            false => (
                "somebody set the link down",
                format!("ip link set dev {name} up"),
            ),
        };
        let first = prefixes
            .first()
            .map_or_else(String::new, ToString::to_string);
        ROUTE_DEAD.failure(
            format!(
                "{} routes of ours, such as {first}, lead to {}, which is down",
                prefixes.len(),
                names.join(", ")
            ),
            cause,
            remedy,
        )
    });
    ROUTE_DEAD.or_ok(
        findings.collect(),
        "every route of ours leads to a link that is up",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::scene::tests::{lease, link};
    use super::*;

    fn route(prefix: &str, protocol: u8, metric: u32, links: &[u32]) -> SeenRoute {
        SeenRoute {
            prefix: prefix.parse().unwrap(),
            protocol,
            metric,
            leads_nowhere: links.is_empty(),
            gateways: Vec::new(),
            links: links.to_vec(),
            alive: true,
        }
    }

    fn scene() -> Scene {
        let lease = lease();
        let end = link(&host_interface(&lease.holder), 2);
        Scene {
            report: None,
            leases: Ok(vec![lease]),
            survey: Ok(Survey {
                links: vec![link("eth0", 1), end],
                routes: vec![
                    route("10.244.1.0/24", 179, 179, &[]),
                    route("10.244.1.1/32", 179, 179, &[2]),
                    route("10.244.2.0/24", 179, 179, &[1]),
                    route("10.0.0.0/24", 2, 0, &[1]),
                ],
                ..Survey::default()
            }),
        }
    }

    fn found(change: impl FnOnce(&mut Survey)) -> Vec<Finding> {
        let mut scene = scene();
        change(scene.survey.as_mut().unwrap());
        let all = judge(&scene, &Wanted::default());
        all.into_iter()
            .filter(|finding| finding.verdict.is_bad())
            .collect()
    }

    #[test]
    fn a_pods_route_that_is_gone_comes_with_the_command_that_writes_it() {
        assert_eq!(found(|_| ()), []);
        let missing = found(|survey| drop(survey.routes.remove(1)));
        assert_eq!(missing.len(), 1);
        let end = host_interface(&scene().leases.unwrap()[0].holder);
        assert_eq!(
            missing[0].remedy,
            format!("ip route replace 10.244.1.1 dev {end} proto 179 metric 179")
        );
    }

    #[test]
    fn others_routes_are_told_where_they_win_and_left_out_where_they_do_not() {
        let learned = SeenRoute {
            gateways: vec!["10.0.0.1".parse().unwrap()],
            ..route("10.9.0.0/24", 179, 179, &[1])
        };
        for (foreign, is_told) in [
            (route("10.9.0.0/24", 2, 0, &[1]), false),
            (route("10.9.0.0/24", 2, 0, &[7]), true),
            (route("10.9.0.0/24", 4, 0, &[1]), true),
            (route("10.244.1.0/24", 2, 0, &[1]), true),
            (route("10.244.2.0/24", 4, 0, &[1]), true),
            (route("10.244.2.0/24", 4, 500, &[1]), false),
            (route("10.244.1.64/26", 2, 0, &[1]), true),
            (route("10.244.9.0/24", 4, 179, &[1]), true),
            (route("10.245.0.0/16", 4, 0, &[1]), false),
        ] {
            let findings = found(|survey| {
                survey.routes.extend([learned.clone(), foreign.clone()]);
            });
            assert_eq!(findings.len(), usize::from(is_told), "{foreign:?}");
        }
    }

    #[test]
    fn routes_to_a_link_that_is_down_are_told_once_for_the_link() {
        let down = found(|survey| {
            survey.links[0].up = false;
            survey.routes.push(route("10.244.3.0/24", 179, 179, &[1]));
        });
        assert_eq!(down.len(), 1);
        assert!(down[0].what.starts_with("2 routes of ours"), "{down:?}");
        assert_eq!(down[0].remedy, "ip link set dev eth0 up");
        let no_carrier = found(|survey| survey.links[0].carrier = false);
        assert_eq!(no_carrier[0].remedy, "ip -s link show dev eth0");
    }

    #[test]
    fn what_the_agent_could_not_write_or_the_kernel_lost_is_told() {
        let wanted = Wanted {
            learned: vec![
                "10.244.2.0/24".parse().unwrap(),
                "10.7.0.0/16".parse().unwrap(),
            ],
            failed: vec![
                ("10.8.0.0/16".to_owned(), "Network is down".to_owned()),
                (
                    "wg.portolan".to_owned(),
                    "Node n2 has answered nothing for 190 s".to_owned(),
                ),
            ],
        };
        let findings = judge(&scene(), &wanted);
        let told: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Failure)
            .map(|finding| finding.what.as_str())
            .collect();
        assert_eq!(
            told,
            [
                "the route to 10.8.0.0/16 cannot be written: Network is down",
                "the route to 10.7.0.0/16 is chosen by BGP and not in the kernel",
                "the tunnel wg.portolan: Node n2 has answered nothing for 190 s"
            ]
        );
    }
}
