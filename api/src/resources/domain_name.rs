//! A name in the DNS as a policy gives it: exact, or with `*.` for one label or more.

use std::fmt;

/// A domain name: lower case, no dot at the end, 1 to 253 octets; `*.` before it stands for one label or more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName {
    wildcard: bool,
    name: String,
}

impl DomainName {
    /// Checks a name as `domainNames` has it. Upper case is made lower, one dot at the end is taken off.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower),
        };
        let octet = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(octet)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("{text:?} is no domain name"));
        }
        Ok(Self {
            wildcard,
            name: name.to_owned(),
        })
    }

    /// Whether it starts with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether a name that was asked for (any case, with or without the last dot) is meant.
    pub fn matches(&self, asked: &str) -> bool {
        let asked = asked
            .strip_suffix('.')
            .unwrap_or(asked)
            .to_ascii_lowercase();
        if !self.wildcard {
            return asked == self.name;
        }
        asked
            .strip_suffix(&self.name)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label_or_more() {
        let name = DomainName::new("*.Example.com.").unwrap();
        assert_eq!(name.to_string(), "*.example.com");
        assert!(name.matches("a.example.com") && name.matches("A.b.EXAMPLE.com."));
        assert!(!name.matches("example.com") && !name.matches("badexample.com"));
        assert!(!name.matches(".example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "*", "a..b", "-a.b", "a b", "*.*.a", "a\nb", "a/b"] {
            assert!(DomainName::new(text).is_err(), "{text:?}");
        }
    }
}
