//! What is to be enforced, kept while objects change.

use std::collections::BTreeMap;

use api::Change;
use netfilter::Family;

use crate::chains::compile_family;
use crate::model::Model;
use crate::{Compiled, Endpoint, Objects, Settings};

/// The objects, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) settings: Settings,
    pub(crate) objects: Objects,
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
    }

    /// Says which pods are attached to this node, by the host end's interface. Replaces what was said before.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<String, Endpoint>) {
        self.objects.set_endpoints(endpoints);
    }

    /// The objects as they are now.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Compiles all that is known now, for both families.
    pub fn compile(&self) -> Compiled {
        let mut model = Model::new(self);
        let v4 = compile_family(&model, Family::V4);
        let v6 = compile_family(&model, Family::V6);
        Compiled {
            v4,
            v6,
            problems: model.take_problems(),
        }
    }
}
