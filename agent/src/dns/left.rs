//! What an earlier run left in the kernel's sets of domain names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tracing::warn;

use crate::exec::run;

/// Addresses by the name of their set, whosever it is.
pub(crate) type Left = BTreeMap<String, BTreeSet<IpAddr>>;

/// Reads sets back, with the addresses in them. What cannot be read is as good as lost: answers bring it back.
pub(crate) async fn read_left() -> Left {
    match run("ipset", &["save"], None).await {
        Ok(listing) => parse(&listing),
        Err(error) => {
            warn!(%error, "addresses of domain names that an earlier run left are not known");
            Left::new()
        }
    }
}

/// Members that are plain addresses; others are in sets of other kinds.
fn parse(listing: &str) -> Left {
    let mut left = Left::new();
    for line in listing.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("add"), Some(set), Some(member)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let Ok(address) = member.parse() {
            left.entry(set.to_owned()).or_default().insert(address);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_everything_else_is_passed_over() {
        let listing = "create ptl4-d-1 hash:ip family inet\nadd ptl4-d-1 192.0.2.1\nadd ptl4-d-1 192.0.2.2 timeout 5\n\
             add ptl6-d-1 2001:db8::1\nadd ptl4-n-1 10.0.0.0/8\nadd\nadd x\n\n";
        let left = parse(listing);
        assert_eq!(left.len(), 2);
        assert_eq!(left["ptl4-d-1"].len(), 2);
        assert_eq!(left["ptl6-d-1"].len(), 1);
    }
}
