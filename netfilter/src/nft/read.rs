//! What the kernel tells of our table. Rules are known again by their hash alone: their steps are not read.

use std::collections::BTreeMap;

use super::encode::{
    COMMENT, DATA_VERDICT, GETSETELEM, GOTO, HASH_OF_RULE, Message, NEWCHAIN, NEWRULE, NEWSET,
    NEWSETELEM, SET_ANONYMOUS, SET_MAP, SET_TIMEOUT, Writer, hook_number, kind_of,
};
use super::{Hook, Name, Octets, TABLE, Value};
use crate::names::{Family, Note};

/// Bytes of struct nfgenmsg.
const NFGENMSG: usize = 4;
/// Flags that say what a set is.
const SHAPE: u32 = SET_MAP | SET_TIMEOUT | 0x20;

/// What our table of a family holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub(super) chains: BTreeMap<String, ReadChain>,
    /// Flags, length of key, length of value.
    pub(super) sets: BTreeMap<String, (u32, u32, u32)>,
    /// Of sets that packets don't fill.
    pub(super) elements: BTreeMap<String, BTreeMap<Octets, Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadChain {
    pub(super) hook: Option<ReadHook>,
    /// The hash of each rule; none of another's.
    pub(super) rules: Vec<Option<String>>,
}

/// Number, priority and type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadHook(u32, i32, String);

impl ReadHook {
    pub(super) fn of(hook: &Hook) -> Self {
        Self(
            hook_number(hook.at),
            hook.priority,
            kind_of(hook).to_owned(),
        )
    }
}

impl Reading {
    /// Whether there is nothing, or no table.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }

    /// How many chains, rules and elements there are.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let rules = self.chains.values().map(|chain| chain.rules.len()).sum();
        let elements = self.elements.values().map(BTreeMap::len).sum();
        (self.chains.len(), rules, elements)
    }

    /// Takes an answer: which message it is, and its body. What is not of our table is passed over.
    pub fn take(&mut self, kind: u8, body: &[u8]) {
        let attributes = Attributes(body.get(NFGENMSG..).unwrap_or_default());
        if attributes.text(1).as_deref() != Some(TABLE) {
            return;
        }
        match kind {
            NEWCHAIN => {
                let Some(name) = attributes.text(3) else {
                    return;
                };
                let hook = attributes.get(4).map(|hook| {
                    let hook = Attributes(hook);
                    let priority = hook.word(2).unwrap_or_default().cast_signed();
                    let kind = attributes.text(7).unwrap_or_default();
                    ReadHook(hook.word(1).unwrap_or_default(), priority, kind)
                });
                self.chains.entry(name).or_default().hook = hook;
            }
            NEWRULE => {
                let Some(chain) = attributes.text(2) else {
                    return;
                };
                let hash = attributes.get(7).and_then(hash_in);
                self.chains.entry(chain).or_default().rules.push(hash);
            }
            NEWSET => self.take_set(&attributes),
            NEWSETELEM => {
                let Some(set) = attributes.text(2) else {
                    return;
                };
                let held = self.elements.entry(set).or_default();
                held.extend(elements_of(&attributes).filter_map(|one| element(&one)));
            }
            _ => {}
        }
    }

    fn take_set(&mut self, attributes: &Attributes<'_>) {
        let Some(name) = attributes.text(2) else {
            return;
        };
        let flags = attributes.word(3).unwrap_or_default();
        if flags & SET_ANONYMOUS != 0 {
            return;
        }
        let length = |kind| attributes.word(kind).unwrap_or_default();
        // Of verdicts the kernel tells how much room they take in itself.
        let data = if length(6) == DATA_VERDICT {
            0
        } else {
            length(7)
        };
        let shape = (flags & SHAPE, length(5), data);
        self.sets.insert(name, shape);
    }

    /// What to ask for the elements of the sets that were told: a dump each.
    pub fn element_requests(&self, family: Family) -> Vec<Message> {
        let filled_by_us = self
            .sets
            .iter()
            .filter(|(_, shape)| shape.0 & SET_TIMEOUT == 0);
        filled_by_us
            .map(|(name, _)| element_request(family, &Name(name.as_str().into())))
            .collect()
    }
}

/// What to ask for the elements of a set of ours, by a dump.
pub fn element_request(family: Family, set: &Name) -> Message {
    let mut writer = Writer::new(family);
    writer.text(1, TABLE);
    writer.text(2, set.as_str());
    writer.message(GETSETELEM, 0)
}

/// Packets that found an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The element's key.
    pub key: Octets,
    /// How many.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
}

/// How often elements of a counted set were found, of one answer to [`element_request`].
pub fn counters(body: &[u8]) -> Vec<Counted> {
    let attributes = Attributes(body.get(NFGENMSG..).unwrap_or_default());
    let counted = elements_of(&attributes).filter_map(|one| {
        let key = Octets::from(Attributes(one.get(1)?).get(1)?);
        // NFTA_SET_ELEM_EXPR, or the first of NFTA_SET_ELEM_EXPRESSIONS.
        let expr = one.get(7).or_else(|| Attributes(one.get(11)?).get(1))?;
        let counter = Attributes(Attributes(expr).get(2)?);
        Some(Counted {
            key,
            packets: counter.long(2)?,
            bytes: counter.long(1)?,
        })
    });
    counted.collect()
}

/// The elements in a message.
fn elements_of<'a>(attributes: &Attributes<'a>) -> impl Iterator<Item = Attributes<'a>> {
    let list = Attributes(attributes.get(3).unwrap_or_default());
    list.iter().map(|(_, one)| Attributes(one))
}

fn element(one: &Attributes<'_>) -> Option<(Octets, Value)> {
    let key = Octets::from(Attributes(one.get(1)?).get(1)?);
    let Some(data) = one.get(2).map(Attributes) else {
        let note = one.get(6).and_then(note_in);
        return Some((key, note.map_or(Value::None, Value::Noted)));
    };
    let value = match (data.get(1), data.get(2).map(Attributes)) {
        (Some(octets), _) => Value::Values(Octets::from(octets)),
        (None, Some(verdict)) if verdict.word(1) == Some(GOTO) => {
            Value::Goto(Name(verdict.text(2)?.into()))
        }
        // A verdict that we never write equals none of ours.
        _ => Value::None,
    };
    Some((key, value))
}

/// Our hash in what user space keeps with a rule.
fn hash_in(data: &[u8]) -> Option<String> {
    kept(data, HASH_OF_RULE)
}

/// The words for people in what user space keeps with an element.
fn note_in(data: &[u8]) -> Option<Note> {
    let text = kept(data, COMMENT)?;
    Some(Note::new(text.trim_end_matches('\0')))
}

/// A text of this kind in what user space keeps.
fn kept(mut data: &[u8], wanted: u8) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == wanted {
            return String::from_utf8(value.to_vec()).ok();
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

/// Attributes one behind the other; ends at the first malformed one.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
            let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & 0x3fff;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, value)| value)
    }

    fn text(self, kind: u16) -> Option<String> {
        let text = std::str::from_utf8(self.get(kind)?).ok()?;
        Some(text.trim_end_matches('\0').to_owned())
    }

    fn word(self, kind: u16) -> Option<u32> {
        self.get(kind)?
            .first_chunk()
            .map(|octets| u32::from_be_bytes(*octets))
    }

    fn long(self, kind: u16) -> Option<u64> {
        self.get(kind)?
            .first_chunk()
            .map(|octets| u64::from_be_bytes(*octets))
    }
}
