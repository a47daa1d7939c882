//! From what is written to the view. A part that is wrong fails closed on its own (semantics 67); only an object
//! whose order or effect cannot be told (tier, priority, action, an unknown field of `spec`) is refused whole.

use std::fmt::Display;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::manifest::{self, Manifest};
use super::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule, ClusterSubject,
    NamespacedPods, Tier,
};
use crate::metadata::Subject;
use crate::resources::network_policy::{is_port_name, read_cidr};
use crate::resources::{DomainName, Port, PortMatch, Protocol};
use crate::{LabelSelector, ParseError};

/// The most entries that any list of the object may have.
const MAX_ITEMS: usize = 25;
/// The most characters of a rule's name.
const MAX_NAME: usize = 100;
/// The most characters of a reason that repeats what others wrote.
const MAX_REASON: usize = 300;

impl TryFrom<Manifest> for ClusterNetworkPolicy {
    type Error = ParseError;

    fn try_from(manifest: Manifest) -> Result<Self, ParseError> {
        let object = Subject::cluster("ClusterNetworkPolicy", &manifest.metadata)?;
        let Some(spec) = manifest.spec else {
            return Err(object.error("spec is missing"));
        };
        let name = object.name().to_owned();
        read_spec(name, spec).map_err(|why| object.error(why))
    }
}

fn read_spec(name: String, spec: manifest::Spec) -> Result<ClusterNetworkPolicy, String> {
    if let Some(field) = first_unknown(&spec.unknown) {
        return Err(format!("spec.{field} is not a known field"));
    }
    Ok(ClusterNetworkPolicy {
        name,
        tier: tier(&spec.tier)?,
        priority: priority(&spec.priority)?,
        subject: subject(spec.subject),
        ingress: rules(&INGRESS, spec.ingress)?,
        egress: rules(&EGRESS, spec.egress)?,
    })
}

fn tier(value: &Value) -> Result<Tier, String> {
    match value.as_str() {
        Some("Admin") => Ok(Tier::Admin),
        Some("Baseline") => Ok(Tier::Baseline),
        _ => Err(wanted("spec.tier", value, "Admin or Baseline")),
    }
}

fn priority(value: &Value) -> Result<u16, String> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    number
        .filter(|number| *number <= 1000)
        .ok_or_else(|| wanted("spec.priority", value, "a number from 0 to 1000"))
}

fn action(path: &str, value: &Value) -> Result<ClusterAction, String> {
    match value.as_str() {
        Some("Accept") => Ok(ClusterAction::Accept),
        Some("Deny") => Ok(ClusterAction::Deny),
        Some("Pass") => Ok(ClusterAction::Pass),
        _ => Err(wanted(
            &format!("{path}.action"),
            value,
            "Accept, Deny or Pass",
        )),
    }
}

fn subject(value: Value) -> ClusterSubject {
    match strict::<manifest::Pods>(value).and_then(pods_of) {
        Ok(pods) => ClusterSubject::Pods(pods),
        Err(why) => ClusterSubject::Unsupported(format!("spec.subject: {}", cut(why))),
    }
}

/// What differs between `ingress` and `egress`.
struct Direction {
    path: &'static str,
    peers: &'static str,
    read: fn(ClusterAction, Value) -> Result<ClusterPeer, String>,
}

const INGRESS: Direction = Direction {
    path: "spec.ingress",
    peers: "from",
    read: |_, value| {
        let pods = strict::<manifest::Pods>(value).and_then(pods_of)?;
        Ok(ClusterPeer::Pods(pods))
    },
};

const EGRESS: Direction = Direction {
    path: "spec.egress",
    peers: "to",
    read: egress_peer,
};

fn rules(direction: &Direction, value: Value) -> Result<Vec<ClusterRule>, String> {
    let path = direction.path;
    let rules = match value {
        Value::Null => Vec::new(),
        Value::Array(rules) => rules,
        other => return Err(wanted(path, &other, "a list of rules")),
    };
    if rules.len() > MAX_ITEMS {
        return Err(format!("{path}: {} rules, {}", rules.len(), at_most()));
    }
    let rules = rules.into_iter().enumerate();
    rules
        .map(|(index, value)| rule(direction, &format!("{path}[{index}]"), value))
        .collect()
}

fn rule(direction: &Direction, path: &str, value: Value) -> Result<ClusterRule, String> {
    let mut rule: manifest::Rule = strict(value).map_err(|why| format!("{path}: {why}"))?;
    let action = action(path, &rule.action)?;
    let name = rule_name(path, rule.name)?;
    let peers = rule.rest.remove(direction.peers).unwrap_or(Value::Null);
    let peers = match first_unknown(&rule.rest) {
        // It may narrow the rule: what is left of the rule without it is another one.
        Some(field) => vec![ClusterPeer::Unsupported(format!(
            "{path}.{field} is not a known field"
        ))],
        None => each(
            &format!("{path}.{}", direction.peers),
            peers,
            |peer| (direction.read)(action, peer),
            ClusterPeer::Unsupported,
        ),
    };
    let without_names = peers.iter().any(has_no_named_ports);
    let ports_path = format!("{path}.protocols");
    let protocols = match rule.protocols {
        Value::Null => None,
        Value::Array(entries) if entries.is_empty() => None,
        entries => Some(each(
            &ports_path,
            entries,
            |entry| port(entry, without_names),
            ClusterPort::Unsupported,
        )),
    };
    Ok(ClusterRule {
        name,
        action,
        peers,
        protocols,
    })
}

fn rule_name(path: &str, value: Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(name) if name.chars().count() <= MAX_NAME => Ok(name),
        other => Err(wanted(
            &format!("{path}.name"),
            &other,
            "a text of at most 100 characters",
        )),
    }
}

/// Reads the entries of a list, each on its own. A list that is none, empty or too long is one wrong entry.
fn each<T>(
    path: &str,
    list: Value,
    read: impl Fn(Value) -> Result<T, String>,
    wrong: impl Fn(String) -> T,
) -> Vec<T> {
    let whole = |why: String| vec![wrong(format!("{path}: {why}"))];
    let entries = match list {
        Value::Array(entries) if entries.len() <= MAX_ITEMS => entries,
        Value::Array(entries) => return whole(format!("{} entries, {}", entries.len(), at_most())),
        Value::Null => return whole("is missing".to_owned()),
        _ => return whole("is no list".to_owned()),
    };
    if entries.is_empty() {
        return whole("is empty".to_owned());
    }
    let entries = entries.into_iter().enumerate();
    entries
        .map(|(index, entry)| {
            read(entry).unwrap_or_else(|why| wrong(format!("{path}[{index}]: {}", cut(why))))
        })
        .collect()
}

fn egress_peer(action: ClusterAction, value: Value) -> Result<ClusterPeer, String> {
    let peer: manifest::EgressPeer = strict(value)?;
    let pods = manifest::Pods {
        namespaces: peer.namespaces,
        pods: peer.pods,
    };
    let is_pods = pods.namespaces.is_some() || pods.pods.is_some();
    exactly_one(
        "namespaces, pods, nodes, networks and domainNames",
        [
            is_pods.then(|| pods_of(pods).map(ClusterPeer::Pods)),
            peer.nodes
                .map(|nodes| selector(nodes).map(ClusterPeer::Nodes)),
            peer.networks.map(networks),
            peer.domain_names.map(|names| domain_names(action, names)),
        ],
    )
}

fn networks(texts: Vec<String>) -> Result<ClusterPeer, String> {
    check_count("networks", texts.len())?;
    let read = |text: String| read_cidr(&text).ok_or(format!("networks: {text:?} is no CIDR"));
    let mut nets = texts.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    nets.sort_unstable();
    nets.dedup();
    Ok(ClusterPeer::Networks(nets))
}

fn domain_names(action: ClusterAction, texts: Vec<String>) -> Result<ClusterPeer, String> {
    if action != ClusterAction::Accept {
        return Err("domainNames are for rules that accept only".to_owned());
    }
    check_count("domainNames", texts.len())?;
    let mut names = texts
        .iter()
        .map(domain_name)
        .collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(ClusterPeer::DomainNames(names))
}

/// One label alone is no name of this API: `*.com` would be half of the internet.
fn domain_name(text: &String) -> Result<DomainName, String> {
    let has_dot = |text: &str| text.trim_end_matches('.').contains('.');
    if has_dot(text.strip_prefix("*.").unwrap_or(text)) {
        return DomainName::new(text).map_err(|why| format!("domainNames: {why}"));
    }
    Err(format!("domainNames: {text:?} has no dot within"))
}

fn pods_of(pods: manifest::Pods) -> Result<NamespacedPods, String> {
    let all_of = |namespaces| {
        Ok(NamespacedPods {
            namespaces: selector(namespaces)?,
            pods: LabelSelector::default(),
        })
    };
    let some_of = |pods: manifest::NamespacedPod| {
        Ok(NamespacedPods {
            namespaces: selector(pods.namespace_selector.unwrap_or_default())?,
            pods: selector(pods.pod_selector)?,
        })
    };
    exactly_one(
        "namespaces and pods",
        [pods.namespaces.map(all_of), pods.pods.map(some_of)],
    )
}

fn selector(selector: manifest::Selector) -> Result<LabelSelector, String> {
    let expressions = selector.match_expressions.unwrap_or_default().into_iter();
    LabelSelector::try_from(meta::LabelSelector {
        match_labels: selector.match_labels,
        match_expressions: Some(
            expressions
                .map(|one| meta::LabelSelectorRequirement {
                    key: one.key,
                    operator: one.operator,
                    values: one.values,
                })
                .collect(),
        ),
    })
}

/// Whether a peer is no pod, so that a named port means nothing there.
fn has_no_named_ports(peer: &ClusterPeer) -> bool {
    matches!(
        peer,
        ClusterPeer::Nodes(_) | ClusterPeer::Networks(_) | ClusterPeer::DomainNames(_)
    )
}

fn port(value: Value, without_names: bool) -> Result<ClusterPort, String> {
    let entry: manifest::Protocol = strict(value)?;
    let of = |protocol| move |transport| transport_port(protocol, transport);
    let named = |name: String| {
        match (is_port_name(&name), without_names) {
        (false, _) => Err(format!("destinationNamedPort: {name:?} is no port name")),
        (true, true) => Err(
            "destinationNamedPort cannot stand beside networks, nodes or domainNames: they have no named ports"
                .to_owned(),
        ),
        (true, false) => Ok(ClusterPort::Named(name)),
    }
    };
    let name = entry.destination_named_port.filter(|name| !name.is_empty());
    exactly_one(
        "tcp, udp, sctp and destinationNamedPort",
        [
            entry.tcp.map(of(Protocol::Tcp)),
            entry.udp.map(of(Protocol::Udp)),
            entry.sctp.map(of(Protocol::Sctp)),
            name.map(named),
        ],
    )
}

fn transport_port(
    protocol: Protocol,
    transport: manifest::Transport,
) -> Result<ClusterPort, String> {
    let Some(port) = transport.destination_port else {
        return Err("there is no destinationPort".to_owned());
    };
    let (first, last) = exactly_one(
        "number and range of destinationPort",
        [
            port.number
                .map(|number| port_number(number).map(|number| (number, number))),
            port.range.map(port_range),
        ],
    )?;
    Ok(ClusterPort::Port(Port {
        protocol,
        port: PortMatch::Range(first, last),
    }))
}

fn port_range(range: manifest::PortRange) -> Result<(u16, u16), String> {
    let (start, end) = (port_number(range.start)?, port_number(range.end)?);
    match start < end {
        true => Ok((start, end)),
        false => Err(format!("range: start {start} is not less than end {end}")),
    }
}

fn port_number(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(0) | Err(_) => Err(format!("{number} is no port")),
        Ok(number) => Ok(number),
    }
}

/// The only one of several that is there.
fn exactly_one<T>(
    names: &str,
    found: impl IntoIterator<Item = Option<Result<T, String>>>,
) -> Result<T, String> {
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        (None, _) => Err(format!("none of {names} is there")),
        (Some(_), Some(_)) => Err(format!("only one of {names} may be there")),
    }
}

fn check_count(field: &str, count: usize) -> Result<(), String> {
    match count {
        0 => Err(format!("{field} is empty")),
        1..=MAX_ITEMS => Ok(()),
        _ => Err(format!("{field}: {count} entries, {}", at_most())),
    }
}

fn at_most() -> String {
    format!("at most {MAX_ITEMS} are allowed")
}

/// Reads one part, and refuses what it does not know.
fn strict<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(escaped)
}

/// The first field that is there and not known. What is null counts as absent, as everywhere.
fn first_unknown(fields: &serde_json::Map<String, Value>) -> Option<String> {
    let mut fields = fields.iter().filter(|(_, value)| !value.is_null());
    fields.next().map(|(field, _)| cut(escaped(field)))
}

fn wanted(path: &str, value: &Value, what: &str) -> String {
    match value {
        Value::Null => format!("{path} is missing: it should be {what}"),
        value => {
            let written = value.to_string().replace(char::is_control, "?");
            format!("{path}: {} should be {what}", cut(written))
        }
    }
}

fn escaped(text: impl Display) -> String {
    text.to_string().escape_debug().to_string()
}

/// No more of what others wrote than fits into a message.
fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_REASON) {
        text.truncate(at);
        text.push('…');
    }
    text
}
