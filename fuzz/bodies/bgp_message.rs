//! What must hold of the BGP decoder for any bytes; run by libFuzzer, and on stable over the committed corpus.

use std::collections::BTreeSet;

use bgp_proto::wire::{
    Decoder, Family, Message, Notification, Update, WireContext, encode_updates, encode_withdrawals,
};
use bytes::BytesMut;
use ipnet::IpNet;

/// Decodes a stream as each kind of peer would send it. Panics when something does not hold.
pub fn check(data: &[u8]) {
    for (four_byte_as, internal) in [(true, false), (true, true), (false, false), (false, true)] {
        for agreed in [Agreed::Nothing, Agreed::Longer, Agreed::Everything] {
            check_as(data, &context(four_byte_as, internal, agreed));
        }
    }
}

/// What the OPENs agreed on beside the size of AS numbers.
#[derive(Clone, Copy, PartialEq)]
enum Agreed {
    Nothing,
    /// Extended messages, other next hops, Enhanced Route Refresh: all that leaves NLRI as they are.
    Longer,
    /// Path Identifiers too.
    Everything,
}

fn context(four_byte_as: bool, internal: bool, agreed: Agreed) -> WireContext {
    let families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let longer = agreed != Agreed::Nothing;
    let of = |wanted: bool| if wanted { families.clone() } else { Vec::new() };
    WireContext {
        four_byte_as,
        internal,
        extended_next_hop: of(longer),
        add_path_receive: of(agreed == Agreed::Everything),
        add_path_send: of(agreed == Agreed::Everything),
        extended_messages: longer,
        enhanced_route_refresh: longer,
        families,
    }
}

fn check_as(data: &[u8], ctx: &WireContext) {
    let (messages, error) = decode(&[data], ctx);
    let pieces: Vec<&[u8]> = data.chunks(data.len() % 61 + 1).collect();
    let in_pieces = decode(&pieces, ctx);
    assert_eq!(
        (&messages, &error),
        (&in_pieces.0, &in_pieces.1),
        "it matters how bytes arrive"
    );
    for message in messages {
        check_message(message, ctx);
    }
    if let Some(notification) = error {
        let _ = notification.to_string();
        check_same(&Message::Notification(notification), ctx);
    }
}

/// All the messages of a stream, and the error that ended it.
fn decode(pieces: &[&[u8]], ctx: &WireContext) -> (Vec<Message>, Option<Notification>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next(ctx) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(notification) => return (messages, Some(notification)),
            }
        }
    }
    (messages, None)
}

/// Decoded, encoded and decoded again, a message is the same.
fn check_message(message: Message, ctx: &WireContext) {
    match message {
        Message::Notification(notification) => {
            // People read it, however strange it is.
            let _ = notification.to_string();
            check_same(&Message::Notification(notification), ctx);
        }
        Message::Update(update) => {
            assert_eq!(update.attributes.is_some(), !update.announced.is_empty());
            check_packing(&update, ctx);
            // A two-octet session needs AS4_PATH where the peer had shortened it: that may not fit one message.
            if ctx.four_byte_as {
                let mut update = Update {
                    errors: Vec::new(),
                    ..update
                };
                // The order of the fields it is written in.
                update
                    .withdrawn
                    .sort_by_key(|nlri| matches!(nlri.prefix, IpNet::V6(_)));
                check_same(&Message::Update(update), ctx);
            }
        }
        message => check_same(&message, ctx),
    }
}

fn check_same(message: &Message, ctx: &WireContext) {
    let mut out = BytesMut::new();
    message.encode(ctx, &mut out);
    let expected = match message {
        Message::Update(update) if *update == Update::default() => vec![],
        message => vec![message.clone()],
    };
    assert_eq!(
        decode(&[&out], ctx),
        (expected, None),
        "{message:?} as {out:02x?}"
    );
}

/// Packed into UPDATEs, the routes of one are all there, with the same attributes.
fn check_packing(update: &Update, ctx: &WireContext) {
    let mut out = BytesMut::new();
    encode_withdrawals(&update.withdrawn, ctx, &mut out);
    let mut announced: BTreeSet<_> = update.announced.iter().copied().collect();
    let mut withdrawn: BTreeSet<_> = update.withdrawn.iter().copied().collect();
    if let Some(attributes) = &update.attributes {
        encode_updates(attributes, &update.announced, ctx, &mut out);
    }
    let (messages, error) = decode(&[&out], ctx);
    assert_eq!(error, None);
    for message in messages {
        let Message::Update(packed) = message else {
            panic!("{message:?} among updates")
        };
        assert!(packed.attributes.is_none() || packed.attributes == update.attributes);
        packed
            .announced
            .iter()
            .for_each(|net| assert!(update.announced.contains(net)));
        announced.retain(|net| !packed.announced.contains(net));
        // What does not fit beside its attributes is withdrawn instead.
        announced.retain(|net| !packed.withdrawn.contains(net));
        withdrawn.retain(|net| !packed.withdrawn.contains(net));
    }
    assert!(
        announced.is_empty() && withdrawn.is_empty(),
        "{update:?} lost {announced:?} {withdrawn:?}"
    );
}
