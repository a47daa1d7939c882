//! Who we say that we are, and what is wrong with it when the server does not believe it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::Deserialize;

use super::access::Access;

/// Goes with an answer 401: why, as far as we can tell, and what to do.
#[derive(Clone, Debug)]
pub(in crate::kubernetes) struct Disbelieved(pub(in crate::kubernetes) String);

/// A token, read anew for each request: the kubelet replaces it about each hour.
#[derive(Default)]
pub(super) struct Token(Mutex<Option<HeaderValue>>);

impl Token {
    /// What its file holds now, or held last where it cannot be read.
    pub(super) fn read(&self, path: &Path) -> Option<HeaderValue> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(header) = header(&text) {
            *last = Some(header);
        }
        last.clone()
    }
}

fn header(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
    header.set_sensitive(true);
    (!text.is_empty()).then_some(header)
}

impl Disbelieved {
    /// Of who says so by what was read.
    pub(super) fn new(access: &Access) -> Self {
        let who = &access.config.auth_info;
        let text = match &access.token {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let what = text.map_or_else(
                    |error| format!("the file cannot be read: {error}"),
                    |text| state(&text, SystemTime::now()),
                );
                format!(
                    "the API server does not accept the token in {}: {what}; the file is read for every request",
                    path.display()
                )
            }
            None if who.client_certificate.is_some() => format!(
                "the API server does not accept the client certificate in {}: it may have expired; put a new one and its key there",
                access.certificate.display()
            ),
            None => format!(
                "the API server does not accept who we say we are by {}: put what it accepts there",
                access.certificate.display()
            ),
        };
        Self(text)
    }
}

/// What can be told of a token without knowing who signed it. It says the same each time, as it is logged when it changes.
fn state(token: &str, now: SystemTime) -> String {
    match expiry(token.trim()) {
        Some(expiry) if expiry <= now => {
            "it has expired, so whoever renews it (in a pod: the kubelet) does not".to_owned()
        }
        Some(_) => "it has not expired, so what it was made for (the ServiceAccount, the pod) or the key that signed it is gone".to_owned(),
        None if token.trim().is_empty() => "it is empty".to_owned(),
        None => "it is unknown there".to_owned(),
    }
}

/// Until when a JSON Web Token is good (RFC 7519 §4.1.4).
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = token.split('.').nth(1)?;
    let text = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&text).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_itself_whether_it_has_expired() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"exp":1000,"sub":"x"}"#);
        let token = format!("e30.{claims}.c2ln\n");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(state(&token, at(1001)).starts_with("it has expired"));
        assert!(state(&token, at(999)).starts_with("it has not expired"));
        assert_eq!(state("secret", at(0)), "it is unknown there");
        assert_eq!(state("\n", at(0)), "it is empty");
    }

    #[test]
    fn the_last_token_is_used_while_its_file_is_away_or_empty_and_a_new_one_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let token = Token::default();
        assert_eq!(token.read(&path), None);
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            token.read(&path).expect("a token")
        };
        assert_eq!(read("one\n"), "Bearer one");
        assert_eq!(read(""), "Bearer one");
        assert_eq!(format!("{:?}", read("two")), "Sensitive");
        assert_eq!(read("two"), "Bearer two");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(token.read(&path).expect("the last"), "Bearer two");
    }
}
