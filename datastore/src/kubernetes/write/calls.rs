//! Sends single requests to the API server: each with a time limit, tried again when the server asks for patience.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kubernetes::failure::Failure;

/// The field manager of every write.
pub(crate) const FIELD_MANAGER: &str = "portolan-agent";

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How long a request may take that is sent only once.
pub(crate) const ONCE: Duration = Duration::from_secs(5);
/// How often a request is sent before its caller is told.
const ATTEMPTS: u32 = 3;
/// The pause after a first failed attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest that a server may make one request wait; the caller's own backoff is for more.
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read, in octets.
const LARGEST_ANSWER: usize = 8 << 20;

/// How long to wait before the same request is sent again at once; `None` where that is the caller's business.
fn patience(failure: &Failure, attempt: u32) -> Option<Duration> {
    let pause = jittered(PAUSE * 2_u32.saturating_pow(attempt));
    match failure {
        Failure::Unanswered(_) => Some(pause),
        Failure::Refused {
            code, retry_after, ..
        } => match (code, retry_after) {
            (429 | 503, Some(wanted)) => {
                (*wanted <= MOST_PATIENCE).then(|| *wanted + jittered(PAUSE))
            }
            (429 | 500 | 502..=504, _) => Some(pause),
            _ => None,
        },
    }
}

/// Between half of a duration and one and a half of it, so that many nodes do not act at once.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration / 2 + up_to(duration)
}

/// Anything below a duration.
pub(crate) fn up_to(duration: Duration) -> Duration {
    // Every RandomState has keys of its own.
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    duration.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0)
}

/// The connection, as writers use it. Clones share it.
#[derive(Clone)]
pub(crate) struct Calls {
    client: kube::Client,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

impl Calls {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Reads an object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(request(Method::GET, path, None)).await
    }

    /// Makes an object in the collection at `path`.
    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<T, Failure> {
        self.whole(Method::POST, path, object).await
    }

    /// Replaces an object that has not changed since its `resourceVersion`.
    pub(crate) async fn replace<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<T, Failure> {
        self.whole(Method::PUT, path, object).await
    }

    /// Server-side apply, without force: what others have set is theirs.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<(), Failure> {
        self.patch(path, "application/apply-patch+yaml", object)
            .await
    }

    /// Server-side apply as another manager, for fields that are written by themselves: an apply takes away what the same
    /// manager set before and does not name again.
    pub(crate) async fn apply_as(
        &self,
        manager: &str,
        path: &str,
        object: &Value,
    ) -> Result<(), Failure> {
        self.patch_as(manager, path, "application/apply-patch+yaml", object)
            .await
    }

    /// A merge patch.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<(), Failure> {
        self.patch(path, "application/merge-patch+json", patch)
            .await
    }

    /// A strategic merge patch, in which lists are merged by their keys.
    pub(crate) async fn strategic_merge(&self, path: &str, patch: &Value) -> Result<(), Failure> {
        self.patch(path, "application/strategic-merge-patch+json", patch)
            .await
    }

    /// A strategic merge patch, sent once and given up after [`ONCE`]: for what must not be carried out much later, by the
    /// server neither.
    pub(crate) async fn strategic_merge_once(
        &self,
        path: &str,
        patch: &Value,
    ) -> Result<(), Failure> {
        let seconds = ONCE.as_secs();
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&timeout={seconds}s");
        let json = Some(("application/strategic-merge-patch+json", patch));
        let sent = self.once(request(Method::PATCH, &path, json));
        let answer = tokio::time::timeout(ONCE, sent).await;
        answer
            .unwrap_or_else(|_| Err(Failure::Unanswered(format!("no answer within {seconds} s"))))
            .map(drop)
    }

    /// A JSON patch (RFC 6902).
    pub(crate) async fn json_patch(&self, path: &str, patch: &Value) -> Result<(), Failure> {
        self.patch(path, "application/json-patch+json", patch).await
    }

    /// Deletes just this state of an object.
    pub(crate) async fn delete(
        &self,
        path: &str,
        uid: &str,
        resource_version: &str,
    ) -> Result<(), Failure> {
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        });
        let json = Some(("application/json", &options));
        let _: Value = self.send(request(Method::DELETE, path, json)).await?;
        Ok(())
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        object: &Value,
    ) -> Result<T, Failure> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        let json = Some(("application/json", object));
        self.send(request(method, &path, json)).await
    }

    async fn patch(&self, path: &str, how: &str, patch: &Value) -> Result<(), Failure> {
        self.patch_as(FIELD_MANAGER, path, how, patch).await
    }

    async fn patch_as(
        &self,
        manager: &str,
        path: &str,
        how: &str,
        patch: &Value,
    ) -> Result<(), Failure> {
        let path = format!("{path}?fieldManager={manager}");
        let json = Some((how, patch));
        let _: Value = self.send(request(Method::PATCH, &path, json)).await?;
        Ok(())
    }

    async fn send<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> Result<T, Failure> {
        let mut attempt = 0;
        loop {
            let failure = match self.once(request.clone()).await {
                Ok(answer) => {
                    let unreadable = |error: serde_json::Error| {
                        Failure::Unanswered(format!("the answer cannot be read: {error}"))
                    };
                    return serde_json::from_slice(&answer).map_err(unreadable);
                }
                Err(failure) => failure,
            };
            let patience = patience(&failure, attempt);
            attempt += 1;
            match patience {
                Some(pause) if attempt < ATTEMPTS => tokio::time::sleep(pause).await,
                _ => return Err(failure),
            }
        }
    }

    async fn once(&self, request: Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        let in_time = tokio::time::timeout(ATTEMPT, async {
            let sent = self.client.send(request.map(Body::from)).await;
            let answer = sent.map_err(|error| Failure::unsent(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| Failure::unanswered(&*error))?;
            let body = body.to_bytes().to_vec();
            match head.status.is_success() {
                true => Ok(body),
                false => Err(Failure::refused(&head, &body)),
            }
        });
        in_time.await.unwrap_or_else(|_| {
            let seconds = ATTEMPT.as_secs();
            Err(Failure::Unanswered(format!("no answer within {seconds} s")))
        })
    }
}

fn request(method: Method, path: &str, body: Option<(&str, &Value)>) -> Request<Vec<u8>> {
    let builder = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, "application/json");
    let (builder, body) = match body {
        Some((content_type, value)) => (
            builder.header(http::header::CONTENT_TYPE, content_type),
            value.to_string().into_bytes(),
        ),
        None => (builder, Vec::new()),
    };
    builder
        .body(body)
        .expect("names in paths have been checked against their grammar")
}

/// How long to wait before a task tries again what it could not write: it doubles, and differs from node to node.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LAST: Duration = Duration::from_secs(60);
    /// Where rights or kinds are missing someone has to do something first.
    const LAST_REFUSED: Duration = Duration::from_secs(600);

    /// Notes a failure.
    pub(crate) fn failed(&mut self, failure: &Failure) -> Duration {
        let doubled = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        let last = if failure.is_final() {
            Self::LAST_REFUSED
        } else {
            Self::LAST
        };
        let pause = jittered(doubled.min(last));
        pause.max(failure.retry_after().unwrap_or_default())
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// A field that is absent is not ours; `null` would be a value.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_unknown_is_left_out_and_not_null() {
        let value = without_nulls(json!({"a": null, "b": [{"c": null, "d": 1}], "e": {}}));
        assert_eq!(value, json!({"b": [{"d": 1}], "e": {}}));
    }
}
