//! What a check finds: whether it is well, what is wrong, why, and the command that mends it.

use serde::Serialize;

/// Something that is looked at, and of which there is at least one finding in each run.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// For programs, and for people to look it up by.
    pub(crate) name: &'static str,
    /// When it speaks up.
    #[serde(rename = "speaksWhen")]
    pub(crate) speaks_when: &'static str,
}

/// How bad it is, or that it could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It is as it should be.
    Ok,
    /// It was not looked at; `what` says why.
    Skipped,
    /// It may be meant so, or will hurt later.
    Warning,
    /// Some pod cannot talk, or could not after a restart.
    Failure,
}

impl Verdict {
    /// Whether somebody has to do something.
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, Self::Warning | Self::Failure)
    }
}

/// One result of a check; a check has several where several things are wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// [`Check::name`].
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) what: String,
    /// Why it is so, or what follows from it; empty where nothing is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cause: String,
    /// The command that mends it, or shows what to mend where no command of this node can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

impl Check {
    /// All is well.
    pub(crate) fn ok(&self, what: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, what, "", "")
    }

    /// It was not looked at.
    pub(crate) fn skipped(&self, why: impl Into<String>) -> Finding {
        self.finding(Verdict::Skipped, why, "", "")
    }

    /// It may be meant so, or will hurt later.
    pub(crate) fn warning(
        &self,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        self.finding(Verdict::Warning, what, cause, remedy)
    }

    /// Some pod cannot talk.
    pub(crate) fn failure(
        &self,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        self.finding(Verdict::Failure, what, cause, remedy)
    }

    /// What was found, or that all is well if that is nothing.
    pub(crate) fn or_ok(&self, found: Vec<Finding>, well: impl Into<String>) -> Vec<Finding> {
        match found.is_empty() {
            true => vec![self.ok(well)],
            false => found,
        }
    }

    fn finding(
        &self,
        verdict: Verdict,
        what: impl Into<String>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            check: self.name,
            verdict,
            what: what.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}

#[cfg(test)]
impl Finding {
    /// The one of them that is a warning or a failure.
    pub(super) fn only_bad(mut findings: Vec<Self>) -> Self {
        findings.retain(|finding| finding.verdict.is_bad());
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }
}
