//! Names that a kernel program may be told: made by hashing or checked against their grammar.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// What starts the name of each chain of ours.
pub const CHAIN_PREFIX: &str = "PTL-";
const CHAIN_LENGTH: usize = 28;
/// What starts the names of the chains that people look for when they look for Services.
const SERVICE_PREFIX: &str = "KUBE-";
/// Chains that a service proxy has one of each.
const SERVICE_CHAINS: [&str; 7] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
];
/// What a service proxy has of each port or endpoint, named by the first 16 digits of a hash in base32.
const SERVICE_KINDS: [&str; 5] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
];
const SERVICE_DIGITS: usize = 16;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// An empty chain by which kube-proxy notices that its tables were flushed: where it is, a kube-proxy is or was.
pub(crate) const PROXY_CANARY: &str = "KUBE-PROXY-CANARY";
const SET_LENGTH: usize = 31;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// What starts the name of each set of ours of this family.
    pub(crate) fn set_prefix(self) -> &'static str {
        match self {
            Self::V4 => "ptl4-",
            Self::V6 => "ptl6-",
        }
    }
}

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `raw`.
    Raw,
    /// `filter`.
    Filter,
    /// `nat`.
    Nat,
    /// `mangle`.
    Mangle,
}

impl Table {
    /// All that we may write to, in the order in which they are written.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Filter, Self::Nat, Self::Mangle];

    /// Its name for `iptables -t`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }
}

/// A built-in chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Builtin {
    /// `PREROUTING`.
    Prerouting,
    /// `INPUT`.
    Input,
    /// `FORWARD`.
    Forward,
    /// `OUTPUT`.
    Output,
    /// `POSTROUTING`.
    Postrouting,
}

impl Builtin {
    /// All.
    pub(crate) const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// A text that is no name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid interface name")]
pub struct NameError(String);

/// The name of a chain that is, or could be, ours: `PTL-` and at most 28 letters, digits and dashes in all; or one of the
/// names of chains of Services, which are kube-proxy's as well. A chain of such a name is ours if a rule in it bears our
/// comment; we leave none of them empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(Arc<str>);

impl ChainName {
    /// A chain named by a constant: `PTL-<name>`.
    ///
    /// # Panics
    /// If the constant is no such name.
    pub fn fixed(name: &'static str) -> Self {
        Self::read(&format!("{CHAIN_PREFIX}{name}")).expect("a constant chain name is valid")
    }

    /// A chain named by what it is for: `PTL-<prefix>-<16 hex>`. Parts are kept apart: `(a, bc)` is not `(ab, c)`.
    ///
    /// # Panics
    /// If the constant prefix is too long.
    pub fn hashed<P: AsRef<[u8]>>(prefix: &'static str, parts: &[P]) -> Self {
        let name = format!("{CHAIN_PREFIX}{prefix}-{}", short_hash(parts, 16));
        Self::read(&name).expect("a constant prefix and a hash are a valid chain name")
    }

    /// A chain that each service proxy has one of.
    ///
    /// # Panics
    /// If the constant is no such name.
    pub fn of_services(name: &'static str) -> Self {
        let known = SERVICE_CHAINS.into_iter().find(|known| *known == name);
        Self(
            known
                .expect("a constant name of a chain of Services")
                .into(),
        )
    }

    /// A chain of one port or endpoint of a Service, by the same hash as kube-proxy's: SHA-256 over the parts as they stand,
    /// in base32 (RFC 4648), the first 16 digits.
    ///
    /// # Panics
    /// If the constant is no such kind.
    pub fn of_service(kind: &'static str, parts: &[&str]) -> Self {
        let known = SERVICE_KINDS.into_iter().find(|known| *known == kind);
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part.as_bytes());
        }
        let mut name = known
            .expect("a constant kind of chains of Services")
            .to_owned();
        // Five bits a digit: the first ten octets.
        let bits = hasher
            .finalize()
            .iter()
            .take(10)
            .fold(0_u128, |bits, octet| bits << 8 | u128::from(*octet));
        let digits = (0..SERVICE_DIGITS)
            .rev()
            .map(|digit| bits >> (digit * 5) & 31);
        name.extend(digits.filter_map(|digit| {
            BASE32
                .get(usize::try_from(digit).ok()?)
                .map(|letter| char::from(*letter))
        }));
        Self(name.into())
    }

    /// Whether kube-proxy has chains of such names, too: the name alone doesn't say whose it is.
    pub fn is_of_services(&self) -> bool {
        self.0.starts_with(SERVICE_PREFIX)
    }

    /// Whether it is a chain that serves Services, one that tells their addresses apart among them.
    pub(crate) fn serves(&self) -> bool {
        self.is_of_services() || self.0.starts_with("PTL-SVC-")
    }

    /// A name read back from the kernel, if it is one that we use.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let valid = match text.strip_prefix(CHAIN_PREFIX) {
            Some(rest) => {
                text.len() <= CHAIN_LENGTH && !rest.is_empty() && rest.bytes().all(is_word)
            }
            None => is_service_chain(text),
        };
        valid.then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a set of ours: `ptl4-` or `ptl6-`, at most 31 letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(Arc<str>);

impl SetName {
    /// A set named by a constant: `ptl4-<name>`.
    ///
    /// # Panics
    /// If the constant is no such name.
    pub fn fixed(family: Family, name: &'static str) -> Self {
        Self::checked(format!("{}{name}", family.set_prefix()))
    }

    /// A numbered set: `ptl4-<prefix>-<number>`.
    ///
    /// # Panics
    /// If the constant prefix is too long.
    pub fn numbered(family: Family, prefix: &'static str, number: u16) -> Self {
        Self::checked(format!("{}{prefix}-{number}", family.set_prefix()))
    }

    /// A set named by what it holds: `ptl4-<prefix>-<16 hex>`.
    ///
    /// # Panics
    /// If the constant prefix is too long.
    pub fn hashed<P: AsRef<[u8]>>(family: Family, prefix: &'static str, parts: &[P]) -> Self {
        Self::checked(format!(
            "{}{prefix}-{}",
            family.set_prefix(),
            short_hash(parts, 16)
        ))
    }

    /// Whether it names a set of addresses with ports: made by [`SetName::hashed`] with the prefix `m`.
    pub fn is_of_ports(&self) -> bool {
        self.0.get(5..).is_some_and(|rest| rest.starts_with("m-"))
    }

    /// Whether it was made to replace another.
    pub(crate) fn is_temporary(&self) -> bool {
        self.0.get(5..).is_some_and(|rest| rest.starts_with("tmp-"))
    }

    /// The set through which this one is replaced.
    pub(crate) fn temporary(&self) -> Self {
        let prefix = self.0.get(..5).unwrap_or_default();
        Self(format!("{prefix}tmp-{}", short_hash(&[self.as_str()], 16)).into())
    }

    /// A name read back from the kernel, if it is one of ours.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let ours = Family::ALL
            .iter()
            .find_map(|family| text.strip_prefix(family.set_prefix()))?;
        let valid = text.len() <= SET_LENGTH && !ours.is_empty() && ours.bytes().all(is_word);
        valid.then(|| Self(text.into()))
    }

    fn checked(name: String) -> Self {
        Self::read(&name).expect("a constant, a number and a hash are a valid set name")
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Words for people behind our mark in a rule's comment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note(Arc<str>);

/// The kernel keeps 255 octets of a comment, our mark among them.
const NOTE_LENGTH: usize = 220;

impl Note {
    /// Takes letters, digits and a few signs as they are, one `_` for whatever else there is, and no more than a comment
    /// can hold: no word from outside ends the comment or the line.
    pub fn new(text: &str) -> Self {
        let kept = |c: char| match c {
            ' ' | '-' | '.' | ':' | '/' | '[' | ']' | '>' => c,
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        };
        let text: String = text.trim().chars().take(NOTE_LENGTH).map(kept).collect();
        // A blank at the end would not read back.
        Self(text.trim_end().replace("..", "__").into())
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a network interface: 1 to 15 letters, digits, dots, dashes and underscores.
///
/// Narrower than the kernel's own grammar: what iptables gives a meaning (`+`, `!`, `%`) is not in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, too long, `.`, `..`, starts with a dash or has another letter.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let grammar = |byte: u8| is_word(byte) || byte == b'_' || byte == b'.';
        let valid = (1..=15).contains(&name.len())
            && name.bytes().all(grammar)
            && !name.starts_with('-')
            && name != "."
            && name != "..";
        if !valid {
            return Err(NameError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_service_chain(text: &str) -> bool {
    let is_hash = |text: &str| {
        text.len() == SERVICE_DIGITS && text.bytes().all(|byte| BASE32.contains(&byte))
    };
    SERVICE_CHAINS.contains(&text)
        || SERVICE_KINDS
            .into_iter()
            .any(|kind| text.strip_prefix(kind).is_some_and(is_hash))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// The first hex digits (at most 64) of a SHA-256 over parts, each preceded by its length.
pub fn short_hash<P: AsRef<[u8]>>(parts: &[P], digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        let bytes = part.as_ref();
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(
            ChainName::hashed("PI", &["a", "bc"]),
            ChainName::hashed("PI", &["ab", "c"])
        );
        assert_ne!(
            ChainName::hashed("PI", &["a"]),
            ChainName::hashed("PO", &["a"])
        );
    }

    #[test]
    fn only_names_with_our_prefix_are_ours() {
        for others in [
            "KUBE-FIREWALL",
            "KUBE-PROXY-CANARY",
            "KUBE-SVC-",
            "KUBE-SVC-abcdefghijklmnop",
            "KUBE-ROUTER-INPUT",
        ] {
            assert_eq!(ChainName::read(others), None, "{others}");
        }
        assert_eq!(ChainName::read("PTL-"), None);
        assert_eq!(ChainName::read("PTL-a b"), None);
        assert_eq!(SetName::read("ptl5-x"), None);
        assert!(SetName::read("ptl6-endpoints").is_some());
    }

    /// Names seen in tables of the real kube-proxy 1.34 (`ns1/svc1:p80` and its endpoint).
    #[test]
    fn chains_of_services_have_the_names_that_kube_proxy_gives_them() {
        let service = ChainName::of_service("KUBE-SVC-", &["ns1/svc1:p80", "tcp"]);
        let endpoint =
            ChainName::of_service("KUBE-SEP-", &["ns1/svc1:p80", "tcp", "10.180.0.1:80"]);
        assert_eq!(service.as_str(), "KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(endpoint.as_str(), "KUBE-SEP-SXIVWICOYRO3J4NJ");
        for name in [service, endpoint, ChainName::of_services("KUBE-SERVICES")] {
            assert!(name.is_of_services());
            assert_eq!(ChainName::read(name.as_str()), Some(name));
        }
        assert!(!ChainName::fixed("FORWARD").is_of_services());
    }

    proptest! {
        #[test]
        fn any_word_gives_a_name_of_the_grammar(words: Vec<String>) {
            let chain = ChainName::hashed("PI", &words);
            let set = SetName::hashed(Family::V6, "pods", &words);
            prop_assert!(ChainName::read(chain.as_str()).is_some());
            prop_assert!(SetName::read(set.as_str()).is_some());
            prop_assert!(SetName::read(set.temporary().as_str()).is_some());
        }

        #[test]
        fn an_interface_name_has_nothing_that_a_restore_would_read(name in "\\PC{0,20}|[\\x00-\\x7f]{0,20}|[a-z0-9./ \n\"']{0,16}") {
            if let Ok(name) = InterfaceName::new(&name) {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                prop_assert!(name.as_str().chars().all(plain));
                prop_assert!(!name.as_str().contains('/') && name.as_str().len() < 16);
            }
        }
    }
}
