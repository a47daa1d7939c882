//! Which backend a request is for: the host first, then the path, then a default.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::NamespacedName;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::host::{HostPattern, wildcard_of};

/// Where every request goes.
///
/// The most specific host that has rules decides: a precise one before a wildcard before none. Within it an Exact path goes
/// before a Prefix, a longer Prefix before a shorter one. Where no path of the host matches, its own default backend is
/// asked, then the controller's.
#[derive(Debug, Default)]
pub struct Table {
    exact: FxHashMap<Box<str>, VirtualHost>,
    wildcard: FxHashMap<Box<str>, VirtualHost>,
    any: VirtualHost,
    pub(crate) default: Option<Arc<Route>>,
}

/// The rules of one host.
#[derive(Debug, Default)]
pub(crate) struct VirtualHost {
    pub(crate) exact: FxHashMap<Box<str>, Arc<Route>>,
    /// Without a slash at the end: `/` is "".
    pub(crate) prefix: FxHashMap<Box<str>, Arc<Route>>,
    /// How many elements the longest prefix has.
    pub(crate) deepest: usize,
    pub(crate) default: Option<Arc<Route>>,
}

/// What is done with a request.
#[derive(Debug)]
pub struct Route {
    /// Whose rule it is; none of the controller's own default.
    pub ingress: Option<NamespacedName>,
    /// Who is asked.
    pub backend: Arc<Backend>,
    /// Whether requests in plain text are sent to HTTPS.
    pub ssl_redirect: bool,
    /// What the access log's line says of the rule and the backend: made once and not at each request.
    pub(crate) log: String,
}

impl Route {
    /// A route of an Ingress, or of the controller's own default.
    #[must_use]
    pub fn new(ingress: Option<NamespacedName>, backend: Arc<Backend>, ssl_redirect: bool) -> Self {
        let name = ingress.as_ref().map(NamespacedName::to_string);
        let service = format!("{}:{}", backend.service, backend.port);
        let [name, service] = [name.unwrap_or_default(), service].map(serde_json::Value::from);
        Self {
            log: format!(",\"ingress\":{name},\"service\":{service}"),
            ingress,
            backend,
            ssl_redirect,
        }
    }
}

/// A port of a Service.
#[derive(Debug)]
pub struct Backend {
    /// The Service.
    pub service: NamespacedName,
    /// The Service's port, by name or number, as the Ingress means it.
    pub port: String,
    /// What is spoken there.
    pub protocol: BackendProtocol,
    /// Who may get new requests, in order and each once; empty where nobody serves: the answer is 503.
    pub endpoints: Vec<SocketAddr>,
    turn: AtomicUsize,
}

/// What a backend speaks (`appProtocol` of its Service's port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendProtocol {
    /// HTTP/1.1, also to Upgrade (`kubernetes.io/ws`).
    Http1,
    /// HTTP/2 with prior knowledge, without TLS (`kubernetes.io/h2c`): gRPC.
    H2c,
}

impl Backend {
    /// A backend whose first turn is its first endpoint.
    #[must_use]
    pub fn new(
        service: NamespacedName,
        port: String,
        protocol: BackendProtocol,
        mut endpoints: Vec<SocketAddr>,
    ) -> Self {
        endpoints.sort_unstable();
        endpoints.dedup();
        Self {
            service,
            port,
            protocol,
            endpoints,
            turn: AtomicUsize::new(0),
        }
    }

    /// The endpoints in the order in which this request tries them: each request begins with the next one.
    pub fn turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let count = self.endpoints.len();
        let first = match count {
            0 | 1 => 0,
            _ => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        let (before, after) = self.endpoints.split_at(first);
        after.iter().chain(before).copied()
    }
}

impl Table {
    /// The route of a request. `host` is as [`crate::host::host_of_authority`] gives it, `path` as
    /// [`crate::path::canonical`] does.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = self.virtual_host(host);
        host.find(path).or(self.default.as_ref())
    }

    fn virtual_host(&self, host: &str) -> &VirtualHost {
        let exact = self.exact.get(host);
        exact
            .or_else(|| self.wildcard.get(wildcard_of(host)?))
            .unwrap_or(&self.any)
    }

    pub(crate) fn virtual_host_mut(&mut self, host: &HostPattern) -> &mut VirtualHost {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
            HostPattern::Any => &mut self.any,
        }
    }

    /// Every route.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let hosts = self.exact.values().chain(self.wildcard.values());
        let routes = hosts.chain([&self.any]).flat_map(|host| {
            host.exact
                .values()
                .chain(host.prefix.values())
                .chain(&host.default)
        });
        routes.chain(&self.default)
    }
}

impl VirtualHost {
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        let exact = self.exact.get(path);
        exact
            .or_else(|| self.longest_prefix(path))
            .or(self.default.as_ref())
    }

    /// Element by element: `/foo` is a prefix of `/foo/bar` and `/foo/`, not of `/foobar`.
    fn longest_prefix(&self, path: &str) -> Option<&Arc<Route>> {
        if self.prefix.is_empty() {
            return None;
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut ends: SmallVec<[usize; 16]> = SmallVec::new();
        // No more of the path is looked at than the longest prefix has elements: a long path costs no more than a short one.
        let slashes = path.bytes().enumerate().skip(1);
        let slashes = slashes.filter(|(_, byte)| *byte == b'/');
        let slashes = slashes.map(|(at, _)| at).chain([path.len()]);
        ends.extend(slashes.take(self.deepest));
        let longer = ends.iter().rev().filter_map(|end| path.get(..*end));
        longer
            .chain([""])
            .find_map(|prefix| self.prefix.get(prefix))
    }
}
