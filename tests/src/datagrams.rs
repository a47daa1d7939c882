//! Datagrams between two pods that count however late they come: for machines in software, where late is no loss.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Between two datagrams of one end.
const PAUSE: Duration = Duration::from_millis(20);
/// For how long after the last was sent those that are under way are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has two pods, each with its address, send to each other, up to fifty datagrams a second each, until `work` is done.
/// Returns how many were sent and how many of them never came.
///
/// # Errors
/// What `work` says, or when a socket can't be made.
pub fn count_while(
    ends: [(&Netns, IpAddr); 2],
    work: impl FnOnce() -> Result<()>,
) -> Result<(usize, usize)> {
    let bind = |(netns, address): (&Netns, IpAddr)| -> Result<UdpSocket> {
        let socket = netns.inside(|| UdpSocket::bind((address, 0)))??;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    };
    let [one, other] = ends;
    let (one, other) = (bind(one)?, bind(other)?);
    let (to_one, to_other) = (one.local_addr()?, other.local_addr()?);
    let (done, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let senders = [(&one, to_other), (&other, to_one)].map(|(socket, to)| {
            let done = &done;
            scope.spawn(move || {
                let mut sent = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    // One that is refused is sent and lost.
                    let _ = socket.send_to(&sent.to_be_bytes(), to);
                    sent += 1;
                    thread::sleep(PAUSE);
                }
                usize::try_from(sent)
            })
        });
        let receivers = [&one, &other].map(|socket| {
            let quiet = &quiet;
            scope.spawn(move || {
                let (mut seen, mut buffer) = (BTreeSet::new(), [0; 4]);
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(4) => drop(seen.insert(buffer)),
                        _ if quiet.load(Ordering::Relaxed) => return seen.len(),
                        _ => {}
                    }
                }
            })
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for sender in senders {
            sent += sender.join().ok().context("a sender panicked")??;
        }
        thread::sleep(PATIENCE);
        quiet.store(true, Ordering::Relaxed);
        let mut came = 0;
        for receiver in receivers {
            came += receiver.join().ok().context("a receiver panicked")?;
        }
        outcome.map(|()| (sent, sent - came))
    })
}
