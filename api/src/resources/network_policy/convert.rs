//! From networking.k8s.io/v1 to the view: defaults applied; what cannot be compiled matches nothing
//! and never costs the policy its isolation (semantics 20, 30).

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{IpBlock, NetworkPolicy, Peer, PolicyRule, Port, PortMatch, Protocol, legacy_cidr};
use crate::metadata::Subject;
use crate::{LabelSelector, ParseError};

type PeerList = Option<Vec<networking::NetworkPolicyPeer>>;
type PortList = Option<Vec<networking::NetworkPolicyPort>>;

impl TryFrom<networking::NetworkPolicy> for NetworkPolicy {
    type Error = ParseError;

    fn try_from(policy: networking::NetworkPolicy) -> Result<Self, ParseError> {
        let (subject, name) = Subject::namespaced("NetworkPolicy", &policy.metadata)?;
        let Some(spec) = policy.spec else {
            return Err(subject.error("spec is missing"));
        };
        let wrong = |why: String| subject.error(why);
        let egress = spec.egress.unwrap_or_default();
        let types = directions(spec.policy_types, !egress.is_empty()).map_err(wrong)?;
        let ingress = spec.ingress.unwrap_or_default().into_iter().enumerate();
        let ingress: Vec<PolicyRule> = ingress
            .map(|(index, rule)| rule_of(&format!("spec.ingress[{index}]"), rule.from, rule.ports))
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let egress: Vec<PolicyRule> = egress
            .into_iter()
            .enumerate()
            .map(|(index, rule)| rule_of(&format!("spec.egress[{index}]"), rule.to, rule.ports))
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let pods = spec.pod_selector.unwrap_or_default();
        Ok(Self {
            name,
            pod_selector: LabelSelector::try_from(pods)
                .map_err(|why| subject.error(format!("spec.podSelector: {why}")))?,
            ingress: types.ingress.then_some(ingress),
            egress: types.egress.then_some(egress),
        })
    }
}

struct Directions {
    ingress: bool,
    egress: bool,
}

/// `policyTypes`; where it is absent or empty, Ingress, and Egress too if there are egress rules (semantics 56).
fn directions(types: Option<Vec<String>>, egress_rules: bool) -> Result<Directions, String> {
    let types = types.unwrap_or_default();
    if types.is_empty() {
        return Ok(Directions {
            ingress: true,
            egress: egress_rules,
        });
    }
    let mut found = Directions {
        ingress: false,
        egress: false,
    };
    for text in types {
        match text.as_str() {
            "Ingress" => found.ingress = true,
            "Egress" => found.egress = true,
            _ => {
                return Err(format!(
                    "spec.policyTypes: {text:?} is not Ingress or Egress"
                ));
            }
        }
    }
    Ok(found)
}

fn rule_of(path: &str, peers: PeerList, ports: PortList) -> Result<PolicyRule, String> {
    // Empty is the same as absent: every address, every port (semantics 10, 11).
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    let read_peer =
        |(index, peer)| peer_of(peer).map_err(|why| format!("{path}, peer {index}: {why}"));
    let peers = peers.map(|peers| peers.into_iter().enumerate().map(read_peer).collect());
    Ok(PolicyRule {
        peers: peers.transpose()?,
        ports: ports.map(|ports| ports.into_iter().map(port_of).collect()),
    })
}

/// A selector that cannot be read is an error of the object; everything else that is wrong matches nothing.
fn peer_of(peer: networking::NetworkPolicyPeer) -> Result<Peer, String> {
    let namespaces = peer
        .namespace_selector
        .map(LabelSelector::try_from)
        .transpose()?;
    let pods = peer.pod_selector.map(LabelSelector::try_from).transpose()?;
    Ok(match (peer.ip_block, namespaces, pods) {
        (None, None, None) => unsupported("the peer names nobody"),
        (None, namespaces, pods) => Peer::Pods {
            namespaces,
            pods: pods.unwrap_or_default(),
        },
        (Some(block), None, None) => ip_block(block),
        (Some(_), _, _) => unsupported("ipBlock excludes podSelector and namespaceSelector"),
    })
}

fn unsupported(why: &str) -> Peer {
    Peer::Unsupported(why.to_owned())
}

fn ip_block(block: networking::IPBlock) -> Peer {
    let Some(cidr) = legacy_cidr::read(&block.cidr) else {
        return Peer::Unsupported(format!("ipBlock.cidr: {:?} is no CIDR", block.cidr));
    };
    let mut except = Vec::new();
    for text in block.except.unwrap_or_default() {
        // Leaving out an exception that cannot be read would let through what it should hold back.
        match legacy_cidr::read(&text) {
            None => return Peer::Unsupported(format!("ipBlock.except: {text:?} is no CIDR")),
            Some(net) if net.addr().is_ipv4() != cidr.addr().is_ipv4() => {
                let why = format!("ipBlock.except: {text:?} is of another family than {cidr}");
                return Peer::Unsupported(why);
            }
            Some(net) => except.extend(overlap(cidr, net)),
        }
    }
    except.sort_unstable();
    except.dedup();
    Peer::IpBlock(IpBlock { cidr, except })
}

/// The part of `except` that lies in `cidr`.
fn overlap(cidr: IpNet, except: IpNet) -> Option<IpNet> {
    if cidr.contains(&except) {
        return Some(except);
    }
    except.contains(&cidr).then_some(cidr)
}

fn port_of(port: networking::NetworkPolicyPort) -> Port {
    let (protocol, known) = match port.protocol.as_deref() {
        // Absent is TCP (semantics 19).
        None | Some("" | "TCP") => (Protocol::Tcp, None),
        Some("UDP") => (Protocol::Udp, None),
        Some("SCTP") => (Protocol::Sctp, None),
        Some(other) => (
            Protocol::Tcp,
            Some(format!("protocol {other:?} is unknown")),
        ),
    };
    let port = match known {
        Some(why) => PortMatch::Unsupported(why),
        None => port_match(port.port, port.end_port).unwrap_or_else(PortMatch::Unsupported),
    };
    Port { protocol, port }
}

fn port_match(port: Option<IntOrString>, end: Option<i32>) -> Result<PortMatch, String> {
    let number = |number: i32| match u16::try_from(number) {
        Ok(0) | Err(_) => Err(format!("{number} is no port")),
        Ok(number) => Ok(number),
    };
    match (port, end) {
        (None, None) => Ok(PortMatch::Any),
        (Some(IntOrString::Int(first)), None) => {
            let first = number(first)?;
            Ok(PortMatch::Range(first, first))
        }
        (Some(IntOrString::Int(first)), Some(last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(format!("endPort {last} is less than port {first}"));
            }
            Ok(PortMatch::Range(first, last))
        }
        (Some(IntOrString::String(name)), None) if is_port_name(&name) => {
            Ok(PortMatch::Named(name))
        }
        (Some(IntOrString::String(name)), None) => Err(format!("{name:?} is no port name")),
        (Some(IntOrString::String(_)) | None, Some(_)) => {
            Err("endPort needs a port number".to_owned())
        }
    }
}

/// RFC 6335 §5.1: up to 15 of `a-z0-9-`, a letter among them, no dash at an end or beside another.
pub(in crate::resources) fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && text.bytes().any(|c| c.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
