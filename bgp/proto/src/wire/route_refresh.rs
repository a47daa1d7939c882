//! ROUTE-REFRESH (RFC 2918 §3) with its subtypes (RFC 7313 §3.2).

use bytes::{BufMut, BytesMut};

use super::header::bad_length;
use super::notification::{code, route_refresh as subcode};
use super::reader::{Reader, Short};
use super::writer::clamp;
use super::{
    Family, HEADER_LEN, MessageKind, Notification, RefreshKind, RouteRefresh, WireContext, header,
};

/// Reads the body. `None`: a subtype nobody knows, which is ignored (RFC 7313 §5). Where Enhanced Route Refresh is
/// not agreed on, the octet of the subtype is reserved, and the message a request whatever it says (RFC 2918 §3).
pub(super) fn decode(body: &[u8], ctx: &WireContext) -> Result<Option<RouteRefresh>, Notification> {
    let Ok((family, subtype)) = fields(Reader::new(body)) else {
        return Err(wrong_length(body, ctx));
    };
    let kind = match subtype {
        _ if !ctx.enhanced_route_refresh => RefreshKind::Request,
        0 => RefreshKind::Request,
        1 => RefreshKind::Begin,
        2 => RefreshKind::End,
        _ => return Ok(None),
    };
    Ok(Some(RouteRefresh { family, kind }))
}

pub(super) fn encode(refresh: RouteRefresh, out: &mut BytesMut) {
    out.put_u16(refresh.family.afi);
    out.put_u8(match refresh.kind {
        RefreshKind::Request => 0,
        RefreshKind::Begin => 1,
        RefreshKind::End => 2,
    });
    out.put_u8(refresh.family.safi);
}

fn fields(mut reader: Reader<'_>) -> Result<(Family, u8), Short> {
    let afi = reader.u16()?;
    let subtype = reader.u8()?;
    let safi = reader.u8()?;
    reader.finish()?;
    Ok((Family { afi, safi }, subtype))
}

/// Invalid Message Length with the whole message (RFC 7313 §5); without Enhanced Route Refresh the error of any message.
fn wrong_length(body: &[u8], ctx: &WireContext) -> Notification {
    if !ctx.enhanced_route_refresh {
        return bad_length(clamp(HEADER_LEN + body.len()));
    }
    let mut whole = BytesMut::with_capacity(HEADER_LEN + body.len());
    header::put_message(&mut whole, MessageKind::RouteRefresh, |out| {
        out.put_slice(body);
    });
    Notification::new(code::ROUTE_REFRESH, subcode::INVALID_LENGTH).with_data(whole.freeze())
}
