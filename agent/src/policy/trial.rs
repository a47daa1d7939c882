//! `portolan policy try`: what a manifest would change, worked out and not done.

use ::policy::{
    ConnectionChange, Difference, Direction, Entry, FlowChange, Index, Span, difference,
};
use api::{Change, Key, Resource};
use netfilter::Family;

use super::near::Names;
use super::state::Known;
use super::view::{ConnectionView, IsolationView, ObjectChange, OpenFlow, TryView};
use super::words;

/// Says what the manifest would mean for the pods and flows that are there.
///
/// # Errors
/// If it cannot be read; the text has a line for each thing that is wrong.
pub(super) fn try_manifest(
    known: &Known,
    flows: Result<Vec<Entry>, String>,
    (file, text): (&str, &str),
    delete: bool,
) -> Result<TryView, String> {
    let (objects, faults) = datastore::read_manifest(file, text);
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(lines.join("\n"));
    }
    if objects.is_empty() {
        return Err(format!("{file} holds no object"));
    }
    let changes: Vec<Change> = objects
        .into_iter()
        .map(|(key, value)| Change {
            key,
            value: (!delete).then_some(value),
        })
        .collect();
    let (flows, flows_error) = match flows {
        Ok(flows) => (flows, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let found = difference(&known.objects, &known.settings, &changes, &flows);
    Ok(TryView {
        node: known.node.clone(),
        objects: changes
            .iter()
            .map(|change| object_change(known, change))
            .collect(),
        problems: problems(known, &changes),
        flows_seen: flows.len(),
        flows_error,
        ..view(known, found)
    })
}

fn view(known: &Known, found: Difference) -> TryView {
    let names = Names::new(&known.objects);
    let isolation = found.isolation.shown.into_iter();
    let isolation = isolation.map(|change| IsolationView {
        pod: change.pod.to_string(),
        direction: match change.direction {
            Direction::Ingress => "ingress".to_owned(),
            Direction::Egress => "egress".to_owned(),
        },
        isolated: change.isolated,
    });
    let flows = found.flows.shown.into_iter();
    TryView {
        isolation: isolation.collect(),
        isolation_left_out: found.isolation.left_out,
        connections: found
            .connections
            .shown
            .into_iter()
            .map(connection)
            .collect(),
        connections_left_out: found.connections.left_out,
        pairs_left_out: found.pairs_left_out,
        flows: flows.map(|change| open_flow(&names, &change)).collect(),
        flows_left_out: found.flows.left_out,
        ..TryView::default()
    }
}

fn connection(change: ConnectionChange) -> ConnectionView {
    ConnectionView {
        from: change.source.to_string(),
        to: change.destination.to_string(),
        allowed: change.allowed,
        ports: change.spans.into_iter().map(span).collect(),
        family: change.family.map(|family| match family {
            Family::V4 => "IPv4".to_owned(),
            Family::V6 => "IPv6".to_owned(),
        }),
    }
}

fn span(span: Span) -> String {
    match span {
        Span::All => "everything".to_owned(),
        Span::OtherProtocols => "other protocols".to_owned(),
        Span::Ports {
            protocol,
            first,
            last,
        } => {
            let protocol = words::protocol(protocol);
            match (first, last) {
                (0, u16::MAX) => protocol.to_owned(),
                _ if first == last => format!("{protocol} {first}"),
                _ => format!("{protocol} {first}-{last}"),
            }
        }
    }
}

fn open_flow(names: &Names<'_>, FlowChange { entry, allowed }: &FlowChange) -> OpenFlow {
    let pod = |address| names.holder(address).ok().map(|pod| pod.to_string());
    OpenFlow {
        protocol: protocol(entry.protocol),
        source: entry.original.source.to_string(),
        source_port: entry.original.source_port,
        from_pod: pod(entry.original.source),
        destination: entry.reply.source.to_string(),
        destination_port: entry.reply.source_port,
        to_pod: pod(entry.reply.source),
        allowed: *allowed,
    }
}

fn protocol(number: u8) -> String {
    use netfilter::Protocol::{Icmp, Icmpv6, Sctp, Tcp, Udp};
    let known = [
        (Icmp, "icmp"),
        (Tcp, "tcp"),
        (Udp, "udp"),
        (Icmpv6, "icmpv6"),
        (Sctp, "sctp"),
    ];
    let found = known.iter().find(|(one, _)| one.number() == number);
    found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

fn object_change(known: &Known, change: &Change) -> ObjectChange {
    let objects = &known.objects;
    let before = match &change.key {
        Key::NetworkPolicy(name) => {
            let policy = objects.policies.get(name);
            policy.cloned().map(Resource::NetworkPolicy)
        }
        Key::ClusterNetworkPolicy(name) => {
            let policy = objects.cluster_policies.get(name);
            policy.cloned().map(Resource::ClusterNetworkPolicy)
        }
        Key::Namespace(name) => objects
            .namespaces
            .get(name)
            .cloned()
            .map(Resource::Namespace),
        Key::Node(name) => objects.nodes.get(name).cloned().map(Resource::Node),
        Key::Pod(name) => objects.pod(name).cloned().map(Resource::Pod),
        Key::BgpConfiguration(_)
        | Key::BgpFilter(_)
        | Key::BgpNodeStatus(_)
        | Key::BgpPeer(_)
        | Key::IpamBlock(_)
        | Key::IpPool(_)
        | Key::IpReservation(_)
        | Key::Secret(_)
        | Key::Service(_)
        | Key::EndpointSlice(_) => {
            return ObjectChange {
                object: change.key.to_string(),
                change: "nothing that policies hang on".to_owned(),
            };
        }
    };
    let word = match (&before, &change.value) {
        (None, None) => "absent",
        (Some(_), None) => "removed",
        (None, Some(_)) => "new",
        (Some(before), Some(after)) if before == after => "unchanged",
        (Some(_), Some(_)) => "changed",
    };
    ObjectChange {
        object: change.key.to_string(),
        change: word.to_owned(),
    }
}

/// What of the policies could not be enforced as written.
fn problems(known: &Known, changes: &[Change]) -> Vec<String> {
    let mut index = Index::with_settings(known.settings.clone());
    for change in changes {
        index.handle(change);
    }
    let compiled = index.compile();
    compiled.problems.iter().map(ToString::to_string).collect()
}
