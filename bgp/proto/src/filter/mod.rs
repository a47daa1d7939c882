//! Routing policy: ordered rules that accept, change or reject routes; judged the same way for import and export.

mod chain;
mod community;
mod matching;
mod operation;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::RangeInclusive;

use ipnet::IpNet;

pub use chain::FilterChain;
pub use community::Community;

use crate::wire::{Asn, Family, PathAttributes};

/// One rule: what it is about, and what becomes of that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Which routes it decides.
    pub matches: Match,
    /// What becomes of them.
    pub action: Action,
}

/// The conditions of a rule. All that are there must hold; an empty match holds for every route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// Only routes of this family.
    pub family: Option<Family>,
    /// Where the prefix must lie.
    pub prefixes: Option<PrefixMatch>,
    /// The AS_PATH begins with these AS numbers, the nearest first. Only AS_SEQUENCEs are looked at:
    /// what follows a set is in no order. Before our own AS is prepended on export.
    pub as_path_prefix: Option<Vec<Asn>>,
    /// The route bears every one of these.
    pub communities: Vec<Community>,
    /// Where the route comes from.
    pub source: Option<Source>,
    /// The kind of the peer it came from (import) or goes to (export).
    pub peer_type: Option<PeerType>,
}

/// A condition on the prefix. A prefix of the other family meets none, not even a negated one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    /// What it is compared with; host bits are ignored.
    pub net: IpNet,
    /// How.
    pub operator: PrefixOperator,
    /// With `In` and `NotIn`: the lengths that count as inside, within those that the net itself allows.
    /// `Equal` and `NotEqual` do not look at it.
    pub length: Option<RangeInclusive<u8>>,
}

/// How a prefix is compared with the rule's net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrefixOperator {
    /// It is the net.
    Equal,
    /// It is not the net.
    NotEqual,
    /// It is the net or a part of it, with an allowed length.
    In,
    /// `In` does not hold.
    NotIn,
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// This speaker originated it.
    Originated,
    /// A peer announced it.
    Learned,
}

/// The kind of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerType {
    /// With another AS.
    External,
    /// Within our own.
    Internal,
}

/// What a rule does with the routes that it decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// They are taken or sent, changed in this order.
    Accept(Vec<Operation>),
    /// They are not.
    Reject,
}

/// A change of a route's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// LOCAL_PREF becomes this. To external peers it is not sent (RFC 4271 §5.1.5).
    SetLocalPref(u32),
    /// MULTI_EXIT_DISC becomes this.
    SetMed(u32),
    /// The AS number is put before AS_PATH.
    PrependAs {
        /// Which; our own if absent.
        asn: Option<Asn>,
        /// How often.
        times: u8,
    },
    /// The route bears this community from now on.
    AddCommunity(Community),
    /// The route bears it no more.
    RemoveCommunity(Community),
}

/// A route and a session, as far as conditions that need no attributes see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The prefix, without host bits.
    pub prefix: IpNet,
    /// This speaker originated it (never on import).
    pub originated: bool,
    /// The peer it came from (import) or goes to (export) is in another AS.
    pub peer_external: bool,
    /// What `PrependAs` without an AS prepends.
    pub own_as: Asn,
}

/// A route to be judged, whole.
///
/// On export these are the attributes of the best path after what never leaves was removed (the MED of
/// another neighbour, RFC 4271 §5.1.4) and before our own AS and next hop are put in, so that what an
/// operation sets is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The prefix, without host bits.
    pub prefix: IpNet,
    /// Its attributes.
    pub attributes: &'a PathAttributes,
    /// This speaker originated it (never on import).
    pub originated: bool,
    /// The peer it came from (import) or goes to (export) is in another AS.
    pub peer_external: bool,
    /// What `PrependAs` without an AS prepends.
    pub own_as: Asn,
}

/// What a chain says about a route, and which rule said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The place of the deciding rule in the chain; see [`FilterChain::name_of`].
    pub rule: Option<usize>,
    /// What it says.
    pub verdict: Verdict<'a>,
}

/// What becomes of a route.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack of one judgement"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is taken or sent with these attributes; borrowed if nothing changed.
    Accept(Cow<'a, PathAttributes>),
    /// It is not.
    Reject,
    /// No rule is about it: the default of the direction holds.
    NoMatch,
}
