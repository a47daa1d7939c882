//! ORIGINATOR_ID and CLUSTER_LIST, by which route reflectors see loops (RFC 4456 §8).

use std::net::Ipv4Addr;

use super::scalar;
use super::table::Fault;

pub(super) fn decode_originator(value: &[u8]) -> Result<Ipv4Addr, Fault> {
    scalar::decode(value).map(Ipv4Addr::from_bits)
}

pub(super) fn decode_clusters(value: &[u8]) -> Result<Vec<Ipv4Addr>, Fault> {
    let (ids, []) = value.as_chunks::<4>() else {
        return Err(Fault::LENGTH);
    };
    Ok(ids.iter().copied().map(Ipv4Addr::from).collect())
}
