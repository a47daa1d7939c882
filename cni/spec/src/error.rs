//! The error a plugin answers with, and the codes it may bear.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::CniVersion;

/// A failure as the specification words it; printed as JSON on standard output with a non-zero exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (CNI error {code})", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// One of [`ErrorCode`], or any number from 100 on, which are a plugin's own.
    pub code: u32,
    /// What failed, in a few words.
    pub msg: String,
    /// Why, and what to do; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// The codes the specification reserves, and ours from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The configuration's version is not one we speak, or has no such verb.
    IncompatibleVersion = 1,
    /// A field asks for what we do not do; the message names it.
    UnsupportedField = 2,
    /// The container is unknown, so that the runtime need not clean up.
    UnknownContainer = 3,
    /// An environment variable is missing or malformed.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// Something is not the JSON it should be.
    Decoding = 6,
    /// The configuration makes no sense.
    InvalidConfig = 7,
    /// The network namespace cannot be used.
    InvalidNetns = 8,
    /// A passing condition: the runtime should try again later.
    TryAgainLater = 11,
    /// STATUS: ADD would fail.
    NotAvailable = 50,
    /// STATUS: ADD would fail, and the containers that run may have lost connectivity.
    LimitedConnectivity = 51,
    /// Ours: the kernel or the agent's own state did not let it be done.
    Failed = 100,
    /// Ours: CHECK found the attachment other than it was made.
    CheckFailed = 101,
}

impl CniError {
    /// An error with no details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code: code as u32,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// What ADD says to a container that has the interface already.
    pub fn interface_exists(name: &str) -> Self {
        Self::new(ErrorCode::Failed, "the interface exists").details(format!(
            "{name} is in the container's network namespace already: DEL comes before another ADD"
        ))
    }

    /// Adds why, and what to do.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The JSON a runtime reads.
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut error = json!({
            "cniVersion": version.as_str(),
            "code": self.code,
            "msg": self.msg,
        });
        if let Some(error) = error.as_object_mut()
            && !self.details.is_empty()
        {
            error.insert("details".to_owned(), Value::from(self.details.as_str()));
        }
        error
    }
}
