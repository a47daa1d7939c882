//! What of an object is for who writes statuses and Events, and for nobody else.

use api::NamespacedName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube_client::api::DynamicObject;

use super::publish::Facts;
use crate::objects::{Key, Object};

/// What the watches tell the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// An Ingress is so.
    Ingress(NamespacedName, Facts),
    /// It is gone.
    NoIngress(NamespacedName),
    /// An IngressClass, with its uid.
    Class(String, String),
    /// It is gone.
    NoClass(String),
    /// The addresses of the Service that `--publish-service` names.
    Published(Vec<String>),
}

impl Note {
    /// Of an object that is there, if anything; `manager` is the name under which statuses are written.
    pub(super) fn of(object: &Object, raw: &DynamicObject, manager: &str) -> Option<Self> {
        let uid = raw.metadata.uid.clone().unwrap_or_default();
        match object {
            Object::Ingress(ingress) => {
                let entries = raw.metadata.managed_fields.iter().flatten();
                let facts = Facts {
                    addresses: ingress.addresses.clone(),
                    is_written_by_us: entries.into_iter().any(|one| is_ours(one, manager)),
                    uid,
                };
                Some(Self::Ingress(ingress.name.clone(), facts))
            }
            Object::IngressClass(class) => Some(Self::Class(class.name.clone(), uid)),
            _ => None,
        }
    }

    /// Of one that is gone.
    pub(super) fn of_gone(key: &Key) -> Option<Self> {
        match key {
            Key::Ingress(name) => Some(Self::NoIngress(name.clone())),
            Key::IngressClass(name) => Some(Self::NoClass(name.clone())),
            _ => None,
        }
    }
}

/// Whether an entry says that `manager` has written the load balancer's addresses.
fn is_ours(entry: &ManagedFieldsEntry, manager: &str) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    let written = fields.and_then(|fields| fields.pointer("/f:status/f:loadBalancer/f:ingress"));
    entry.manager.as_deref() == Some(manager)
        && entry.subresource.as_deref() == Some("status")
        && written.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_ours_by_the_servers_own_books() {
        let entry = |manager: &str, fields: serde_json::Value| {
            let entry = json!({"manager": manager, "operation": "Apply", "subresource": "status",
                "apiVersion": "networking.k8s.io/v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
            serde_json::from_value::<ManagedFieldsEntry>(entry).unwrap()
        };
        let addresses = json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}});
        assert!(is_ours(
            &entry("portolan-ingress", addresses.clone()),
            "portolan-ingress"
        ));
        assert!(!is_ours(&entry("other", addresses), "portolan-ingress"));
        let nothing = json!({"f:status": {}});
        assert!(!is_ours(
            &entry("portolan-ingress", nothing),
            "portolan-ingress"
        ));
    }
}
