//! The words every part of Portolan shares: resources, selectors and changes; no I/O, no clock.

pub mod change;
pub mod crd;
pub mod duration;
pub mod labels;
pub mod metadata;
pub mod parse;
pub mod resources;
pub mod selector;

pub use change::{Change, Event, Key, NamespacedName, Resource};
pub use crd::crds;
pub use duration::GoDuration;
pub use labels::{LabelPool, LabelSelector, Labels};
pub use parse::{ParseError, parse, parse_json};
pub use selector::{Selector, SelectorError};
