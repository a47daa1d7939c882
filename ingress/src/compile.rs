//! From what is known to what is served. Pure: the same objects give the same answer, whatever came first.
//!
//! The text followed is the API reference of networking.k8s.io/v1 and the page "Ingress" of Kubernetes' documentation; what
//! they leave open is decided in docs/design/ingress.md.

mod backend;
mod class;
mod rules;
mod tls;

use std::collections::BTreeSet;

use api::NamespacedName;

use crate::certificate::Certificates;
use crate::objects::{Ingress, Key, Objects};
use crate::problem::{Problem, Reason};
use crate::settings::Settings;
use crate::table::Table;

/// What is served, and what is wrong.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Where every request goes.
    pub table: Table,
    /// Which certificate is shown.
    pub certificates: Certificates,
    /// What is not served as it is written: sorted, each once.
    pub problems: Vec<Problem>,
    /// The Ingresses that are ours and of which something is served: they have our address in their status.
    pub served: BTreeSet<NamespacedName>,
    /// The Ingresses that are ours.
    pub ours: BTreeSet<NamespacedName>,
}

/// Compiles all that is known.
#[must_use]
pub fn compile(objects: &Objects, settings: &Settings) -> Compiled {
    let mut compiled = Compiled::default();
    let mut problems = Problems::default();
    let classes = class::Classes::new(objects, settings, &mut problems);
    let mut ours: Vec<&Ingress> = objects
        .ingresses
        .values()
        .filter(|ingress| classes.is_ours(ingress))
        .collect();
    // Of two that want the same, the older has it; those of one second, or of a directory, go by name.
    ours.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut backends = backend::Backends::new(objects);
    let served = rules::compile(&ours, settings, &mut backends, &mut problems);
    compiled.table = served.table;
    compiled.served = served.served;
    compiled.certificates = tls::compile(objects, &ours, settings, &mut problems);
    compiled.ours = ours.iter().map(|ingress| ingress.name.clone()).collect();
    compiled.problems = problems.0.into_iter().collect();
    compiled
}

/// Problems, each once.
#[derive(Debug, Default)]
struct Problems(BTreeSet<Problem>);

impl Problems {
    fn add(&mut self, object: Key, reason: Reason, message: impl Into<String>) {
        self.0.insert(Problem {
            object,
            reason,
            message: message.into(),
        });
    }

    fn of(&mut self, ingress: &Ingress, reason: Reason, message: impl Into<String>) {
        self.add(Key::Ingress(ingress.name.clone()), reason, message);
    }
}

#[cfg(test)]
mod tests;
