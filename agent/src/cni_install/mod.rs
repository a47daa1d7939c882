//! `portolan cni install|uninstall`: puts the plugin and its configuration where the container runtime looks, and takes them out.

mod check;
mod cli;
mod conflist;
mod disk;
mod folder;
mod install;
mod protocol;
mod report;
mod stay;
#[cfg(test)]
mod tests;
mod uninstall;

pub(crate) use cli::{CniArgs, run};
