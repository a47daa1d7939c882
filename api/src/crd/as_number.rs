//! `asNumber` of a BGPPeer: a number, `external` or `internal`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The AS a peer must be in, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAsNumber {
    /// Exactly this one.
    Number(u32),
    /// `external`: any but our own.
    External,
    /// `internal`: our own.
    Internal,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u32),
    Word(String),
}

impl<'de> Deserialize<'de> for PeerAsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("asNumber is a number, `external` or `internal`");
        match Written::deserialize(deserializer).map_err(|_| wrong())? {
            Written::Number(number) => Ok(Self::Number(number)),
            Written::Word(word) if word == "external" => Ok(Self::External),
            Written::Word(word) if word == "internal" => Ok(Self::Internal),
            Written::Word(_) => Err(wrong()),
        }
    }
}

impl Serialize for PeerAsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u32(*number),
            Self::External => serializer.serialize_str("external"),
            Self::Internal => serializer.serialize_str("internal"),
        }
    }
}

impl JsonSchema for PeerAsNumber {
    fn schema_name() -> Cow<'static, str> {
        "PeerAsNumber".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 1 && self <= 4294967294 && !(self in [23456, 65535]) : self in ['external', 'internal']",
                "message": "asNumber is external, internal or a number from 1 to 4294967294 that is not reserved (23456, 65535)",
            }],
        })
    }
}
