//! One change of who holds what: made before it is carried out, so that it can be written down first.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::snapshot::VERSION;
use crate::{Cooling, Family, Holder, Ipam, Lease};

/// One change. What [`Ipam::choose`] makes fits the state it was made of; one that was read from a journal is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A holder gets addresses.
    Given {
        /// What it gets.
        lease: Lease,
        /// Which of them move the round: at most one a family.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        round: Vec<IpAddr>,
    },
    /// A holder gives its addresses back.
    Released {
        /// Who.
        holder: Holder,
        /// When, in seconds since 1970.
        at: u64,
    },
}

/// Why a snapshot or a change cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Written by a later release.
    #[error(
        "the leases are in form {0}, and this release reads form {VERSION} and older ones: run the release that wrote them"
    )]
    Version(u32),
    /// A holder is there twice.
    #[error("interface {} of container {} is there twice", .0.interface, .0.container_id)]
    Holder(Holder),
    /// An address is there twice.
    #[error("the address {0} is there twice")]
    Address(IpAddr),
    /// Somebody gives back what he does not have.
    #[error("interface {} of container {} gives back addresses it does not hold", .0.interface, .0.container_id)]
    NotHeld(Holder),
}

impl Ipam {
    /// Carries a change out; the lease that was given or taken back.
    ///
    /// # Errors
    /// If it does not fit the present state: nothing has changed then.
    pub fn apply(&mut self, change: Change) -> Result<Lease, Damaged> {
        match change {
            Change::Given { lease, round } => self.give(lease, round),
            Change::Released { holder, at } => self.take_back(holder, at),
        }
    }

    fn give(&mut self, lease: Lease, round: Vec<IpAddr>) -> Result<Lease, Damaged> {
        if self.leases.contains_key(&lease.holder) {
            return Err(Damaged::Holder(lease.holder));
        }
        let mut seen = Vec::with_capacity(lease.addresses.len());
        for address in &lease.addresses {
            if self.held.contains_key(address) || seen.contains(address) {
                return Err(Damaged::Address(*address));
            }
            seen.push(*address);
        }
        for address in seen {
            self.resting.remove(address);
            self.busy.insert(address);
            self.held.insert(address, lease.holder.clone());
        }
        for address in round {
            self.last.insert(Family::of(address), address);
        }
        self.leases.insert(lease.holder.clone(), lease.clone());
        Ok(lease)
    }

    fn take_back(&mut self, holder: Holder, at: u64) -> Result<Lease, Damaged> {
        let Some(lease) = self.leases.remove(&holder) else {
            return Err(Damaged::NotHeld(holder));
        };
        for address in &lease.addresses {
            self.held.remove(address);
            // It stays in `busy` until it has rested.
            self.resting.insert(Cooling {
                address: *address,
                since: at,
                pod: lease.pod.clone(),
                uid: lease.uid.clone(),
            });
        }
        Ok(lease)
    }
}
