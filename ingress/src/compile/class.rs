//! Which Ingresses are ours: by class, by the annotation that was there before it, or by the default class.

use std::collections::BTreeSet;

use super::Problems;
use crate::objects::{Ingress, Key, Objects};
use crate::problem::Reason;
use crate::settings::Settings;

/// The classes that are ours.
pub(super) struct Classes<'a> {
    ours: BTreeSet<&'a str>,
    is_default_ours: bool,
}

impl<'a> Classes<'a> {
    pub(super) fn new(objects: &'a Objects, settings: &Settings, problems: &mut Problems) -> Self {
        let is_ours = |controller: &str| controller == settings.controller;
        let classes = || objects.classes.values();
        let ours = classes().filter(|class| is_ours(&class.controller));
        let mut defaults = classes().filter(|class| class.is_default).peekable();
        let has_default = defaults.peek().is_some();
        let (mine, others): (Vec<_>, Vec<_>) =
            defaults.partition(|class| is_ours(&class.controller));
        if let Some(other) = others.first() {
            for class in &mine {
                problems.add(
                    Key::IngressClass(class.name.clone()),
                    Reason::AmbiguousClass,
                    format!(
                        "IngressClass {} is the default as well: Ingresses without a class are not served until one is",
                        other.name
                    ),
                );
            }
        }
        Self {
            ours: ours.map(|class| class.name.as_str()).collect(),
            is_default_ours: has_default && others.is_empty(),
        }
    }

    /// The field counts where there is one; the API server refuses an Ingress with both.
    pub(super) fn is_ours(&self, ingress: &Ingress) -> bool {
        let named = ingress.class.as_deref().or(ingress.legacy_class.as_deref());
        match named {
            Some(class) => self.ours.contains(class),
            None => self.is_default_ours,
        }
    }
}
