//! Unix sockets for root only: mode 0600, peers checked, so many connections at once and no more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::warn;

/// Requests served at once on each socket.
const CONNECTIONS: usize = 64;

/// Serves a unix socket, one task a connection.
///
/// # Errors
/// If the socket cannot be made.
pub(crate) fn listen<S, F>(
    path: &Path,
    state: S,
    serve: fn(UnixStream, S) -> F,
) -> anyhow::Result<()>
where
    S: Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // A socket that an earlier run left behind: nobody answers on it, that was asked before.
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) if by_root(&stream) => {
                    let work = serve(stream, state.clone());
                    tokio::spawn(async move {
                        work.await;
                        drop(place);
                    });
                }
                Ok(_) => warn!("a connection from a user other than root was closed"),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

fn by_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}
