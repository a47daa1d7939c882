//! Who and what `portolan policy` is asked about: `namespace/pod`, an address, a port and a protocol.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use api::NamespacedName;

/// A pod by its name, or whoever has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pod(NamespacedName),
    Address(IpAddr),
}

/// A place and what is asked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) place: Place,
    pub(crate) protocol: Protocol,
    pub(crate) port: Option<PortName>,
}

/// A protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    /// ICMP or ICMPv6, by the addresses' family.
    Icmp,
}

/// A port, or a container's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortName {
    Number(u16),
    Name(String),
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// In small letters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }

    /// Its number between addresses of a family.
    pub(crate) fn number(self, is_v4: bool) -> u8 {
        let protocol = match self {
            Self::Tcp => netfilter::Protocol::Tcp,
            Self::Udp => netfilter::Protocol::Udp,
            Self::Sctp => netfilter::Protocol::Sctp,
            Self::Icmp if is_v4 => netfilter::Protocol::Icmp,
            Self::Icmp => netfilter::Protocol::Icmpv6,
        };
        protocol.number()
    }

    fn read(text: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.name().eq_ignore_ascii_case(text))
    }
}

impl FromStr for Place {
    type Err = String;

    /// `namespace/pod`, an IPv4 address, an IPv6 address with or without brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name))
                if api::metadata::is_dns_label(namespace)
                    && api::metadata::is_dns_subdomain(name) =>
            {
                Ok(Self::Pod(NamespacedName::new(namespace, name)))
            }
            _ => Err(format!(
                "'{text}' is neither NAMESPACE/POD, as in shop/web, nor an address, as in 192.0.2.7 or [2001:db8::7]"
            )),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    /// `PLACE:PORT`, `PLACE:PORT/PROTOCOL`, `PLACE/icmp`; a port is a number or a name.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = split_protocol(text)?;
        let (place, port) = split_port(rest)?;
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        match (protocol, &port) {
            (Protocol::Icmp, Some(_)) => {
                Err(format!("'{text}': ICMP has no ports, as in shop/db/icmp"))
            }
            (Protocol::Tcp | Protocol::Udp | Protocol::Sctp, None) => Err(format!(
                "'{text}' names no port: add one, as in shop/db:5432 or shop/db:dns/udp, or ask for shop/db/icmp"
            )),
            _ => Ok(Self {
                place: place.parse()?,
                protocol,
                port,
            }),
        }
    }
}

/// Cuts a protocol off the end. `shop/icmp` is a pod of that name: what is left over must be a place too.
fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>), String> {
    let Some((rest, last)) = text.rsplit_once('/') else {
        return Ok((text, None));
    };
    let left_is_whole = rest.contains([':', '/']) || rest.parse::<IpAddr>().is_ok();
    match Protocol::read(last) {
        Some(protocol) if left_is_whole => Ok((rest, Some(protocol))),
        None if rest.contains('/') && !last.contains(':') => Err(format!(
            "'{last}' is not a protocol: use tcp, udp, sctp or icmp"
        )),
        None if rest.ends_with(']') || rest.contains("]:") => Err(format!(
            "'{last}' is not a protocol: use tcp, udp, sctp or icmp"
        )),
        _ => Ok((text, None)),
    }
}

fn split_port(text: &str) -> Result<(&str, Option<PortName>), String> {
    // An IPv6 address without brackets ends in no port.
    if text.parse::<IpAddr>().is_ok() || text.ends_with(']') {
        return Ok((text, None));
    }
    let Some((place, port)) = text.rsplit_once(':') else {
        return Ok((text, None));
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let named = port.bytes().all(is_word) && port.bytes().any(|byte| byte.is_ascii_alphabetic());
    let port = match port.parse::<u16>() {
        Ok(number) if number > 0 => PortName::Number(number),
        _ if named => PortName::Name(port.to_owned()),
        _ => {
            return Err(format!(
                "'{port}' is not a port: 1 to 65535 or a container's name for it, then /tcp, /udp or /sctp"
            ));
        }
    };
    Ok((place, Some(port)))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match text.parse::<Destination>() {
            Ok(Destination {
                place,
                protocol,
                port,
            }) => {
                let port = match port {
                    Some(PortName::Number(number)) => number.to_string(),
                    Some(PortName::Name(name)) => format!("named {name}"),
                    None => "no port".to_owned(),
                };
                format!("{place} {} {port}", protocol.name())
            }
            Err(error) => error,
        }
    }

    #[test]
    fn destinations_are_a_place_a_port_and_a_protocol() {
        for (text, wanted) in [
            ("shop/db:5432", "shop/db tcp 5432"),
            ("shop/db:5432/udp", "shop/db udp 5432"),
            ("shop/db:dns/UDP", "shop/db udp named dns"),
            ("shop/db/icmp", "shop/db icmp no port"),
            ("10.0.0.1:80", "10.0.0.1 tcp 80"),
            ("10.0.0.1:80/sctp", "10.0.0.1 sctp 80"),
            ("10.0.0.1/icmp", "10.0.0.1 icmp no port"),
            ("[fd00::1]:80", "fd00::1 tcp 80"),
            ("[fd00::1]:80/udp", "fd00::1 udp 80"),
            ("[fd00::1]/icmp", "fd00::1 icmp no port"),
            ("fd00::1/icmp", "fd00::1 icmp no port"),
            ("shop/icmp:80", "shop/icmp tcp 80"),
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_destination_is_said_with_an_example() {
        for (text, wanted) in [
            ("shop/icmp", "names no port"),
            ("shop/db", "names no port"),
            ("fd00::1", "names no port"),
            ("shop/db:0", "'0' is not a port"),
            ("shop/db:65536", "'65536' is not a port"),
            ("shop/db:80/http", "'http' is not a protocol"),
            ("10.0.0.1:80/http", "'80/http' is not a port"),
            ("[fd00::1]:80/http", "'http' is not a protocol"),
            ("db:80", "neither NAMESPACE/POD"),
            ("shop/db:80/icmp", "ICMP has no ports"),
            ("10.0.0.1/24:80", "neither NAMESPACE/POD"),
        ] {
            let said = read(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn places_are_pods_or_addresses() {
        assert_eq!(
            "shop/web".parse(),
            Ok(Place::Pod(NamespacedName::new("shop", "web")))
        );
        let address = |text: &str| Ok(Place::Address(text.parse().unwrap()));
        assert_eq!("192.0.2.7".parse(), address("192.0.2.7"));
        assert_eq!("[fd00::7]".parse(), address("fd00::7"));
        assert_eq!("fd00::7".parse(), address("fd00::7"));
        for wrong in ["web", "shop/", "/web", "Shop/web", "shop/web/x", "10.0.0"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
