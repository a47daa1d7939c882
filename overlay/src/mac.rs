//! Link-layer addresses of the nodes' tunnel ends: they follow from the nodes' names, so that nobody publishes any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use sha2::{Digest as _, Sha256};

/// A link-layer address.
pub type Mac = [u8; 6];

/// The address of every node; a second one of the same hash gets the next. The same names give the same addresses,
/// whichever node reckons, and no two of them are alike. Also told: nodes that did not get their first.
pub fn macs<'a>(
    nodes: impl Iterator<Item = &'a str>,
    hash: impl Fn(&str, u32) -> Mac,
) -> (BTreeMap<&'a str, Mac>, Vec<&'a str>) {
    let names: BTreeSet<&str> = nodes.collect();
    let (mut macs, mut taken, mut moved) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for name in names {
        // As many tries as there are addresses taken, and one, would do if hashes could not repeat.
        let free = (0..).map(|round| (round, hash(name, round)));
        let free = free.into_iter().find(|(_, mac)| !taken.contains(mac));
        let Some((round, mac)) = free else { continue };
        if round > 0 {
            moved.push(name);
        }
        taken.insert(mac);
        macs.insert(name, mac);
    }
    (macs, moved)
}

/// Of a name, for the first try or a later one: of a single station, locally administered (IEEE 802 §8.4).
pub(crate) fn of_name(name: &str, round: u32) -> Mac {
    let mut hash = Sha256::new();
    hash.update(b"portolan vxlan\0");
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(round.to_be_bytes());
    let mut mac: Mac = hash.finalize().first_chunk().copied().unwrap_or([0; 6]);
    if let Some(first) = mac.first_mut() {
        *first = *first & 0xfc | 2;
    }
    mac
}

/// The link-local address that follows from a link-layer address (RFC 4291, appendix A).
pub fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}
