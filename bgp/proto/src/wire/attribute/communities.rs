//! COMMUNITIES (RFC 1997), in the order in which they came.

use super::table::Fault;

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
