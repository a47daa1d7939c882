//! IngressClass and Ingress: what is written in them, part by part. What a part means, and whether it can be served, `compile` says.

use std::fmt;

use api::NamespacedName;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

/// The annotation by which an IngressClass is for Ingresses that name none.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// The annotation by which Ingresses named their class before they had a field for it.
const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";
/// Our annotation: plain requests are sent to HTTPS.
pub(crate) const SSL_REDIRECT: &str = "portolan.io/ssl-redirect";

/// An IngressClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressClass {
    /// Its name.
    pub name: String,
    /// `spec.controller`.
    pub controller: String,
    /// Whether Ingresses without a class are of this one.
    pub is_default: bool,
}

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// `metadata.uid`; an Event names it.
    pub uid: Option<String>,
    /// `metadata.creationTimestamp`: of two that want the same the older has it. None in a directory.
    pub created: Option<Timestamp>,
    /// `spec.ingressClassName`.
    pub class: Option<String>,
    /// The annotation that was there before the field.
    pub legacy_class: Option<String>,
    /// Our annotation `portolan.io/ssl-redirect`, as it is written.
    pub ssl_redirect: Option<String>,
    /// `spec.defaultBackend`.
    pub default_backend: Option<BackendRef>,
    /// `spec.rules`.
    pub rules: Vec<Rule>,
    /// `spec.tls`.
    pub tls: Vec<Tls>,
    /// `status.loadBalancer.ingress`: addresses and names.
    pub addresses: Vec<String>,
}

/// One of `spec.rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `host`.
    pub host: Option<String>,
    /// `http.paths`.
    pub paths: Vec<PathRule>,
}

/// One of `paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// `path`.
    pub path: Option<String>,
    /// `pathType`.
    pub path_type: String,
    /// `backend`.
    pub backend: BackendRef,
}

/// Who is to answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendRef {
    /// A Service of the Ingress's namespace.
    Service(ServiceRef),
    /// Another kind of object, by kind and name.
    Resource(String),
    /// Neither.
    Nothing,
}

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRef {
    /// The Service's name.
    pub name: String,
    /// Which of its ports.
    pub port: BackendPort,
}

/// How a backend says which port of the Service it means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendPort {
    /// By `port` of the Service's port.
    Number(i32),
    /// By its name.
    Name(String),
}

impl fmt::Display for BackendPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// One of `spec.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `hosts`.
    pub hosts: Vec<String>,
    /// `secretName`.
    pub secret: Option<String>,
}

impl IngressClass {
    pub(super) fn read(name: String, class: networking::IngressClass) -> Self {
        let is_default = annotation(&class.metadata, IS_DEFAULT).as_deref() == Some("true");
        let controller = class.spec.and_then(|spec| spec.controller);
        Self {
            name,
            controller: controller.unwrap_or_default(),
            is_default,
        }
    }
}

impl Ingress {
    pub(super) fn read(name: NamespacedName, ingress: networking::Ingress) -> Self {
        let metadata = ingress.metadata;
        let spec = ingress.spec.unwrap_or_default();
        let points = ingress.status.and_then(|status| status.load_balancer);
        let points = points.and_then(|balancer| balancer.ingress);
        let points = points.unwrap_or_default().into_iter();
        Self {
            name,
            class: spec.ingress_class_name,
            legacy_class: annotation(&metadata, LEGACY_CLASS),
            ssl_redirect: annotation(&metadata, SSL_REDIRECT),
            uid: metadata.uid,
            created: metadata.creation_timestamp.map(|time| time.0),
            default_backend: spec.default_backend.map(BackendRef::read),
            rules: spec
                .rules
                .unwrap_or_default()
                .into_iter()
                .map(Rule::read)
                .collect(),
            tls: spec
                .tls
                .unwrap_or_default()
                .into_iter()
                .map(Tls::read)
                .collect(),
            addresses: points
                .filter_map(|point| point.ip.or(point.hostname))
                .collect(),
        }
    }
}

impl Rule {
    fn read(rule: networking::IngressRule) -> Self {
        let paths = rule.http.map(|http| http.paths).unwrap_or_default();
        let paths = paths.into_iter().map(|path| PathRule {
            path: path.path,
            path_type: path.path_type,
            backend: BackendRef::read(path.backend),
        });
        Self {
            host: rule.host,
            paths: paths.collect(),
        }
    }
}

impl BackendRef {
    fn read(backend: networking::IngressBackend) -> Self {
        if let Some(resource) = backend.resource {
            return Self::Resource(format!("{} {}", resource.kind, resource.name));
        }
        let Some(service) = backend.service else {
            return Self::Nothing;
        };
        let port = service.port.unwrap_or_default();
        let port = match (port.name, port.number) {
            (Some(name), _) if !name.is_empty() => BackendPort::Name(name),
            (_, number) => BackendPort::Number(number.unwrap_or_default()),
        };
        Self::Service(ServiceRef {
            name: service.name,
            port,
        })
    }
}

impl Tls {
    fn read(tls: networking::IngressTLS) -> Self {
        Self {
            hosts: tls.hosts.unwrap_or_default(),
            secret: tls.secret_name.filter(|name| !name.is_empty()),
        }
    }
}

fn annotation(metadata: &ObjectMeta, key: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(key).cloned()
}
