//! Measures how long a dual-stack pod's link takes to be made, raised and deleted, with and without limits; needs root.
//!
//! `cargo run --release -p routes --example pods [PODS]`, in network namespaces of its own.
#![allow(clippy::print_stdout, reason = "a measurement prints its numbers")]

use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use routes::{PodLink, Shaping, delete_link, host_sysctls, make_pod_link, raise_pod_link};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let given = std::env::args().nth(1);
    let pods = given.map_or(Ok(100), |number| number.parse::<u8>())?;
    let work = std::thread::spawn(move || -> Outcome<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        drop(host_sysctls(true, true));
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build()?.block_on(measure(pods))
    });
    work.join().map_err(|_| "the measurement panicked")?
}

async fn measure(pods: u8) -> Outcome<()> {
    let limit = Shaping {
        rate: 8_000_000,
        burst: 0,
    };
    for (name, limit) in [("without limits", None), ("with limits", Some(limit))] {
        let mut rows: [Vec<Duration>; 3] = Default::default();
        let [made, raised, deleted] = &mut rows;
        for number in 1..=pods {
            let link = PodLink {
                host_interface: format!("ptl{number:011x}"),
                pod_interface: "eth0".into(),
                addresses: vec![
                    [10, 244, 0, number].into(),
                    format!("fd00:244::{number}").parse()?,
                ],
                mtu: Some(1500),
                ingress: limit,
                egress: limit,
                ..PodLink::default()
            };
            let (netns, netlink) = namespace()?;
            let start = Instant::now();
            let half = make_pod_link(&link, &netns, netlink).await?;
            made.push(start.elapsed());
            let start = Instant::now();
            raise_pod_link(half).await?;
            raised.push(start.elapsed());
            if number % 2 == 0 {
                let start = Instant::now();
                delete_link(&link.host_interface).await?;
                deleted.push(start.elapsed());
            }
        }
        for number in (1..=pods).step_by(2) {
            delete_link(&format!("ptl{number:011x}")).await?;
        }
        for (what, row) in ["made", "raised", "deleted"].iter().zip(&mut rows) {
            row.sort();
            let at = |share: usize| row.get(row.len() * share / 100).copied();
            println!("{name}: {what} p50 {:?} p90 {:?}", at(50), at(90));
        }
    }
    Ok(())
}

/// A new network namespace and a netlink socket in it.
fn namespace() -> Outcome<(File, OwnedFd)> {
    let inside = std::thread::spawn(|| -> Outcome<(File, OwnedFd)> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok((File::open("/proc/thread-self/ns/net")?, socket))
    });
    inside
        .join()
        .map_err(|_| "the namespace's thread panicked")?
}
