//! Hosts of rules and of requests: precise names, wildcards of one label, and every host.

use std::borrow::Cow;
use std::net::IpAddr;

use api::metadata::is_dns_subdomain;

/// Which hosts a rule, or a certificate, is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this name, in lower case.
    Exact(Box<str>),
    /// `*.foo.com` is kept as `.foo.com`: any one label before that.
    Wildcard(Box<str>),
    /// All.
    Any,
}

impl HostPattern {
    /// Reads `host` of a rule or a member of `hosts` of a `tls` entry; none, or an empty one, is every host.
    ///
    /// # Errors
    /// What is wrong with it, by the API server's own rules.
    pub fn read(text: Option<&str>) -> Result<Self, String> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::Any);
        };
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("{text:?} is an address; hosts are DNS names"));
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return match is_dns_subdomain(suffix) {
                true => Ok(Self::Wildcard(format!(".{suffix}").into())),
                false => Err(format!("{text:?}: after *. comes a DNS name")),
            };
        }
        match is_dns_subdomain(text) {
            true => Ok(Self::Exact(text.into())),
            false => Err(format!(
                "{text:?} is neither a DNS name in lower case nor one after *."
            )),
        }
    }

    /// As it is written in a rule.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Exact(name) => Cow::Borrowed(name),
            Self::Wildcard(suffix) => Cow::Owned(format!("*{suffix}")),
            Self::Any => Cow::Borrowed("*"),
        }
    }
}

/// What a wildcard that matches `host` is called: all but its first label. None where that is empty.
#[must_use]
pub fn wildcard_of(host: &str) -> Option<&str> {
    let dot = host.find('.').filter(|dot| *dot > 0)?;
    host.get(dot..).filter(|suffix| suffix.len() > 1)
}

/// The host of an authority (`Host`, `:authority`): without a port or the root's dot, in lower case.
///
/// None of what is no host, or names a user.
#[must_use]
pub fn host_of_authority(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.strip_prefix('[') {
        // An IPv6 literal (RFC 3986 §3.2.2): no rule can name one, rules for every host are for it, too.
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            if !after.is_empty() && !is_port(after.strip_prefix(':')?) {
                return None;
            }
            authority.get(..address.len() + 2)?
        }
        None => match authority.split_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) => return None,
            None => authority,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return None;
    }
    Some(match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    })
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_rules_are_names_wildcards_or_all() {
        let exact = HostPattern::read(Some("foo.bar.com"));
        assert_eq!(exact, Ok(HostPattern::Exact("foo.bar.com".into())));
        let wildcard = HostPattern::read(Some("*.foo.com"));
        assert_eq!(wildcard, Ok(HostPattern::Wildcard(".foo.com".into())));
        assert_eq!(HostPattern::read(None), Ok(HostPattern::Any));
        assert_eq!(HostPattern::read(Some("")), Ok(HostPattern::Any));
        for wrong in [
            "*", "*.", "a.*.com", "*a.com", "FOO.com", "10.0.0.1", "::1", "a b", "a:80",
        ] {
            assert!(HostPattern::read(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wildcard_is_for_one_label() {
        assert_eq!(wildcard_of("bar.foo.com"), Some(".foo.com"));
        assert_eq!(wildcard_of("baz.bar.foo.com"), Some(".bar.foo.com"));
        assert_eq!(wildcard_of("foo"), None);
        assert_eq!(wildcard_of(".foo"), None);
    }

    #[test]
    fn authorities_lose_port_dot_and_case_and_nothing_else_is_a_host() {
        let host = |text| host_of_authority(text).map(Cow::into_owned);
        assert_eq!(host("Foo.Bar.COM:8443").as_deref(), Some("foo.bar.com"));
        assert_eq!(host("foo.com.").as_deref(), Some("foo.com"));
        assert_eq!(host("[2001:db8::1]:80").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(host("10.1.2.3").as_deref(), Some("10.1.2.3"));
        for wrong in [
            "", ".", "a@b", "a:b", "a:80:90", "a:123456", "a b", "[::1", "[x]", "[::1]80", "a/b",
            "a,b",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
