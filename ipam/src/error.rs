//! Why no address could be given, said so that an operator knows what to change.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Holder, Span};

/// Why an allocation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node has no Pod CIDR.
    #[error(
        "this node has no Pod CIDR yet: give its Node object spec.podCIDRs, or make an IPPool for it"
    )]
    NoCidr,
    /// Every address of the family, or of a set of ranges, is held or reserved.
    #[error(
        "no address is left in {}: {}; delete pods here, or give the node a larger or a further Pod CIDR",
        of.join(", "), counts(*held, *reserved)
    )]
    Exhausted {
        /// The CIDRs or ranges, in words.
        of: Vec<String>,
        /// How many of their addresses are held.
        held: u128,
        /// How many more are reserved.
        reserved: u128,
    },
    /// A fixed address is in none of the CIDRs, or is one no pod can have.
    #[error(
        "the fixed address {address} is not one that pods can have in this node's Pod CIDRs ({}), in an IPPool or in another node's Pod CIDR",
        list(cidrs)
    )]
    FixedOutside {
        /// The address asked for.
        address: IpAddr,
        /// The node's CIDRs.
        cidrs: Vec<IpNet>,
    },
    /// A fixed address is another's.
    #[error(
        "the fixed address {address} is held by interface {} of container {}; delete that pod first",
        holder.interface, holder.container_id
    )]
    FixedHeld {
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        holder: Holder,
    },
    /// Two fixed addresses of one family.
    #[error("the fixed addresses {first} and {second} are of one family: name one at most of each")]
    TwoOfAFamily {
        /// The one named first.
        first: IpAddr,
        /// The one too many.
        second: IpAddr,
    },
    /// A fixed address is in none of the ranges that are asked for at the same time.
    #[error("the fixed address {address} is in none of the ranges that ipRanges asks for")]
    FixedOutsideRanges {
        /// The address asked for.
        address: IpAddr,
    },
    /// A set of ranges has no address that this node may give.
    #[error(
        "ipRanges asks for one of {}, {}",
        ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        if *mixed {
            "which are of two families: a set has ranges of one".to_owned()
        } else {
            format!("and this node's Pod CIDRs ({}) have none of these", list(cidrs))
        }
    )]
    RangesOutside {
        /// The set.
        ranges: Vec<Span>,
        /// Whether it has ranges of both families.
        mixed: bool,
        /// The node's CIDRs.
        cidrs: Vec<IpNet>,
    },
    /// Another plugin gave an address that is held here.
    #[error(
        "the IPAM plugin gave {address}, which interface {} of container {} holds: is the same range in two hands?",
        holder.interface, holder.container_id
    )]
    GivenHeld {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The holder has a lease already, and it is not what is asked for now.
    #[error(
        "interface {} of container {} already holds other addresses than the fixed {address}: delete it first",
        holder.interface, holder.container_id
    )]
    HoldsOthers {
        /// Who asks.
        holder: Holder,
        /// The address it does not have.
        address: IpAddr,
    },
}

impl Error {
    /// Whether the same request may go well later, when a pod has gone or the node has got a CIDR.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoCidr
            | Self::Exhausted { .. }
            | Self::FixedHeld { .. }
            | Self::GivenHeld { .. } => true,
            Self::FixedOutside { .. }
            | Self::TwoOfAFamily { .. }
            | Self::FixedOutsideRanges { .. }
            | Self::RangesOutside { .. }
            | Self::HoldsOthers { .. } => false,
        }
    }
}

fn counts(held: u128, reserved: u128) -> String {
    if reserved == 0 {
        format!("all {held} are held")
    } else {
        format!("{held} are held and {reserved} reserved")
    }
}

fn list(cidrs: &[IpNet]) -> String {
    cidrs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
