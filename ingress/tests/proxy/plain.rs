//! Requests by HTTP/1.1 and HTTP/2 in plain text: routing, headers, who is asked, what is answered when nobody is there.

use std::net::SocketAddr;

use crate::backend::Backend;
use crate::lab::{LEAVING, Lab, READY, eventually, ingress, service};

/// Nobody listens there.
fn closed() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn requests_reach_the_backend_of_their_host_by_both_versions_and_are_logged() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let lab = Lab::start(
        &[
            ingress("one", "a.example.com", "a", ""),
            ingress("two", "'*.example.org'", "b", ""),
            service("a", "", &[(a.address, READY)]),
            service("b", "", &[(b.address, READY)]),
        ]
        .concat(),
        &[],
    );
    for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
        let answer = lab.curl("http://a.example.com/x?y=1", &[version]);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "a /x?y=1\n"),
            "{answer:?}"
        );
        assert!(
            !answer.head.contains("x-private") && !answer.head.contains("keep-alive: timeout"),
            "{}",
            answer.head
        );
        assert_eq!(a.last().headers["host"], "a.example.com");
        assert_eq!(lab.curl("http://z.example.org/", &[version]).body, "b /\n");
        let nobody = lab.curl("http://unknown.example.net/", &[version]);
        assert_eq!(nobody.status, 404);
        assert!(nobody.head.contains("x-request-id: "), "{}", nobody.head);
    }
    let upload = lab.curl("http://a.example.com/up", &["--data-binary", "0123456789"]);
    assert_eq!(upload.status, 200);
    assert_eq!(a.last().body, b"0123456789");
    let chunked = [
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "0123456789",
    ];
    assert_eq!(lab.curl("http://a.example.com/up", &chunked).status, 200);
    assert_eq!(a.last().body, b"0123456789");
    assert_eq!(lab.curl("http://a.example.com/h", &["-I"]).status, 200);
    let lines = lab.log(12);
    let first = &lines.iter().find(|line| line["path"] == "/x?y=1").unwrap();
    assert_eq!(first["status"], 200);
    assert_eq!(
        (&first["ingress"], &first["service"]),
        (&"shop/one".into(), &"shop/a:80".into())
    );
    assert_eq!(first["bytes"], 9);
    assert!(lines.iter().any(|line| line["why"] == "no_route"));
    assert_eq!(
        lab.metric("portolan_ingress_own_answers_total{reason=\"no_route\"}"),
        3
    );
}

#[test]
fn a_client_cannot_say_that_it_is_another_and_a_trusted_proxy_can() {
    let a = Backend::start("a");
    let manifests = [
        ingress("one", "a.com", "a", ""),
        service("a", "", &[(a.address, READY)]),
    ]
    .concat();
    let spoof = [
        "-H",
        "X-Forwarded-For: 10.9.9.9",
        "-H",
        "X-Real-IP: 10.9.9.9",
        "-H",
        "Forwarded: for=10.9.9.9",
        "-H",
        "X-Forwarded-Proto: https",
        "-H",
        "X_Forwarded_For: 10.9.9.9",
        "-H",
        "Connection: X-Forwarded-For",
    ];
    let lab = Lab::start(&manifests, &[]);
    assert_eq!(lab.curl("http://a.com/", &spoof).status, 200);
    let headers = a.last().headers;
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-real-ip"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(
        (
            headers["x-forwarded-host"].as_str(),
            headers["x-forwarded-port"].as_str()
        ),
        ("a.com", "80")
    );
    assert!(!headers.contains_key("forwarded") && !headers.contains_key("x_forwarded_for"));
    assert!(
        !headers.values().any(|value| value.contains("10.9.9.9")),
        "{headers:?}"
    );
    let trusting = Lab::start(&manifests, &["--trusted-proxies", "127.0.0.0/8"]);
    let told = [
        "-H",
        "X-Forwarded-For: 10.9.9.9",
        "-H",
        "X-Forwarded-Proto: https",
    ];
    assert_eq!(trusting.curl("http://a.com/", &told).status, 200);
    let headers = a.last().headers;
    assert_eq!(headers["x-forwarded-for"], "10.9.9.9, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "https");
}

#[test]
fn an_endpoint_that_is_away_costs_no_request_and_nobody_at_all_is_told() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let away = closed();
    let lab = Lab::start(
        &[
            ingress("one", "some.com", "some", ""),
            ingress("two", "away.com", "away", ""),
            ingress("three", "none.com", "none", ""),
            service(
                "some",
                "",
                &[(away, READY), (a.address, READY), (b.address, READY)],
            ),
            service("away", "", &[(away, READY)]),
            service("none", "", &[]),
        ]
        .concat(),
        &[],
    );
    for _ in 0..12 {
        // With a body, too: it is sent to nobody before there is a connection.
        let answer = lab.curl("http://some.com/", &["--data-binary", "body"]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(
        a.requests() >= 4 && b.requests() >= 4,
        "{} {}",
        a.requests(),
        b.requests()
    );
    assert_eq!(lab.curl("http://away.com/", &[]).status, 502);
    assert_eq!(lab.curl("http://none.com/", &[]).status, 503);
    // Who leaves and still serves is asked while nobody is ready, and not after that.
    let only = |endpoints: &[(SocketAddr, &str)]| {
        let mut text = [
            ingress("three", "none.com", "none", ""),
            service("none", "", endpoints),
        ]
        .concat();
        text.push('\n');
        text
    };
    lab.put("all.yaml", &only(&[(a.address, LEAVING)]));
    assert_eq!(lab.curl("http://none.com/", &[]).body, "a /\n");
    lab.put(
        "all.yaml",
        &only(&[(a.address, LEAVING), (b.address, READY)]),
    );
    assert_eq!(lab.curl("http://none.com/", &[]).body, "b /\n");
}

#[test]
fn connections_to_endpoints_are_kept_and_one_that_was_closed_costs_nothing() {
    let a = Backend::start("a");
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &["--workers", "1"],
    );
    for _ in 0..20 {
        assert_eq!(lab.curl("http://a.com/", &[]).status, 200);
    }
    assert_eq!(a.connections(), 1);
    for turn in 2..8 {
        assert_eq!(lab.curl("http://a.com/close", &[]).status, 200);
        assert_eq!(
            lab.curl("http://a.com/", &["-X", "POST", "-d", "x"]).status,
            200
        );
        assert_eq!(a.connections(), turn);
    }
    // A request that may have been done is never sent twice; one that may be done twice is.
    let before = a.requests();
    assert_eq!(
        lab.curl("http://a.com/hang-up", &["-X", "POST", "-d", "x"])
            .status,
        502
    );
    assert_eq!(a.requests(), before + 1);
    assert_eq!(lab.curl("http://a.com/hang-up", &[]).status, 502);
    assert!(a.requests() >= before + 2);
}

#[test]
fn endpoints_take_turns() {
    let backends: Vec<Backend> = (0..5)
        .map(|index| Backend::start(&index.to_string()))
        .collect();
    let endpoints: Vec<(SocketAddr, &str)> =
        backends.iter().map(|one| (one.address, READY)).collect();
    let lab = Lab::start(
        &[
            ingress("one", "a.com", "a", ""),
            service("a", "", &endpoints),
        ]
        .concat(),
        &[],
    );
    let url = "http://a.com/[1-100]";
    let output = lab.curl_output(url, &[]);
    assert!(output.status.success());
    let counts: Vec<u64> = backends.iter().map(Backend::requests).collect();
    assert_eq!(counts, [20; 5]);
    eventually("idle", || {
        lab.metric("portolan_ingress_requests_in_flight") == 0
    });
}

#[test]
fn plain_requests_are_redirected_only_where_that_is_asked_for() {
    let a = Backend::start("a");
    let annotation = "  annotations: {portolan.io/ssl-redirect: \"true\"}\n";
    let lab = Lab::start(
        &[
            ingress("one", "secure.com", "a", annotation),
            ingress("two", "plain.com", "a", ""),
            service("a", "", &[(a.address, READY)]),
        ]
        .concat(),
        &[],
    );
    let redirected = lab.curl("http://secure.com/x/y?z=1", &["-X", "POST"]);
    assert_eq!(redirected.status, 308);
    assert!(
        redirected
            .head
            .contains("location: https://secure.com/x/y?z=1"),
        "{}",
        redirected.head
    );
    assert_eq!(lab.curl("http://plain.com/", &[]).status, 200);
    assert_eq!(a.requests(), 1);
}

/// The example of docs/ingress.md, as it is.
#[test]
fn the_example_of_the_documentation_is_served() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let file = |name| std::fs::read_to_string(root.join("examples/ingress").join(name)).unwrap();
    let text = [file("shop.yaml"), file("endpoints.yaml")].join("---\n");
    let a = Backend::start("a");
    assert!(text.contains("port: 8080"));
    let lab = Lab::start(
        &text.replace("port: 8080", &format!("port: {}", a.address.port())),
        &[],
    );
    assert_eq!(lab.metric("portolan_ingress_problems"), 0);
    assert_eq!(lab.curl("http://shop.example.com/x", &[]).body, "a /x\n");
    assert_eq!(lab.curl("http://eu.shop.example.com/", &[]).body, "a /\n");
    assert_eq!(lab.curl("http://shop.example.com/chat/1", &[]).status, 503);
    let page = std::fs::read_to_string(root.join("docs/ingress.md")).unwrap();
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_portolan-ingress"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let words = page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let flags: std::collections::BTreeSet<&str> = words
        .filter(|word| word.starts_with("--") && !word.starts_with("---"))
        .collect();
    let foreign = ["--namespace", "--cert", "--key", "--dry-run", "--bind"];
    let unknown: Vec<&&str> = flags
        .iter()
        .filter(|flag| !foreign.contains(flag) && !help.contains(**flag))
        .collect();
    assert!(flags.len() > 12 && unknown.is_empty(), "{unknown:?}");
}
