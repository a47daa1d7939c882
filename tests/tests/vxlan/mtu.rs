//! The underlay's MTU changes under a live pool: devices, routes and running pods follow, and traffic goes on.

use super::*;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result};

/// What VXLAN over IPv4 takes of a packet in bytes.
const OVERHEAD: u32 = 50;
/// Bytes of a stream that must arrive at each MTU.
const ENOUGH: u64 = 4_000_000;

/// The MTU of a node's link to the underlay, as an administrator sets it.
fn set_underlay(lab: &Netns, mtu: u32) -> Result<()> {
    lab.ip(&format!("link set eth0 mtu {mtu}")).map(drop)
}

/// The MTU of a node's device.
fn device_mtu(netns: &Netns) -> Result<u64> {
    let links = netns.ip_json(&format!("link show dev {TUNNEL}"))?;
    links[0]["mtu"].as_u64().context("no MTU")
}

/// Waits until a node's device and its pod have what the underlay takes.
fn follows(netns: &Netns, pod: &Netns, underlay: u32) -> Result<()> {
    let wanted = u64::from(underlay - OVERHEAD);
    eventually(PATIENCE, &format!("{wanted} everywhere"), || {
        let device = device_mtu(netns)?;
        let inside = pod.ip_json("link show dev eth0")?[0]["mtu"].as_u64();
        ensure!(device == wanted, "device {device}");
        ensure!(inside == Some(wanted), "pod {inside:?}");
        Ok(())
    })
}

/// One stream from a pod to another; what came is counted.
struct Stream {
    arrived: AtomicU64,
    done: AtomicBool,
}

impl Stream {
    /// Sends for as long as `work` takes.
    fn during<T>(
        &self,
        (from, to): (&Netns, &Netns),
        address: std::net::IpAddr,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let listener = to.inside(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
        let at = listener.local_addr()?;
        let mut client = from.inside(|| TcpStream::connect_timeout(&at, PATIENCE))??;
        let (mut server, _) = listener.accept()?;
        client.set_write_timeout(Some(PATIENCE))?;
        server.set_read_timeout(Some(PATIENCE))?;
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || -> Result<()> {
                while !self.done.load(Ordering::Relaxed) {
                    client.write_all(&[7; 32_768])?;
                    // Some 20 MB/s: the machine has other things to do.
                    std::thread::sleep(Duration::from_micros(1500));
                }
                Ok(())
            });
            let receiver = scope.spawn(move || -> Result<()> {
                let mut buffer = vec![0; 65_536];
                loop {
                    match server.read(&mut buffer)? {
                        0 => return Ok(()),
                        length => {
                            let length = u64::try_from(length)?;
                            self.arrived.fetch_add(length, Ordering::Relaxed);
                        }
                    }
                }
            });
            let outcome = work();
            self.done.store(true, Ordering::Relaxed);
            let ends = [sender.join(), receiver.join()];
            for end in ends {
                end.map_err(|_| anyhow::anyhow!("a panic"))?
                    .context("the stream broke")?;
            }
            outcome
        })
    }

    /// Waits until so much more has come.
    fn goes_on(&self) -> Result<()> {
        let before = self.arrived.load(Ordering::Relaxed);
        eventually(PATIENCE, "the stream to go on", || {
            let more = self.arrived.load(Ordering::Relaxed) - before;
            ensure!(more >= ENOUGH, "{more} bytes");
            Ok(())
        })
    }
}

/// Sets the MTU of every node's link, and waits until all follow; the routes by tunnels are the same afterwards.
fn change(lab: &Fabric, underlay: u32) -> Result<()> {
    let routes = lab.tunnelled(0)?;
    ensure!(routes.len() == 4, "{routes:?}");
    let pods: Vec<&Netns> = lab.pods.iter().map(|pod| pod.netns()).collect();
    for (station, pod) in lab.stations.iter().zip(&pods) {
        set_underlay(&station.netns, underlay)?;
        // What leaves this node for the next one is as big as this node's link takes, at most.
        follows(&station.netns, pod, underlay)?;
    }
    ensure!(lab.tunnelled(0)? == routes, "{routes:?}");
    let cut: u64 = (0..3).map(|node| lab.fragments(node).unwrap()).sum();
    for to in [1, 2] {
        for address in &lab.pods[to].addresses {
            lab.sends_whole(0, *address, to)?;
        }
    }
    let after: u64 = (0..3).map(|node| lab.fragments(node).unwrap()).sum();
    ensure!(cut == after, "whole packets were cut at {underlay}");
    Ok(())
}

#[test]
fn the_underlays_mtu_changes_under_a_live_pool_and_all_follow_without_a_loss() {
    require_root!();
    let lab = Fabric::start("vxm", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    // The fabric itself takes the most of what is tried.
    lab.widen(9000).unwrap();
    let stream = Stream {
        arrived: AtomicU64::new(0),
        done: AtomicBool::new(false),
    };
    let flows = lab.flows(1, 2, 50);
    let ends = (lab.pods[0].netns(), lab.pods[2].netns());
    let outcomes = stream.during(ends, lab.pods[2].addresses[0], || {
        measure_while(&flows, || {
            stream.goes_on()?;
            for underlay in [9000, 1500, 1400] {
                change(&lab, underlay)?;
                stream.goes_on()?;
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(())
        })
    });
    let title = "small packets while the MTU goes 1500, 9000, 1500, 1400";
    let (sent, lost) = sum(title, &flows, &outcomes.unwrap()).unwrap();
    assert!(sent > 1500 && lost == 0, "{lost} of {sent}");
    drop(flows);
    a_node_whose_agent_is_away_cuts(lab);
}

/// It is the agent that has pods follow: without it what a pod sends is too big for the way out.
fn a_node_whose_agent_is_away_cuts(mut lab: Fabric) {
    lab.stations[0].agent.kill().unwrap();
    for station in &lab.stations {
        set_underlay(&station.netns, 1380).unwrap();
    }
    for node in [1, 2] {
        follows(&lab.stations[node].netns, lab.pods[node].netns(), 1380).unwrap();
    }
    let before = lab.fragments(0).unwrap();
    let to = lab.pods[2].addresses[0];
    let sent = lab.sends_whole(0, to, 2);
    let cut = lab.fragments(0).unwrap() - before;
    assert!(sent.is_err() || cut > 0, "{sent:?}, {cut} pieces");
    let station = &mut lab.stations[0];
    station.agent.start(&station.netns).unwrap();
    follows(&lab.stations[0].netns, lab.pods[0].netns(), 1380).unwrap();
    let before = lab.fragments(0).unwrap();
    lab.sends_whole(0, to, 2).unwrap();
    assert_eq!(lab.fragments(0).unwrap(), before);
}
