//! The protocol versions we speak, and the answer to VERSION.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{CniError, ErrorCode};

/// A protocol version; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CniVersion {
    /// 0.1.0, which a configuration without `cniVersion` means.
    V0_1_0,
    /// 0.2.0.
    V0_2_0,
    /// 0.3.0: results name interfaces.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses no longer say their family.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl CniVersion {
    /// Every version we speak, the oldest first.
    pub const SUPPORTED: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// The latest version we speak.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version as configurations and results write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The answer to VERSION.
    pub fn version_output() -> Value {
        json!({
            "cniVersion": Self::LATEST.as_str(),
            "supportedVersions": Self::SUPPORTED.map(Self::as_str),
        })
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CniVersion {
    type Err = CniError;

    /// Versions match exactly: there is no rule by which 0.3 or 1.0.1 would mean a neighbour.
    fn from_str(text: &str) -> Result<Self, CniError> {
        Self::SUPPORTED
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                let supported = Self::SUPPORTED.map(Self::as_str).join(", ");
                CniError::new(ErrorCode::IncompatibleVersion, "incompatible CNI versions")
                    .details(format!("config is {text:?}, plugin supports {supported}"))
            })
    }
}

impl TryFrom<String> for CniVersion {
    type Error = CniError;

    fn try_from(text: String) -> Result<Self, CniError> {
        text.parse()
    }
}

impl From<CniVersion> for String {
    fn from(version: CniVersion) -> Self {
        version.as_str().to_owned()
    }
}
