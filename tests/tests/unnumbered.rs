//! Unnumbered peers against the real FRR: each finds the other by router advertisements, with a password and GTSM.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use bgp_speaker::listener::{Accepted, Admission, AdmittedSet, Keys, ListenConfig, Listener};
use bgp_speaker::socket::{Password, SocketOptions, Ttl, dial};
use bgp_speaker::unnumbered::{UnnumberedEvent, spawn};
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::require_root;
use tests::wait::eventually;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "sesame";

const FRR: &str = "
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor veth0 interface remote-as external
 neighbor veth0 timers connect 1
 neighbor veth0 password sesame
 neighbor veth0 ttl-security hops 1
";

fn link_local(netns: &Netns) -> Ipv6Addr {
    eventually(DEADLINE, "a link-local address out of its check", || {
        let shown = netns.ip_json("-6 addr show dev veth0 scope link -tentative")?;
        let address = shown.pointer("/0/addr_info/0/local");
        let text = address.and_then(|text| text.as_str()).unwrap_or_default();
        anyhow::Ok(text.parse::<Ipv6Addr>()?)
    })
    .unwrap()
}

#[test]
fn frr_and_we_find_each_other_by_interface_and_connect_with_password_and_ttl_security() {
    require_root!();
    let (tor, node) = (
        Netns::new("unnum", "tor").unwrap(),
        Netns::new("unnum", "node").unwrap(),
    );
    join((&tor, "veth0"), (&node, "veth0")).unwrap();
    let (theirs, ours) = (link_local(&tor), link_local(&node));
    let frr = Frr::start(&tor, FRR).unwrap();
    let done = node.inside(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_all()
            .build()
            .unwrap()
            .block_on(async { timeout(DEADLINE, meet(theirs)).await })
    });
    assert!(
        done.unwrap().is_ok(),
        "not in time; FRR:\n{}",
        frr.log_end()
    );
    // FRR has our address from our advertisements alone.
    let neighbour = frr.vtysh(&["show bgp neighbors veth0"]).unwrap();
    assert!(neighbour.contains(&ours.to_string()), "{neighbour}");
}

/// Finds FRR, takes its connection, and is taken by it.
async fn meet(theirs: Ipv6Addr) {
    let admitted = watch::Sender::new(Arc::new(AdmittedSet::default()));
    let (inbox, mut accepted) = mpsc::channel::<Accepted>(4);
    let config = ListenConfig {
        address: "[::]:179".parse().unwrap(),
        slots: Arc::default(),
    };
    let listener = Listener::start_with(config, Keys::new(), admitted.subscribe(), inbox);

    let wanted = watch::Sender::new(BTreeSet::from(["veth0".to_owned()]));
    let mut events = spawn(wanted.subscribe());
    let (address, ifindex) = loop {
        match events.recv().await.unwrap() {
            UnnumberedEvent::Discovered {
                address, ifindex, ..
            } => break (address, ifindex),
            UnnumberedEvent::Unavailable { .. } => {}
            UnnumberedEvent::Lost { .. } => panic!("lost before it was found"),
        }
    };
    assert_eq!(address, theirs);

    let password = Password::new(PASSWORD).unwrap();
    let ttl = Ttl::Security(NonZeroU8::MIN);
    let net = ipnet::IpNet::from(std::net::IpAddr::V6(address));
    listener
        .set_keys(Keys::from([(net, password.clone())]))
        .unwrap();
    let mut only_frr = AdmittedSet::default();
    only_frr.admit_on(ifindex, net, Admission { ttl });
    admitted.send_replace(Arc::new(only_frr));

    let theirs = accepted.recv().await.unwrap();
    assert_eq!(*theirs.remote.ip().to_string(), address.to_string());
    says_open(theirs.stream).await;

    let remote = SocketAddr::V6(SocketAddrV6::new(address, 179, 0, 0));
    let options = SocketOptions {
        ttl,
        password: Some(password),
        source: None,
        interface: Some("veth0".to_owned()),
    };
    // FRR may be between two tries of its own, and then refuses.
    let ours = loop {
        match dial(remote, &options).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    says_open(ours).await;
}

/// The first message of either side (RFC 4271 §4.1: type 1 behind marker and length).
async fn says_open(mut stream: TcpStream) {
    let mut header = [0; 19];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!((&header[..16], header[18]), (&[0xff; 16][..], 1));
}
