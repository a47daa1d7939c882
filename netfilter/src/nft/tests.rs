//! The octets of a rule are those that the program `nft` sends, the order of a transaction, and that any answer is read.

use proptest::prelude::*;

use super::encode::{DELCHAIN, DELSET, DELSETELEM, NEWCHAIN, NEWRULE, NEWSETELEM};
use super::*;

fn asked(port: u16, number: u32) -> Octets {
    Octets::new().port(port).number(number)
}

fn led(address: &str) -> Value {
    Value::Values(Octets::new().address(address.parse().unwrap()).port(8080))
}

fn to_endpoints(count: u32) -> Rule {
    let (first, second) = (Register(0), Register(1));
    let port = Expr::Payload {
        base: PayloadBase::Transport,
        offset: 2,
        length: 2,
        to: first,
    };
    let chance = Expr::Numgen(count, second);
    let lookup = Expr::Lookup {
        set: Name::fixed("endpoints"),
        key: first,
        to: Some(first),
    };
    let dnat = Expr::Dnat {
        family: Family::V4,
        address: first,
        port: second,
    };
    vec![port, chance, lookup, dnat]
}

fn chain(rules: Vec<Rule>) -> Chain {
    Chain {
        hook: None,
        note: Note::new("shop/web"),
        rules,
    }
}

/// A map that leads, one behind it, and what Services add.
fn parts(services: &[(&str, u16, &[&str])]) -> Parts {
    let map = |key: Vec<Type>, data: Data, is_behind: bool| Set {
        key,
        data,
        is_counted: !is_behind,
        timeout: None,
        is_behind,
    };
    let endpoint = Data::Values(vec![Type::Address(Family::V4), Type::Port]);
    let numbered = vec![Type::Port, Type::Number];
    let base = Part {
        sets: [
            (
                Name::fixed("services"),
                map(vec![Type::Port], Data::Verdict, false),
            ),
            (Name::fixed("endpoints"), map(numbered, endpoint, true)),
        ]
        .into(),
        ..Part::default()
    };
    let mut parts: Parts = [(Arc::from(""), Arc::new(base))].into();
    for (name, port, endpoints) in services {
        let chain_name = Name::hashed("svc", &[name]);
        let count = u32::try_from(endpoints.len()).unwrap();
        let mut part = Part {
            sets: BTreeMap::new(),
            chains: [(chain_name.clone(), chain(vec![to_endpoints(count)]))].into(),
            elements: [(
                (Name::fixed("services"), Octets::new().port(*port)),
                Value::Goto(chain_name),
            )]
            .into(),
        };
        let all = (0..).zip(*endpoints).map(|(number, address)| {
            let key = asked(*port, number);
            ((Name::fixed("endpoints"), key), led(address))
        });
        part.elements.extend(all);
        parts.insert(Arc::from(*name), Arc::new(part));
    }
    parts
}

fn kinds(steps: &Steps) -> Vec<Vec<u8>> {
    let kinds = |messages: &Vec<Message>| messages.iter().map(|message| message.kind).collect();
    steps.transactions.iter().map(kinds).collect()
}

#[test]
fn elements_of_a_map_and_a_rule_with_a_chance_are_the_octets_that_nft_sends() {
    let keys = [0, 1].map(|number| Octets::new().number(number));
    let values = [led("10.1.0.1"), led("10.1.0.2")];
    let all = keys.iter().zip(values.iter().map(Some));
    let messages = encode::elements(Family::V4, NEWSETELEM, "endpoints", all);
    // As `strace nft add rule ... dnat ip to numgen random mod 2 map { ... }` shows them (nft 1.0.9, little endian).
    let elements = b"\x44\x00\x03\x80\x20\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x00\x00\x00\x00\x10\x00\x02\x80\x0c\x00\x01\x00\x0a\x01\x00\x01\x1f\x90\x00\x00\
        \x20\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x01\x00\x00\x00\x10\x00\x02\x80\x0c\x00\x01\x00\x0a\x01\x00\x02\x1f\x90\x00\x00";
    assert_eq!(messages.len(), 1);
    let body = &messages[0].body;
    assert!(body.ends_with(elements), "{body:02x?}");
    let message = encode::new_rule(Family::V4, &Name::fixed("svc-a"), &to_endpoints(2));
    assert_eq!(message.kind, NEWRULE);
    let numgen = b"\x34\x00\x01\x80\x0b\x00\x01\x00numgen\x00\x00\x24\x00\x02\x80\x08\x00\x01\x00\x00\x00\x00\x09\x08\x00\x02\x00\x00\x00\x00\x02\x08\x00\x03\x00\x00\x00\x00\x01\x08\x00\x04\x00\x00\x00\x00\x00";
    let body = &message.body;
    assert!(
        body.windows(numgen.len()).any(|octets| octets == numgen),
        "{body:02x?}"
    );
}

#[test]
fn elements_with_long_words_fit_their_messages() {
    let note = Value::Noted(Note::new(&"w".repeat(300)));
    let keys: Vec<Octets> = (0..2_000).map(|of| Octets::new().number(of)).collect();
    let all = keys.iter().map(|key| (key, Some(&note)));
    let messages = encode::elements(Family::V6, NEWSETELEM, "services", all);
    let mut reading = Reading::default();
    for message in &messages {
        assert!(message.body.len() < 1 << 16);
        reading.take(message.kind, &message.body);
    }
    let read = &reading.elements["services"];
    assert!(read.len() == 2_000 && read.values().all(|value| *value == note));
}

#[test]
fn a_change_is_one_transaction_that_takes_away_before_it_adds_and_removes_chains_last() {
    let before = parts(&[("a", 1, &["10.1.0.1"]), ("b", 2, &["10.1.0.2"])]);
    let mut after = before.clone();
    after.extend(parts(&[("c", 1, &["10.1.0.3", "10.1.0.4"])]));
    after.remove("a");
    let steps = plan(Family::V4, &before, &after);
    // Second endpoint; then the first, and who leads there, which were another's.
    assert_eq!(
        kinds(&steps),
        [vec![
            NEWCHAIN, NEWRULE, NEWSETELEM, DELSETELEM, DELSETELEM, NEWSETELEM, NEWSETELEM, 8,
            DELCHAIN
        ]]
    );
    assert!(plan(Family::V4, &after, &after.clone()).is_empty());
    let gone = plan(Family::V4, &after, &Parts::new());
    assert_eq!(kinds(&gone)[0].last(), Some(&DELSET));
}

#[test]
fn a_great_first_program_comes_in_pieces_and_is_reached_by_the_last_one_alone() {
    let names: Vec<String> = (0..5000).map(|number| format!("s{number}")).collect();
    let services: Vec<(&str, u16, &[&str])> = names
        .iter()
        .zip(1..)
        .map(|(name, port)| (name.as_str(), port, ["10.1.0.1", "10.1.0.2"].as_slice()))
        .collect();
    let steps = repair(Family::V4, &Reading::default(), &parts(&services));
    assert!(steps.transactions.len() > 1);
    let (last, first) = steps.transactions.split_last().unwrap();
    let leads = |message: &Message| {
        message.kind == NEWSETELEM
            && message
                .body
                .windows(13)
                .any(|octets| octets == b"\x0d\0\x02\0services\0")
    };
    assert!(!first.iter().flatten().any(leads));
    assert!(last.iter().filter(|message| leads(message)).count() > 1);
    let of_last: Vec<u8> = last.iter().map(|message| message.kind).collect();
    let early = |message: &&Message| message.kind == NEWSETELEM;
    assert!(
        first.iter().flatten().filter(early).count() > 1,
        "endpoints come before: {of_last:?}"
    );
    for transaction in &steps.transactions {
        let size: usize = transaction.iter().map(|message| message.body.len()).sum();
        assert!(size < 4 << 20, "{size}");
    }
}

#[test]
fn a_rules_hash_tells_what_it_does() {
    let hash = |count: u32| encode::hash(Family::V4, &to_endpoints(count));
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

proptest! {
    #[test]
    fn any_answer_is_read(kind in 0_u8..20, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reading = Reading::default();
        reading.take(kind, &body);
        let _ = counters(&body);
    }

    /// Our own requests have the form of the kernel's answers; cut short they are read, too.
    #[test]
    fn what_is_cut_short_is_read_as_far_as_it_goes(length in 0_usize..400) {
        let steps = rebuild(Family::V4, &parts(&[("a", 1, &["10.1.0.1"])]));
        for message in steps.transactions.iter().flatten() {
            let mut reading = Reading::default();
            reading.take(message.kind, &message.body[..length.min(message.body.len())]);
        }
    }
}
