//! The codec against another one (rustbgpd-wire): what either writes the other reads alike, and both judge errors alike.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod generate;
mod judge;
mod oracle;

use bgp_proto::wire::{Decoder, Message, Notification, Update, WireContext};
use bytes::BytesMut;
use proptest::prelude::*;

use generate::Session;

/// All the messages of a stream.
fn decode(bytes: &[u8], ctx: &WireContext) -> Result<Vec<Message>, Notification> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next(ctx)? {
        messages.push(message);
    }
    assert_eq!(decoder.buffered(), 0, "bytes left over");
    Ok(messages)
}

fn encode(message: &Message, ctx: &WireContext) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(ctx, &mut out);
    out
}

fn updates(messages: Vec<Message>) -> Vec<Update> {
    let take = |message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    };
    messages.into_iter().map(take).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_open_of_ours_is_read_alike(open in generate::open()) {
        let bytes = encode(&Message::Open(open.clone()), &WireContext::default());
        prop_assert_eq!(oracle::decode_open(&bytes), open);
    }

    #[test]
    fn an_open_of_theirs_is_read_alike(open in generate::open()) {
        let bytes = oracle::encode_open(&open);
        let read = decode(&bytes, &WireContext::default());
        prop_assert_eq!(read, Ok(vec![Message::Open(open)]));
    }

    #[test]
    fn an_update_of_ours_is_read_alike(session in generate::session(), seed in generate::update()) {
        let update = seed.fit_for(&session);
        let bytes = encode(&Message::Update(update.clone()), &session.ours);
        let read = oracle::decode_update(&bytes, &session).unwrap();
        prop_assert!(read.malformed.is_empty(), "{:?}", read.malformed);
        prop_assert_eq!(oracle::as_ours(&read.update, &session), vec![update]);
    }

    #[test]
    fn an_update_of_theirs_is_read_alike(session in generate::session(), seed in generate::update()) {
        // Their writer knows Path Identifiers for all families or for none.
        let session = if session.ours.add_path_send.len() == 1 { Session::default() } else { session };
        let update = seed.fit_for(&session);
        let bytes = oracle::encode_update(&update, &session);
        let read = updates(decode(&bytes, &session.theirs).unwrap());
        prop_assert_eq!(read, vec![update]);
    }

    #[test]
    fn a_refresh_and_a_notification_are_read_alike(
        refresh in generate::refresh(), notification in generate::notification(),
    ) {
        let ctx = WireContext { enhanced_route_refresh: true, ..WireContext::default() };
        for message in [Message::RouteRefresh(refresh), Message::Notification(notification)] {
            let bytes = encode(&message, &ctx);
            let again = oracle::through(&bytes);
            prop_assert_eq!(&bytes, &again);
            prop_assert_eq!(decode(&again, &ctx), Ok(vec![message]));
        }
    }

    #[test]
    fn an_update_with_one_bad_attribute_is_judged_alike(
        session in generate::session(), seed in generate::update(), bad in generate::bad_attribute(),
    ) {
        let update = seed.fit_for(&session);
        let bytes = judge::spoil(&encode(&Message::Update(update), &session.ours), &bad);
        let ours = judge::ours(decode(&bytes, &session.theirs));
        let theirs = judge::theirs(oracle::decode_update(&bytes, &session), &session);
        if judge::explained(&bad, ours, theirs, &session).is_none() {
            prop_assert_eq!(ours, theirs, "{:02x?}", bytes);
        }
    }
}
