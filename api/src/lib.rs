//! The words every part of Portolan shares: resources, selectors and changes; no I/O, no clock.

pub mod change;
pub mod labels;
pub mod resources;
pub mod selector;

pub use change::{Change, Event, Key, NamespacedName, Resource};
pub use labels::{LabelSelector, Labels};
