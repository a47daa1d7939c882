//! Rules and default backends to a table: several Ingresses' rules for a host are one, and of two for one path the older's holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::NamespacedName;

use super::Problems;
use super::backend::{Backends, nobody};
use crate::host::HostPattern;
use crate::objects::{BackendPort, BackendRef, Ingress, PathRule, Rule};
use crate::path::canonical;
use crate::problem::Reason;
use crate::settings::Settings;
use crate::table::{Route, Table, VirtualHost};

/// What came of it.
pub(super) struct Served {
    pub(super) table: Table,
    pub(super) served: BTreeSet<NamespacedName>,
}

/// Compiles Ingresses, the oldest first.
pub(super) fn compile(
    ours: &[&Ingress],
    settings: &Settings,
    backends: &mut Backends<'_>,
    problems: &mut Problems,
) -> Served {
    let mut table = Table::default();
    let mut served = BTreeSet::new();
    for ingress in ours {
        let ssl_redirect = ssl_redirect(ingress, problems);
        let mut one = One {
            ingress,
            ssl_redirect,
            backends,
            problems,
            count: 0,
        };
        one.rules(&mut table);
        if one.count > 0 {
            served.insert(ingress.name.clone());
        } else {
            one.tell(
                Reason::NothingToServe,
                "it has no rule and no default backend that can be served",
            );
        }
    }
    // Of all that no Ingress wants.
    if table.default.is_none()
        && let Some((namespace, service)) = settings.default_backend()
    {
        let (backend, _) = backends.find(namespace, &service);
        table.default = Some(Arc::new(Route::new(None, backend, false)));
    }
    Served { table, served }
}

/// One Ingress on its way into the table.
struct One<'a, 'b> {
    ingress: &'a Ingress,
    ssl_redirect: bool,
    backends: &'a mut Backends<'b>,
    problems: &'a mut Problems,
    /// How many of its parts are served.
    count: usize,
}

/// A route for the table.
struct Placed {
    route: Arc<Route>,
    /// Whether its backend is of a kind that can be served.
    is_meant: bool,
}

impl One<'_, '_> {
    fn rules(&mut self, table: &mut Table) {
        let default = self.ingress.default_backend.as_ref();
        let default = default.map(|backend| self.route("spec.defaultBackend", backend));
        for rule in &self.ingress.rules {
            let host = match HostPattern::read(rule.host.as_deref()) {
                Ok(host) => host,
                Err(why) => {
                    self.tell(Reason::InvalidHost, format!("spec.rules: host {why}"));
                    continue;
                }
            };
            let own = table.virtual_host_mut(&host);
            for path in &rule.paths {
                self.path(&host, path, own);
            }
            // What no path of the host matches is for the default backend of who has rules for it.
            if let Some(default) = default.as_ref().filter(|_| host != HostPattern::Any) {
                self.default(&host, &mut own.default, default);
            }
        }
        let has_every_host = |rule: &Rule| rule.host.as_ref().is_none_or(String::is_empty);
        let is_for_all = self.ingress.rules.iter().all(has_every_host);
        match &default {
            // Whose rules all name hosts has its default there, whoever has that of other hosts.
            Some(default) if is_for_all || table.default.is_none() => {
                self.default(&HostPattern::Any, &mut table.default, default);
            }
            _ => {}
        }
    }

    fn default(&mut self, host: &HostPattern, place: &mut Option<Arc<Route>>, default: &Placed) {
        match place {
            None => {
                *place = Some(default.route.clone());
                self.count += usize::from(default.is_meant);
            }
            Some(known) if known.ingress == default.route.ingress => {
                self.count += usize::from(default.is_meant);
            }
            Some(known) => {
                let (host, owner) = (host.text(), owner(known));
                let why = format!("spec.defaultBackend: host {host}: {owner} has one already");
                self.tell(Reason::DefaultBackendConflict, why);
            }
        }
    }

    fn path(&mut self, host: &HostPattern, rule: &PathRule, own: &mut VirtualHost) {
        let (is_exact, key) = match place(rule) {
            Ok(place) => place,
            Err(why) => {
                let host = host.text();
                return self.tell(
                    Reason::InvalidPath,
                    format!("spec.rules: host {host}: {why}"),
                );
            }
        };
        let what = format!(
            "spec.rules: host {}, path {:?}",
            host.text(),
            rule.path.as_deref().unwrap_or("/")
        );
        let Placed { route, is_meant } = self.route(&what, &rule.backend);
        let elements = key.split('/').filter(|element| !element.is_empty()).count();
        let places = match is_exact {
            true => &mut own.exact,
            false => {
                own.deepest = own.deepest.max(elements);
                &mut own.prefix
            }
        };
        match places.get(key.as_str()) {
            None => {
                places.insert(key.into(), route);
                self.count += usize::from(is_meant);
            }
            Some(known) if is_same(known, &route) => {}
            Some(known) => {
                let owner = owner(known);
                self.tell(
                    Reason::PathConflict,
                    format!("{what}: {owner} has it already"),
                );
            }
        }
    }

    /// The route to a backend; to nobody where the Ingress names none that there could be.
    fn route(&mut self, what: &str, backend: &BackendRef) -> Placed {
        let is_meant = matches!(backend, BackendRef::Service(_));
        let (backend, fault) = match backend {
            BackendRef::Service(service) => {
                self.backends.find(&self.ingress.name.namespace, service)
            }
            BackendRef::Resource(resource) => {
                let why =
                    format!("{what}: backends of kind {resource} are not served: name a service");
                self.tell(Reason::UnsupportedBackend, why);
                (self.unserved(), None)
            }
            BackendRef::Nothing => {
                self.tell(
                    Reason::UnsupportedBackend,
                    format!("{what}: no backend: name a service"),
                );
                (self.unserved(), None)
            }
        };
        if let Some((reason, why)) = fault {
            self.tell(reason, format!("{what}: {why}"));
        }
        let ingress = Some(self.ingress.name.clone());
        let route = Arc::new(Route::new(ingress, backend, self.ssl_redirect));
        Placed { route, is_meant }
    }

    fn unserved(&self) -> Arc<crate::table::Backend> {
        let name = NamespacedName::new(&self.ingress.name.namespace, "");
        Arc::new(nobody(&name, &BackendPort::Number(0)))
    }

    fn tell(&mut self, reason: Reason, message: impl Into<String>) {
        self.problems.of(self.ingress, reason, message);
    }
}

/// Whether a path is Exact, and the form in which it is looked up.
fn place(rule: &PathRule) -> Result<(bool, String), String> {
    let is_exact = match rule.path_type.as_str() {
        "Exact" => true,
        "Prefix" | "ImplementationSpecific" => false,
        other => {
            return Err(format!(
                "pathType is {other:?}; it should be Exact, Prefix or ImplementationSpecific"
            ));
        }
    };
    let path = match rule.path.as_deref() {
        None | Some("") if rule.path_type == "ImplementationSpecific" => "/",
        path => path.unwrap_or_default(),
    };
    let form = canonical(path).map_err(|why| format!("path {path:?}: {why}"))?;
    if path.contains("//") {
        return Err(format!("path {path:?} has an empty element"));
    }
    Ok(match is_exact {
        true => (true, form.into_owned()),
        false => (false, form.strip_suffix('/').unwrap_or(&form).to_owned()),
    })
}

fn is_same(a: &Route, b: &Route) -> bool {
    let target = |route: &Route| (route.backend.service.clone(), route.backend.port.clone());
    a.ingress == b.ingress && target(a) == target(b)
}

fn owner(route: &Route) -> String {
    match &route.ingress {
        Some(name) => format!("Ingress {name}"),
        None => "the controller".to_owned(),
    }
}

fn ssl_redirect(ingress: &Ingress, problems: &mut Problems) -> bool {
    match ingress.ssl_redirect.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let why = format!(
                "annotation portolan.io/ssl-redirect is {other:?}; it should be \"true\" or \"false\""
            );
            problems.of(ingress, Reason::InvalidAnnotation, why);
            false
        }
    }
}
