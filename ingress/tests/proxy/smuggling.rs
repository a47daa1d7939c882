//! Requests that say two things at once: whatever is made of them, a backend sees one request and nothing after it.

use crate::backend::Backend;
use crate::lab::{Lab, READY, ingress, raw, service};

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.com\r\n\r\n";

/// What is answered by 400, and the connection ends.
fn refused() -> Vec<(&'static str, String)> {
    let hidden = HIDDEN;
    vec![
        (
            "two lengths",
            format!(
                "POST /r HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\nContent-Length: {}\r\n\r\n{hidden}",
                hidden.len()
            ),
        ),
        (
            "a list of lengths",
            format!("POST /r HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5, 6\r\n\r\n{hidden}"),
        ),
        (
            "a signed length",
            "POST /r HTTP/1.1\r\nHost: a.com\r\nContent-Length: +5\r\n\r\n12345".to_owned(),
        ),
        (
            "another coding",
            format!(
                "POST /r HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "chunked first",
            format!(
                "POST /r HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "chunked in 1.0",
            format!(
                "POST /r HTTP/1.0\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "a space before the colon",
            format!(
                "POST /r HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "a folded line",
            format!(
                "POST /r HTTP/1.1\r\nHost: a.com\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n{hidden}"
            ),
        ),
        (
            "two hosts",
            "GET /r HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n".to_owned(),
        ),
        ("no host", "GET /r HTTP/1.1\r\n\r\n".to_owned()),
        (
            "dot segments",
            "GET /r/../admin HTTP/1.1\r\nHost: a.com\r\n\r\n".to_owned(),
        ),
        (
            "encoded dot segments",
            "GET /r/%2e%2E/admin HTTP/1.1\r\nHost: a.com\r\n\r\n".to_owned(),
        ),
        (
            "a null",
            "GET /r\0 HTTP/1.1\r\nHost: a.com\r\n\r\n".to_owned(),
        ),
    ]
}

#[test]
fn no_request_hides_in_another_and_doubtful_ones_are_refused() {
    let a = Backend::start("a");
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &[],
    );
    for (what, request) in refused() {
        let answer = raw(lab.http, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer}");
        assert_eq!(a.requests(), 0, "{what}: the backend saw {:?}", a.last());
    }
    // RFC 9112 §6.1: chunked counts, and the connection ends with this request: what comes after it is nobody's.
    let hidden = HIDDEN;
    let both = format!(
        "POST /both HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    );
    let turned = format!(
        "POST /both HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"
    );
    for request in [both, turned] {
        let answer = raw(lab.http, request.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let seen = a.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(request.line, "POST /both HTTP/1.1");
        assert!(
            !(request.headers.contains_key("content-length")
                && request.headers.contains_key("transfer-encoding"))
        );
        assert!(request.body.is_empty());
    }
}

#[test]
fn other_versions_of_http_are_no_upgrade_and_methods_for_proxies_are_refused() {
    let a = Backend::start("a");
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &[],
    );
    let h2c = [
        "-H",
        "Connection: Upgrade, HTTP2-Settings",
        "-H",
        "Upgrade: h2c",
        "-H",
        "HTTP2-Settings: AAMAAABkAAQ",
    ];
    assert_eq!(lab.curl("http://a.com/", &h2c).status, 200);
    let headers = a.last().headers;
    for gone in ["upgrade", "http2-settings"] {
        assert!(!headers.contains_key(gone), "{headers:?}");
    }
    assert_eq!(lab.curl("http://a.com/", &["-X", "TRACE"]).status, 405);
    let connect = raw(
        lab.http,
        b"CONNECT a.com:80 HTTP/1.1\r\nHost: a.com:80\r\n\r\n",
    );
    assert!(connect.starts_with("HTTP/1.1 405"), "{connect}");
    assert_eq!(a.requests(), 1);
}
