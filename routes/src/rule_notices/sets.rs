//! The headers of our ipsets: what kind each is and how much it holds, without its members.

use std::collections::BTreeMap;

use crate::Error;
use crate::batch::{Attributes, attribute};
use crate::conn::Conn;
use crate::links::blocking;

/// What names of our sets begin with, by family.
const PREFIXES: [&str; 2] = ["ptl4-", "ptl6-"];
/// NFNL_SUBSYS_IPSET in the high byte, IPSET_CMD_LIST in the low one.
const LIST: u16 = 0x0607;
/// Every kernel since 2.6.39 speaks it; those that speak 7, too, answer in it.
const PROTOCOL: u8 = 6;
/// IPSET_FLAG_LIST_HEADER: leave the members out.
const HEADERS_ONLY: u32 = 4;
/// Bytes of struct nfgenmsg.
const NFGENMSG: usize = 4;

const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_SETNAME: u16 = 2;
const IPSET_ATTR_TYPENAME: u16 = 3;
const IPSET_ATTR_FLAGS: u16 = 6;
const IPSET_ATTR_DATA: u16 = 7;
const IPSET_ATTR_ELEMENTS: u16 = 24;
const IPSET_ATTR_REFERENCES: u16 = 25;
/// NLA_F_NET_BYTEORDER: the number is big-endian.
const BIG_ENDIAN: u16 = 0x4000;

/// A set without its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHeader {
    /// Its type, such as `hash:ip`.
    pub kind: String,
    /// How many members it has.
    pub entries: u32,
    /// How many rules and sets use it.
    pub references: u32,
}

/// The headers of all our sets in the calling thread's network namespace, by name.
///
/// # Errors
/// When the kernel can't be asked, or has no ipset.
pub async fn set_headers() -> Result<BTreeMap<String, SetHeader>, Error> {
    let mut conn = Conn::open_netfilter()?;
    let listed = blocking(move || {
        let question = question();
        conn.dump_raw(LIST, &question, "list the sets", |_, body| read(body))
    });
    Ok(listed.await?.into_iter().collect())
}

fn question() -> Vec<u8> {
    let mut body = vec![0; NFGENMSG];
    attribute(&mut body, IPSET_ATTR_PROTOCOL, &[PROTOCOL]);
    let flags = HEADERS_ONLY.to_be_bytes();
    attribute(&mut body, IPSET_ATTR_FLAGS | BIG_ENDIAN, &flags);
    body
}

/// Reads one set; `None` if it isn't ours.
fn read(body: &[u8]) -> Option<(String, SetHeader)> {
    let (mut name, mut kind, mut data) = (None, None, None);
    for (attribute, value) in Attributes(body.get(NFGENMSG..)?) {
        match attribute {
            IPSET_ATTR_SETNAME => name = Some(text(value)),
            IPSET_ATTR_TYPENAME => kind = Some(text(value)),
            IPSET_ATTR_DATA => data = Some(value),
            _ => {}
        }
    }
    let name = name?;
    if !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let (mut entries, mut references) = (0, 0);
    for (attribute, value) in Attributes(data?) {
        let number = value.try_into().map(u32::from_be_bytes);
        match attribute {
            IPSET_ATTR_ELEMENTS => entries = number.ok()?,
            IPSET_ATTR_REFERENCES => references = number.ok()?,
            _ => {}
        }
    }
    let header = SetHeader {
        kind: kind?,
        entries,
        references,
    };
    Some((name, header))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::nested;

    fn body(name: &str) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        attribute(&mut body, IPSET_ATTR_PROTOCOL, &[7]);
        attribute(
            &mut body,
            IPSET_ATTR_SETNAME,
            format!("{name}\0").as_bytes(),
        );
        attribute(&mut body, IPSET_ATTR_TYPENAME, b"hash:ip\0");
        nested(&mut body, IPSET_ATTR_DATA, |out| {
            attribute(out, IPSET_ATTR_REFERENCES, &3_u32.to_be_bytes());
            attribute(out, IPSET_ATTR_ELEMENTS, &70_000_u32.to_be_bytes());
        });
        body
    }

    #[test]
    fn a_header_of_ours_is_read_and_anothers_is_left_out() {
        let header = SetHeader {
            kind: "hash:ip".to_owned(),
            entries: 70_000,
            references: 3,
        };
        let ours = read(&body("ptl6-p:abc"));
        assert_eq!(ours, Some(("ptl6-p:abc".to_owned(), header)));
        assert_eq!(read(&body("KUBE-CLUSTER-IP")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let all = read(&bytes);
            prop_assert!(all.is_none_or(|(name, _)| name.starts_with("ptl")));
        }

        #[test]
        fn a_header_cut_short_anywhere_is_read_or_refused(length in 0_usize..80) {
            let whole = body("ptl4-x");
            let cut = whole.get(..length.min(whole.len())).unwrap();
            prop_assert!(read(cut).is_none_or(|(name, _)| name == "ptl4-x"));
        }
    }
}
