//! What is to be enforced, kept while objects change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::DomainName;
use api::{Change, Key};
use netfilter::{ChainName, SetName};

use crate::live::{Changes, Live};
use crate::render::Broken;
use crate::scratch::Input;
use crate::{Compiled, Endpoint, Objects, Settings};

/// The objects, and what follows from them. Compiling costs as much as what changed touches.
#[derive(Clone, Debug, Default)]
pub struct Index {
    settings: Settings,
    objects: Objects,
    broken: Broken,
    changes: Changes,
    live: Option<Live>,
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
        if let Key::Pod(name) = &change.key {
            let before = self.objects.shared_pod(name).cloned();
            self.changes.pods.entry(name.clone()).or_insert(before);
        } else {
            self.changes.keys.insert(change.key.clone());
        }
        self.objects.handle(change);
    }

    /// Says which pods are attached to this node, by the host end's interface. Replaces what was said before.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<String, Endpoint>) {
        let before = std::mem::take(&mut self.objects.endpoints);
        let refused = self.objects.refused.clone();
        self.objects.set_endpoints(endpoints);
        self.changes.endpoints |=
            before != self.objects.endpoints || refused != self.objects.refused;
    }

    /// Says which sets and chains the kernel refused. Replaces what was said before. Rules that allow by them match
    /// nothing, others deny all; nothing of those names is compiled again while they are said to be refused.
    pub fn set_broken(&mut self, sets: BTreeSet<SetName>, chains: BTreeSet<ChainName>) {
        let broken = Broken { sets, chains };
        self.changes.broken |= self.broken != broken;
        self.broken = broken;
    }

    /// Says which addresses the DNS gave for domain names. Replaces what was said before.
    pub fn set_domain_addresses(&mut self, addresses: BTreeMap<DomainName, BTreeSet<IpAddr>>) {
        self.changes.domains |= self.objects.domain_addresses != addresses;
        self.objects.domain_addresses = addresses;
    }

    /// The objects as they are now.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is to be in the kernel now, for both families: the same allocation if that is what it was at the last call,
    /// and in another one the same allocations for what did not change.
    pub fn compile(&mut self) -> Arc<Compiled> {
        let live = self.live.get_or_insert_with(|| Live::new(&self.settings));
        if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            let input = Input {
                objects: &self.objects,
                settings: &self.settings,
                broken: &self.broken,
            };
            live.follow(&changes, input);
        }
        live.share()
    }

    /// The same from scratch, as the specification has it.
    #[cfg(test)]
    pub(crate) fn compile_from_scratch(&self) -> Compiled {
        crate::scratch::compile(Input {
            objects: &self.objects,
            settings: &self.settings,
            broken: &self.broken,
        })
    }
}
