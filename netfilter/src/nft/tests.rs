//! The octets of a rule are those that the program `nft` sends, the order of a transaction, and that any answer is read.

use proptest::prelude::*;

use super::encode::{DELCHAIN, DELSET, DELSETELEM, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM};
use super::*;

fn to_endpoints(addresses: &[&str]) -> Rule {
    let map = Set {
        key: vec![Type::Number],
        data: Data::Values(vec![Type::Address(Family::V4), Type::Port]),
        is_counted: false,
        timeout: None,
    };
    let value =
        |text: &&str| Value::Values(Octets::new().address(text.parse().unwrap()).port(8080));
    let all = (0..).zip(addresses.iter().map(value));
    let all = all.map(|(number, value)| (Octets::new().number(number), value));
    let (first, count) = (Register(0), u32::try_from(addresses.len()).unwrap());
    vec![
        Expr::Numgen(count, first),
        Expr::Lookup {
            set: SetRef::Anonymous(map, Arc::new(all.collect())),
            key: first,
            to: Some(first),
        },
        Expr::Dnat {
            family: Family::V4,
            address: first,
            port: Register(1),
        },
    ]
}

fn chain(rules: Vec<Rule>) -> Chain {
    Chain {
        hook: None,
        note: Note::new("shop/web"),
        rules,
    }
}

/// A map, and chains that are led to from it.
fn parts(services: &[(&str, u16, &[&str])]) -> Parts {
    let map = Set {
        key: vec![Type::Port],
        data: Data::Verdict,
        is_counted: true,
        timeout: None,
    };
    let base = Part {
        sets: [(Name::fixed("services"), map)].into(),
        ..Part::default()
    };
    let mut parts: Parts = [(Arc::from(""), Arc::new(base))].into();
    for (name, port, endpoints) in services {
        let led = Name::hashed("svc", &[name]);
        let part = Part {
            sets: BTreeMap::new(),
            chains: [(led.clone(), chain(vec![to_endpoints(endpoints)]))].into(),
            elements: [(
                (Name::fixed("services"), Octets::new().port(*port)),
                Value::Goto(led),
            )]
            .into(),
        };
        parts.insert(Arc::from(*name), Arc::new(part));
    }
    parts
}

fn kinds(steps: &Steps) -> Vec<Vec<u8>> {
    let kinds = |messages: &Vec<Message>| messages.iter().map(|message| message.kind).collect();
    steps.transactions.iter().map(kinds).collect()
}

#[test]
fn elements_of_a_rules_own_map_are_the_octets_that_nft_sends() {
    let mut ids = encode::SetIds::default();
    let name = Name::fixed("svc-a");
    let rule = to_endpoints(&["10.1.0.1", "10.1.0.2"]);
    let messages = encode::new_rule(Family::V4, &name, &rule, &mut ids);
    let kinds: Vec<u8> = messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [NEWSET, NEWSETELEM, NEWRULE]);
    // As `strace nft add rule ... dnat ip to numgen random mod 2 map { ... }` shows them (nft 1.0.9, little endian).
    let elements = b"\x44\x00\x03\x80\x20\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x00\x00\x00\x00\x10\x00\x02\x80\x0c\x00\x01\x00\x0a\x01\x00\x01\x1f\x90\x00\x00\
        \x20\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x01\x00\x00\x00\x10\x00\x02\x80\x0c\x00\x01\x00\x0a\x01\x00\x02\x1f\x90\x00\x00";
    assert!(
        messages[1].body.ends_with(elements),
        "{:02x?}",
        messages[1].body
    );
    let numgen = b"\x34\x00\x01\x80\x0b\x00\x01\x00numgen\x00\x00\x24\x00\x02\x80\x08\x00\x01\x00\x00\x00\x00\x08\x08\x00\x02\x00\x00\x00\x00\x02\x08\x00\x03\x00\x00\x00\x00\x01\x08\x00\x04\x00\x00\x00\x00\x00";
    let body = &messages[2].body;
    assert!(
        body.windows(numgen.len()).any(|octets| octets == numgen),
        "{body:02x?}"
    );
}

#[test]
fn a_change_is_one_transaction_that_takes_away_before_it_adds_and_removes_chains_last() {
    let before = parts(&[("a", 1, &["10.1.0.1"]), ("b", 2, &["10.1.0.2"])]);
    let mut after = before.clone();
    after.extend(parts(&[("c", 1, &["10.1.0.3"])]));
    after.remove("a");
    let steps = plan(Family::V4, &before, &after);
    assert_eq!(
        kinds(&steps),
        [vec![
            NEWCHAIN, NEWSET, NEWSETELEM, NEWRULE, DELSETELEM, NEWSETELEM, 8, DELCHAIN
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
    assert!(last.iter().filter(|message| leads(message)).count() >= 5000 / 400);
    for transaction in &steps.transactions {
        let size: usize = transaction.iter().map(|message| message.body.len()).sum();
        assert!(size < 4 << 20, "{size}");
    }
}

#[test]
fn a_rules_hash_tells_its_endpoints_apart() {
    let hash = |endpoints: &[&str]| encode::hash(Family::V4, &to_endpoints(endpoints));
    assert_eq!(hash(&["10.1.0.1"]), hash(&["10.1.0.1"]));
    assert_ne!(hash(&["10.1.0.1"]), hash(&["10.1.0.2"]));
    assert_ne!(hash(&["10.1.0.1"]), hash(&["10.1.0.1", "10.1.0.1"]));
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
