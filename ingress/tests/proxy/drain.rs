//! SIGTERM: load balancers are told first, what is under way is finished, and the end comes in its time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::backend::Backend;
use crate::lab::{Lab, READY, eventually, ingress, raw, service};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";

#[test]
fn a_drain_says_so_first_finishes_what_is_under_way_and_ends() {
    let a = Backend::start("a");
    let manifests = [
        ingress("one", "a.com", "a", ""),
        service("a", "", &[(a.address, READY)]),
    ]
    .concat();
    let mut lab = Lab::start(&manifests, &["--drain-delay", "1s"]);
    let mut idle = TcpStream::connect(lab.http).unwrap();
    idle.write_all(GET).unwrap();
    let mut kept = TcpStream::connect(lab.http).unwrap();
    let mut busy = TcpStream::connect(lab.http).unwrap();
    busy.write_all(b"GET /slow/2000 HTTP/1.1\r\nHost: a.com\r\n\r\n")
        .unwrap();
    eventually("asked", || a.requests() == 2);
    lab.terminate();
    eventually("said", || lab.status("/readyz").0 == 503);
    assert_eq!(lab.status("/livez").0, 200);
    // Who asks by a connection that is kept is told to come back by another one, before all that are kept are closed.
    kept.write_all(GET).unwrap();
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
    // Who does not know yet is served.
    assert!(raw(lab.http, b"GET / HTTP/1.0\r\nHost: a.com\r\n\r\n").starts_with("HTTP/1.0 200"));
    let mut text = String::new();
    busy.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("a /slow/2000\n"),
        "{text}"
    );
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
    let mut text = String::new();
    idle.read_to_string(&mut text).unwrap();
    assert!(
        text.ends_with("a /\n"),
        "an idle connection is closed: {text}"
    );
    assert!(lab.wait().success());
    assert_eq!(lab.log(4).len(), 4, "what was logged last is written, too");
    assert!(TcpStream::connect(lab.http).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_told_to_go_away_and_its_streams_are_finished() {
    let a = Backend::start("a");
    let manifests = [
        ingress("one", "a.com", "a", ""),
        service("a", "", &[(a.address, READY)]),
    ]
    .concat();
    let mut lab = Lab::start(&manifests, &[]);
    let stream = tokio::net::TcpStream::connect(lab.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = Request::get("http://a.com/slow/800").body(()).unwrap();
    let (response, _) = client.send_request(ask, true).unwrap();
    eventually("asked", || a.requests() == 1);
    lab.terminate();
    let mut body = response.await.unwrap().into_body();
    let mut got = Bytes::new();
    while let Some(piece) = body.data().await {
        got = [got, piece.unwrap()].concat().into();
    }
    assert_eq!(got, "a /slow/800\n");
    connection.await.unwrap().unwrap();
    assert!(lab.wait().success());
}

#[test]
fn what_takes_too_long_is_cut_off() {
    let a = Backend::start("a");
    let manifests = [
        ingress("one", "a.com", "a", ""),
        service("a", "", &[(a.address, READY)]),
    ]
    .concat();
    let mut lab = Lab::start(&manifests, &["--drain-timeout", "1s"]);
    let mut busy = TcpStream::connect(lab.http).unwrap();
    busy.write_all(b"GET /slow/20000 HTTP/1.1\r\nHost: a.com\r\n\r\n")
        .unwrap();
    eventually("asked", || a.requests() == 1);
    let before = Instant::now();
    lab.terminate();
    assert!(lab.wait().success());
    let took = before.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(10),
        "{took:?}"
    );
}
