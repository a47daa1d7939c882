//! From JSON to objects.
//!
//! EndpointSlices and Secrets are read as `api` reads them. The other kinds are read here: what an Ingress can mean is served
//! part by part, where `api` takes objects whole or not at all; and its list of kinds is what every node's agent watches.

use api::metadata::{is_dns_label, is_dns_subdomain};
use api::{NamespacedName, ParseError, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Ingress, IngressClass, Object, Service};

/// Reads one object. `Ok(None)`: a kind that means nothing here.
///
/// # Errors
/// Names the object and what is wrong with it.
pub fn parse(kind: &str, api_version: &str, value: Value) -> Result<Option<Object>, ParseError> {
    Ok(Some(match (api_version, kind) {
        ("networking.k8s.io/v1", "IngressClass") => {
            let class = typed::<k8s_openapi::api::networking::v1::IngressClass>(kind, value)?;
            let name = class.metadata.name.clone().unwrap_or_default();
            if !is_dns_subdomain(&name) {
                let why = "metadata.name is not a DNS-1123 subdomain";
                return Err(invalid(kind, &class.metadata, why));
            }
            Object::IngressClass(IngressClass::read(name, class))
        }
        ("networking.k8s.io/v1", "Ingress") => {
            let ingress = typed::<k8s_openapi::api::networking::v1::Ingress>(kind, value)?;
            let name = namespaced(kind, &ingress.metadata)?;
            Object::Ingress(Box::new(Ingress::read(name, ingress)))
        }
        ("v1", "Service") => {
            let service = typed::<k8s_openapi::api::core::v1::Service>(kind, value)?;
            let name = namespaced(kind, &service.metadata)?;
            Object::Service(Box::new(Service::read(name, service)))
        }
        ("v1", "Secret") | ("discovery.k8s.io/v1", "EndpointSlice") => {
            match api::parse(kind, api_version, value)? {
                Some((_, Resource::EndpointSlice(slice))) => Object::EndpointSlice(slice),
                Some((_, Resource::Secret(secret))) => Object::Secret(secret),
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }))
}

fn typed<T: DeserializeOwned>(kind: &str, value: Value) -> Result<T, ParseError> {
    let metadata = value.get("metadata").cloned();
    serde_json::from_value(value).map_err(|error| {
        let field = |name| metadata.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: field("name"),
            namespace: field("namespace"),
            ..ObjectMeta::default()
        };
        // It quotes what it read.
        invalid(
            kind,
            &metadata,
            &error.to_string().replace(char::is_control, "?"),
        )
    })
}

/// A namespaced object's name; without a namespace it is in `default`, as for kubectl.
fn namespaced(kind: &str, metadata: &ObjectMeta) -> Result<NamespacedName, ParseError> {
    let name = metadata.name.as_deref().unwrap_or_default();
    if !is_dns_subdomain(name) {
        return Err(invalid(
            kind,
            metadata,
            "metadata.name is not a DNS-1123 subdomain",
        ));
    }
    let namespace = metadata.namespace.as_deref();
    let namespace = namespace
        .filter(|text| !text.is_empty())
        .unwrap_or("default");
    if !is_dns_label(namespace) {
        return Err(invalid(
            kind,
            metadata,
            "metadata.namespace is not a DNS-1123 label",
        ));
    }
    Ok(NamespacedName::new(namespace, name))
}

fn invalid(kind: &str, metadata: &ObjectMeta, message: &str) -> ParseError {
    let name = metadata
        .name
        .as_deref()
        .unwrap_or("(no name)")
        .escape_debug();
    let object = match &metadata.namespace {
        Some(namespace) => format!("{kind} {}/{name}", namespace.escape_debug()),
        None => format!("{kind} {name}"),
    };
    ParseError::Invalid {
        object,
        message: message.to_owned(),
    }
}
