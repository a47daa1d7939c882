//! What a trace comes to: hop by hop, and where and why it ends.

use serde::Serialize;

use super::catalog::Break;

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trace {
    pub(super) from: String,
    pub(super) from_address: String,
    pub(super) to: String,
    pub(super) to_address: String,
    pub(super) protocol: &'static str,
    pub(super) port: Option<u16>,
    pub(super) outcome: Outcome,
    pub(super) hops: Vec<Hop>,
    /// Where and why it ends; none where it is reached.
    #[serde(rename = "break")]
    pub(super) broken: Option<Broken>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The target answered, to large probes, too.
    Reached,
    /// It did not, or somebody refused.
    Dropped,
}

/// A part of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    /// Such as `pod shop/web`, `host end ptl0123`, `node n1`, `router 10.10.1.1`, `target shop/db`.
    pub(super) hop: String,
    pub(super) verdict: Verdict,
    pub(super) what: String,
}

/// What became of the probe there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Drops,
}

/// Where it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Broken {
    /// [`Break::name`].
    pub(super) name: &'static str,
    /// [`Hop::hop`].
    pub(super) hop: String,
    pub(super) what: String,
    pub(super) cause: String,
    /// The command that mends it, or shows what to mend where no command of this node can.
    pub(super) remedy: String,
}

impl Break {
    /// That it is this, at that hop.
    pub(super) fn at(
        &self,
        hop: impl Into<String>,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Broken {
        Broken {
            name: self.name,
            hop: hop.into(),
            what: what.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}
