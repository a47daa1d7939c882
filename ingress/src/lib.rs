//! An ingress controller that stands alone: Ingresses to a table, and a proxy that follows it.
//!
//! [`Objects`] holds what is known, [`compile()`] turns it into a [`Table`] and [`Certificates`] and does no I/O.

pub mod certificate;
pub mod compile;
pub mod config;
pub mod host;
pub mod kubernetes;
pub mod objects;
pub mod path;
pub mod problem;
pub mod proxy;
pub mod run;
pub mod settings;
pub mod source;
pub mod status;
pub mod table;

pub use certificate::{Certificate, Certificates};
pub use compile::{Compiled, compile};
pub use objects::{Change, Key, Object, Objects, parse};
pub use problem::{Problem, Reason};
pub use settings::Settings;
pub use table::{Backend, BackendProtocol, Route, Table};
