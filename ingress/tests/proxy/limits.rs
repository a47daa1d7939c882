//! Times and sizes: who is slow, or sends too much, loses its own request and nobody else's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::lab::{Lab, READY, eventually, ingress, raw, service};

#[test]
fn a_slow_endpoint_is_answered_for_and_a_slow_upload_is_not_its_fault() {
    let a = Backend::start("a");
    // Takes connections into its queue and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            ingress("two", "silent.com", "silent", ""),
            service("a", "", &[(a.address, READY)]),
            service("silent", "", &[(silent.local_addr().unwrap(), READY)]),
        ]
        .concat(),
        &["--response-timeout", "1s"],
    );
    let before = Instant::now();
    assert_eq!(lab.curl("http://silent.com/", &[]).status, 504);
    let took = before.elapsed();
    assert!(
        took >= Duration::from_millis(990) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(lab.curl("http://a.com/slow/300", &[]).status, 200);
    assert_eq!(
        lab.curl("http://a.com/drip/1500", &[]).body,
        "a /drip/1500\n"
    );
    // As long as something of the body comes, the endpoint's time has not begun.
    let mut stream = TcpStream::connect(lab.http).unwrap();
    stream
        .write_all(
            b"POST /up HTTP/1.1\r\nHost: a.com\r\nContent-Length: 6\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    for octet in b"slowly".iter() {
        stream.write_all(&[*octet]).unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(a.last().body, b"slowly");
    let unfinished = raw(
        lab.http,
        b"POST /up HTTP/1.1\r\nHost: a.com\r\nContent-Length: 6\r\n\r\nslo",
    );
    assert!(unfinished.starts_with("HTTP/1.1 408"), "{unfinished}");
}

#[test]
fn heads_and_bodies_have_a_largest_size() {
    let a = Backend::start("a");
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &["--max-body-size", "1000", "--max-header-size", "9000"],
    );
    let body = "x".repeat(1001);
    assert_eq!(
        lab.curl("http://a.com/", &["--data-binary", &body]).status,
        413
    );
    let chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", &body];
    assert_eq!(lab.curl("http://a.com/", &chunked).status, 413);
    assert_eq!(
        lab.curl("http://a.com/", &["--data-binary", &body[1..]])
            .status,
        200
    );
    let large = format!("X-Large: {}", "y".repeat(12_000));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = lab.curl("http://a.com/", &[version, "-H", &large]);
        assert!([0, 400, 431].contains(&answer.status), "{answer:?}");
    }
    assert!(
        a.seen()
            .iter()
            .all(|seen| !seen.headers.contains_key("x-large"))
    );
    // A hundred headers by HTTP/1.1.
    for (more, status) in [(98, "200"), (99, "431")] {
        let headers: String = (0..more).map(|one| format!("X-{one}: 1\r\n")).collect();
        let request =
            format!("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n{headers}\r\n");
        let answer = raw(lab.http, request.as_bytes());
        assert_eq!(answer.get(9..12), Some(status), "{more}: {answer}");
    }
}

#[test]
fn a_head_that_drips_is_cut_and_one_client_too_many_is_closed() {
    let a = Backend::start("a");
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &["--header-timeout", "1s", "--max-connections", "20"],
    );
    let mut slow: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(lab.http).unwrap())
        .collect();
    let before = Instant::now();
    for stream in &mut slow {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n")
            .unwrap();
    }
    eventually("full", || lab.metric("portolan_ingress_connections") == 20);
    let mut more = TcpStream::connect(lab.http).unwrap();
    let _ = more.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    let mut answer = Vec::new();
    let _ = more.read_to_end(&mut answer);
    assert_eq!(answer, b"", "the twenty-first is closed");
    assert_eq!(lab.metric("portolan_ingress_connections_refused_total"), 1);
    // One octet now and then is no progress.
    while lab.metric("portolan_ingress_connections") > 0 {
        assert!(
            before.elapsed() < Duration::from_secs(15),
            "slow heads are held for ever"
        );
        for stream in &mut slow {
            let _ = stream.write_all(b"X");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(lab.metric("portolan_ingress_connections_cut_total"), 20);
    assert_eq!(lab.curl("http://a.com/", &[]).status, 200);
    assert_eq!(a.requests(), 1);
}
