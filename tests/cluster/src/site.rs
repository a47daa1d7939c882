//! Where a control plane listens: an address of its own on loopback, or one in a network namespace.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::spawner::bound;

/// Below the ports that the kernel gives to outgoing connections.
pub(crate) const API_SERVER: u16 = 26443;
pub(crate) const ETCD: u16 = 22379;
pub(crate) const ETCD_PEER: u16 = 22380;
pub(crate) const CONTROLLER_MANAGER: u16 = 22257;
pub(crate) const SCHEDULER: u16 = 22259;

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On an address of 127.179.0.0/24 that no other test has.
    #[default]
    Loopback,
    /// In this network namespace (`ip netns list`), on this address of it. One control plane a namespace.
    Namespace {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
    },
}

/// A place that is held.
#[derive(Debug)]
pub struct Site {
    namespace: Option<String>,
    address: IpAddr,
    /// Where what nobody else needs listens.
    private: IpAddr,
    _lock: Option<File>,
}

impl Site {
    /// Takes the place.
    ///
    /// # Errors
    /// When every address is taken.
    pub fn take(place: Place) -> Result<Self> {
        match place {
            Place::Namespace { name, address } => Ok(Self {
                namespace: Some(name),
                address,
                private: Ipv4Addr::LOCALHOST.into(),
                _lock: None,
            }),
            Place::Loopback => {
                let (address, lock) = free_address()?;
                Ok(Self {
                    namespace: None,
                    address,
                    private: address,
                    _lock: Some(lock),
                })
            }
        }
    }

    /// The address that the API server listens on.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn api_server(&self) -> SocketAddr {
        (self.address, API_SERVER).into()
    }

    pub(crate) fn private(&self, port: u16) -> SocketAddr {
        (self.private, port).into()
    }

    /// A command that will run here.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.command_of([program.as_os_str().to_owned()].into())
    }

    /// One that ends with the thread that starts it.
    pub(crate) fn daemon(&self, program: &Path) -> Command {
        self.command_of(bound(program))
    }

    fn command_of(&self, mut words: Vec<std::ffi::OsString>) -> Command {
        if let Some(name) = &self.namespace {
            // Not `ip netns exec`, which hides /sys/fs/cgroup.
            words.splice(
                0..0,
                ["nsenter".into(), format!("--net=/run/netns/{name}").into()],
            );
        }
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command
    }
}

/// Which address is whose is told by locks on files, so that test processes can't clash.
fn free_address() -> Result<(IpAddr, File)> {
    let dir = std::env::temp_dir().join("portolan-cluster-addresses");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    for last in 1..=254 {
        // One that another user holds can't be opened.
        let Ok(file) = File::create(dir.join(last.to_string())) else {
            continue;
        };
        if file.try_lock().is_ok() {
            return Ok((Ipv4Addr::new(127, 179, 0, last).into(), file));
        }
    }
    bail!("all addresses of {} are taken", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sites_have_two_addresses() {
        let one = Site::take(Place::Loopback).unwrap();
        let two = Site::take(Place::Loopback).unwrap();
        assert_ne!(one.address(), two.address());
    }
}
