//! What tunnels of every kind have: an interface with an MTU and addresses of its own, brought to what they should be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use super::{TunnelReport, request};
use crate::batch::Batch;
use crate::conn::Conn;
use crate::{Error, links, sysctl};

/// Requests, each with its words for an error.
#[derive(Default)]
pub(crate) struct Writes {
    batch: Batch,
    words: Vec<String>,
}

impl Writes {
    pub(crate) fn add(&mut self, words: impl Into<String>, write: impl FnOnce(&mut Batch)) {
        self.words.push(words.into());
        write(&mut self.batch);
    }

    /// The addresses that are missing.
    pub(crate) fn add_addresses<'a>(
        &mut self,
        index: u32,
        missing: impl Iterator<Item = &'a IpAddr>,
    ) {
        for address in missing {
            self.add(format!("address {address}"), |batch| {
                let (message, flags) = request::add_address(index, *address);
                batch.push(message, flags);
            });
        }
    }

    /// The addresses that are too much.
    pub(crate) fn delete_addresses<'a>(
        &mut self,
        index: u32,
        surplus: impl Iterator<Item = &'a IpAddr>,
    ) {
        for address in surplus {
            self.add(format!("address {address}, no longer wanted"), |batch| {
                batch.push(request::delete_address(index, *address), 0);
            });
        }
    }
}

/// A tunnel's interface as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

impl Interface {
    pub(crate) fn of(link: &links::LinkInfo) -> Self {
        Self {
            index: link.index,
            mtu: link.mtu,
            up: link.up,
        }
    }
}

/// One look at a tunnel, and what is written after it.
pub(crate) struct Steps<'a> {
    pub(crate) conn: &'a mut Conn,
    /// The device's name.
    pub(crate) name: &'static str,
    pub(crate) report: TunnelReport,
}

impl Steps<'_> {
    /// Source checks and forwarding of one that was just made, the MTU, and up; before that, `first`.
    pub(crate) fn settle_interface(
        &mut self,
        first: Writes,
        found: Interface,
        mtu: u32,
    ) -> Result<(), Error> {
        let index = found.index;
        let mut writes = Writes::default();
        if self.report.made {
            writes.add("the settings of the tunnel", |batch| {
                batch.push(request::settings(index), 0)
            });
        }
        self.report.written += self.send(writes)?;
        let mut writes = first;
        if found.mtu != mtu {
            writes.add("the tunnel's MTU", |batch| {
                batch.push(request::mtu(index, mtu), 0)
            });
        }
        if !found.up {
            writes.add("setting the tunnel up", |batch| {
                batch.push(links::up(index), 0)
            });
        }
        self.report.written += self.send(writes)?;
        Ok(())
    }

    /// Lets IPv6 in, and no router's word.
    pub(crate) fn allow_v6(&self) {
        for (switch, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
            if let Err(error) = sysctl::interface_v6(self.name, switch, value) {
                tracing::debug!(switch, %error, "an IPv6 switch of the tunnel can't be set");
            }
        }
    }

    /// What is missing first, then what is too much.
    pub(crate) fn settle_addresses(
        &mut self,
        index: u32,
        wanted: &BTreeSet<IpAddr>,
        found: &BTreeSet<IpAddr>,
    ) -> Result<(), Error> {
        let (mut writes, mut deletions) = (Writes::default(), Writes::default());
        writes.add_addresses(index, wanted.difference(found));
        deletions.delete_addresses(index, found.difference(wanted));
        self.report.written += self.send(writes)?;
        self.report.deleted += self.send(deletions)?;
        Ok(())
    }

    /// Sends all of them; returns how many were taken.
    pub(crate) fn send(&mut self, mut writes: Writes) -> Result<usize, Error> {
        let refused = self.conn.transact(&mut writes.batch)?;
        let gone = |errno| [Errno::ENOENT, Errno::EADDRNOTAVAIL].contains(&errno);
        for (place, refusal) in &refused {
            let what = writes.words.get(*place).map_or("", String::as_str);
            if !gone(Errno::from_raw(refusal.errno)) {
                let name = self.name;
                self.report
                    .failed
                    .push(format!("{name}: {what}: {refusal}"));
            }
        }
        Ok(writes.words.len() - refused.len())
    }
}
