//! SIGINT and SIGTERM end a measurement like any failure: namespaces and daemons go with it.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// From now on both signals make every wait fail.
///
/// # Errors
/// When they can't be listened for.
pub fn unwind_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        tests::wait::interrupt();
    });
    Ok(())
}
