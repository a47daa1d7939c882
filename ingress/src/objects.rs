//! What is known now, whatever source told it: IngressClasses, Ingresses, Services, their endpoints, and certificates.

mod ingress;
mod read;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{EndpointSlice, Secret};

pub use ingress::{
    BackendPort, BackendRef, Ingress, IngressClass, PathRule, Rule, ServiceRef, Tls,
};
pub use read::parse;
pub use service::{Service, ServicePort};

use crate::certificate::Certificate;

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An IngressClass.
    IngressClass(String),
    /// An Ingress.
    Ingress(NamespacedName),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A Secret.
    Secret(NamespacedName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IngressClass(name) => write!(f, "IngressClass {name}"),
            Self::Ingress(name) => write!(f, "Ingress {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Self::Secret(name) => write!(f, "Secret {name}"),
        }
    }
}

/// The state of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An IngressClass.
    IngressClass(IngressClass),
    /// An Ingress.
    Ingress(Box<Ingress>),
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// A Secret.
    Secret(Secret),
}

impl Object {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::IngressClass(class) => Key::IngressClass(class.name.clone()),
            Self::Ingress(ingress) => Key::Ingress(ingress.name.clone()),
            Self::Service(service) => Key::Service(service.name.clone()),
            Self::EndpointSlice(slice) => Key::EndpointSlice(slice.name.clone()),
            Self::Secret(secret) => Key::Secret(secret.name.clone()),
        }
    }
}

/// One object is now so, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is so.
    Is(Object),
    /// It is absent; that may be said of one that never was.
    Gone(Key),
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub(crate) classes: BTreeMap<String, IngressClass>,
    pub(crate) ingresses: BTreeMap<NamespacedName, Ingress>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
    /// The slices of each Service: namespace and name of the Service, name of the slice.
    slices_of: BTreeMap<(NamespacedName, String), ()>,
    pub(crate) secrets: BTreeMap<NamespacedName, TlsSecret>,
}

/// What a Secret was good for.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSecret {
    /// The last certificate of it that could be used: it is shown until a better one comes or the Secret goes.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// What is wrong with what the Secret holds now.
    pub(crate) fault: Option<String>,
    /// To tell a change from a repetition.
    now: Option<Secret>,
}

impl Objects {
    /// Takes a change; says whether anything is other than before.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Is(Object::IngressClass(class)) => {
                replace(&mut self.classes, class.name.clone(), class)
            }
            Change::Is(Object::Ingress(ingress)) => {
                replace(&mut self.ingresses, ingress.name.clone(), *ingress)
            }
            Change::Is(Object::Service(service)) => {
                replace(&mut self.services, service.name.clone(), *service)
            }
            Change::Is(Object::EndpointSlice(slice)) => self.take_slice(*slice),
            Change::Is(Object::Secret(secret)) => self.take_secret(secret),
            Change::Gone(Key::IngressClass(name)) => self.classes.remove(&name).is_some(),
            Change::Gone(Key::Ingress(name)) => self.ingresses.remove(&name).is_some(),
            Change::Gone(Key::Service(name)) => self.services.remove(&name).is_some(),
            Change::Gone(Key::EndpointSlice(name)) => self.drop_slice(&name),
            Change::Gone(Key::Secret(name)) => self.secrets.remove(&name).is_some(),
        }
    }

    /// An Ingress, for who writes its status.
    #[must_use]
    pub fn ingress(&self, name: &NamespacedName) -> Option<&Ingress> {
        self.ingresses.get(name)
    }

    /// The Secrets that any Ingress names, ours or not: a source need ask for no others.
    pub fn secrets_named(&self) -> impl Iterator<Item = NamespacedName> + '_ {
        self.ingresses.values().flat_map(|ingress| {
            let names = ingress.tls.iter().filter_map(|tls| tls.secret.as_deref());
            names.map(|name| NamespacedName::new(&ingress.name.namespace, name))
        })
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices_of<'a>(
        &'a self,
        service: &'a NamespacedName,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let from = (service.clone(), String::new());
        let names = self.slices_of.range(from..);
        names
            .take_while(move |((of, _), ())| of == service)
            .filter_map(|((of, name), ())| {
                self.slices.get(&NamespacedName::new(&of.namespace, name))
            })
    }

    fn take_slice(&mut self, slice: EndpointSlice) -> bool {
        if self.slices.get(&slice.name) == Some(&slice) {
            return false;
        }
        self.drop_slice(&slice.name);
        if let Some(key) = service_of(&slice) {
            self.slices_of.insert(key, ());
        }
        self.slices.insert(slice.name.clone(), slice);
        true
    }

    fn drop_slice(&mut self, name: &NamespacedName) -> bool {
        let Some(slice) = self.slices.remove(name) else {
            return false;
        };
        if let Some(key) = service_of(&slice) {
            self.slices_of.remove(&key);
        }
        true
    }

    /// A Secret that cannot be used leaves in place what it held before: nobody loses HTTPS by a slip of the pen.
    fn take_secret(&mut self, secret: Secret) -> bool {
        let known = self.secrets.entry(secret.name.clone()).or_default();
        if known.now.as_ref() == Some(&secret) {
            return false;
        }
        match Certificate::read(&secret) {
            Ok(certificate) => {
                known.certificate = Some(Arc::new(certificate));
                known.fault = None;
            }
            Err(fault) => known.fault = Some(fault),
        }
        known.now = Some(secret);
        true
    }
}

fn service_of(slice: &EndpointSlice) -> Option<(NamespacedName, String)> {
    let service = slice.service.as_ref()?;
    let service = NamespacedName::new(&slice.name.namespace, service);
    Some((service, slice.name.name.clone()))
}

fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    match map.get(&key) {
        Some(known) if *known == value => false,
        _ => {
            map.insert(key, value);
            true
        }
    }
}
