//! A node with an agent, as a user runs it, and pods that the plugin attaches there, each with an echo server.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::agent::{Agent, binaries};
use crate::cni::{Plugin, Sandbox, addresses};
use crate::netns::Netns;
use crate::rack::Rack;
use crate::reach::Server;

/// A node.
#[derive(Debug)]
pub struct Station {
    /// Its agent.
    pub agent: Agent,
    /// Its namespace.
    pub netns: Netns,
}

/// An attached pod.
#[derive(Debug)]
pub struct Pod {
    _server: Server,
    /// As the runtime knows it.
    pub sandbox: Sandbox,
    /// What ADD answered.
    pub result: Value,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Station {
    /// A node of a rack, which reads the rack's manifests; its agent is not yet started.
    ///
    /// # Errors
    /// When there are no binaries, or the agent's folders can't be made.
    pub fn new(name: &str, netns: Netns, rack: &Rack) -> Result<Self> {
        let folder = rack.manifests();
        let dir = folder.parent().context("the rack's folder")?;
        let program = binaries()?.join("portolan");
        let agent = Agent::new(name, &program, &netns, dir, &folder)?;
        Ok(Self { agent, netns })
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&mut self) -> Result<()> {
        self.agent.start(&self.netns)
    }

    /// Attaches a pod, with further fields of the configuration, such as `runtimeConfig`, and starts its server.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn attach(&self, sandbox: Sandbox, fields: Map<String, Value>) -> Result<Pod> {
        let plugin = Plugin {
            program: binaries()?.join("portolan-cni"),
            socket: self.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        };
        let answer = plugin.call_with("ADD", &self.netns, &sandbox, fields)?;
        let result = answer.success().with_context(|| self.agent.log_end())?;
        let mut addresses = addresses(&result);
        addresses.sort_by_key(IpAddr::is_ipv6);
        ensure!(!addresses.is_empty(), "no address: {result}");
        Ok(Pod {
            _server: Server::start(&sandbox.netns)?,
            sandbox,
            result,
            addresses,
        })
    }
}

impl Pod {
    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.sandbox.netns
    }
}
