//! Secret: passwords that BGPPeers name. A value is never printed or serialised, and overwritten when dropped.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use zeroize::{Zeroize, Zeroizing};

use crate::metadata::Subject;
use crate::{NamespacedName, ParseError};

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its namespace and name.
    pub name: NamespacedName,
    values: BTreeMap<String, SecretValue>,
}

/// A value of a Secret. `Debug` says how long it is and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl Secret {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&SecretValue> {
        self.values.get(key)
    }
}

impl SecretValue {
    /// The bytes themselves: for the system call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} octets)", self.0.len())
    }
}

impl TryFrom<core::Secret> for Secret {
    type Error = ParseError;

    fn try_from(secret: core::Secret) -> Result<Self, ParseError> {
        let (_, name) = Subject::namespaced("Secret", &secret.metadata)?;
        let mut values = BTreeMap::new();
        for (key, bytes) in secret.data.unwrap_or_default() {
            values.insert(key, SecretValue::from(bytes.0));
        }
        // As an API server does: stringData is written over data.
        for (key, text) in secret.string_data.unwrap_or_default() {
            values.insert(key, SecretValue::from(text.into_bytes()));
        }
        Ok(Self { name, values })
    }
}

/// Overwrites the values in a Secret's JSON once they have been read out of it.
pub(crate) fn forget(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(forget),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(forget),
        _ => {}
    }
}
