//! COMMUNITIES (RFC 1997), EXTENDED_COMMUNITIES (RFC 4360) and LARGE_COMMUNITIES (RFC 8092), in the order in which they came.

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};

use super::table::Fault;
use crate::wire::LargeCommunity;
use crate::wire::reader::{Reader, Short};

pub(super) fn decode(value: &[u8]) -> Result<Vec<u32>, Fault> {
    let (communities, []) = value.as_chunks::<4>() else {
        return Err(Fault::LENGTH);
    };
    Ok(communities
        .iter()
        .copied()
        .map(u32::from_be_bytes)
        .collect())
}

pub(super) fn decode_extended(value: &[u8]) -> Result<Vec<u64>, Fault> {
    let (communities, []) = value.as_chunks::<8>() else {
        return Err(Fault::LENGTH);
    };
    Ok(communities
        .iter()
        .copied()
        .map(u64::from_be_bytes)
        .collect())
}

/// Each one once: of several that are equal the first is kept (RFC 8092 §5).
pub(super) fn decode_large(value: &[u8]) -> Result<Vec<LargeCommunity>, Fault> {
    let mut all = Vec::with_capacity(value.len() / 12);
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        all.push(large(&mut reader).map_err(|Short| Fault::LENGTH)?);
    }
    if all.len() > 1 {
        let mut seen = BTreeSet::new();
        all.retain(|community| seen.insert(*community));
    }
    Ok(all)
}

pub(super) fn encode_large(communities: &[LargeCommunity], out: &mut BytesMut) {
    for community in communities {
        out.put_u32(community.global);
        out.put_u32(community.local1);
        out.put_u32(community.local2);
    }
}

fn large(reader: &mut Reader<'_>) -> Result<LargeCommunity, Short> {
    Ok(LargeCommunity {
        global: reader.u32()?,
        local1: reader.u32()?,
        local2: reader.u32()?,
    })
}
