//! IP virtual server: its services and their destinations in the kernel, by generic netlink, read and written as typed values.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use crate::Error;
use crate::batch::Batch;
use crate::conn::{Conn, Refusal};
use crate::generic::{Generic, Number, command};
use crate::links::blocking;

/// The family's name.
const FAMILY: &str = "IPVS";
/// The module that brings it.
const DRIVER: &str = "ip_vs";

/// Where a virtual service is asked: what the kernel knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServiceKey {
    /// The IP protocol's number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Address and port.
    pub address: SocketAddr,
}

/// A virtual service as it should be. It bears our mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// The scheduler's name, such as `rr`.
    pub scheduler: String,
    /// For how long a client keeps its destination after its last connection has ended; in whole seconds.
    pub persistence: Option<Duration>,
}

/// A destination of one; connections to it are translated (IP_VS_CONN_F_MASQ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Its share of new connections; with 0 it gets none, and keeps those that it has.
    pub weight: u32,
}

/// What the kernel has counted since it was made. It adds up its processors' counts every two seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VirtualStats {
    /// Connections.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub octets_in: u64,
    /// Octets to clients.
    pub octets_out: u64,
}

/// A virtual service as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenService {
    /// The service.
    pub service: VirtualService,
    /// Whether it bears our mark. One that does not is another's: never to be touched.
    pub is_ours: bool,
    /// What was counted.
    pub stats: VirtualStats,
    /// Its destinations.
    pub destinations: BTreeMap<SocketAddr, SeenDestination>,
}

/// A destination as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenDestination {
    /// The destination.
    pub destination: Destination,
    /// Connections that it has: open ones and those that are being closed.
    pub connections: u32,
    /// What was counted.
    pub stats: VirtualStats,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtualChange {
    /// Makes a service, without destinations.
    NewService(VirtualServiceKey, VirtualService),
    /// Changes its scheduler or persistence; its connections stay.
    SetService(VirtualServiceKey, VirtualService),
    /// Deletes it, and ends its connections.
    DeleteService(VirtualServiceKey),
    /// Adds a destination.
    NewDestination(VirtualServiceKey, SocketAddr, Destination),
    /// Changes its weight.
    SetDestination(VirtualServiceKey, SocketAddr, Destination),
    /// Deletes it; packets of its connections go nowhere then.
    DeleteDestination(VirtualServiceKey, SocketAddr),
}

/// Reads all virtual services of this network namespace, others' too; those by packet marks are passed over.
///
/// # Errors
/// When the kernel has no IPVS, which says what to do, or can't be asked.
pub async fn virtual_services() -> Result<BTreeMap<VirtualServiceKey, SeenService>, Error> {
    blocking(|| {
        let mut conn = Conn::open_generic()?;
        let mut generic = Generic::find(&mut conn, FAMILY, DRIVER).map_err(without_driver)?;
        let mut found = message::services(&mut generic)?;
        for (key, service) in &mut found {
            service.destinations = message::destinations(&mut generic, key)?;
        }
        Ok(found)
    })
    .await
}

/// Reads those of some virtual services that there are: what one Service has, where there are many.
///
/// # Errors
/// When the kernel has no IPVS, which says what to do, or can't be asked.
pub async fn some_virtual_services(
    wanted: BTreeSet<VirtualServiceKey>,
) -> Result<BTreeMap<VirtualServiceKey, SeenService>, Error> {
    blocking(move || {
        let mut conn = Conn::open_generic()?;
        let mut generic = Generic::find(&mut conn, FAMILY, DRIVER).map_err(without_driver)?;
        let mut found = message::services(&mut generic)?;
        found.retain(|key, _| wanted.contains(key));
        for (key, service) in &mut found {
            service.destinations = message::destinations(&mut generic, key)?;
        }
        Ok(found)
    })
    .await
}

/// Carries changes out in their order; what the kernel refuses of them is told in words, and the others are done.
///
/// What is gone already when it is to go is no failure.
///
/// # Errors
/// When the kernel has no IPVS, which says what to do, or can't be asked.
pub async fn change_virtual_services(changes: Vec<VirtualChange>) -> Result<Vec<String>, Error> {
    blocking(move || {
        let mut conn = Conn::open_generic()?;
        let number = Generic::find(&mut conn, FAMILY, DRIVER)
            .map_err(without_driver)?
            .number();
        let mut failed = Vec::new();
        for part in changes.chunks(MOST_AT_ONCE) {
            failed.extend(carry_out(&mut conn, number, part)?);
        }
        Ok(failed)
    })
    .await
}

/// Deletes all virtual services that bear our mark, with their destinations; returns how many. Without IPVS there are none.
///
/// # Errors
/// When the kernel can't be asked, or refuses.
pub async fn delete_virtual_services() -> Result<usize, Error> {
    let found = match virtual_services().await {
        Ok(found) => found,
        Err(Error::NoDriver { .. }) => return Ok(0),
        Err(error) => return Err(error),
    };
    let ours = found.into_iter().filter(|(_, service)| service.is_ours);
    let changes: Vec<_> = ours
        .map(|(key, _)| VirtualChange::DeleteService(key))
        .collect();
    let count = changes.len();
    match change_virtual_services(changes).await?.pop() {
        None => Ok(count),
        Some(failed) => Err(Error::Garbled(failed)),
    }
}

/// Changes in one send: their refusals fit into the socket's buffer.
const MOST_AT_ONCE: usize = 256;

fn carry_out(
    conn: &mut Conn,
    number: Number,
    changes: &[VirtualChange],
) -> Result<Vec<String>, Error> {
    let mut batch = Batch::default();
    for change in changes {
        let (word, attributes) = message::of_change(change);
        command(&mut batch, number, word, &attributes);
    }
    let refused = conn.transact(&mut batch)?;
    let told = refused
        .into_iter()
        .filter_map(|(place, refusal)| told(changes.get(place)?, &refusal));
    Ok(told.collect())
}

/// The words for what was refused; none where it says that a thing is gone that is to be gone.
fn told(change: &VirtualChange, refusal: &Refusal) -> Option<String> {
    use VirtualChange::{
        DeleteDestination, DeleteService, NewDestination, NewService, SetDestination, SetService,
    };
    let is_gone = refusal.is(Errno::ESRCH) || refusal.is(Errno::ENOENT);
    let what = match change {
        DeleteService(_) | DeleteDestination(..) if is_gone => return None,
        NewService(key, of) | SetService(key, of) if refusal.is(Errno::ENOENT) => {
            let scheduler = &of.scheduler;
            return Some(format!(
                "virtual service {key}: this kernel has no scheduler {scheduler}: `modprobe ip_vs_{scheduler}` or choose another --ipvs-scheduler"
            ));
        }
        NewService(key, _) if refusal.is(Errno::EEXIST) => {
            return Some(format!(
                "virtual service {key}: another has made one there: delete it (`ipvsadm -L -n`)"
            ));
        }
        NewService(key, _) | SetService(key, _) => format!("virtual service {key}"),
        DeleteService(key) => format!("virtual service {key}, no longer wanted"),
        NewDestination(key, to, _) | SetDestination(key, to, _) => {
            format!("destination {to} of virtual service {key}")
        }
        DeleteDestination(key, to) => {
            format!("destination {to} of virtual service {key}, no longer wanted")
        }
    };
    Some(format!("{what}: {refusal}"))
}

fn without_driver(error: Error) -> Error {
    match error {
        Error::Refused { source, .. } if source.raw_os_error() == Some(Errno::ENOENT as i32) => {
            Error::NoDriver {
                what: "IP virtual server",
                way_out: "load ip_vs (`modprobe ip_vs` on the host) or choose another --proxy-mode",
            }
        }
        other => other,
    }
}

impl std::fmt::Display for VirtualServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => "protocol",
        };
        write!(f, "{protocol} {}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> VirtualServiceKey {
        VirtualServiceKey {
            protocol: 6,
            address: "10.96.0.1:80".parse().unwrap(),
        }
    }

    fn refusal(errno: Errno) -> Refusal {
        Refusal {
            errno: errno as i32,
            said: String::new(),
        }
    }

    #[test]
    fn what_is_gone_already_is_no_failure_and_others_say_what_to_do() {
        let gone = VirtualChange::DeleteService(key());
        assert_eq!(told(&gone, &refusal(Errno::ESRCH)), None);
        let to = "10.1.0.1:80".parse().unwrap();
        let gone = VirtualChange::DeleteDestination(key(), to);
        assert_eq!(told(&gone, &refusal(Errno::ENOENT)), None);
        let service = VirtualService {
            scheduler: "wlc".to_owned(),
            persistence: None,
        };
        let new = VirtualChange::NewService(key(), service);
        let said = told(&new, &refusal(Errno::ENOENT)).unwrap();
        assert!(said.contains("modprobe ip_vs_wlc"), "{said}");
        let said = told(&new, &refusal(Errno::EEXIST)).unwrap();
        assert!(said.contains("TCP 10.96.0.1:80: another"), "{said}");
        let said = told(&new, &refusal(Errno::EPERM)).unwrap();
        assert!(said.starts_with("virtual service TCP 10.96.0.1:80: "));
    }
}
