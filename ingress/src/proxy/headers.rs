//! Headers on their way: those of one connection stay there, and whose word about the client counts.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::answer::REQUEST_ID;
use super::connection::Client;
use super::request::Target;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Those that mean one connection whatever `Connection` says (RFC 9110 §7.6.1), and what is made anew for each.
fn is_of_one_connection(name: &HeaderName) -> bool {
    [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
    ]
    .contains(name)
}

/// Those by which proxies say whom they speak for.
fn is_about_the_client(name: &HeaderName) -> bool {
    [
        FORWARDED_FOR,
        FORWARDED_PROTO,
        FORWARDED_HOST,
        FORWARDED_PORT,
        REAL_IP,
        FORWARDED,
    ]
    .contains(name)
}

/// `X_Forwarded_For`, which programs that make variables of headers take for X-Forwarded-For.
fn looks_like_about_the_client(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.contains('_')
        && HeaderName::try_from(text.replace('_', "-")).is_ok_and(|name| is_about_the_client(&name))
}

/// The header names that `Connection` lists.
pub(super) fn listed(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    let values = headers.get_all(CONNECTION).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let names = texts.flat_map(|text| text.split(','));
    names.filter_map(|name| name.trim().parse().ok()).collect()
}

/// What an endpoint is sent of a request's headers.
pub(super) fn of_request(
    original: &HeaderMap,
    target: &Target<'_>,
    client: &Client,
    id: &HeaderValue,
) -> HeaderMap {
    let listed = listed(original);
    let mut headers = HeaderMap::with_capacity(original.len() + 8);
    if let Some(authority) = &target.authority {
        headers.insert(HOST, authority.clone());
    }
    for (name, value) in original {
        let is_left_out = name == HOST
            || name == EXPECT
            || is_of_one_connection(name)
            || (!client.is_trusted
                && (is_about_the_client(name) || looks_like_about_the_client(name)))
            || (!listed.is_empty() && listed.contains(name) && name != CONTENT_LENGTH);
        if !is_left_out {
            headers.append(name.clone(), value.clone());
        }
    }
    about_the_client(&mut headers, target, client);
    if !client.is_trusted || !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, id.clone());
    }
    headers
}

/// Who asks. A trusted proxy's word is kept, and its own address added; anybody else's was dropped.
fn about_the_client(headers: &mut HeaderMap, target: &Target<'_>, client: &Client) {
    let before = client
        .is_trusted
        .then(|| joined(headers, &FORWARDED_FOR))
        .flatten();
    let address = match before {
        Some(before) => chain(&before, client),
        None => client.address.clone(),
    };
    headers.insert(FORWARDED_FOR, address);
    let mut unless_known = |name: HeaderName, value: HeaderValue| {
        if !client.is_trusted || !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    unless_known(REAL_IP, client.address.clone());
    let (proto, port) = match client.is_tls {
        true => ("https", "443"),
        false => ("http", "80"),
    };
    unless_known(FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(authority) = &target.authority {
        unless_known(FORWARDED_HOST, authority.clone());
    }
    let port = match target.port {
        Some(port) => HeaderValue::from(port),
        None => HeaderValue::from_static(port),
    };
    unless_known(FORWARDED_PORT, port);
}

fn chain(before: &str, client: &Client) -> HeaderValue {
    let own = client.address.to_str().unwrap_or_default();
    HeaderValue::try_from(format!("{before}, {own}")).unwrap_or_else(|_| client.address.clone())
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Takes out of a response what was of the endpoint's connection.
pub(super) fn of_response(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in listed(headers) {
            if name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, TE] {
        headers.remove(name);
    }
}

/// Whether a client takes trailers, as gRPC's say.
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.any(|text| {
        let mut words = text.split(',');
        words.any(|word| {
            word.split(';')
                .next()
                .is_some_and(|word| word.trim() == "trailers")
        })
    })
}

/// The protocol that a request of HTTP/1.1 wants its connection to become. Another version of HTTP is none: what it
/// would say in there nobody here would see.
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(UPGRADE)?;
    let text = value.to_str().ok()?;
    let is_http = |word: &str| {
        let word = word.trim().to_ascii_lowercase();
        word == "h2c" || word.starts_with("http/") || word.starts_with("tls/")
    };
    if text.is_empty() || text.split(',').any(is_http) {
        return None;
    }
    listed(headers).contains(&UPGRADE).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::Instant;

    use super::super::stream::Activity;
    use super::super::worker::{Verdict, Watched};
    use super::*;

    fn client(is_trusted: bool) -> Client {
        Client {
            peer: "192.0.2.7:4711".parse().unwrap(),
            name: "192.0.2.7:4711".to_owned(),
            is_tls: true,
            is_trusted,
            address: HeaderValue::from_static("192.0.2.7"),
            watched: Rc::new(Watched {
                activity: Activity::new(Instant::now()),
                verdict: Cell::new(Verdict::Stay),
                waker: RefCell::new(None),
            }),
        }
    }

    fn sent(pairs: &[(&str, &str)], is_trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let target = Target {
            host: Cow::Borrowed("x.com"),
            path: Cow::Borrowed("/"),
            authority: Some(HeaderValue::from_static("X.com:8443")),
            port: Some(8443),
        };
        of_request(
            &headers,
            &target,
            &client(is_trusted),
            &HeaderValue::from_static("id1"),
        )
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        let values = headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    const SPOOFED: &[(&str, &str)] = &[
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-for", "10.8.8.8"),
        ("x_forwarded_for", "10.9.9.9"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.com"),
        ("x-forwarded-port", "1"),
        ("x-real-ip", "10.9.9.9"),
        ("forwarded", "for=10.9.9.9"),
        ("x-request-id", "theirs"),
    ];

    #[test]
    fn what_a_stranger_says_of_the_client_is_overwritten() {
        let headers = sent(SPOOFED, false);
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "X.com:8443"),
            ("x-forwarded-port", "8443"),
            ("x-real-ip", "192.0.2.7"),
            ("x-request-id", "id1"),
            ("host", "X.com:8443"),
        ] {
            assert_eq!(all(&headers, name), [value], "{name}");
        }
        assert!(!headers.contains_key("forwarded") && !headers.contains_key("x_forwarded_for"));
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_its_address_is_added() {
        let headers = sent(SPOOFED, true);
        assert_eq!(
            all(&headers, "x-forwarded-for"),
            ["10.9.9.9, 10.8.8.8, 192.0.2.7"]
        );
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "x-real-ip"), ["10.9.9.9"]);
        assert_eq!(all(&headers, "x-request-id"), ["theirs"]);
        assert_eq!(all(&sent(&[], true), "x-forwarded-for"), ["192.0.2.7"]);
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let headers = sent(
            &[
                ("connection", "close, X-Hop, content-length"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-authorization", "Basic x"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("content-length", "3"),
                ("x-end", "1"),
                ("expect", "100-continue"),
            ],
            false,
        );
        for gone in [
            "connection",
            "x-hop",
            "keep-alive",
            "proxy-authorization",
            "te",
            "transfer-encoding",
            "upgrade",
            "expect",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(all(&headers, "x-end"), ["1"]);
        assert_eq!(
            all(&headers, "content-length"),
            ["3"],
            "nobody talks a body's length away"
        );
    }

    #[test]
    fn a_connection_becomes_a_websocket_and_never_another_http() {
        let asked = |upgrade: &'static str, connection: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            wanted_upgrade(&headers).is_some()
        };
        assert!(asked("websocket", "keep-alive, Upgrade"));
        assert!(!asked("websocket", "keep-alive"));
        assert!(!asked("h2c", "Upgrade, HTTP2-Settings"));
        assert!(!asked("websocket, H2C", "Upgrade"));
    }
}
