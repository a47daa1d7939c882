//! The same question to both worlds, and what differs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::rack::say;
use tests::reach::Transport;

use crate::ask::{Effort, Got, Outcome, Way, ask_all};
use crate::differences::Difference;
use crate::objects::Case;
use crate::world::{Place, SECOND, World};

/// What differs at first may be late, or chance: it is asked so often again, more each time.
const ROUNDS: usize = 5;
const FIRST: Effort = Effort {
    tries: 8,
    patience: Duration::from_millis(1300),
};

/// What kind of address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    /// A port that the Service has not, at its cluster IP.
    OtherPort,
    NodePort,
    /// At another address of the node than that of its status.
    SecondAddress,
    Localhost,
    LoadBalancer,
    External,
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) service: String,
    pub(crate) kind: Kind,
    pub(crate) from: Place,
    pub(crate) way: Way,
    is_sticky: bool,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Way { to, transport } = self.way;
        write!(
            f,
            "{:?} to {} at {:?} {to} by {transport}",
            self.from, self.service, self.kind
        )
    }
}

/// What was asked and came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) questions: usize,
    pub(crate) asked: usize,
    /// By what kube-proxy's world said.
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) silent: usize,
    /// Questions answered otherwise, by the name of the listed difference.
    pub(crate) differ: BTreeMap<&'static str, usize>,
}

/// Every sender at every address and port of a Service, as its object has them.
pub(crate) fn questions(case: &Case) -> Result<Vec<Question>> {
    let spec = &case.service["spec"];
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned))
            .collect()
    };
    let mut fronts: Vec<(Kind, IpAddr, u16, Transport)> = Vec::new();
    for port in spec["ports"].as_array().context("no ports")? {
        let transport = match port["protocol"].as_str() {
            Some("UDP") => Transport::Udp,
            _ => Transport::Tcp,
        };
        let number = u16::try_from(port["port"].as_u64().context("no port")?)?;
        let ingress = case
            .ingress
            .iter()
            .filter_map(|ingress| ingress["ip"].as_str());
        let lists = [
            (Kind::Cluster, texts(&spec["clusterIPs"])),
            (Kind::External, texts(&spec["externalIPs"])),
            (Kind::LoadBalancer, ingress.map(str::to_owned).collect()),
        ];
        for (kind, list) in lists {
            for ip in list.iter().filter(|ip| *ip != "None") {
                fronts.push((kind, ip.parse()?, number, transport));
                if kind == Kind::Cluster && case.name() == "everything" {
                    fronts.push((Kind::OtherPort, ip.parse()?, 9999, transport));
                }
            }
        }
        if let Some(node_port) = port["nodePort"].as_u64() {
            fronts.extend(at_node(case, u16::try_from(node_port)?, transport)?);
        }
    }
    let each = fronts.into_iter().flat_map(|(kind, ip, port, transport)| {
        Place::ASKING
            .into_iter()
            // Loopback is the node's own.
            .filter(move |from| kind != Kind::Localhost || *from == Place::Node)
            .map(move |from| Question {
                service: case.name().to_owned(),
                kind,
                from,
                way: Way {
                    to: SocketAddr::new(ip, port),
                    transport,
                },
                is_sticky: case.is_sticky,
            })
    });
    // The load balancer's address that is an external one, too, is asked once.
    let mut seen = std::collections::BTreeSet::new();
    Ok(each
        .filter(|q| seen.insert((q.from, q.way.to, q.way.transport.to_string())))
        .collect())
}

fn at_node(
    case: &Case,
    port: u16,
    transport: Transport,
) -> Result<Vec<(Kind, IpAddr, u16, Transport)>> {
    let mut fronts = Vec::new();
    for address in Place::Node.addresses() {
        fronts.push((Kind::NodePort, address.parse()?, port, transport));
    }
    if ["everything", "nobody", "outside-here", "outside-away"].contains(&case.name()) {
        for address in SECOND {
            fronts.push((Kind::SecondAddress, address.parse()?, port, transport));
        }
        for address in ["127.0.0.1", "::1"] {
            fronts.push((Kind::Localhost, address.parse()?, port, transport));
        }
    }
    Ok(fronts)
}

/// Asks both worlds all of it, what differs again, and judges what still does by the list.
pub(crate) fn compare(
    worlds: &[World; 2],
    questions: &[Question],
    differences: &[Difference],
) -> Result<Tally> {
    let mut tally = Tally {
        questions: questions.len(),
        ..Tally::default()
    };
    let mut got: Vec<[Got; 2]> = vec![[Got::new(), Got::new()]; questions.len()];
    let mut open: Vec<usize> = (0..questions.len()).collect();
    for round in 0..ROUNDS {
        // Flows that are to be cut are so a second after the rules are there, with both.
        std::thread::sleep(Duration::from_millis(700) * u32::from(round > 0));
        let effort = Effort {
            tries: (FIRST.tries << (2 * round)).min(64),
            patience: FIRST.patience * if round == 0 { 1 } else { 2 },
        };
        tally.asked += ask_both(worlds, questions, &open, effort, &mut got)?;
        open.retain(|&at| {
            let differs = !is_same(&questions[at], &got[at]);
            differs && listed(differences, &questions[at], &got[at]).is_none()
        });
        if open.is_empty() {
            break;
        }
    }
    let open: Vec<String> = open
        .iter()
        .map(|&at| line(&questions[at], &got[at]))
        .collect();
    for (question, got) in questions.iter().zip(&got) {
        let found = listed(differences, question, got);
        if let Some(found) = found.filter(|_| !is_same(question, got)) {
            *tally.differ.entry(found.name).or_default() += 1;
        }
        match got[0].first() {
            Some(Outcome::Answered { .. }) => tally.answered += 1,
            Some(Outcome::Silent | Outcome::Unreachable) => tally.silent += 1,
            Some(Outcome::Refused) => tally.refused += 1,
            None => bail!("{question}: not asked"),
        }
    }
    ensure!(
        open.is_empty(),
        "{} answers differ:\n{}",
        open.len(),
        open.join("\n")
    );
    Ok(tally)
}

fn listed<'a>(
    list: &'a [Difference],
    question: &Question,
    got: &[Got; 2],
) -> Option<&'a Difference> {
    list.iter()
        .find(|difference| (difference.is_it)(question, &got[0], &got[1]))
}

/// Both worlds' places ask at the same time.
fn ask_both(
    worlds: &[World; 2],
    questions: &[Question],
    open: &[usize],
    effort: Effort,
    got: &mut [[Got; 2]],
) -> Result<usize> {
    let mut asked = 0;
    let results = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (number, world) in worlds.iter().enumerate() {
            for from in Place::ASKING {
                let own = open
                    .iter()
                    .copied()
                    .filter(|&at| questions[at].from == from);
                let own: Vec<usize> = own.collect();
                let work = move || -> Result<_> {
                    let ways: Vec<Way> = own.iter().map(|&at| questions[at].way).collect();
                    let (all, count) = ask_all(world.at(from)?, &ways, effort)
                        .with_context(|| format!("{from:?} of {}", world.name))?;
                    Ok((number, own, all, count))
                };
                running.push(scope.spawn(work));
            }
        }
        let joined = running.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap())
            .collect::<Result<Vec<_>>>()
    })?;
    for (number, own, all, count) in results {
        asked += count;
        for (at, one) in own.into_iter().zip(all) {
            got[at][number] = one;
        }
    }
    Ok(asked)
}

fn is_same(question: &Question, [kube_proxy, ours]: &[Got; 2]) -> bool {
    if !question.is_sticky {
        return kube_proxy == ours;
    }
    // One endpoint each, whichever; it is seen by both who asked, but by itself.
    let own = question.from.addresses();
    let one = |got: &Got| match got.first() {
        Some(Outcome::Answered { by, seen }) if got.len() == 1 => {
            let is_own = own.contains(&by.ip().to_string().as_str());
            Some((*seen, is_own))
        }
        _ => None,
    };
    kube_proxy == ours
        || match (one(kube_proxy), one(ours)) {
            (Some(one), Some(other)) => one.1 != other.1 || one.0 == other.0,
            _ => false,
        }
}

fn line(question: &Question, got: &[Got; 2]) -> String {
    let told = |got: &Got| -> String {
        let words: Vec<String> = got
            .iter()
            .map(|outcome| match outcome {
                Outcome::Answered { by, seen } => format!("{by} saw {seen}"),
                other => format!("{other:?}"),
            })
            .collect();
        words.join(", ")
    };
    format!(
        "{question}: kube-proxy: {}; ours: {}",
        told(&got[0]),
        told(&got[1])
    )
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.questions += other.questions;
        self.asked += other.asked;
        self.answered += other.answered;
        self.refused += other.refused;
        self.silent += other.silent;
        for (&name, count) in &other.differ {
            *self.differ.entry(name).or_default() += count;
        }
    }

    pub(crate) fn tell(&self, what: &str) {
        say(&format!(
            "{what}: {} questions asked {} times: {} answered, {} refused, {} dropped; as listed: {:?}",
            self.questions, self.asked, self.answered, self.refused, self.silent, self.differ
        ));
    }
}
