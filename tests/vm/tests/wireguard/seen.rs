//! What of pods' packets is seen between nodes: counted where a node sends it, and on the wires.

use std::io::Read as _;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::fabric::Fabric;
use tests::netns::Netns;
use tests::reach::server_at;

/// What pods say; no encrypted packet holds it.
const MARKER: &str = "ahoy-in-the-clear";
/// All protocols (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;
const ETH_P_IPV4: [u8; 2] = [8, 0];
const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;

/// Counts, from now on, what leaves a node by its uplink: with the marker, and to the ports of WireGuard.
pub(crate) fn count(node: &Netns) -> Result<()> {
    for program in ["iptables", "ip6tables"] {
        let marked = ["-m", "string", "--algo", "bm", "--string", MARKER];
        let encrypted = ["-p", "udp", "-m", "multiport", "--dports", "51820,51821"];
        for what in [&marked[..], &encrypted[..]] {
            let rule = ["-t", "mangle", "-A", "POSTROUTING", "-o", "eth0"];
            node.run(program, &[&rule[..], what].concat())?;
        }
    }
    Ok(())
}

/// How many packets had the marker, and how many went to the ports.
pub(crate) fn counted(node: &Netns) -> Result<(u64, u64)> {
    let (mut marked, mut encrypted, mut rules) = (0, 0, 0);
    for program in ["iptables", "ip6tables"] {
        let text = node.run(program, &["-t", "mangle", "-nvxL", "POSTROUTING"])?;
        for line in text.lines() {
            let sum = match line {
                line if line.contains(MARKER) => &mut marked,
                line if line.contains("51820,51821") => &mut encrypted,
                _ => continue,
            };
            let count = line.split_whitespace().next().context("a count")?;
            *sum += count.parse::<u64>()?;
            rules += 1;
        }
    }
    ensure!(rules == 4, "{rules} rules");
    Ok((marked, encrypted))
}

/// Sends so many datagrams with the marker from a pod to another's addresses.
pub(crate) fn send_marked(fabric: &Fabric, from: usize, to: usize, datagrams: usize) -> Result<()> {
    for address in &fabric.pods[to].addresses {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        fabric.pods[from].netns().inside(|| -> Result<()> {
            let socket = UdpSocket::bind(any)?;
            for _ in 0..datagrams {
                // Where there is no way the kernel may say so at once.
                let _ = socket.send_to(MARKER.as_bytes(), server_at(*address));
            }
            Ok(())
        })??;
    }
    Ok(())
}

/// A capture on the switch between the nodes, where no interface of a pod is.
pub(crate) struct Wires {
    marked: Arc<AtomicU64>,
    encrypted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Frames, each as often as it passes an interface of the switch.
#[derive(Debug)]
pub(crate) struct Frames {
    /// With the marker.
    pub(crate) marked: u64,
    /// Of UDP, to the ports of WireGuard.
    pub(crate) encrypted: u64,
}

impl Wires {
    /// Looks at every frame from now on.
    pub(crate) fn watch(switch: &Netns) -> Result<Self> {
        let mut socket = switch.inside(|| -> Result<Socket> {
            let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
            socket.set_recv_buffer_size(4 << 20)?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            Ok(socket)
        })??;
        let (marked, encrypted) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let stop = Arc::<AtomicBool>::default();
        let (of_marked, of_encrypted) = (Arc::clone(&marked), Arc::clone(&encrypted));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut frame) else {
                    continue;
                };
                let frame = &frame[..length];
                let mut windows = frame.windows(MARKER.len());
                if windows.any(|window| window == MARKER.as_bytes()) {
                    of_marked.fetch_add(1, Ordering::Relaxed);
                }
                if is_encrypted(frame) {
                    of_encrypted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            marked,
            encrypted,
            stop,
            thread: Some(thread),
        })
    }

    /// So far.
    pub(crate) fn seen(&self) -> Frames {
        // What is queued is read first.
        std::thread::sleep(Duration::from_secs(1));
        Frames {
            marked: self.marked.load(Ordering::Relaxed),
            encrypted: self.encrypted.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has left its counts too low, which the test has seen.
            let _ = thread.join();
        }
    }
}

/// Whether it is UDP to a port of WireGuard; the nodes' packets have no options and no extension headers.
fn is_encrypted(frame: &[u8]) -> bool {
    let (protocol, port) = match frame.get(12..14) {
        Some(kind) if kind == ETH_P_IPV4 => (frame.get(23), frame.get(36..38)),
        Some(kind) if kind == ETH_P_IPV6 => (frame.get(20), frame.get(56..58)),
        _ => return false,
    };
    let port = port.map(|port| u16::from_be_bytes([port[0], port[1]]));
    protocol == Some(&UDP) && matches!(port, Some(51820 | 51821))
}
