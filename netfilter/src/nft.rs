//! nftables as typed tables of our own: chains of expressions, sets and maps, their octets for the kernel, and what to write to get
//! from what is there to what is wanted. Nothing here sends anything; the program `nft` is not used, for it reads and renders all.
//!
//! A table is made of [`Part`]s that know nothing of each other. What did not change stays the same allocation: a plan compares
//! pointers, and one changed part costs what is in it.

mod encode;
mod expr;
mod plan;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use encode::{Message, requests};
pub use expr::{CtKey, Expr, MetaKey, PayloadBase, Register, Rule, Verdict};
pub use plan::{Steps, TABLE, plan, rebuild, removal, repair};
pub use read::{Counted, Reading, counters, element_request};

use crate::names::{Family, Note, short_hash};
use crate::rule::Protocol;

/// The name of a chain, set or map in a table of ours: letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// One that there is one of.
    pub fn fixed(name: &'static str) -> Self {
        Self(name.into())
    }

    /// `<prefix>-<16 hex>`: by what it is for. Parts are kept apart: `(a, bc)` is not `(ab, c)`.
    pub fn hashed<P: AsRef<[u8]>>(prefix: &'static str, parts: &[P]) -> Self {
        Self(format!("{prefix}-{}", short_hash(parts, 16)).into())
    }

    /// Words as they are, and numbers behind them, a dash before each.
    pub fn numbered(words: &[&'static str], numbers: &[u32]) -> Self {
        let numbers = numbers.iter().map(|number| format!("-{number}"));
        Self((words.concat() + &numbers.collect::<String>()).into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a place of a key or value holds. Each takes whole registers of four octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// An address.
    Address(Family),
    /// A protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A number, such as [`Expr::Numgen`] gives.
    Number,
}

impl Type {
    /// nft's number for it, by which people see values as what they are.
    fn number(self) -> u32 {
        match self {
            Self::Address(Family::V4) => 7,
            Self::Address(Family::V6) => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            // A mark: of nft's types that may stand beside others the one of four octets in the host's order.
            Self::Number => 19,
        }
    }

    /// Octets.
    fn length(self) -> u32 {
        match self {
            Self::Address(Family::V6) => 16,
            _ => 4,
        }
    }
}

/// Values one behind the other as they stand in registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Octets(Vec<u8>);

impl Octets {
    /// Without any value.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.0.extend(v4.octets()),
            IpAddr::V6(v6) => self.0.extend(v6.octets()),
        }
        self
    }

    /// Adds a protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.0.extend([protocol.number(), 0, 0, 0]);
        self
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0, 0]);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// The octets.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Octets {
    fn from(octets: &[u8]) -> Self {
        Self(octets.to_vec())
    }
}

/// What a set's elements lead to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// Nothing: it is a set.
    None,
    /// Values.
    Values(Vec<Type>),
    /// A chain.
    Verdict,
}

/// A set or map without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// What its keys are.
    pub key: Vec<Type>,
    /// What it gives.
    pub data: Data,
    /// Whether each element counts the packets that found it.
    pub is_counted: bool,
    /// Packets add and renew its elements, which go after so long.
    pub timeout: Option<Duration>,
    /// It is only asked about packets that another set has led so far: its new elements may come before those of others, in
    /// transactions of their own. Such sets are in the first part.
    pub is_behind: bool,
}

/// At most so many elements that packets made.
const MOST_OF_PACKETS: u32 = 65_536;

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing.
    None,
    /// Nothing; people are told whose it is.
    Noted(Note),
    /// Values.
    Values(Octets),
    /// It goes on in a chain.
    Goto(Name),
}

/// A place where the kernel asks a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub at: HookPoint,
    /// Whether it may change addresses, and sees a flow's first packet alone.
    pub is_nat: bool,
    /// The lower, the earlier.
    pub priority: i32,
}

/// Where packets are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// They came in.
    Prerouting,
    /// They go through.
    Forward,
    /// The node made them.
    Output,
    /// They leave.
    Postrouting,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel asks it; `None`: others lead there.
    pub hook: Option<Hook>,
    /// Whose it is, for people.
    pub note: Note,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Some of a table: chains, sets, and elements of these or others' sets. No two parts hold the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Sets.
    pub sets: BTreeMap<Name, Set>,
    /// Chains; they lead to those of any part.
    pub chains: BTreeMap<Name, Chain>,
    /// Elements by set and key.
    pub elements: BTreeMap<(Name, Octets), Value>,
}

/// A table's parts by their names, which the kernel is not told.
pub type Parts = BTreeMap<Arc<str>, Arc<Part>>;

#[cfg(test)]
mod tests;
