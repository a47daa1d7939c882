//! What is to be enforced, kept while objects change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::Change;
use api::resources::DomainName;
use netfilter::{ChainName, SetName};

use crate::render::Broken;
use crate::scratch::{self, Input};
use crate::{Compiled, Endpoint, Objects, Settings};

/// The objects, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Index {
    settings: Settings,
    objects: Objects,
    broken: Broken,
    compiled: Option<Arc<Compiled>>,
}

impl Index {
    /// Makes an empty index with the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty index.
    pub fn with_settings(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes one object's new state; kinds that no policy hangs on are passed over.
    pub fn handle(&mut self, change: &Change) {
        self.objects.handle(change);
        self.compiled = None;
    }

    /// Says which pods are attached to this node, by the host end's interface. Replaces what was said before.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<String, Endpoint>) {
        self.objects.set_endpoints(endpoints);
        self.compiled = None;
    }

    /// Says which sets and chains the kernel refused. Replaces what was said before. Rules that allow by them match
    /// nothing, others deny all; nothing of those names is compiled again while they are said to be refused.
    pub fn set_broken(&mut self, sets: BTreeSet<SetName>, chains: BTreeSet<ChainName>) {
        self.broken = Broken { sets, chains };
        self.compiled = None;
    }

    /// Says which addresses the DNS gave for domain names. Replaces what was said before.
    pub fn set_domain_addresses(&mut self, addresses: BTreeMap<DomainName, BTreeSet<IpAddr>>) {
        self.objects.domain_addresses = addresses;
        self.compiled = None;
    }

    /// The objects as they are now.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is to be in the kernel now, for both families: the same allocation if nothing changed since the last call.
    pub fn compile(&mut self) -> Arc<Compiled> {
        let input = Input {
            objects: &self.objects,
            settings: &self.settings,
            broken: &self.broken,
        };
        Arc::clone(
            self.compiled
                .get_or_insert_with(|| Arc::new(scratch::compile(input))),
        )
    }
}
