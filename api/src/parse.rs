//! From a manifest's or the API server's JSON to a checked resource.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crd::{
    BGPConfiguration, BGPFilter, BGPNodeStatus, BGPPeer, IPAMBlock, IPPool, IPReservation,
};
use crate::resources::{
    BgpConfiguration, BgpFilter, BgpNodeStatus, BgpPeer, ClusterNetworkPolicy, EndpointSlice,
    IpPool, IpReservation, IpamBlock, Namespace, NetworkPolicy, Node, Pod, Secret, Service,
    cluster_network_policy, endpoint_slice, node, pod, secret, service,
};
use crate::{Key, Resource};

/// Why an object is not taken. The message names the object and the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not one of our kinds, or not in this version.
    #[error("{api_version} {kind} is not a kind that Portolan knows")]
    UnknownKind {
        /// `apiVersion` as written.
        api_version: String,
        /// `kind` as written.
        kind: String,
    },
    /// An object that is wrong.
    #[error("{object}: {message}")]
    Invalid {
        /// Its kind and name.
        object: String,
        /// What is wrong, and where.
        message: String,
    },
}

impl ParseError {
    /// The kind and name of the object, where they are known.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::UnknownKind { .. } => None,
            Self::Invalid { object, .. } => Some(object),
        }
    }
}

/// Reads one object. `Ok(None)`: a kind that is accepted and not used yet.
///
/// # Errors
/// Names the object and what is wrong with it, or the kind that is unknown.
pub fn parse(
    kind: &str,
    api_version: &str,
    value: Value,
) -> Result<Option<(Key, Resource)>, ParseError> {
    let found = match (api_version, kind) {
        ("v1", "Node") => {
            let node = Node::try_from(typed::<node::Manifest>(kind, value)?)?;
            (Key::Node(node.name.clone()), Resource::Node(node))
        }
        ("v1", "Namespace") => {
            let namespace = Namespace::try_from(typed::<core::Namespace>(kind, value)?)?;
            (
                Key::Namespace(namespace.name.clone()),
                Resource::Namespace(namespace),
            )
        }
        ("v1", "Pod") => {
            let pod = Pod::try_from(typed::<pod::Manifest>(kind, value)?)?;
            (Key::Pod(pod.name.clone()), Resource::Pod(pod))
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            let policy = NetworkPolicy::try_from(strict_policy(kind, value)?)?;
            (
                Key::NetworkPolicy(policy.name.clone()),
                Resource::NetworkPolicy(policy),
            )
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            let manifest = typed::<cluster_network_policy::Manifest>(kind, value)?;
            let policy = ClusterNetworkPolicy::try_from(manifest)?;
            (
                Key::ClusterNetworkPolicy(policy.name.clone()),
                Resource::ClusterNetworkPolicy(policy),
            )
        }
        (
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy",
        ) => return Err(superseded(kind, &value)),
        ("portolan.io/v1alpha1", "BGPConfiguration") => {
            let config = BgpConfiguration::try_from(typed::<BGPConfiguration>(kind, value)?)?;
            let key = Key::BgpConfiguration(config.name.clone());
            (key, Resource::BgpConfiguration(Box::new(config)))
        }
        ("portolan.io/v1alpha1", "BGPPeer") => {
            let peer = BgpPeer::try_from(typed::<BGPPeer>(kind, value)?)?;
            (
                Key::BgpPeer(peer.name.clone()),
                Resource::BgpPeer(Box::new(peer)),
            )
        }
        ("portolan.io/v1alpha1", "BGPFilter") => {
            let filter = BgpFilter::try_from(typed::<BGPFilter>(kind, value)?)?;
            let key = Key::BgpFilter(filter.name.clone());
            (key, Resource::BgpFilter(filter))
        }
        ("v1", "Secret") => {
            let secret = Secret::try_from(discreet_secret(kind, value)?)?;
            (Key::Secret(secret.name.clone()), Resource::Secret(secret))
        }
        ("portolan.io/v1alpha1", "BGPNodeStatus") => {
            // Agents write it. Whoever puts one into a manifest speaks for no node.
            typed::<BGPNodeStatus>(kind, value)?;
            return Ok(None);
        }
        ("v1", "Service") => service(typed(kind, value)?)?,
        ("discovery.k8s.io/v1", "EndpointSlice") => slice(typed(kind, value)?)?,
        ("portolan.io/v1alpha1", "IPPool" | "IPReservation" | "IPAMBlock") => {
            parse_addresses(kind, value)?
        }
        // `portolan-ingress` reads these, of the same directory.
        ("networking.k8s.io/v1", "Ingress" | "IngressClass") => return Ok(None),
        _ => return Err(unknown(kind, api_version)),
    };
    Ok(Some(found))
}

/// Reads one object from its JSON text; what an API server leaves out of a list's items (`kind`, `apiVersion`) is taken
/// from the arguments. Kinds of which there are many go straight into what is kept of them.
///
/// # Errors
/// As [`parse`]; a text that is no JSON is an error that names no object.
pub fn parse_json(
    kind: &str,
    api_version: &str,
    text: &[u8],
) -> Result<Option<(Key, Resource)>, ParseError> {
    let slim = match (api_version, kind) {
        ("v1", "Pod") => serde_json::from_slice(text)
            .ok()
            .map(|manifest: pod::Manifest| {
                let pod = Pod::try_from(manifest)?;
                Ok((Key::Pod(pod.name.clone()), Resource::Pod(pod)))
            }),
        ("v1", "Node") => serde_json::from_slice(text)
            .ok()
            .map(|manifest: node::Manifest| {
                let node = Node::try_from(manifest)?;
                Ok((Key::Node(node.name.clone()), Resource::Node(node)))
            }),
        ("v1", "Service") => serde_json::from_slice(text).ok().map(service),
        ("discovery.k8s.io/v1", "EndpointSlice") => serde_json::from_slice(text).ok().map(slice),
        ("portolan.io/v1alpha1", "BGPNodeStatus") => {
            let read = serde_json::from_slice::<BGPNodeStatus>(text).ok();
            read.map(|status| {
                let status = BgpNodeStatus::try_from(status)?;
                let key = Key::BgpNodeStatus(status.node.clone());
                Ok((key, Resource::BgpNodeStatus(status)))
            })
        }
        _ => None,
    };
    if let Some(read) = slim {
        return read.map(Some);
    }
    // Another kind, or one that is wrong: the way that names the object.
    let mut value: Value = serde_json::from_slice(text).map_err(|error| ParseError::Invalid {
        object: kind.to_owned(),
        message: format!("this is no JSON: {error}"),
    })?;
    if let Value::Object(fields) = &mut value {
        let text = |text: &str| Value::String(text.to_owned());
        fields.entry("kind").or_insert_with(|| text(kind));
        fields
            .entry("apiVersion")
            .or_insert_with(|| text(api_version));
    }
    parse(kind, api_version, value)
}

fn service(manifest: service::Manifest) -> Result<(Key, Resource), ParseError> {
    let service = Service::try_from(manifest)?;
    let key = Key::Service(service.name.clone());
    Ok((key, Resource::Service(Box::new(service))))
}

fn slice(manifest: endpoint_slice::Manifest) -> Result<(Key, Resource), ParseError> {
    let slice = EndpointSlice::try_from(manifest)?;
    let key = Key::EndpointSlice(slice.name.clone());
    Ok((key, Resource::EndpointSlice(Box::new(slice))))
}

/// The kinds that say who gives out which addresses.
fn parse_addresses(kind: &str, value: Value) -> Result<(Key, Resource), ParseError> {
    Ok(match kind {
        "IPPool" => {
            let pool = IpPool::try_from(typed::<IPPool>(kind, value)?)?;
            (Key::IpPool(pool.name.clone()), Resource::IpPool(pool))
        }
        "IPReservation" => {
            let reservation = IpReservation::try_from(typed::<IPReservation>(kind, value)?)?;
            let key = Key::IpReservation(reservation.name.clone());
            (key, Resource::IpReservation(reservation))
        }
        _ => {
            let block = IpamBlock::try_from(typed::<IPAMBlock>(kind, value)?)?;
            (Key::IpamBlock(block.name()), Resource::IpamBlock(block))
        }
    })
}

fn unknown(kind: &str, api_version: &str) -> ParseError {
    let short = |text: &str| text.escape_debug().to_string().chars().take(100).collect();
    ParseError::UnknownKind {
        api_version: short(api_version),
        kind: short(kind),
    }
}

/// The kinds of v1alpha1 are refused by name: an AdminNetworkPolicy that is passed over would leave open what it closes.
fn superseded(kind: &str, value: &Value) -> ParseError {
    let tier = match kind {
        "AdminNetworkPolicy" => "Admin",
        _ => "Baseline",
    };
    ParseError::Invalid {
        object: object_text(kind, value),
        message: format!(
            "{kind} has been superseded: write a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) with tier {tier}"
        ),
    }
}

fn typed<T: DeserializeOwned>(kind: &str, value: Value) -> Result<T, ParseError> {
    let object = object_text(kind, &value);
    serde_json::from_value(value).map_err(|error| ParseError::Invalid {
        object,
        // It quotes an unknown field as it came.
        message: error.to_string().replace(char::is_control, "?"),
    })
}

/// Reads a Secret without a word of its values in the error, and forgets the text it was read from.
fn discreet_secret(kind: &str, mut value: Value) -> Result<core::Secret, ParseError> {
    let object = object_text(kind, &value);
    let read = core::Secret::deserialize(&value);
    secret::forget(&mut value);
    read.map_err(|_| ParseError::Invalid {
        object,
        message: "its data must map names to base64 texts, its stringData names to texts"
            .to_owned(),
    })
}

/// Reads a NetworkPolicy and refuses fields it does not have: a selector with a slip of the pen in
/// its name would be absent, and an absent selector selects everything.
fn strict_policy(kind: &str, value: Value) -> Result<networking::NetworkPolicy, ParseError> {
    let object = object_text(kind, &value);
    let written = value.get("spec").cloned().unwrap_or(Value::Null);
    let policy: networking::NetworkPolicy = typed(kind, value)?;
    let understood = serde_json::to_value(&policy.spec).unwrap_or(Value::Null);
    match first_unknown("spec", &written, &understood) {
        None => Ok(policy),
        Some(field) => Err(ParseError::Invalid {
            object,
            message: format!("{field} is not a known field"),
        }),
    }
}

/// The path of the first field in `written` that `understood` has not.
fn first_unknown(path: &str, written: &Value, understood: &Value) -> Option<String> {
    match (written, understood) {
        (Value::Object(fields), Value::Object(known)) => fields.iter().find_map(|(key, value)| {
            let path = format!("{path}.{}", key.escape_debug());
            match known.get(key) {
                Some(inner) => first_unknown(&path, value, inner),
                None if value.is_null() => None,
                None => Some(path),
            }
        }),
        (Value::Array(values), Value::Array(known)) => values
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (value, inner))| {
                first_unknown(&format!("{path}[{index}]"), value, inner)
            }),
        _ => None,
    }
}

/// `Kind namespace/name` as far as the value says, for errors.
fn object_text(kind: &str, value: &Value) -> String {
    let field = |name| {
        value
            .get("metadata")
            .and_then(|m| m.get(name))
            .and_then(Value::as_str)
    };
    let name = field("name").unwrap_or("(no name)");
    match field("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}")
            .escape_debug()
            .to_string(),
        None => format!("{kind} {name}").escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests;
