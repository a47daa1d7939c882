//! Checksums of what is in tunnels: a NIC that forgets them is found from both ends, and got round by the agent's own switch.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use serde_json::Value;
use tests::fabric::{Fabric, PATIENCE, Underlay, pools};
use tests::forge;
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

use crate::TUNNEL;

/// Names that do not resolve here make the doctor wait.
const WORDS: [&str; 2] = ["--dns", "127.0.0.1:9"];

sockopt_impl!(
    /// Outer packets without a checksum: else the kernel leaves it to the device, and looks at none.
    NoChecksum, SetOnly, libc::SOL_SOCKET, libc::SO_NO_CHECK, bool
);

/// The check's findings on a node.
fn look(lab: &Fabric, node: usize) -> Result<Vec<Value>> {
    let mut findings = lab.stations[node].agent.findings(&WORDS)?;
    findings.retain(|finding| finding["check"] == "tunnel-checksum");
    ensure!(!findings.is_empty(), "no word on checksums");
    Ok(findings)
}

fn is_well(lab: &Fabric, node: usize) -> Result<String> {
    let findings = look(lab, node)?;
    ensure!(
        findings.iter().all(|finding| finding["verdict"] == "ok"),
        "{findings:#?}"
    );
    Ok(findings[0]["what"].as_str().unwrap_or_default().to_owned())
}

/// A failure whose words begin so; gives its remedy.
fn fails(lab: &Fabric, node: usize, words: &str) -> Result<String> {
    let findings = look(lab, node)?;
    let found = findings.iter().find(|finding| {
        let what = finding["what"].as_str().unwrap_or_default();
        finding["verdict"] == "failure" && what.contains(words)
    });
    let found = found.with_context(|| format!("{findings:#?}"))?;
    Ok(found["remedy"].as_str().unwrap_or_default().to_owned())
}

/// TCP and UDP from the third node's pod to the first one's, until it is enough.
fn verdicts(lab: &Fabric, to: IpAddr) -> [Verdict; 2] {
    [Transport::Tcp, Transport::Udp].map(|transport| {
        let patience = Duration::from_millis(400);
        attempt(lab.pods[2].netns(), server_at(to), transport, patience).unwrap()
    })
}

#[test]
fn a_nic_that_forgets_inner_checksums_is_found_from_both_ends_and_the_agents_switch_gets_round_it()
{
    require_root!();
    let mut lab = Fabric::start("vxo", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    for node in [0, 2] {
        let said = is_well(&lab, node).unwrap();
        // Both others, by both families.
        assert!(said.contains("and 4 other nodes answer"), "{said}");
    }
    let nic = lab.careless_nic(2).unwrap();
    let own = eventually(PATIENCE, "the sender's finding", || {
        fails(&lab, 2, "not where that is left to the NIC")
    });
    let own = own.unwrap();
    assert!(
        own.starts_with(&format!("ethtool -K {TUNNEL} tx-checksum-ip-generic off; ")),
        "{own}"
    );
    assert!(nic.forgotten() > 0);
    let targets = lab.pods[0].addresses.clone();
    for to in &targets {
        assert_eq!(verdicts(&lab, *to), [Verdict::Silent; 2], "{to}");
    }
    // Who receives them sees whose they are.
    let third = lab.address(2);
    let done = AtomicBool::new(false);
    let theirs = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                verdicts(&lab, targets[0]);
            }
        });
        let found = eventually(PATIENCE, "the receiver's finding", || {
            fails(
                &lab,
                0,
                &format!("packets that came in tunnels from {third} "),
            )
        });
        done.store(true, Ordering::Relaxed);
        found
    });
    let theirs = theirs.unwrap();
    assert!(
        theirs.starts_with(&format!("on node {third}: ethtool")),
        "{theirs}"
    );

    // The way out that stays: the third node's kernel computes them before they get into the tunnel.
    let mut restart = |words: &[&str]| {
        let station = &mut lab.stations[2];
        station.agent.terminate().unwrap();
        station.agent.set_arguments(words);
        station.agent.start(&station.netns).unwrap();
        station.agent.wait_synced().unwrap();
    };
    restart(&["--tunnel-checksums", "kernel"]);
    let before = nic.forgotten();
    for to in &targets {
        lab.reaches(lab.pods[2].netns(), *to).unwrap();
        assert_eq!(verdicts(&lab, *to), [Verdict::Answered; 2], "{to}");
    }
    assert_eq!(nic.forgotten(), before);
    for node in [0, 2] {
        is_well(&lab, node).unwrap();
    }
    // A device that is made anew gets it, too.
    let station = &lab.stations[2];
    station.netns.ip(&format!("link del {TUNNEL}")).unwrap();
    lab.reaches(lab.pods[2].netns(), targets[0]).unwrap();
    is_well(&lab, 2).unwrap();
}

#[test]
fn forged_frames_with_wrong_inner_checksums_are_counted_by_their_sender() {
    require_root!();
    let lab = Fabric::start("vxw", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    let v4 = |pod: usize| match lab.pods[pod].addresses[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(other) => panic!("{other} comes first"),
    };
    let mut wrong = forge::datagram(v4(2), v4(0), 8080, b"ahoy");
    // UDP's checksum, behind 20 octets of IP: without one nothing can be wrong.
    let right = wrong.clone();
    wrong[26..28].copy_from_slice(&[0xbe, 0xef]);
    let (third, end) = (lab.address(2), lab.address(0));
    for (packet, is_found) in [(right, false), (wrong, true)] {
        let frame = forge::vxlan(4179, [2; 6], &packet);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sends = || -> Result<()> {
                    let socket = UdpSocket::bind((third, 0))?;
                    setsockopt(&socket, NoChecksum, &true)?;
                    while !done.load(Ordering::Relaxed) {
                        socket.send_to(&frame, (end, 4789))?;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Ok(())
                };
                lab.stations[2].netns.inside(sends).unwrap().unwrap();
            });
            let words = format!("packets that came in tunnels from {third} ");
            let outcome = match is_found {
                true => eventually(PATIENCE, "the finding", || fails(&lab, 0, &words)).map(drop),
                false => is_well(&lab, 0).map(drop),
            };
            done.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
    }
    is_well(&lab, 0).unwrap();
}
