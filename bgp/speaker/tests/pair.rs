//! Speakers in one network namespace, all dialling at once: routes come, go, and outlive a restart.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::io::Read as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use bgp_proto::session::State;
use bgp_speaker::Shutdown;
use support::{DEADLINE, Net, Node, eventually, nets, run};

const ONE: &str = "10.244.1.0/24";
const TWO: &str = "10.244.2.0/24";
const THREE: &str = "10.244.3.0/24";

#[test]
fn two_speakers_exchange_prefixes_and_withdraw_them() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[ONE]));
        let b = Node::start(net.config(2, &[1], &[TWO]));
        a.learns(&[TWO]).await;
        b.learns(&[ONE]).await;
        assert_eq!(a.next_hops(TWO), [IpAddr::V4(net.ip(2))]);
        b.handle
            .configure(net.config(2, &[1], &[THREE]))
            .await
            .unwrap();
        a.learns(&[THREE]).await;
        let status = a.peer(2).await;
        assert_eq!((status.counts.accepted, status.counts.sent), (1, 1));
        assert_eq!(
            status.flaps, 0,
            "a change of what is originated touches no session"
        );
        eventually("both to be in sync", || {
            a.initial_syncs() == 1 && b.initial_syncs() == 1
        })
        .await;
        b.handle
            .shutdown(Shutdown::Cease("done".to_owned()))
            .await
            .unwrap();
        a.learns(&[]).await;
        let (down, _) = a.peer(2).await.last_down.unwrap();
        assert!(down.to_lowercase().contains("cease"), "{down}");
        assert!(b.handle.status().await.is_err());
        eventually("the events to end", || b.has_ended()).await;
    });
}

#[test]
fn a_graceful_restart_keeps_routes_and_drops_what_is_not_announced_again() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[ONE]));
        let b = Node::start(net.config(2, &[1], &[TWO, THREE]));
        a.learns(&[TWO, THREE]).await;
        b.handle.shutdown(Shutdown::Graceful).await.unwrap();
        while a.peer(2).await.state == State::Established {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(a.withdrawals(), 0, "the routes stay while the peer is away");
        let b = Node::start(net.config(2, &[1], &[TWO]));
        a.learns(&[TWO]).await;
        assert_eq!(
            a.withdrawals(),
            1,
            "only what did not come again was ever taken out"
        );
        eventually("the restarted one to be in sync", || b.initial_syncs() == 1).await;
        assert_eq!(b.prefixes(), nets(&[ONE]), "and it has its routes by then");
    });
}

#[test]
fn the_loss_of_the_task_is_a_graceful_end() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[]));
        let b = Node::start(net.config(2, &[1], &[TWO]));
        a.learns(&[TWO]).await;
        drop(b);
        while a.peer(2).await.state == State::Established {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(a.withdrawals(), 0);
    });
}

#[test]
fn peers_come_and_go_without_touching_the_others() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[ONE]));
        let b = Node::start(net.config(2, &[1], &[TWO]));
        a.establishes(2).await;
        let c = Node::start(net.config(3, &[1], &[THREE]));
        a.handle
            .configure(net.config(1, &[2, 3], &[ONE]))
            .await
            .unwrap();
        a.learns(&[TWO, THREE]).await;
        c.learns(&[ONE]).await;
        assert_eq!(
            b.prefixes(),
            nets(&[ONE]),
            "no transit: b does not hear of c"
        );
        a.handle
            .configure(net.config(1, &[2], &[ONE]))
            .await
            .unwrap();
        a.learns(&[TWO]).await;
        c.learns(&[]).await;
        let status = a.peer(2).await;
        assert_eq!((status.state, status.flaps), (State::Established, 0));
    });
}

#[test]
fn import_rules_change_without_a_reset_and_a_bound_ends_the_session() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[]));
        let _b = Node::start(net.config(2, &[1], &[TWO, THREE]));
        a.learns(&[TWO, THREE]).await;
        let mut guarded = net.config(1, &[2], &[]);
        let peer = guarded.peers.get_mut("n2").unwrap();
        peer.session.import_reject = nets(&[TWO]);
        a.handle.configure(guarded.clone()).await.unwrap();
        a.learns(&[THREE]).await;
        let status = a.peer(2).await;
        assert_eq!(
            (status.counts.accepted, status.counts.rejected, status.flaps),
            (1, 1, 0)
        );
        let mut bounded = net.config(1, &[2], &[]);
        let peer = bounded.peers.get_mut("n2").unwrap();
        peer.session.max_prefixes.limit = 1;
        peer.session.hold_time = Duration::from_secs(30);
        a.handle.configure(bounded).await.unwrap();
        a.learns(&[]).await;
        a.handle.configure(net.config(1, &[2], &[])).await.unwrap();
        a.learns(&[TWO, THREE]).await;
    });
}

#[test]
fn a_connection_from_no_configured_peer_is_closed_unread_and_counted() {
    run(async {
        let net = Net::new();
        let a = Node::start(net.config(1, &[2], &[]));
        eventually("the socket", || TcpStream::connect(net.address(1)).is_ok()).await;
        let address = net.address(1);
        let said = tokio::task::spawn_blocking(move || {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut bytes = vec![];
            // An error is a reset, which is an end as well.
            let _ = stranger.read_to_end(&mut bytes);
            bytes
        });
        assert_eq!(said.await.unwrap(), [0_u8; 0], "not even an OPEN");
        let status = a.handle.listeners().await.unwrap();
        assert!(status[0].refused >= 1, "{status:?}");
    });
}

#[test]
fn an_address_in_use_is_reported_and_tried_again() {
    run(async {
        let net = Net::new();
        let taken = TcpListener::bind(net.address(1)).unwrap();
        let a = Node::start(net.config(1, &[], &[]));
        let start = std::time::Instant::now();
        while a.handle.listeners().await.unwrap()[0].error.is_none() {
            assert!(start.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(taken);
        while let Some(error) = &a.handle.listeners().await.unwrap()[0].error {
            assert!(start.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eventually("sync without peers", || a.initial_syncs() == 1).await;
    });
}
