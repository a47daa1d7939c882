//! Cuts the byte stream of a session into messages.

use bytes::{Buf, BytesMut};

use super::{HEADER_LEN, Message, Notification, WireContext, header};

/// The receiving end of a session's byte stream. Holds what was pushed and not yet asked for; the one who pushes
/// asks [`next`](Self::next) until it says `None`, and so never holds more than one message and one push.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The second half of an UPDATE that announced both by NLRI and by MP_REACH_NLRI.
    second: Option<Message>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes in the order in which they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Octets pushed and not yet decoded.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next message; `None` when more bytes are needed. `ctx` holds for this message, so it can change between two.
    ///
    /// An UPDATE that announces routes both in its NLRI field and by MP_REACH_NLRI comes out as two messages, as
    /// the two have different next hops.
    ///
    /// # Errors
    /// The NOTIFICATION to send before closing. The stream is then at its end: asking again gives the same error.
    pub fn next(&mut self, ctx: &WireContext) -> Result<Option<Message>, Notification> {
        if let Some(second) = self.second.take() {
            return Ok(Some(second));
        }
        while let Some((kind, len)) = header::decode(&self.buffer, ctx)? {
            let Some(body) = self.buffer.get(HEADER_LEN..len) else {
                return Ok(None);
            };
            let decoded = Message::decode(kind, body, ctx)?;
            self.buffer.advance(len);
            if let Some((message, second)) = decoded {
                self.second = second;
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}
