//! A verb that does not end by itself: a container that ended would be started again.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Has `work` done on a thread of its own, and returns when the process is told to end, whether it is done or not.
///
/// # Errors
/// If no signal can be listened to.
pub(crate) fn until_told(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The first process of a container is deaf to what it does not listen to.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        let failed = "cannot listen to signals";
        (
            signal(SignalKind::terminate()).context(failed)?,
            signal(SignalKind::interrupt()).context(failed)?,
        )
    };
    std::thread::spawn(work);
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    Ok(())
}
