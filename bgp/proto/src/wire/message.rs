//! A message of any kind: which file decodes and encodes it.

use bytes::BytesMut;

use super::header::{bad_length, put_message};
use super::writer::clamp;
use super::{
    HEADER_LEN, Message, MessageKind, Notification, WireContext, open, route_refresh, update,
};

impl Message {
    /// Decodes the body of a message: what follows the header, no more and no less. `None`: a message that is to be
    /// ignored, as a ROUTE-REFRESH of an unknown subtype is (RFC 7313 §5).
    ///
    /// The second message is there only for an UPDATE that announces routes both in its NLRI field and by
    /// MP_REACH_NLRI: the two have different next hops, so it is two updates (RFC 7606 §5.1 says to expect it).
    ///
    /// # Errors
    /// The NOTIFICATION to send before closing.
    pub fn decode(
        kind: MessageKind,
        body: &[u8],
        ctx: &WireContext,
    ) -> Result<Option<(Self, Option<Self>)>, Notification> {
        let message = match kind {
            MessageKind::Open => Self::Open(open::decode(body)?),
            MessageKind::Update => {
                let (first, second) = update::decode(body, ctx)?;
                return Ok(Some((Self::Update(first), second.map(Self::Update))));
            }
            MessageKind::Notification => Self::Notification(Notification::decode(body)?),
            MessageKind::Keepalive if body.is_empty() => Self::Keepalive,
            MessageKind::Keepalive => return Err(bad_length(clamp(HEADER_LEN + body.len()))),
            MessageKind::RouteRefresh => match route_refresh::decode(body, ctx)? {
                Some(refresh) => Self::RouteRefresh(refresh),
                None => return Ok(None),
            },
        };
        Ok(Some((message, None)))
    }

    /// Appends this message to `out`. It must fit [`MessageKind::max_len`]: an UPDATE of any size is
    /// [`encode_updates`](super::encode_updates)' business. An UPDATE that says nothing at all has no wire form
    /// (that would be an End-of-RIB) and appends nothing.
    pub fn encode(&self, ctx: &WireContext, out: &mut BytesMut) {
        match self {
            Self::Open(open) => put_message(out, self.kind(), |out| open::encode(open, out)),
            Self::Update(update) => update::encode(update, ctx, out),
            Self::Notification(notification) => {
                put_message(out, self.kind(), |out| notification.encode(out));
            }
            Self::Keepalive => put_message(out, self.kind(), |_| {}),
            Self::RouteRefresh(refresh) => {
                put_message(out, self.kind(), |out| route_refresh::encode(*refresh, out));
            }
        }
    }
}
