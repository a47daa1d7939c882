//! Why the API server has not done what it was asked, as those who read and those who write see it.

use std::error::Error;
use std::time::Duration;

use serde::Deserialize;

use super::connection::Disbelieved;

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The server will not.
    #[error("{message} ({code} {reason})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Why, in one word: `reason` of the answer's Status, if it is one.
        reason: String,
        /// Why, for people.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, breaks off, or says what cannot be understood.
    #[error("{0}")]
    Unanswered(String),
}

impl Failure {
    /// A request that never became an answer.
    pub(super) fn unsent(error: &kube::Error) -> Self {
        match error {
            kube::Error::Service(inner) => Self::unanswered(&**inner),
            other => Self::unanswered(other),
        }
    }

    /// An answer that breaks off.
    pub(super) fn unanswered(error: &(dyn Error + 'static)) -> Self {
        Self::Unanswered(reason_of(error))
    }

    /// An answer that is a refusal, with its whole body.
    pub(super) fn refused(head: &http::response::Parts, body: &[u8]) -> Self {
        let mut failure = Self::refused_in_words(Some(head.status.as_u16()), body);
        let header = head.headers.get(http::header::RETRY_AFTER);
        let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Self::Refused {
            message,
            retry_after,
            ..
        } = &mut failure
        {
            *retry_after = seconds.map(Duration::from_secs).or(*retry_after);
            if let Some(Disbelieved(why)) = head.extensions.get() {
                *message = why.clone();
            }
        }
        failure
    }

    /// Reads what the server says instead of what was asked for; `code`: where it does not say that itself.
    pub(super) fn refused_in_words(code: Option<u16>, text: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(text).unwrap_or_default();
        let told = status.details.unwrap_or_default().retry_after_seconds;
        let message = match status.message.is_empty() {
            false => status.message,
            true => String::from_utf8_lossy(text).chars().take(200).collect(),
        };
        Self::Refused {
            code: code.unwrap_or(status.code),
            reason: status.reason,
            message: message.trim().replace(char::is_control, " "),
            retry_after: (told > 0).then(|| Duration::from_secs(told)),
        }
    }

    /// What the watch was to go on from is not known any more (410).
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, Self::Refused { code, reason, .. } if *code == 410 || reason == "Expired" || reason == "Gone")
    }

    /// The object, or its namespace, or its kind, is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.has_code(404)
    }

    /// The server does not take such a request: a streamed list, say (422, or 400 by older ones).
    pub(super) fn is_not_understood(&self) -> bool {
        self.has_code(400) || self.has_code(422)
    }

    /// Someone else was faster.
    pub(crate) fn is_conflict(&self) -> bool {
        self.has_code(409)
    }

    /// The patch's test did not hold: what it was made from has changed.
    pub(crate) fn is_failed_test(&self) -> bool {
        self.has_code(422)
    }

    /// The same request would be refused again, whenever it is sent.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                (400..500).contains(code) && !matches!(code, 401 | 408 | 409 | 425 | 429)
            }
            Self::Unanswered(_) => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unanswered(_) => None,
        }
    }

    fn has_code(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// An error with what caused it, which the outer ones often leave out.
pub(super) fn reason_of(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_how_long_to_wait_before_the_body_does_and_a_text_that_is_no_status_is_quoted()
     {
        let answer = http::Response::builder()
            .status(429)
            .header("retry-after", "7")
            .body(())
            .expect("an answer");
        let (head, ()) = answer.into_parts();
        let body =
            br#"{"reason":"TooManyRequests","message":"slow","details":{"retryAfterSeconds":3}}"#;
        let failure = Failure::refused(&head, body);
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(failure.to_string(), "slow (429 TooManyRequests)");
        assert!(!failure.is_final());
        let failure = Failure::refused(&head, b"go\naway\n");
        assert_eq!(failure.to_string(), "go away (429 )");
    }
}
