//! Which of the listed flows go: those that policy denies now, those of addresses that nobody or another holds, and those to a
//! host port or a Service that leads elsewhere by now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netfilter::{InterfaceName, Protocol};
use policy::{Cut, Endpoint, Entry, Judge, Local, Tuple};
use routes::conntrack::{ConntrackEntry, Place, Ports};
use services::host_port::HostPort;
use services::proxy::model::Served;
use services::proxy::stale_flows::StaleFlows;

use super::ledger::{UdpServices, Work};

/// What is to be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) entries: Vec<ConntrackEntry>,
    /// Of these, those that policy denies; the rest had their pod go.
    pub(super) denied: u64,
    /// Of these, those to a host port that leads elsewhere now.
    pub(super) stale: u64,
    /// Of these, UDP flows that no endpoint of their Service answers.
    pub(super) unanswered: u64,
}

/// What is this node itself.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The addresses of its interfaces.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// These, and others that packets of its own come from.
    pub(super) sends_from: BTreeSet<IpAddr>,
}

/// What is known after the listing: the kernel may have rules by now that the looker has not heard of, and flows by these.
#[derive(Debug, Default)]
pub(super) struct Newest {
    /// So that the flows of a pod which came meanwhile aren't taken for an orphan's.
    pub(super) endpoints: Arc<BTreeMap<InterfaceName, Endpoint>>,
    /// So that those to an endpoint which came meanwhile aren't taken for one's that is gone.
    pub(super) services: Arc<UdpServices>,
}

/// Judges what was listed.
pub(super) fn judge(
    work: &Work,
    newest: &Newest,
    own: &Own,
    listed: Vec<ConntrackEntry>,
) -> Sentence {
    let entries: Vec<Entry> = listed.iter().map(entry).collect();
    let local = Local {
        addresses: &own.sends_from,
        pod_cidrs: &work.goal.pod_cidrs,
        endpoints: &newest.endpoints,
    };
    let judge = Judge::new(&work.goal.compiled, local);
    let cuts: BTreeMap<usize, Cut> = judge
        .cuts(&entries, Some(&work.dirty))
        .into_iter()
        .collect();
    let services = [
        StaleFlows::of(work.services.iter().map(AsRef::as_ref)),
        StaleFlows::of(work.services.iter().map(|service| newest.of(service))),
    ];
    let mut sentence = Sentence::default();
    for (place, flow) in listed.into_iter().enumerate() {
        let is_gone = Place::ALL
            .iter()
            .any(|place| work.gone.contains(&flow.address(*place)));
        match cuts.get(&place) {
            _ if is_gone => {}
            _ if is_stale(work, &own.addresses, &flow) => sentence.stale += 1,
            _ if is_unanswered(&services, &own.addresses, &flow) => sentence.unanswered += 1,
            Some(Cut::Orphaned) if !is_elsewhere(work, &flow) => {}
            Some(Cut::Denied) => sentence.denied += 1,
            _ => continue,
        }
        sentence.entries.push(flow);
    }
    sentence
}

impl Newest {
    /// A Service as it is known by now; one that is gone as it was.
    fn of<'a>(&'a self, service: &'a Arc<Served>) -> &'a Served {
        let port = service.ports.first();
        let known = port.and_then(|port| self.services.get(&port.name.service));
        known.unwrap_or(service)
    }
}

/// Whether a flow to a host port goes elsewhere than the port leads now: to the node itself, or to an earlier pod (rule 105).
fn is_stale(work: &Work, own: &BTreeSet<IpAddr>, flow: &ConntrackEntry) -> bool {
    if work.ports.is_empty() {
        return false;
    }
    let Entry {
        protocol,
        original,
        reply,
    } = entry(flow);
    let to = original.destination;
    let is_for = |port: &HostPort| {
        port.claim.protocol.number() == protocol
            && port.claim.port == original.destination_port
            && port.pod.is_ipv4() == to.is_ipv4()
            && port.claim.covers(to)
    };
    let leads = |port: &HostPort| port.pod == reply.source && port.pod_port == reply.source_port;
    let is_to_node = to.is_loopback() || own.contains(&to);
    is_to_node
        && work.ports.iter().any(is_for)
        && !work
            .goal
            .host_ports
            .led
            .iter()
            .any(|port| is_for(port) && leads(port))
}

/// Whether a UDP flow to a Service is answered by none of its endpoints (semantics 140), neither of those in force when the look
/// was due nor of those known by now.
fn is_unanswered(
    services: &[StaleFlows; 2],
    own: &BTreeSet<IpAddr>,
    flow: &ConntrackEntry,
) -> bool {
    if services.iter().any(StaleFlows::is_empty) || flow.protocol != Protocol::Udp.number() {
        return false;
    }
    let Entry {
        original, reply, ..
    } = entry(flow);
    let to = SocketAddr::new(original.destination, original.destination_port);
    let from = SocketAddr::new(reply.source, reply.source_port);
    let is_own = own.contains(&to.ip());
    services.iter().all(|known| known.has(to, from, is_own))
}

/// Whether an end is a pod of another node that holds an address of this node's Pod CIDRs.
fn is_elsewhere(work: &Work, flow: &ConntrackEntry) -> bool {
    let ends = [flow.original.source, flow.reply.source];
    let mut held = work.goal.elsewhere.iter();
    held.any(|net| ends.iter().any(|end| net.contains(end)))
}

/// As policy judges it.
pub(super) fn entry(flow: &ConntrackEntry) -> Entry {
    Entry {
        protocol: flow.protocol,
        original: tuple(&flow.original),
        reply: tuple(&flow.reply),
    }
}

fn tuple(tuple: &routes::conntrack::Tuple) -> Tuple {
    let (source_port, destination_port) = match tuple.ports {
        Ports::Ports {
            source,
            destination,
        } => (source, destination),
        Ports::Icmp { .. } | Ports::None => (0, 0),
    };
    Tuple {
        source: tuple.source,
        destination: tuple.destination,
        source_port,
        destination_port,
    }
}

#[cfg(test)]
mod tests {
    use routes::conntrack::Status;
    use services::host_port::{self, Claim};

    use super::*;
    use crate::conntrack::ledger::Goal;

    fn tuple(source: (&str, u16), destination: (&str, u16)) -> routes::conntrack::Tuple {
        routes::conntrack::Tuple {
            source: source.0.parse().unwrap(),
            destination: destination.0.parse().unwrap(),
            ports: Ports::Ports {
                source: source.1,
                destination: destination.1,
            },
            zone: None,
        }
    }

    /// A flow from outside, and who answers it.
    fn flow(protocol: u8, to: (&str, u16), answers: (&str, u16)) -> ConntrackEntry {
        let client = ("192.0.2.10", 5353);
        ConntrackEntry {
            protocol,
            original: tuple(client, to),
            reply: tuple(answers, client),
            zone: 0,
            mark: 0,
            id: 1,
            tcp_state: None,
            status: Status::default(),
            timeout: 30,
        }
    }

    #[test]
    fn of_flows_to_a_new_host_port_those_go_that_lead_elsewhere() {
        let port = HostPort {
            claim: Claim {
                protocol: Protocol::Udp,
                port: 8053,
                host_ip: None,
            },
            pod: "10.244.1.5".parse().unwrap(),
            pod_port: 53,
            interface: InterfaceName::new("ptla").unwrap(),
        };
        let host_ports = host_port::Compiled {
            led: BTreeSet::from([port.clone()]),
            ..host_port::Compiled::default()
        };
        let work = Work {
            goal: Goal {
                host_ports: Arc::new(host_ports),
                ..Goal::default()
            },
            dirty: policy::Dirty::default(),
            gone: BTreeSet::new(),
            ports: BTreeSet::from([port]),
            services: Vec::new(),
        };
        let (node, pod) = ("192.0.2.1", ("10.244.1.5", 53));
        let own = Own {
            addresses: BTreeSet::from([node.parse().unwrap()]),
            ..Own::default()
        };
        let udp = Protocol::Udp.number();
        let stale = [
            flow(udp, (node, 8053), (node, 8053)),
            flow(udp, (node, 8053), ("10.244.1.4", 53)),
            flow(udp, (node, 8053), ("10.244.1.5", 54)),
            flow(udp, ("127.0.0.1", 8053), ("127.0.0.1", 8053)),
        ];
        let stays = [
            flow(udp, (node, 8053), pod),
            flow(udp, (node, 8054), (node, 8054)),
            flow(udp, ("203.0.113.9", 8053), ("203.0.113.9", 8053)),
            flow(Protocol::Tcp.number(), (node, 8053), (node, 8053)),
        ];
        let listed = stale.iter().chain(&stays).cloned().collect();
        let sentence = judge(&work, &Newest::default(), &own, listed);
        assert_eq!(sentence.entries, stale);
        assert_eq!((sentence.stale, sentence.denied), (4, 0));
        // What is not new was looked at when it was.
        let known = Work {
            ports: BTreeSet::new(),
            ..work
        };
        let listed = stale.to_vec();
        let sentence = judge(&known, &Newest::default(), &own, listed);
        assert_eq!(sentence, Sentence::default());
    }

    /// The Service `dns` with endpoints at these addresses, and no others.
    fn dns(endpoints: &[&str]) -> Arc<Served> {
        let mut model = services::proxy::model::Model::default();
        let mut index = services::proxy::index::Index::default();
        let metadata = |name| serde_json::json!({"namespace": "kube-system", "name": name, "labels": {"kubernetes.io/service-name": "dns"}});
        let service = serde_json::json!({"metadata": metadata("dns"),
            "spec": {"clusterIPs": ["10.96.0.10"], "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
        let each = endpoints.iter();
        let each =
            each.map(|one| serde_json::json!({"addresses": [one], "conditions": {"ready": true}}));
        let slice = serde_json::json!({"metadata": metadata("dns-1"), "addressType": "IPv4",
            "endpoints": each.collect::<Vec<_>>(), "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]});
        let mut touched = BTreeSet::new();
        for (kind, version, manifest) in [
            ("Service", "v1", service),
            ("EndpointSlice", "discovery.k8s.io/v1", slice),
        ] {
            match api::parse(kind, version, manifest).unwrap().unwrap().1 {
                api::Resource::Service(service) => {
                    touched.extend(index.set_service(Arc::from(service)));
                }
                api::Resource::EndpointSlice(slice) => {
                    touched.extend(index.set_slice(Arc::from(slice)));
                }
                other => panic!("{other:?}"),
            }
        }
        model.refresh(&index, &touched);
        let name = api::NamespacedName::new("kube-system", "dns");
        Arc::clone(model.service(&name).unwrap())
    }

    #[test]
    fn rule_140_a_flow_to_an_endpoint_that_came_while_flows_were_listed_is_left_alone() {
        let udp = Protocol::Udp.number();
        let to = |answers: &str| flow(udp, ("10.96.0.10", 53), (answers, 53));
        let work = |service: &Arc<Served>| Work {
            goal: Goal::default(),
            dirty: policy::Dirty::default(),
            gone: BTreeSet::new(),
            ports: BTreeSet::new(),
            services: vec![Arc::clone(service)],
        };
        let cut = |before: &Arc<Served>, now: &[&Arc<Served>]| {
            let name = api::NamespacedName::new("kube-system", "dns");
            let services = now.iter().map(|one| (name.clone(), Arc::clone(one)));
            let newest = Newest {
                services: Arc::new(services.collect()),
                ..Newest::default()
            };
            let listed = vec![to("10.1.0.1"), to("10.1.0.2"), to("10.1.0.3")];
            let sentence = judge(&work(before), &newest, &Own::default(), listed);
            sentence.entries
        };
        let (old, both) = (dns(&["10.1.0.1"]), dns(&["10.1.0.1", "10.1.0.2"]));
        assert_eq!(cut(&old, &[&old]), [to("10.1.0.2"), to("10.1.0.3")]);
        // The rules of the newest state may be in the kernel already.
        assert_eq!(cut(&old, &[&both]), [to("10.1.0.3")]);
        // Those of the one before may be there still.
        assert_eq!(cut(&both, &[&old]), [to("10.1.0.3")]);
        // It is gone.
        assert_eq!(cut(&old, &[]), [to("10.1.0.2"), to("10.1.0.3")]);
    }
}
