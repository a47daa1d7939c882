//! How many rules each table of iptables-legacy holds: two system calls, whatever their number.

mod call;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::Error;
use crate::conntrack::Family;

/// A table's size. Another's change that leaves both numbers as they were isn't seen by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableInfo {
    /// Rules of all chains, with the kernel's own one or two of each chain.
    pub entries: u32,
    /// Bytes that the rules take in the kernel.
    pub size: u32,
}

/// Sockets to ask by.
#[derive(Debug)]
pub struct LegacyTables {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl LegacyTables {
    /// Opens them in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without the right to open raw sockets. A kernel without IPv6 is no error.
    pub fn open() -> Result<Self, Error> {
        let raw = |family| {
            socket(
                family,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
        };
        let v4 = raw(AddressFamily::Inet)
            .map_err(|error| Error::Socket("open a raw socket", error.into()))?;
        let v6 = match raw(AddressFamily::Inet6) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%error, "no IPv6: only IPv4 tables are looked at");
                None
            }
        };
        Ok(Self { v4, v6 })
    }

    /// The size of a table; `None` when there is no such table in use. Never makes one: the kernel is asked only
    /// about what it lists already. Must be called in the namespace that the sockets were opened in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn info(&self, family: Family, table: &str) -> Result<Option<TableInfo>, Error> {
        if !names(family).lines().any(|name| name == table) {
            return Ok(None);
        }
        let fd = match family {
            Family::V4 => &self.v4,
            Family::V6 => match &self.v6 {
                Some(fd) => fd,
                None => return Ok(None),
            },
        };
        match call::table_info(fd, family, table) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
            Err(error) => Err(Error::Socket("ask for a table's size", error)),
        }
    }
}

/// The tables in use, one a line; none where the kernel has no legacy tables at all.
fn names(family: Family) -> String {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(path).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::debug!(%error, path, "the legacy tables can't be listed");
        }
        String::new()
    })
}
