//! Tests of connections: whatever way their octets come, the messages are the same, and what is held is bounded.

use super::*;

const FIRST: u32 = u32::MAX - 20;

fn connection(pod: u8, port: u16) -> Connection {
    Connection {
        resolver: IpAddr::from([10, 0, 0, 53]),
        pod: IpAddr::from([10, 0, 0, pod]),
        port,
    }
}

fn segment(at: usize, payload: &[u8]) -> Segment<'_> {
    Segment {
        sequence: FIRST.wrapping_add(u32::try_from(at).unwrap()),
        syn: false,
        payload,
    }
}

fn syn(first: u32) -> Segment<'static> {
    Segment {
        sequence: first.wrapping_sub(1),
        syn: true,
        payload: &[],
    }
}

fn opened() -> Streams {
    let mut streams = Streams::default();
    assert_eq!(
        streams.take(connection(1, 1), &syn(FIRST)),
        Brought::default()
    );
    streams
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let frame = |message: &Vec<u8>| {
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes(), message.as_slice()].concat()
    };
    messages.iter().flat_map(frame).collect()
}

fn unread() -> Brought {
    Brought {
        messages: Vec::new(),
        unread: true,
    }
}

#[test]
fn a_message_is_whole_with_its_last_octet_and_several_may_be_at_once() {
    let mut streams = opened();
    let octets = framed(&[b"one".to_vec(), b"two".to_vec()]);
    let mut brought = Vec::new();
    for (at, octet) in octets.iter().enumerate() {
        let now = streams.take(connection(1, 1), &segment(at, &[*octet]));
        assert_eq!(now.messages.len(), usize::from(at == 4 || at == 9), "{at}");
        brought.extend(now.messages);
    }
    assert_eq!(brought, [b"one", b"two"]);
    let both = streams.take(connection(1, 1), &segment(10, &octets));
    assert_eq!(both.messages, [b"one", b"two"]);
}

#[test]
fn a_connection_whose_beginning_was_not_seen_is_never_read() {
    let mut streams = opened();
    let octets = framed(&[b"one".to_vec()]);
    assert_eq!(
        streams.take(connection(1, 2), &segment(0, &octets)),
        unread()
    );
    assert_eq!(
        streams.take(connection(1, 2), &segment(0, &[])),
        Brought::default()
    );
}

#[test]
fn the_same_ports_again_are_a_new_connection_and_the_same_syn_again_is_none() {
    let mut streams = opened();
    let octets = framed(&[b"one".to_vec()]);
    streams.take(connection(1, 1), &segment(0, &octets[..2]));
    streams.take(connection(1, 1), &syn(FIRST));
    let rest = streams.take(connection(1, 1), &segment(2, &octets[2..]));
    assert_eq!(rest.messages, [b"one"]);
    streams.take(connection(1, 1), &segment(5, &octets[..2]));
    streams.take(connection(1, 1), &syn(77));
    let whole = Segment {
        sequence: 77,
        syn: false,
        payload: &octets,
    };
    assert_eq!(streams.take(connection(1, 1), &whole).messages, [b"one"]);
}

#[test]
fn more_than_may_wait_is_not_read_any_more_but_a_long_message_in_one_piece_is() {
    let mut streams = opened();
    let long = framed(&[vec![7; 60_000]]);
    let brought = streams.take(connection(1, 1), &segment(0, &long));
    assert_eq!(brought.messages, [vec![7; 60_000]]);
    let at = long.len();
    let part = streams.take(connection(1, 1), &segment(at, &long[..WAITING]));
    assert_eq!(part, Brought::default());
    let over = segment(at + WAITING, &long[WAITING..WAITING + 1]);
    assert_eq!(streams.take(connection(1, 1), &over), unread());
    let next = framed(&[b"one".to_vec()]);
    assert_eq!(
        streams.take(connection(1, 1), &segment(at + WAITING + 1, &next)),
        unread()
    );
    let held = &streams.streams[&connection(1, 1)];
    assert_eq!((held.waiting.capacity(), held.ahead.len()), (0, 0));
    // Beyond a gap, too.
    streams.take(connection(1, 1), &syn(FIRST + 1));
    assert_eq!(
        streams.take(connection(1, 1), &segment(9, &long[..=WAITING])),
        unread()
    );
}

#[test]
fn the_connections_of_a_pod_and_of_all_are_bounded_and_the_silent_go_first() {
    let mut streams = Streams::default();
    for port in 0..100 {
        streams.take(connection(1, port), &syn(FIRST));
        streams.take(connection(1, 0), &segment(0, &[]));
    }
    assert_eq!(streams.streams.len(), CONNECTIONS_OF_POD);
    assert!(streams.streams.contains_key(&connection(1, 0)));
    assert!(!streams.streams.contains_key(&connection(1, 1)));
    for pod in 2..250 {
        for port in 0..3 {
            streams.take(connection(pod, port), &syn(FIRST));
            assert!(streams.streams.len() <= CONNECTIONS);
        }
    }
    assert!(!streams.streams.contains_key(&connection(1, 0)));
}

#[tokio::test]
async fn segments_go_on_in_their_order() {
    let mut streams = opened();
    let first = streams.line_up(connection(1, 1));
    let mut second = streams.line_up(connection(1, 1));
    assert!(first.is_free() && !second.is_free());
    assert!(streams.line_up(connection(1, 2)).is_free());
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), second.wait());
    assert!(early.await.is_err());
    drop(first);
    let third = streams.line_up(connection(1, 1));
    assert!(!third.is_free(), "the second has not gone on");
    drop((second, third));
    assert!(streams.line_up(connection(1, 1)).is_free());
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

#[test]
fn any_segments_in_any_order_bring_the_same_messages() {
    let mut numbers = Numbers(1);
    for round in 0..3_000 {
        let mut some = |most: usize| numbers.below(most);
        let count = 1 + some(5);
        let messages: Vec<Vec<u8>> = (0..count)
            .map(|number| vec![u8::try_from(number).unwrap(); some(40)])
            .collect();
        let octets = framed(&messages);
        let mut streams = opened();
        let mut brought = Vec::new();
        // Pieces that overlap, repeat and lie beyond gaps, then all that may be missing.
        let mut pieces: Vec<_> = (0..some(30))
            .map(|_| {
                let at = some(octets.len());
                at..(at + 1 + some(80)).min(octets.len())
            })
            .collect();
        pieces.extend((0..octets.len()).map(|at| at..at + 1));
        for piece in pieces {
            let segment = segment(piece.start, &octets[piece]);
            let now = streams.take(connection(1, 1), &segment);
            assert!(!now.unread, "{round}");
            brought.extend(now.messages);
        }
        assert_eq!(brought, messages, "{round}");
    }
}
