//! A time limit for everything that a check asks: what does not answer is told as that, and nobody waits for it.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

/// For so long an answer is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// What a question gives, or that it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub(crate) struct Late(Duration);

/// Asks within [`LIMIT`].
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Late> {
    within(LIMIT, work)
}

/// Asks on a thread of its own, which is left alone when it takes too long; the program's end ends it.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Late> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // Who asked may have gone on without the answer.
        let _ = sender.send(work());
    });
    receiver.recv_timeout(limit).map_err(|_| Late(limit))
}

/// Runs a question to its end, or drops it: programs that it started are killed then.
///
/// # Errors
/// If there can be no runtime.
pub(crate) fn asynchronous<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async { tokio::time::timeout(LIMIT, work).await });
    // What still asks the kernel on a thread is not waited for.
    runtime.shutdown_background();
    outcome.map_err(|_| Late(LIMIT).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_is_given_and_what_does_not_is_left() {
        assert_eq!(blocking(|| 7), Ok(7));
        let (_open, never) = mpsc::sync_channel::<()>(1);
        assert_eq!(blocking(move || never.recv().is_ok()), Err(Late(LIMIT)));
        assert_eq!(asynchronous(async { 8 }).unwrap(), 8);
        let late = asynchronous(std::future::pending::<()>()).unwrap_err();
        assert_eq!(late.to_string(), "no answer within 2 s");
    }
}
