//! TLS: the certificate of the name that is asked for, by openssl; HTTP/2 by ALPN, by curl.

use std::process::{Command, Stdio};

use crate::backend::Backend;
use crate::lab::{Lab, READY, secret, secured, service};

/// The certificate that is shown for a name, in PEM; "" where there is no handshake.
fn shown(lab: &Lab, name: &str) -> String {
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &lab.https.to_string(),
            "-servername",
            name,
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE");
    let end = text.find("-----END CERTIFICATE-----\n");
    match begin.zip(end) {
        Some((begin, end)) => text[begin..end].to_owned(),
        None => String::new(),
    }
}

#[test]
fn each_name_has_its_certificate_and_routing_is_by_the_host() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let (first, first_pem) = secret("first", "a.example.com");
    let (second, second_pem) = secret("second", "*.wild.example.com");
    let lab = Lab::start(
        &[
            secured("one", "a.example.com", "a", "first"),
            secured("two", "'*.wild.example.com'", "b", "second"),
            service("a", "", &[(a.address, READY)]),
            service("b", "", &[(b.address, READY)]),
        ]
        .concat(),
        &[],
    );
    assert_eq!(
        shown(&lab, "a.example.com"),
        "",
        "without its Secret there is no certificate"
    );
    lab.put("first.yaml", &first);
    lab.put("second.yaml", &second);
    let same = |shown: &str, pem: &str| {
        let strip = |text: &str| {
            text.split_whitespace()
                .collect::<String>()
                .replace("-----ENDCERTIFICATE-----", "")
        };
        assert_eq!(strip(shown), strip(pem));
    };
    same(&shown(&lab, "a.example.com"), &first_pem);
    same(&shown(&lab, "b.wild.example.com"), &second_pem);
    assert_eq!(shown(&lab, "b.c.wild.example.com"), "");
    assert_eq!(shown(&lab, "other.com"), "");
    let file = lab.folder().join("ca.pem");
    std::fs::write(&file, &first_pem).unwrap();
    let trust = ["--cacert", file.to_str().unwrap()];
    for (version, wanted) in [("--http1.1", "http/1.1 200"), ("--http2", "http/2 200")] {
        let answer = lab.curl(
            "https://a.example.com/x",
            &[&trust[..], &[version]].concat(),
        );
        assert!(answer.head.starts_with(wanted), "{answer:?}");
        assert_eq!(answer.body, "a /x\n");
        assert_eq!(a.last().headers["x-forwarded-proto"], "https");
        assert_eq!(a.last().headers["x-forwarded-port"], "443");
    }
    // The name of the handshake and the host of the request may differ: the request goes by its host.
    let crossed = lab.curl(
        "https://a.example.com/",
        &[&trust[..], &["-H", "Host: b.wild.example.com"]].concat(),
    );
    assert_eq!(crossed.body, "b /\n");
    // A Secret that is broken keeps the certificate that it held.
    lab.put(
        "first.yaml",
        &first.replace("BEGIN CERTIFICATE", "BEGIN NOTHING"),
    );
    same(&shown(&lab, "a.example.com"), &first_pem);
    assert_eq!(lab.metric("portolan_ingress_problems"), 1);
}
