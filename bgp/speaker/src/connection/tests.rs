//! Connections over loopback: quota, coalescing, room, progress, overflow.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream as StdStream};
use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::socket::{SocketOptions, dial};

const WAIT: Duration = Duration::from_secs(20);

/// A connection and the peer's end of it.
async fn connected(serial: u64, inbox: &mpsc::Sender<Event>) -> (Connection, StdStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = listener.local_addr().unwrap();
    let stream = dial(remote, &SocketOptions::default()).await.unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(WAIT)).unwrap();
    let connection = Connection::start(stream, &Arc::from("peer"), serial, inbox).unwrap();
    (connection, peer)
}

async fn next(inbox: &mut mpsc::Receiver<Event>) -> Event {
    timeout(WAIT, inbox.recv()).await.unwrap().unwrap()
}

async fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Fills the peer's and our kernel's buffers and then the writer's queue.
async fn block(connection: &Connection, inbox: &mut mpsc::Receiver<Event>) {
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let mut quiet = 0;
    while quiet < 20 {
        quiet += 1;
        while connection.has_room() {
            connection.send(piece.clone());
            quiet = 0;
        }
        sleep(Duration::from_millis(10)).await;
    }
    while let Ok(event) = inbox.try_recv() {
        assert!(matches!(event, Event::Room), "{event:?}");
    }
}

#[tokio::test]
async fn a_fast_peer_has_two_pieces_in_the_inbox_and_no_more() {
    let (inbox, mut received) = mpsc::channel(64);
    let (_fast, mut flood) = connected(1, &inbox).await;
    let (_calm, mut calm) = connected(2, &inbox).await;
    flood.set_nonblocking(true).unwrap();
    let mut sent = 0;
    for _ in 0..50 {
        sent += flood.write(&[1; 64 * 1024]).unwrap_or(0);
        sleep(Duration::from_millis(2)).await;
    }
    calm.write_all(&[2]).unwrap();
    until(|| received.len() == 3).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(received.len(), 3, "the calm peer's waits behind two only");
    // Nothing is lost, and a read takes much once there is much.
    let (mut seen, mut largest) = (0, 0);
    while seen < sent {
        if let Event::Received {
            serial: 1, bytes, ..
        } = next(&mut received).await
        {
            assert!(bytes.iter().all(|&octet| octet == 1));
            seen += bytes.len();
            largest = largest.max(bytes.len());
        }
    }
    assert!(
        largest >= 128 * 1024,
        "{largest} at most in one read of {sent}"
    );
}

#[tokio::test]
async fn pieces_arrive_whole_and_in_order_before_the_end() {
    let (inbox, _received) = mpsc::channel(64);
    let (connection, mut peer) = connected(1, &inbox).await;
    let mut wanted = Vec::new();
    for n in 0..200_u8 {
        let piece = vec![n; usize::from(n) * 7];
        wanted.extend_from_slice(&piece);
        connection.send(piece.into());
    }
    let reader = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    connection.close().await;
    assert!(reader.await.unwrap() == wanted);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_seen_as_blocked_and_gets_room_when_it_reads() {
    let (inbox, mut received) = mpsc::channel(64);
    let (connection, mut peer) = connected(1, &inbox).await;
    assert_eq!(
        connection.progress(Instant::now()).blocked_for,
        Duration::ZERO
    );
    block(&connection, &mut received).await;
    let first = connection.progress(Instant::now());
    assert!(first.waiting >= UPDATE_ROOM && first.waiting < UPDATE_ROOM + 64 * 1024 + 1);
    assert!(first.written > 0);
    sleep(Duration::from_millis(300)).await;
    let second = connection.progress(Instant::now());
    assert_eq!(
        (second.waiting, second.written),
        (first.waiting, first.written)
    );
    assert!(second.blocked_for >= first.blocked_for + Duration::from_millis(290));
    assert!(received.try_recv().is_err(), "no room yet");

    // What is not an UPDATE is taken all the same, and comes after a bounded number of bytes.
    connection.send(Bytes::from_static(b"KEEPALIVE"));
    let reader = tokio::task::spawn_blocking(move || {
        let (mut read, mut buffer) = (0_u64, vec![0; 1 << 16]);
        loop {
            let n = peer.read(&mut buffer).unwrap();
            read += n as u64;
            if buffer.get(..n).unwrap().ends_with(b"KEEPALIVE") {
                return read;
            }
        }
    });
    assert!(matches!(next(&mut received).await, Event::Room));
    assert!(connection.has_room());
    let behind = reader.await.unwrap() - first.written;
    assert!(
        behind <= UPDATE_ROOM + 64 * 1024 + 9,
        "{behind} bytes before it"
    );
    until(|| connection.progress(Instant::now()).waiting == 0).await;
    let third = connection.progress(Instant::now());
    assert!(third.written > second.written);
    assert_eq!(third.blocked_for, Duration::ZERO);
}

#[tokio::test]
async fn a_peer_for_which_too_much_waits_is_lost_not_lied_to() {
    let (inbox, mut received) = mpsc::channel(64);
    let (connection, _peer) = connected(1, &inbox).await;
    block(&connection, &mut received).await;
    for _ in 0..PIECES_OF_CONTROL {
        connection.send(Bytes::from_static(&[0; 1024]));
    }
    let Event::Lost {
        reason, serial: 1, ..
    } = next(&mut received).await
    else {
        panic!("not lost");
    };
    assert!(reason.contains("does not read"), "{reason}");
}

/// KiB of other words than UPDATEs that pass what is kept for them.
const PIECES_OF_CONTROL: usize = 256;

#[tokio::test]
async fn the_end_and_a_reset_are_told() {
    let (inbox, mut received) = mpsc::channel(64);
    let (_connection, peer) = connected(1, &inbox).await;
    drop(peer);
    assert!(matches!(
        next(&mut received).await,
        Event::Lost { serial: 1, .. }
    ));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = listener.local_addr().unwrap();
    let ours = dial(remote, &SocketOptions::default()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let _second = Connection::start(ours, &Arc::from("peer"), 2, &inbox).unwrap();
    // Without lingering a close is a reset.
    socket2::SockRef::from(&theirs)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(theirs);
    let reason = loop {
        match next(&mut received).await {
            Event::Lost {
                serial: 2, reason, ..
            } => break reason,
            Event::Lost { .. } => panic!("lost twice"),
            _ => {}
        }
    };
    assert!(reason.contains("reset"), "{reason}");
}

#[tokio::test]
async fn the_last_words_reach_a_peer_that_is_still_writing() {
    let (inbox, _received) = mpsc::channel(1);
    let (connection, mut peer) = connected(1, &inbox).await;
    // The inbox is soon full, so that this stays unread.
    peer.write_all(&[1; 64 * 1024]).unwrap();
    sleep(Duration::from_millis(50)).await;
    connection.send(Bytes::from_static(b"last words"));
    let closing = tokio::spawn(connection.close());
    let peer = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(100));
        // A peer that was reset would be told so here.
        for _ in 0..10 {
            peer.write_all(&[2; 1024]).unwrap();
        }
        let mut words = Vec::new();
        peer.read_to_end(&mut words).unwrap();
        words
    });
    assert_eq!(peer.await.unwrap(), b"last words");
    closing.await.unwrap();
}
