//! ROUTE-REFRESH (RFC 2918 §3); the octet between AFI and SAFI is reserved, as RFC 7313 is not spoken.

use bytes::{BufMut, BytesMut};

use super::header::bad_length;
use super::reader::{Reader, Short};
use super::writer::clamp;
use super::{Family, HEADER_LEN, Notification};

pub(super) fn decode(body: &[u8]) -> Result<Family, Notification> {
    let mut reader = Reader::new(body);
    family(&mut reader).map_err(|Short| bad_length(clamp(HEADER_LEN + body.len())))
}

pub(super) fn encode(family: Family, out: &mut BytesMut) {
    out.put_u16(family.afi);
    out.put_u8(0);
    out.put_u8(family.safi);
}

fn family(reader: &mut Reader<'_>) -> Result<Family, Short> {
    let afi = reader.u16()?;
    reader.u8()?;
    let safi = reader.u8()?;
    reader.finish()?;
    Ok(Family { afi, safi })
}
