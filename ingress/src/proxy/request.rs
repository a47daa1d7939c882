//! What a request asks for, told without a doubt or not at all.

use std::borrow::Cow;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Method, Version, request};

use super::answer::Why;
use crate::host::host_of_authority;
use crate::path::canonical;

/// The host and path by which a request is routed, and the `Host` that its endpoint gets.
pub(super) struct Target<'a> {
    /// In lower case, without a port; "" of a client of HTTP/1.0 that named none.
    pub(super) host: Cow<'a, str>,
    /// As rules are compared with it.
    pub(super) path: Cow<'a, str>,
    /// As the client wrote it.
    pub(super) authority: Option<HeaderValue>,
    /// The port that the client named.
    pub(super) port: Option<u16>,
}

impl<'a> Target<'a> {
    /// # Errors
    /// The answer for a request that says two things at once, or nothing.
    pub(super) fn read(parts: &'a request::Parts) -> Result<Self, Why> {
        if parts.method == Method::CONNECT || parts.method == Method::TRACE {
            return Err(Why::Method);
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(Why::BadRequest);
        }
        let text = match header {
            Some(value) => Some(value.to_str().map_err(|_| Why::BadRequest)?),
            None => None,
        };
        let authority = parts.uri.authority().map(Authority::as_str);
        let named = match (authority, text) {
            // RFC 9113 §8.3.1: what differs is malformed.
            (Some(authority), Some(host)) if parts.version >= Version::HTTP_2 => {
                if !authority.eq_ignore_ascii_case(host) {
                    return Err(Why::BadRequest);
                }
                Some(authority)
            }
            // RFC 9112 §3.2.2: in the absolute form the Host header is ignored.
            (Some(authority), _) => Some(authority),
            (None, Some(host)) => Some(host),
            // RFC 9112 §3.2: a client of HTTP/1.1 must name one.
            (None, None) if parts.version >= Version::HTTP_11 => return Err(Why::BadRequest),
            (None, None) => None,
        };
        let host = match named {
            Some(named) => host_of_authority(named).ok_or(Why::BadRequest)?,
            None => Cow::Borrowed(""),
        };
        let value = match (named, header) {
            (Some(named), Some(header)) if named.as_bytes() == header.as_bytes() => {
                Some(header.clone())
            }
            (Some(named), _) => Some(HeaderValue::from_str(named).map_err(|_| Why::BadRequest)?),
            (None, _) => None,
        };
        let path = canonical(parts.uri.path()).map_err(|_| Why::BadRequest)?;
        let port = named.and_then(|named| named.rsplit_once(':'));
        Ok(Self {
            host,
            path,
            authority: value,
            port: port.and_then(|(_, port)| port.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, uri: &str, hosts: &[&str]) -> request::Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn read(version: Version, uri: &str, hosts: &[&str]) -> Result<(String, Option<String>), Why> {
        let parts = parts(version, uri, hosts);
        let target = Target::read(&parts)?;
        let authority = target
            .authority
            .map(|value| value.to_str().unwrap().to_owned());
        Ok((target.host.into_owned(), authority))
    }

    fn named(host: &str, authority: &str) -> (String, Option<String>) {
        (host.to_owned(), Some(authority.to_owned()))
    }

    #[test]
    fn the_host_is_told_without_a_doubt_or_the_request_is_refused() {
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(
            read(one, "/", &["X.com:8080"]),
            Ok(named("x.com", "X.com:8080"))
        );
        assert_eq!(
            read(one, "http://a.com/x", &["b.com"]),
            Ok(named("a.com", "a.com"))
        );
        assert_eq!(
            read(two, "https://a.com/x", &[]),
            Ok(named("a.com", "a.com"))
        );
        assert_eq!(
            read(two, "https://a.com/x", &["A.com"]),
            Ok(named("a.com", "a.com"))
        );
        assert_eq!(read(two, "/x", &["a.com"]), Ok(named("a.com", "a.com")));
        assert_eq!(read(Version::HTTP_10, "/", &[]), Ok((String::new(), None)));
        assert_eq!(
            read(two, "https://a.com/x", &["b.com"]),
            Err(Why::BadRequest)
        );
        assert_eq!(read(one, "/", &[]), Err(Why::BadRequest));
        assert_eq!(read(one, "/", &["a.com", "a.com"]), Err(Why::BadRequest));
        assert_eq!(read(one, "/", &["user@a.com"]), Err(Why::BadRequest));
        assert_eq!(read(one, "/a/%2e%2e/b", &["a.com"]), Err(Why::BadRequest));
    }
}
