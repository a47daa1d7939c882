//! The octets of requests to nf_tables (linux/netfilter/nf_tables.h): typed values in, attributes out.

use super::expr::{CtKey, Expr, MetaKey, PayloadBase, Register, Rule, Verdict};
use super::plan::TABLE;
use super::{Chain, Data, Hook, HookPoint, MOST_OF_PACKETS, Name, Octets, Set, Type, Value};
use crate::names::{Family, short_hash};

pub(super) const NEWTABLE: u8 = 0;
pub(super) const DELTABLE: u8 = 2;
pub(super) const NEWCHAIN: u8 = 3;
pub(super) const GETCHAIN: u8 = 4;
pub(super) const DELCHAIN: u8 = 5;
pub(super) const NEWRULE: u8 = 6;
pub(super) const GETRULE: u8 = 7;
pub(super) const DELRULE: u8 = 8;
pub(super) const NEWSET: u8 = 9;
pub(super) const GETSET: u8 = 10;
pub(super) const DELSET: u8 = 11;
pub(super) const NEWSETELEM: u8 = 12;
pub(super) const GETSETELEM: u8 = 13;
pub(super) const DELSETELEM: u8 = 14;

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// The attribute holds others.
const NESTED: u16 = 0x8000;
pub(super) const SET_ANONYMOUS: u32 = 1;
pub(super) const SET_MAP: u32 = 8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// NFT_DATA_VERDICT.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// NFT_GOTO.
pub(super) const GOTO: u32 = 0xffff_fffc;
/// One attribute holds 65,535 octets: no element takes what is left beyond these.
const ELEMENTS_PER_MESSAGE: usize = 60_000;
/// What people don't see of a rule: its hash, by which it is known again.
pub(super) const HASH_OF_RULE: u8 = 179;
/// In the octets for the user-space side of a table, chain or rule: a comment.
pub(super) const COMMENT: u8 = 0;

/// One request: what it asks nf_tables for, and its body from `struct nfgenmsg` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// NFT_MSG_*.
    pub kind: u8,
    /// NLM_F_*, besides those that every request has.
    pub flags: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// What to ask to read a table back: its chains, rules and sets, each by a dump.
pub fn requests(family: Family) -> [Message; 3] {
    [GETCHAIN, GETRULE, GETSET].map(|kind| {
        let mut writer = Writer::new(family);
        writer.text(1, TABLE);
        writer.message(kind, 0)
    })
}

/// Attributes one behind the other.
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new(family: Family) -> Self {
        let mut out = Vec::with_capacity(256);
        out.extend([if family == Family::V4 { 2 } else { 10 }, 0, 0, 0]);
        Self { out }
    }

    /// Of this table.
    fn of_table(family: Family) -> Self {
        let mut writer = Self::new(family);
        writer.text(1, TABLE);
        writer
    }

    pub(super) fn message(self, kind: u8, flags: u16) -> Message {
        Message {
            kind,
            flags,
            body: self.out,
        }
    }

    fn octets(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.out.extend(length.to_ne_bytes());
        self.out.extend(kind.to_ne_bytes());
        self.out.extend(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.octets(kind, &value);
    }

    fn word(&mut self, kind: u16, value: u32) {
        self.octets(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.out.extend([0; 2]);
        self.out.extend((kind | NESTED).to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.out.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.out.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn register(&mut self, kind: u16, register: Register) {
        self.word(kind, 8 + u32::from(register.0));
    }

    /// NFTA_DATA_VALUE in an attribute.
    fn value(&mut self, kind: u16, octets: &[u8]) {
        self.nest(kind, |writer| writer.octets(1, octets));
    }

    /// NFTA_DATA_VERDICT in an attribute.
    fn verdict(&mut self, kind: u16, code: u32, chain: Option<&Name>) {
        self.nest(kind, |writer| {
            writer.nest(2, |writer| {
                writer.word(1, code);
                if let Some(chain) = chain {
                    writer.text(2, chain.as_str());
                }
            });
        });
    }

    fn expr(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.nest(1, |writer| {
            writer.text(1, name);
            writer.nest(2, inside);
        });
    }
}

/// One octet of type, one of length, and the value.
fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    out.extend(value);
    out
}

fn comment(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    user_data(COMMENT, &value)
}

pub(super) fn new_table(family: Family) -> Message {
    let mut writer = Writer::of_table(family);
    writer.octets(
        6,
        &comment("Services, served by Portolan: changed by its agent alone"),
    );
    writer.message(NEWTABLE, NLM_F_CREATE)
}

pub(super) fn delete_table(family: Family) -> Message {
    Writer::of_table(family).message(DELTABLE, 0)
}

pub(super) fn new_chain(family: Family, name: &Name, chain: &Chain) -> Message {
    let mut writer = Writer::of_table(family);
    writer.text(3, name.as_str());
    if let Some(hook) = &chain.hook {
        writer.nest(4, |writer| {
            writer.word(1, hook_number(hook.at));
            writer.word(2, hook.priority.cast_unsigned());
        });
        // NF_ACCEPT.
        writer.word(5, 1);
        writer.text(7, kind_of(hook));
    }
    if !chain.note.as_str().is_empty() {
        writer.octets(12, &comment(chain.note.as_str()));
    }
    writer.message(NEWCHAIN, NLM_F_CREATE)
}

pub(super) fn hook_number(at: HookPoint) -> u32 {
    match at {
        HookPoint::Prerouting => 0,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

pub(super) fn kind_of(hook: &Hook) -> &'static str {
    if hook.is_nat { "nat" } else { "filter" }
}

fn of_chain(family: Family, name: &str) -> Writer {
    let mut writer = Writer::of_table(family);
    writer.text(2, name);
    writer
}

/// Takes all rules out of a chain.
pub(super) fn flush_chain(family: Family, name: &str) -> Message {
    of_chain(family, name).message(DELRULE, 0)
}

pub(super) fn delete_chain(family: Family, name: &str) -> Message {
    let mut writer = Writer::of_table(family);
    writer.text(3, name);
    writer.message(DELCHAIN, 0)
}

pub(super) fn delete_set(family: Family, name: &str) -> Message {
    of_chain(family, name).message(DELSET, 0)
}

fn flags_of(set: &Set) -> u32 {
    let map = if set.data == Data::None { 0 } else { SET_MAP };
    let timeout = match set.timeout {
        Some(_) => SET_TIMEOUT | SET_EVAL,
        None => 0,
    };
    map | timeout
}

/// What a set is, as the kernel tells it again: flags, and the lengths of key and value.
pub(super) fn shape(set: &Set) -> (u32, u32, u32) {
    let length = |types: &[Type]| types.iter().map(|kind| kind.length()).sum();
    let data = match &set.data {
        Data::None | Data::Verdict => 0,
        Data::Values(types) => length(types),
    };
    (flags_of(set), length(&set.key), data)
}

/// nft's number for several types: six bits each.
fn joined(types: &[Type]) -> u32 {
    types
        .iter()
        .fold(0, |number, kind| number << 6 | kind.number())
}

fn set_body(writer: &mut Writer, name: &str, set: &Set) {
    let (flags, key, data) = shape(set);
    writer.text(2, name);
    writer.word(3, flags);
    writer.word(4, joined(&set.key));
    writer.word(5, key);
    match &set.data {
        Data::None => {}
        Data::Verdict => {
            writer.word(6, DATA_VERDICT);
            writer.word(7, 0);
        }
        Data::Values(types) => {
            writer.word(6, joined(types));
            writer.word(7, data);
        }
    }
    // Sets have numbers within a transaction: ours are asked for by their names.
    writer.word(10, 0);
    if let Some(timeout) = set.timeout {
        writer.nest(9, |writer| writer.word(1, MOST_OF_PACKETS));
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        writer.octets(11, &milliseconds.to_be_bytes());
    }
    if set.is_counted {
        writer.nest(17, |writer| {
            writer.text(1, "counter");
            writer.nest(2, |writer| {
                writer.octets(1, &[0; 8]);
                writer.octets(2, &[0; 8]);
            });
        });
    }
}

pub(super) fn new_set(family: Family, name: &Name, set: &Set) -> Message {
    let mut writer = Writer::of_table(family);
    set_body(&mut writer, name.as_str(), set);
    writer.message(NEWSET, NLM_F_CREATE)
}

/// Elements of one set, as many messages as they need.
pub(super) fn elements<'a>(
    family: Family,
    kind: u8,
    set: &str,
    elements: impl Iterator<Item = (&'a Octets, Option<&'a Value>)>,
) -> Vec<Message> {
    let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut messages = Vec::new();
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        let mut writer = of_chain(family, set);
        writer.nest(3, |writer| {
            while writer.out.len() < ELEMENTS_PER_MESSAGE
                && let Some((key, value)) = elements.next()
            {
                writer.nest(1, |writer| write_element(writer, key, value));
            }
        });
        messages.push(writer.message(kind, flags));
    }
    messages
}

fn write_element(writer: &mut Writer, key: &Octets, value: Option<&Value>) {
    writer.value(1, key.as_slice());
    match value {
        None | Some(Value::None) => {}
        Some(Value::Noted(note)) => writer.octets(6, &comment(note.as_str())),
        Some(Value::Values(octets)) => writer.value(2, octets.as_slice()),
        Some(Value::Goto(chain)) => writer.verdict(2, GOTO, Some(chain)),
    }
}

/// A rule at its chain's end.
pub(super) fn new_rule(family: Family, chain: &Name, rule: &Rule) -> Message {
    let mut writer = of_chain(family, chain.as_str());
    write_rule(&mut writer, rule);
    writer.octets(7, &user_data(HASH_OF_RULE, hash(family, rule).as_bytes()));
    writer.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
}

/// What a rule is known again by: all that it does.
pub(super) fn hash(family: Family, rule: &Rule) -> String {
    let mut writer = Writer::new(family);
    write_rule(&mut writer, rule);
    short_hash(&[writer.out], 16)
}

fn write_rule(writer: &mut Writer, rule: &Rule) {
    writer.nest(4, |writer| {
        for expr in rule {
            write_expr(writer, expr);
        }
    });
}

fn write_expr(writer: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Payload {
            base,
            offset,
            length,
            to,
        } => writer.expr("payload", |writer| {
            writer.register(1, *to);
            writer.word(2, if *base == PayloadBase::Network { 1 } else { 2 });
            writer.word(3, *offset);
            writer.word(4, *length);
        }),
        Expr::Meta(key, to) => writer.expr("meta", |writer| {
            writer.word(2, meta_number(*key));
            writer.register(1, *to);
        }),
        Expr::SetMark(from) => writer.expr("meta", |writer| {
            writer.word(2, meta_number(MetaKey::Mark));
            writer.register(3, *from);
        }),
        Expr::Ct(key, to) => writer.expr("ct", |writer| {
            writer.word(2, if *key == CtKey::State { 0 } else { 2 });
            writer.register(1, *to);
        }),
        Expr::DestinationType(to) => writer.expr("fib", |writer| {
            writer.register(1, *to);
            // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR.
            writer.word(2, 3);
            writer.word(3, 2);
        }),
        Expr::Compare {
            from,
            is_negated,
            octets,
        } => writer.expr("cmp", |writer| {
            writer.register(1, *from);
            writer.word(2, u32::from(*is_negated));
            writer.value(3, octets);
        }),
        Expr::Bitwise {
            register,
            mask,
            xor,
        } => writer.expr("bitwise", |writer| {
            writer.register(1, *register);
            writer.register(2, *register);
            writer.word(3, u32::try_from(mask.len()).unwrap_or_default());
            writer.value(4, mask);
            writer.value(5, xor);
        }),
        Expr::Lookup { set, key, to } => writer.expr("lookup", |writer| {
            writer.text(1, set.as_str());
            writer.register(2, *key);
            if let Some(to) = to {
                writer.register(3, *to);
            }
        }),
        Expr::Follow { map, key } => writer.expr("lookup", |writer| {
            writer.text(1, map.as_str());
            writer.register(2, *key);
            // The register of verdicts.
            writer.word(3, 0);
        }),
        other => write_act(writer, other),
    }
}

/// Steps that do something.
fn write_act(writer: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Numgen(below, to) => writer.expr("numgen", |writer| {
            writer.register(1, *to);
            writer.word(2, *below);
            // NFT_NG_RANDOM.
            writer.word(3, 1);
            writer.word(4, 0);
        }),
        Expr::Load(octets, to) => writer.expr("immediate", |writer| {
            writer.register(1, *to);
            writer.value(2, octets.as_slice());
        }),
        Expr::Update { set, key } => writer.expr("dynset", |writer| {
            writer.text(1, set.as_str());
            // NFT_DYNSET_OP_UPDATE.
            writer.word(3, 1);
            writer.register(4, *key);
        }),
        Expr::Dnat {
            family,
            address,
            port,
        } => writer.expr("nat", |writer| {
            // NFT_NAT_DNAT.
            writer.word(1, 1);
            writer.word(2, if *family == Family::V4 { 2 } else { 10 });
            writer.register(3, *address);
            writer.register(5, *port);
        }),
        // NF_NAT_RANGE_PROTO_RANDOM_FULLY.
        Expr::Masquerade => writer.expr("masq", |writer| writer.word(1, 0x10)),
        Expr::Reject(family) => writer.expr("reject", |writer| {
            // Port unreachable, by ICMP or ICMPv6.
            writer.word(1, 0);
            writer.octets(2, &[if *family == Family::V4 { 3 } else { 4 }]);
        }),
        Expr::Verdict(verdict) => writer.expr("immediate", |writer| {
            writer.word(1, 0);
            match verdict {
                Verdict::Drop => writer.verdict(2, 0, None),
                Verdict::Goto(chain) => writer.verdict(2, GOTO, Some(chain)),
            }
        }),
        _ => {}
    }
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Mark => 3,
        MetaKey::Input => 4,
        MetaKey::InputName => 6,
        MetaKey::Protocol => 16,
    }
}
