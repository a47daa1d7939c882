//! `portolan cni install|uninstall`: puts the plugin and its configuration where the container runtime looks, and takes them out.

mod check;
mod cli;
mod conflist;
mod disk;
mod folder;
mod install;
mod look;
mod protocol;
mod report;
mod stay;
#[cfg(test)]
mod tests;
mod uninstall;

pub(crate) use cli::{CniArgs, run};
pub(crate) use look::{Binary, First, agent_by_plugin, first_configuration, plugin_in};
