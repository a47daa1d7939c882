//! Expressions: what a rule does, one step after the other, on sixteen registers of four octets.

use super::{Name, Octets};
use crate::names::Family;

/// A register of four octets, from 0 to 15; what is longer goes on in the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

/// From where octets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// The head of IP.
    Network,
    /// That of the protocol above.
    Transport,
}

/// What is known of a packet besides its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// Its mark.
    Mark,
    /// The number of the interface it came by; 0: the node made it.
    Input,
    /// That interface's name.
    InputName,
    /// The protocol above IP.
    Protocol,
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CtKey {
    /// A bit for each state; 1: invalid.
    State,
    /// IPS_*; 32: the destination was changed.
    Status,
}

/// What ends a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The packet goes no further.
    Drop,
    /// The next rules are another chain's.
    Goto(Name),
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Octets of the packet.
    Payload {
        /// Counted from there.
        base: PayloadBase,
        /// The first.
        offset: u32,
        /// How many.
        length: u32,
        /// To where.
        to: Register,
    },
    /// What is known of the packet.
    Meta(MetaKey, Register),
    /// The packet's mark becomes what is there.
    SetMark(Register),
    /// What is known of its flow.
    Ct(CtKey, Register),
    /// What the destination is to the node: 2 is its own.
    DestinationType(Register),
    /// The rule ends here unless a register holds (or doesn't hold) these octets.
    Compare {
        /// Which.
        from: Register,
        /// It must not.
        is_negated: bool,
        /// What.
        octets: Vec<u8>,
    },
    /// A register becomes `(itself & mask) ^ xor`.
    Bitwise {
        /// Which.
        register: Register,
        /// What of it stays.
        mask: Vec<u8>,
        /// What is turned.
        xor: Vec<u8>,
    },
    /// The rule ends here unless the set has the key; a map's value goes to a register.
    Lookup {
        /// The set.
        set: Name,
        /// Where the key is.
        key: Register,
        /// Where the value goes; none of a set.
        to: Option<Register>,
    },
    /// The packet goes where a map of verdicts leads it; the rule ends if the map doesn't have the key.
    Follow {
        /// The map.
        map: Name,
        /// Where the key is.
        key: Register,
    },
    /// What becomes of the packet.
    Verdict(Verdict),
    /// A chance number below this.
    Numgen(u32, Register),
    /// These values stand there now.
    Load(Octets, Register),
    /// The set gets an element, or renews it; the rule ends here if there is no room.
    Update {
        /// Which.
        set: Name,
        /// Where the key is.
        key: Register,
    },
    /// The packet goes to an address and port.
    Dnat {
        /// Whose.
        family: Family,
        /// Where the address is.
        address: Register,
        /// Where the port is.
        port: Register,
    },
    /// The packet gets the node's address, at a chance port.
    Masquerade,
    /// The sender is told that nobody listens there.
    Reject(Family),
}

/// A rule: steps until one fails.
pub type Rule = Vec<Expr>;
