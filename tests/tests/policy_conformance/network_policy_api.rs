//! The conformance tests of network-policy-api v0.2.0: 92 subtests, by pod addresses, on one node and on two; DROP, not REJECT.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::require_root;

use crate::kernel::BackEnd;
use crate::matrix::compare;
use crate::packet::Transport;
use crate::stage::{Actor, Cast, Placement, Question, Stage, TWO_NODES, doubles, id};

const TESTS: usize = 24;
const SUBTESTS: usize = 92;
/// Calls of upstream's `PokeServer`; each is asked over IPv4 and IPv6.
const PROBES: u64 = 289;
/// All pods on one node, but for the second that is in the network of its node: it is the other node's.
const MOSTLY_ONE_NODE: &[Placement] = &[|actor| actor != 9];

/// The file; it says how it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    tests: Vec<Test>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    test: String,
    cnp: BTreeMap<String, Value>,
    #[serde(default)]
    np: BTreeMap<String, Value>,
    subtests: Vec<Subtest>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subtest {
    title: String,
    #[serde(default)]
    change: Vec<String>,
    probes: Vec<String>,
}

/// Four houses with two pods each, and two pods in the network of their nodes.
fn cast() -> Cast {
    let houses = ["gry", "sly", "huf", "rav", "forest"];
    let actor = |house: &str, name: &str| Actor {
        name: format!("{house}/{name}"),
        labels: json!({"house": house}),
        ports: json!([
            {"name": "web", "containerPort": 80, "protocol": "TCP"},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        ]),
        host_network: house == "forest",
    };
    let of = |house| ["p0", "p1"].map(|name| actor(house, name));
    Cast {
        namespaces: houses
            .map(|name| (name.to_owned(), json!({"house": name})))
            .to_vec(),
        actors: houses.into_iter().flat_map(of).collect(),
    }
}

fn policy(name: &str, spec: &Value) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        }),
        None => json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name}, "spec": spec,
        }),
    }
}

impl Test {
    fn play(&self, stage: &mut Stage, cast: &Cast) -> Result<u64> {
        stage.reset()?;
        for (name, spec) in self.cnp.iter().chain(&self.np) {
            stage.set(&policy(name, spec))?;
        }
        let problems = stage.problems();
        ensure!(problems.is_empty(), "{problems:?}");
        let mut compared = 0;
        for subtest in &self.subtests {
            compared += subtest
                .play(stage, cast)
                .with_context(|| format!("{}: {}", self.test, subtest.title))?;
        }
        Ok(compared)
    }
}

impl Subtest {
    fn play(&self, stage: &mut Stage, cast: &Cast) -> Result<u64> {
        for words in &self.change {
            change(stage, words).with_context(|| words.clone())?;
        }
        let mut questions = Vec::new();
        let mut table = Vec::new();
        for words in &self.probes {
            let (question, expected) = probe(cast, words).with_context(|| words.clone())?;
            questions.push(question);
            table.push(expected);
        }
        compare(stage, cast, &questions, &table)
    }
}

/// `swap NAME LIST FIRST SECOND`, `set NAME POINTER JSON`, `insert NAME LIST JSON` or `delete NAMESPACE/NAME`.
fn change(stage: &mut Stage, words: &str) -> Result<()> {
    let (verb, rest) = words.split_once(' ').context("a verb")?;
    if verb == "delete" {
        return stage.remove(&format!("NetworkPolicy {rest}"));
    }
    let mut words = rest.splitn(3, ' ');
    let mut word = || words.next().context("too few words");
    let (name, pointer, rest) = (word()?, word()?, word()?);
    let mut manifest = stage.manifest(&id(&policy(name, &Value::Null)))?;
    let at = manifest.pointer_mut(pointer);
    match verb {
        "swap" => {
            let (first, second) = rest.split_once(' ').context("two numbers")?;
            let list = at.and_then(Value::as_array_mut).context("a list")?;
            let (first, second): (usize, usize) = (first.parse()?, second.parse()?);
            ensure!(first.max(second) < list.len(), "no such rule");
            list.swap(first, second);
        }
        "insert" => {
            let list = at.and_then(Value::as_array_mut).context("a list")?;
            list.insert(0, serde_json::from_str(rest)?);
        }
        "set" => *at.context("nothing there")? = serde_json::from_str(rest)?,
        _ => anyhow::bail!("no such verb"),
    }
    stage.set(&manifest)
}

/// `gry0>huf1 tcp/8080 yes`.
fn probe(cast: &Cast, words: &str) -> Result<(Question, bool)> {
    let words: Vec<&str> = words.split([' ', '>', '/']).collect();
    let [from, to, protocol, port, expected] = words[..] else {
        anyhow::bail!("five words");
    };
    let pod = |word: &str| {
        let (house, number) = word.split_at(word.len() - 1);
        cast.index(&format!("{house}/p{number}"))
    };
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => anyhow::bail!("no such protocol"),
    };
    ensure!(expected == "yes" || expected == "no", "yes or no");
    let question = Question {
        from: pod(from)?,
        to: pod(to)?,
        transport,
        port: port.parse()?,
        by_service: false,
    };
    Ok((question, expected == "yes"))
}

fn all_tests(tag: &str, processor: usize, back_end: BackEnd, placements: &[Placement]) {
    let text = include_str!("network_policy_api.yaml");
    let table: Table = serde_saphyr::from_str(text).unwrap();
    let cast = cast();
    let mut stage = Stage::new(tag, processor, back_end, cast.clone(), placements).unwrap();
    let probes: u64 = table
        .tests
        .iter()
        .map(|test| test.play(&mut stage, &cast).unwrap())
        .sum();
    let subtests: usize = table.tests.iter().map(|test| test.subtests.len()).sum();
    eprintln!(
        "network-policy-api on {} node(s), {}: {TESTS} tests, {subtests} cases, {probes} probes",
        placements.len(),
        back_end.name()
    );
    assert_eq!(table.tests.len(), TESTS);
    assert!(doubles(table.tests.iter().map(|test| test.test.as_str())).is_empty());
    assert_eq!(subtests, SUBTESTS);
    assert_eq!(probes, 2 * PROBES, "both families");
    stage.check_silence().unwrap();
}

#[test]
fn the_92_subtests_of_network_policy_api_hold_where_all_pods_are_on_one_node() {
    require_root!();
    all_tests("na1", 1, BackEnd::Legacy, MOSTLY_ONE_NODE);
}

#[test]
fn the_92_subtests_of_network_policy_api_hold_where_the_pods_are_on_two_nodes() {
    require_root!();
    all_tests("na2", 0, BackEnd::Nft, TWO_NODES);
}
