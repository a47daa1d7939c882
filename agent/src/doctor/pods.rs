//! Checks of pods' interfaces: each attachment has one that is up, each one an attachment, and none takes larger packets than the way out.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use routes::{PathMtu, Survey, Ways};

use super::agent::RESTART;
use super::bound;
use super::catalog::{POD_LINK, POD_MTU};
use super::finding::Finding;
use super::scene::Scene;
use crate::attachments::host_interface;

/// How the names of tunnels to other nodes end.
const TUNNELS: &str = ".portolan";
/// How many findings of one kind are told.
const TOLD: usize = 8;

/// The narrowest part of the way to the peers and everywhere else; none where nothing leads out.
pub(super) fn gather(scene: &Scene) -> Result<Option<PathMtu>, String> {
    let mut ways = Ways::default();
    let sessions = scene.report.iter().flat_map(|report| &report.sessions);
    ways.to
        .extend(sessions.filter_map(|session| host_of(&session.address)));
    match bound::asynchronous(routes::path_mtu(&ways)) {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The address of `ADDRESS` or `ADDRESS:PORT`.
fn host_of(text: &str) -> Option<IpAddr> {
    let with_port = text.parse::<SocketAddr>().map(|at| at.ip());
    with_port.or_else(|_| text.parse()).ok()
}

/// Judges.
pub(super) fn judge(scene: &Scene, path: &Result<Option<PathMtu>, String>) -> Vec<Finding> {
    let mut findings = links(scene);
    findings.extend(mtus(scene, path));
    findings
}

fn links(scene: &Scene) -> Vec<Finding> {
    let leases = match (&scene.leases, &scene.survey) {
        (Ok(leases), Ok(_)) => leases,
        (Err(why), _) | (_, Err(why)) => {
            return vec![POD_LINK.skipped(format!(
                "attachments and interfaces cannot be compared: {why}"
            ))];
        }
    };
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for lease in leases {
        let name = host_interface(&lease.holder);
        let whose = lease.pod.as_ref().map_or_else(
            || format!("container {}", lease.holder.container_id),
            |pod| format!("Pod {pod}"),
        );
        match scene.host_ends().find(|link| link.name == name) {
            None => findings.push(POD_LINK.failure(
                format!("{whose} has no interface: {name} is gone"),
                "its namespace ended and no runtime told of it, or somebody deleted the interface; the agent takes the \
                 addresses back after --reclaim-after",
                format!("portolan ipam release --container {}", lease.holder.container_id),
            )),
            Some(link) if !link.up => findings.push(POD_LINK.failure(
                format!("the interface of {whose}, {name}, is down"),
                "somebody set it down: nothing gets to the pod or from it",
                format!("ip link set dev {name} up"),
            )),
            Some(_) => {}
        }
        known.insert(name);
    }
    for link in scene.host_ends().filter(|link| !known.contains(&link.name)) {
        let name = &link.name;
        findings.push(POD_LINK.warning(
            format!("the interface {name} belongs to no attachment"),
            "its lease was lost with the state folder, or it is another agent's with a --state-dir of its own; what the pod \
             sends is dropped",
            format!("ip link delete dev {name}"),
        ));
    }
    findings.truncate(TOLD);
    POD_LINK.or_ok(
        findings,
        format!(
            "{} attachments, each with an interface that is up",
            leases.len()
        ),
    )
}

/// The way out, or the tunnel to other nodes that takes still smaller packets.
fn narrowest(path: &PathMtu, survey: &Survey) -> PathMtu {
    let ours = survey.routes.iter().filter(|route| route.is_ours());
    let used: BTreeSet<u32> = ours.flat_map(|route| route.links.iter().copied()).collect();
    let tunnels = survey
        .links
        .iter()
        .filter(|link| link.name.ends_with(TUNNELS) && used.contains(&link.index));
    let narrow = tunnels.min_by_key(|link| link.mtu);
    match narrow.filter(|link| link.mtu < path.mtu) {
        Some(link) => PathMtu {
            mtu: link.mtu,
            interface: link.name.clone(),
        },
        None => path.clone(),
    }
}

fn mtus(scene: &Scene, path: &Result<Option<PathMtu>, String>) -> Vec<Finding> {
    let path = match path {
        Ok(Some(path)) => path,
        Ok(None) => return vec![POD_MTU.skipped("nothing leads out of this node")],
        Err(why) => {
            return vec![POD_MTU.skipped(format!("the way out cannot be looked up: {why}"))];
        }
    };
    let Ok(survey) = &scene.survey else {
        return vec![POD_MTU.skipped("interfaces cannot be read")];
    };
    let path = &narrowest(path, survey);
    let has_v6 = |name: &str| {
        let mut leases = scene.leases.iter().flatten();
        let lease = leases.find(|lease| host_interface(&lease.holder) == name);
        lease.is_some_and(|lease| lease.addresses.iter().any(IpAddr::is_ipv6))
    };
    let mut findings = Vec::new();
    let mut count = 0;
    for link in scene.host_ends() {
        count += 1;
        let (name, host) = (&link.name, link.mtu);
        let wanted = routes::pod_mtu(path.mtu, has_v6(name));
        let pod = survey.pod_mtus.get(name).copied();
        // The pod's end is changed from inside its namespace: the agent's business.
        let remedy = match pod {
            Some(pod) if pod > wanted => RESTART.to_owned(),
            Some(pod) if pod > host => format!("ip link set dev {name} mtu {pod}"),
            _ => format!("ip link set dev {name} mtu {wanted}"),
        };
        if pod.is_some_and(|pod| pod > host) {
            findings.push(POD_MTU.failure(
                format!(
                    "the pod's end of {name} has an MTU of {}, the host's of {host}",
                    pod.unwrap_or_default()
                ),
                "what the pod sends between the two sizes is dropped without a word",
                remedy,
            ));
        } else if host > wanted || pod.is_some_and(|pod| pod > wanted) {
            findings.push(POD_MTU.failure(
                format!("{name} has an MTU of {}, the way out by {} takes {}", host.max(pod.unwrap_or(0)), path.interface, path.mtu),
                "large packets are dropped on the way where \"too big\" does not come back; the agent lowers it within a \
                 minute, so it is not running, has a fixed --mtu, or cannot enter the pod's namespace",
                remedy,
            ));
        }
    }
    findings.truncate(TOLD);
    POD_MTU.or_ok(
        findings,
        format!(
            "the way out takes {} ({}), and {count} pods send no more",
            path.mtu, path.interface
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use routes::{LinkInfo, SeenRoute};

    use super::super::scene::tests::{lease, link};
    use super::*;

    fn scene(host: u32, pod: u32) -> Scene {
        let lease = lease();
        let name = host_interface(&lease.holder);
        let link = LinkInfo {
            mtu: host,
            ..link(&name, 1)
        };
        Scene {
            report: None,
            leases: Ok(vec![lease]),
            survey: Ok(Survey {
                links: vec![link],
                pod_mtus: BTreeMap::from([(name, pod)]),
                ..Survey::default()
            }),
        }
    }

    fn found(scene: &Scene) -> Vec<Finding> {
        let path = Ok(Some(PathMtu {
            mtu: 1450,
            interface: "eth0".to_owned(),
        }));
        let all = judge(scene, &path);
        all.into_iter()
            .filter(|finding| finding.verdict.is_bad())
            .collect()
    }

    #[test]
    fn what_is_larger_than_the_way_out_or_than_its_other_end_is_told() {
        assert_eq!(found(&scene(1450, 1450)), []);
        assert_eq!(found(&scene(1450, 1400)), []);
        let large = found(&scene(1500, 1450));
        assert!(large[0].remedy.ends_with(" mtu 1450"), "{large:?}");
        assert_eq!(found(&scene(1500, 1500))[0].remedy, RESTART);
        let differ = found(&scene(1400, 1450));
        assert!(
            differ[0].cause.contains("between the two sizes"),
            "{differ:?}"
        );
        let mut dual = scene(1280, 1280);
        dual.leases.as_mut().unwrap()[0]
            .addresses
            .push("fd00::1".parse().unwrap());
        let narrow = Ok(Some(PathMtu {
            mtu: 1000,
            interface: "eth0".to_owned(),
        }));
        assert!(
            judge(&dual, &narrow)
                .iter()
                .all(|finding| !finding.verdict.is_bad())
        );
    }

    #[test]
    fn a_tunnel_that_routes_of_ours_go_by_is_narrower_than_the_way_out() {
        let mut tunnelled = scene(1450, 1450);
        let survey = tunnelled.survey.as_mut().unwrap();
        survey.links.push(LinkInfo {
            mtu: 1400,
            ..link("vxlan.portolan", 9)
        });
        assert_eq!(found(&tunnelled), [], "nothing goes by it");
        let route = SeenRoute {
            prefix: "10.244.2.0/24".parse().unwrap(),
            protocol: routes::PROTOCOL,
            metric: routes::METRIC,
            leads_nowhere: false,
            gateways: Vec::new(),
            links: vec![9],
            alive: true,
        };
        tunnelled.survey.as_mut().unwrap().routes.push(route);
        let large = found(&tunnelled);
        assert!(
            large[0].what.contains("vxlan.portolan takes 1400"),
            "{large:?}"
        );
    }

    #[test]
    fn attachments_and_interfaces_are_held_against_each_other() {
        let mut gone = scene(1450, 1450);
        gone.survey = Ok(Survey::default());
        assert!(
            found(&gone)[0]
                .remedy
                .starts_with("portolan ipam release --container c1")
        );
        let mut down = scene(1450, 1450);
        down.survey.as_mut().unwrap().links[0].up = false;
        assert!(found(&down)[0].remedy.ends_with(" up"));
        let mut lone = scene(1450, 1450);
        lone.leases = Ok(Vec::new());
        assert!(found(&lone)[0].remedy.starts_with("ip link delete dev ptl"));
        lone.leases = Err("no folder".to_owned());
        assert_eq!(found(&lone), []);
    }

    #[test]
    fn a_sessions_address_is_read_with_and_without_a_port() {
        for text in ["10.0.0.1", "10.0.0.1:179"] {
            assert_eq!(host_of(text), Some([10, 0, 0, 1].into()));
        }
        assert!(host_of("[fe80::1]:179").is_some());
        assert_eq!(host_of("-"), None);
    }
}
