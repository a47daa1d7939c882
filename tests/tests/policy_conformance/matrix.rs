//! Tables of cases over the pods x, y, z × a, b, c: what each step changes, and all 81 cells of each port afterwards.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::packet::Transport;
use crate::stage::{Actor, Cast, Question, Stage};

pub(crate) const PORTS: [u16; 2] = [80, 81];
pub(crate) const TRANSPORTS: [(&str, Transport); 3] = [
    ("TCP", Transport::Tcp),
    ("UDP", Transport::Udp),
    ("SCTP", Transport::Sctp),
];

/// A file of cases; `netpol.yaml` says how they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) title: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    np: BTreeMap<String, Value>,
    #[serde(default)]
    labels: BTreeMap<String, BTreeMap<String, String>>,
    expect: BTreeMap<String, Vec<String>>,
}

/// Three namespaces with three pods each, and two ports of three protocols in each pod.
pub(crate) fn cast() -> Cast {
    let namespaces = ["x", "y", "z"];
    let mut ports = Vec::new();
    for port in PORTS {
        for (protocol, _) in TRANSPORTS {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            ports.push(json!({"name": name, "containerPort": port, "protocol": protocol}));
        }
    }
    let actor = |namespace: &str, name: &str| Actor {
        name: format!("{namespace}/{name}"),
        labels: json!({"pod": name}),
        ports: json!(ports),
        host_network: false,
    };
    let of = |namespace| ["a", "b", "c"].map(|name| actor(namespace, name));
    Cast {
        namespaces: namespaces
            .map(|name| (name.to_owned(), json!({"ns": name})))
            .to_vec(),
        actors: namespaces.into_iter().flat_map(of).collect(),
    }
}

/// Plays the cases; how many packets were compared with the table.
pub(crate) fn play(stage: &mut Stage, cases: &[Case]) -> Result<u64> {
    let cast = cast();
    let mut compared = 0;
    for case in cases {
        stage.reset()?;
        for (number, step) in (1..).zip(&case.steps) {
            let done = (|| {
                step.change(stage)?;
                step.compare(stage, &cast)
            })();
            compared += done.with_context(|| format!("{}, step {number}", case.title))?;
        }
    }
    Ok(compared)
}

impl Step {
    fn change(&self, stage: &mut Stage) -> Result<()> {
        for (name, spec) in &self.np {
            if spec.is_null() {
                stage.remove(&format!("NetworkPolicy {name}"))?;
                continue;
            }
            let (namespace, name) = name.split_once('/').context("namespace/name")?;
            stage.set(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec,
            }))?;
        }
        for (name, labels) in &self.labels {
            let kind = if name.contains('/') {
                "Pod"
            } else {
                "Namespace"
            };
            let mut manifest = stage.manifest(&format!("{kind} {name}"))?;
            for (key, value) in labels {
                manifest["metadata"]["labels"][key] = json!(value);
            }
            stage.set(&manifest)?;
        }
        Ok(())
    }

    fn compare(&self, stage: &mut Stage, cast: &Cast) -> Result<u64> {
        let mut questions = Vec::new();
        let mut table = Vec::new();
        for port in PORTS {
            for (name, transport) in TRANSPORTS {
                let lines = self.lines(port, name)?;
                for from in 0..cast.actors.len() {
                    for to in 0..cast.actors.len() {
                        let (source, destination) =
                            (&cast.actors[from].name, &cast.actors[to].name);
                        table.push(is_reached(lines, source, destination)?);
                        questions.push(Question {
                            from,
                            to,
                            transport,
                            port,
                            by_service: true,
                        });
                    }
                }
            }
        }
        ensure!(questions.len() == 6 * 81, "{}", questions.len());
        compare(stage, cast, &questions, &table)
    }

    fn lines(&self, port: u16, protocol: &str) -> Result<&[String]> {
        let named = format!("{port}/{protocol}");
        let found = [named.as_str(), "all", "other"].map(|key| self.expect.get(key));
        let lines = found.into_iter().flatten().next();
        Ok(lines.with_context(|| format!("the table says nothing of {named}"))?)
    }
}

/// Asks, and says where the kernel and a table differ; how many packets were compared.
pub(crate) fn compare(
    stage: &mut Stage,
    cast: &Cast,
    questions: &[Question],
    table: &[bool],
) -> Result<u64> {
    let answers = stage.ask(questions)?;
    let mut wrong = Vec::new();
    for ((question, expected), answer) in questions.iter().zip(table).zip(&answers) {
        if *answer != [*expected; 2] {
            let names = [question.from, question.to].map(|number| &cast.actors[number].name);
            wrong.push(format!(
                "{} > {} {}/{:?}: IPv4, IPv6 {answer:?}, the table {expected}",
                names[0], names[1], question.port, question.transport
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        table.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    Ok(2 * u64::try_from(answers.len())?)
}

/// What the lines of a table say of a cell: the last that fits. A pod is always reached by itself.
fn is_reached(lines: &[String], from: &str, to: &str) -> Result<bool> {
    let mut reached = true;
    for line in lines {
        let (word, cells) = line.split_once(' ').context("yes or no, and cells")?;
        let (source, destination) = cells.split_once('>').context("from>to")?;
        ensure!(word == "yes" || word == "no", "{line}");
        if is_meant(source, from) && is_meant(destination, to) {
            reached = word == "yes";
        }
    }
    Ok(reached || from == to)
}

/// `*` is every pod, `x` those of a namespace, `x/a` one.
fn is_meant(pattern: &str, pod: &str) -> bool {
    let namespace = pod.split('/').next();
    pattern == "*" || pattern == pod || Some(pattern) == namespace
}

#[test]
fn the_last_line_that_fits_decides_a_cell() {
    let lines = ["no *>x", "yes y>x/a"].map(str::to_owned);
    let reached = |from, to| is_reached(&lines, from, to).unwrap();
    assert!(!reached("y/b", "x/b"), "the namespace is closed");
    assert!(reached("y/b", "x/a"), "but for one pod from another");
    assert!(!reached("z/a", "x/a"));
    assert!(reached("x/b", "x/b"), "itself");
    assert!(reached("x/a", "z/a"), "no line fits");
    assert!(is_reached(&["maybe *>x".to_owned()], "y/a", "x/a").is_err());
}
