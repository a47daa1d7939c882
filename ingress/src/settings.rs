//! What a compilation is told besides the objects.

use api::NamespacedName;

use crate::objects::{BackendPort, ServiceRef};

/// The controller's name in `spec.controller` of an IngressClass.
pub const CONTROLLER: &str = "portolan.io/ingress-controller";

/// Which Ingresses are ours, and what is used where they say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// IngressClasses with this `spec.controller` are ours.
    pub controller: String,
    /// Where requests go that no Ingress wants.
    pub default_backend: Option<(NamespacedName, BackendPort)>,
    /// The Secret whose certificate is shown for names that no Ingress has one for.
    pub default_certificate: Option<NamespacedName>,
}

impl Settings {
    /// Those of a controller that was told nothing.
    #[must_use]
    pub fn of_controller(controller: &str) -> Self {
        Self {
            controller: controller.to_owned(),
            default_backend: None,
            default_certificate: None,
        }
    }

    pub(crate) fn default_backend(&self) -> Option<(&str, ServiceRef)> {
        let (name, port) = self.default_backend.as_ref()?;
        let service = ServiceRef {
            name: name.name.clone(),
            port: port.clone(),
        };
        Some((&name.namespace, service))
    }
}
