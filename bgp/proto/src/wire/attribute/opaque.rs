//! Attributes passed on unread: unknown optional transitive ones (RFC 4271 §9), and kinds of communities we don't act on.

use bytes::Bytes;

use super::table::{OPTIONAL, PARTIAL, TRANSITIVE};
use crate::wire::UnknownAttribute;

/// What is kept of an attribute nobody here knows: `None` for an optional non-transitive one, which ends here.
pub(super) fn unknown(flags: u8, code: u8, value: &[u8]) -> Option<UnknownAttribute> {
    if flags & TRANSITIVE == 0 {
        return None;
    }
    Some(keep(flags | PARTIAL, code, value))
}

/// An attribute as it came. The Extended Length bit is the writer's, the low four are nobody's.
pub(super) fn keep(flags: u8, code: u8, value: &[u8]) -> UnknownAttribute {
    let flags = flags & (OPTIONAL | TRANSITIVE | PARTIAL);
    UnknownAttribute {
        flags,
        code,
        value: Bytes::copy_from_slice(value),
    }
}
