//! What each attribute must look like and what follows when it does not: RFC 7606 §7 as data.

use std::fmt;

use crate::wire::notification::update as subcode;
use crate::wire::{AttributeError, Treatment, WireContext};

/// The Optional bit.
pub(in crate::wire) const OPTIONAL: u8 = 0x80;
/// The Transitive bit.
pub(in crate::wire) const TRANSITIVE: u8 = 0x40;
/// The Partial bit.
pub(in crate::wire) const PARTIAL: u8 = 0x20;

const WELL_KNOWN: u8 = TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

/// The type codes we know.
pub(in crate::wire) mod code {
    pub(in crate::wire) const ORIGIN: u8 = 1;
    pub(in crate::wire) const AS_PATH: u8 = 2;
    pub(in crate::wire) const NEXT_HOP: u8 = 3;
    pub(in crate::wire) const MED: u8 = 4;
    pub(in crate::wire) const LOCAL_PREF: u8 = 5;
    pub(in crate::wire) const ATOMIC_AGGREGATE: u8 = 6;
    pub(in crate::wire) const AGGREGATOR: u8 = 7;
    pub(in crate::wire) const COMMUNITIES: u8 = 8;
    pub(in crate::wire) const ORIGINATOR_ID: u8 = 9;
    pub(in crate::wire) const CLUSTER_LIST: u8 = 10;
    pub(in crate::wire) const MP_REACH: u8 = 14;
    pub(in crate::wire) const MP_UNREACH: u8 = 15;
    pub(in crate::wire) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(in crate::wire) const AS4_PATH: u8 = 17;
    pub(in crate::wire) const AS4_AGGREGATOR: u8 = 18;
    pub(in crate::wire) const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub(in crate::wire) const LARGE_COMMUNITIES: u8 = 32;
    pub(in crate::wire) const ONLY_TO_CUSTOMER: u8 = 35;
}

/// What a malformed attribute leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum OnError {
    Discard,
    Withdraw,
    Reset,
}

/// How long the value may be, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum Length {
    Exactly(usize),
    /// So many times any number but zero.
    Each(usize),
    /// By the size of AS numbers on this session.
    ByAs {
        two: usize,
        four: usize,
    },
    /// The attribute's own file says.
    Any,
}

impl Length {
    pub(in crate::wire) fn allows(self, len: usize, ctx: &WireContext) -> bool {
        match self {
            Self::Exactly(octets) => len == octets,
            Self::Each(octets) => len != 0 && len.is_multiple_of(octets),
            Self::ByAs { two, four } => len == if ctx.four_byte_as { four } else { two },
            Self::Any => true,
        }
    }
}

/// From whom the attribute is taken; from others it is discarded unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum Sender {
    Anyone,
    InternalPeers,
    TwoOctetPeers,
}

/// What holds for one attribute.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) struct Row {
    pub(in crate::wire) code: u8,
    name: &'static str,
    /// What the Optional and Transitive bits must be.
    pub(in crate::wire) flags: u8,
    pub(in crate::wire) length: Length,
    pub(in crate::wire) on_error: OnError,
    pub(in crate::wire) from: Sender,
}

const fn row(
    code: u8,
    name: &'static str,
    flags: u8,
    length: Length,
    on_error: OnError,
    from: Sender,
) -> Row {
    Row {
        code,
        name,
        flags,
        length,
        on_error,
        from,
    }
}

use Length::{Any, ByAs, Each, Exactly};
use OnError::{Discard, Reset, Withdraw};
use Sender::{Anyone, InternalPeers, TwoOctetPeers};

/// RFC 7606 §7.1–7.15, RFC 8092 §6, RFC 6793 §6, RFC 9234 §5.
#[rustfmt::skip]
pub(in crate::wire) static TABLE: [Row; 18] = [
    row(code::ORIGIN,               "ORIGIN",               WELL_KNOWN,          Exactly(1), Withdraw, Anyone),
    row(code::AS_PATH,              "AS_PATH",              WELL_KNOWN,          Any,        Withdraw, Anyone),
    row(code::NEXT_HOP,             "NEXT_HOP",             WELL_KNOWN,          Exactly(4), Withdraw, Anyone),
    row(code::MED,                  "MULTI_EXIT_DISC",      OPTIONAL,            Exactly(4), Withdraw, Anyone),
    row(code::LOCAL_PREF,           "LOCAL_PREF",           WELL_KNOWN,          Exactly(4), Withdraw, InternalPeers),
    row(code::ATOMIC_AGGREGATE,     "ATOMIC_AGGREGATE",     WELL_KNOWN,          Exactly(0), Discard,  Anyone),
    row(code::AGGREGATOR,           "AGGREGATOR",           OPTIONAL_TRANSITIVE, ByAs { two: 6, four: 8 }, Discard, Anyone),
    row(code::COMMUNITIES,          "COMMUNITIES",          OPTIONAL_TRANSITIVE, Each(4),    Withdraw, Anyone),
    row(code::ORIGINATOR_ID,        "ORIGINATOR_ID",        OPTIONAL,            Exactly(4), Withdraw, InternalPeers),
    row(code::CLUSTER_LIST,         "CLUSTER_LIST",         OPTIONAL,            Each(4),    Withdraw, InternalPeers),
    row(code::MP_REACH,             "MP_REACH_NLRI",        OPTIONAL,            Any,        Reset,    Anyone),
    row(code::MP_UNREACH,           "MP_UNREACH_NLRI",      OPTIONAL,            Any,        Reset,    Anyone),
    row(code::EXTENDED_COMMUNITIES, "EXTENDED_COMMUNITIES", OPTIONAL_TRANSITIVE, Each(8),    Withdraw, Anyone),
    row(code::AS4_PATH,             "AS4_PATH",             OPTIONAL_TRANSITIVE, Any,        Discard,  TwoOctetPeers),
    row(code::AS4_AGGREGATOR,       "AS4_AGGREGATOR",       OPTIONAL_TRANSITIVE, Exactly(8), Discard,  TwoOctetPeers),
    row(code::IPV6_EXTENDED_COMMUNITIES, "IPV6_EXTENDED_COMMUNITIES", OPTIONAL_TRANSITIVE, Each(20), Withdraw, Anyone),
    row(code::LARGE_COMMUNITIES,    "LARGE_COMMUNITIES",    OPTIONAL_TRANSITIVE, Each(12),   Withdraw, Anyone),
    row(code::ONLY_TO_CUSTOMER,     "ONLY_TO_CUSTOMER",     OPTIONAL_TRANSITIVE, Exactly(4), Withdraw, Anyone),
];

/// The row of a type code, if we know it.
pub(in crate::wire) fn find(code: u8) -> Option<&'static Row> {
    let place = *PLACES.get(usize::from(code))?;
    TABLE.get(usize::from(place))
}

/// The place in the table of each type code; no place for those that are not in it.
static PLACES: [u8; 256] = places();

#[expect(
    clippy::indexing_slicing,
    reason = "computed by the compiler, which would see an index out of bounds"
)]
const fn places() -> [u8; 256] {
    let mut places = [u8::MAX; 256];
    let mut place: u8 = 0;
    while (place as usize) < TABLE.len() {
        places[TABLE[place as usize].code as usize] = place;
        place += 1;
    }
    places
}

impl Row {
    /// The attribute's bit in [`PathAttributes::partial`](crate::wire::PathAttributes::partial), if it has one: it is
    /// optional and transitive, and written from what is kept of it.
    pub(in crate::wire) fn partial_bit(&self) -> u64 {
        let kept = self.flags == OPTIONAL_TRANSITIVE
            && self.from == Anyone
            && self.code != code::IPV6_EXTENDED_COMMUNITIES;
        if kept { 1 << self.code } else { 0 }
    }

    /// Whether the attribute may come on this session.
    pub(in crate::wire) fn taken_from(&self, ctx: &WireContext) -> bool {
        match self.from {
            Anyone => true,
            InternalPeers => ctx.internal,
            TwoOctetPeers => !ctx.four_byte_as,
        }
    }
}

/// What is wrong with the value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) struct Fault {
    /// Of an UPDATE Message Error, should it come to that.
    pub(in crate::wire) subcode: u8,
    pub(in crate::wire) reason: &'static str,
}

impl Fault {
    pub(in crate::wire) const fn new(subcode: u8, reason: &'static str) -> Self {
        Self { subcode, reason }
    }

    /// A length that cannot be.
    pub(in crate::wire) const LENGTH: Self = Self::new(subcode::LENGTH, "wrong length");
}

/// As in a log: `ORIGIN: unknown value (routes treated as withdrawn)`.
impl fmt::Display for AttributeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.code) {
            Some(row) => f.write_str(row.name)?,
            None => write!(f, "attribute {}", self.code)?,
        }
        let what = match self.treatment {
            Treatment::Discard => "attribute discarded",
            Treatment::TreatAsWithdraw => "routes treated as withdrawn",
        };
        write!(f, ": {} ({what})", self.reason)
    }
}
