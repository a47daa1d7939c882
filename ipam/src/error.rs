//! Why no address could be given, said so that an operator knows what to change.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Holder;

/// Why an allocation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node has no Pod CIDR.
    #[error("this node has no Pod CIDR yet: give its Node object spec.podCIDRs")]
    NoCidr,
    /// Every address of the family is held.
    #[error(
        "no address is left in {}: all {held} are held; delete pods here, or give the node a larger or a further Pod CIDR",
        list(cidrs)
    )]
    Exhausted {
        /// The family's CIDRs.
        cidrs: Vec<IpNet>,
        /// How many of their addresses are held.
        held: u128,
    },
    /// A fixed address is in none of the CIDRs, or is one no pod can have.
    #[error(
        "the fixed address {address} is not one that pods can have in this node's Pod CIDRs ({})",
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

fn list(cidrs: &[IpNet]) -> String {
    cidrs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
