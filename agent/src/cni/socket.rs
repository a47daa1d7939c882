//! Frames and descriptors on the CNI socket: blocking calls with a time limit, off the runtime's threads.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::Duration;

use cni_spec::socket::{DESCRIPTORS, Request, Response, decode_frame, encode_frame};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::net::UnixStream;

/// DESIGN.md §2: a request is given up after this.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Reads one request and the descriptors that came with it.
///
/// # Errors
/// If the connection breaks, takes too long or says something else.
pub(crate) async fn receive(
    stream: UnixStream,
) -> io::Result<(BlockingStream, Request, Vec<OwnedFd>)> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    blocking(move || {
        let (mut bytes, descriptors) = first_bytes(&stream)?;
        let mut stream = stream;
        let mut buffer = [0; 8192];
        loop {
            if let Some((request, _)) = decode_frame(&bytes).map_err(io::Error::other)? {
                return Ok((stream, request, descriptors));
            }
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend(buffer.iter().take(count));
        }
    })
    .await
}

/// Whether who asked is gone: killed by its runtime, which has told of a failure.
pub(crate) fn is_left(stream: &BlockingStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    // POLLHUP comes unasked.
    let seen = poll(&mut polled, PollTimeout::ZERO);
    let [polled] = polled;
    let hung_up = |flags: PollFlags| flags.contains(PollFlags::POLLHUP);
    seen.is_ok() && polled.revents().is_some_and(hung_up)
}

/// Sends the answer.
///
/// # Errors
/// If the plugin is gone.
pub(crate) async fn send(mut stream: BlockingStream, response: Response) -> io::Result<()> {
    blocking(move || stream.write_all(&encode_frame(&response).map_err(io::Error::other)?)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn first_bytes(stream: &BlockingStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 8192];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let count = message.bytes;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    buffer.truncate(count);
    if buffer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((buffer, descriptors))
}

#[expect(
    unsafe_code,
    reason = "nix hands out received descriptors as numbers only"
)]
fn own(raw: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us by SCM_RIGHTS, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_was_killed_is_seen_and_one_that_waits_is_not() {
        let (ours, its) = BlockingStream::pair().unwrap();
        assert!(!is_left(&ours));
        (&its).write_all(b"said before its end").unwrap();
        assert!(!is_left(&ours));
        drop(its);
        assert!(is_left(&ours));
    }
}
