//! One direction of a policy as a chain of one family. The chain is named by what is in it, and so never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::resources::{IpBlock, Protocol as PolicyProtocol};
use netfilter::{Action, ChainName, Family, Match, PortRange, Rule, SetDirection, SetName};

use crate::group::has_not;
use crate::meaning::{Meaning, Needs, PodChoice, family_of, kernel_protocol};
use crate::part::{Effect, Part, PartPeer, PartPort, PartRule};
use crate::{Direction, Problem, Settings};

/// What the kernel refused: nothing may be made of it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) sets: BTreeSet<SetName>,
    pub(crate) chains: BTreeSet<ChainName>,
}

/// What chains are made with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) broken: &'a Broken,
    pub(crate) family: Family,
}

/// A policy's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) name: ChainName,
    pub(crate) rules: Arc<[Rule]>,
    /// Which rule of the policy each rule but the last comes from.
    pub(crate) origin: Vec<usize>,
    pub(crate) needs: Needs,
    /// What could not be put into force because the kernel refused it.
    pub(crate) problems: BTreeSet<Problem>,
}

/// So many rules may be tried after the one that allowed.
const FEW: usize = 8;

/// The conditions of one rule of the kernel, which rule of the policy it comes from, and what that does.
type Line = (usize, Vec<Match>, Effect);

impl Rendered {
    pub(crate) fn new(context: Context<'_>, part: &Part) -> Self {
        let mut needs = Needs::new();
        let mut problems = BTreeSet::new();
        let mut lines: Vec<Line> = Vec::new();
        for (index, rule) in part.rules.iter().enumerate() {
            let renderer = Renderer {
                context,
                part,
                rule,
            };
            let (ways, refused) = renderer.ways(&mut needs);
            for set in &refused {
                let what = format!("the kernel refused its set {set}");
                problems.insert(part.problem(index, &what));
            }
            let closed = !refused.is_empty() || !rule.unsupported().is_empty();
            if closed && rule.effect != Effect::Allow {
                lines.push((index, Vec::new(), Effect::Deny));
            } else {
                lines.extend(ways.into_iter().map(|way| (index, way, rule.effect)));
            }
        }
        let name = context.chain_name(part, &lines);
        if context.broken.chains.contains(&name) {
            problems.insert(Problem {
                key: part.key.clone(),
                message: format!("{}: the kernel refused its chain {name}", part.direction),
            });
            lines = fallback(part);
        }
        Self::finish(context, part, lines, needs, problems)
    }

    fn finish(
        context: Context<'_>,
        part: &Part,
        lines: Vec<Line>,
        needs: Needs,
        problems: BTreeSet<Problem>,
    ) -> Self {
        let name = context.chain_name(part, &lines);
        let used: BTreeSet<&SetName> = lines.iter().flat_map(|line| sets_of(&line.1)).collect();
        let needs = needs
            .into_iter()
            .filter(|(name, _)| used.contains(name))
            .collect();
        let mut rules = Vec::new();
        let mut origin = Vec::new();
        for (rule, (index, conditions, effect)) in context.rules(&lines).into_iter().zip(&lines) {
            let log = context.log(&name).filter(|_| *effect == Effect::Deny);
            if let Some((limit, nflog)) = log {
                let limited = conditions.iter().cloned().chain([limit]);
                rules.push(Rule::new(limited, nflog));
                origin.push(*index);
            }
            rules.push(rule);
            origin.push(*index);
        }
        rules.push(Rule::new([], Action::Return));
        Self {
            name,
            rules: rules.into(),
            origin,
            needs,
            problems,
        }
    }
}

/// What stands for a chain that the kernel refused: nothing is allowed by it, and all denied if it denies anything.
fn fallback(part: &Part) -> Vec<Line> {
    let denies = |rule: &PartRule| rule.effect != Effect::Allow;
    let first = part.rules.iter().position(denies);
    first
        .map(|index| (index, Vec::new(), Effect::Deny))
        .into_iter()
        .collect()
}

impl Effect {
    fn action(self) -> Action {
        match self {
            Self::Allow => Action::Goto(ChainName::fixed("ALLOW")),
            Self::Pass => Action::Goto(ChainName::fixed("PASS")),
            Self::Deny => Action::Drop,
        }
    }
}

impl Context<'_> {
    /// The name hangs on all that the chain says; what it logs says the name and so cannot be part of it.
    fn chain_name(&self, part: &Part, lines: &[Line]) -> ChainName {
        let mut words = vec![
            part.key.to_string(),
            format!("{:?} {:?}", self.family, self.settings.drop_log),
        ];
        words.extend(self.rules(lines).iter().map(Rule::render));
        let prefix = match (&part.key, part.direction) {
            (api::Key::ClusterNetworkPolicy(_), Direction::Ingress) => "CI",
            (api::Key::ClusterNetworkPolicy(_), Direction::Egress) => "CO",
            (_, Direction::Ingress) => "PI",
            (_, Direction::Egress) => "PO",
        };
        ChainName::hashed(prefix, &words)
    }

    /// A rule for each line. Where all of a few allow, each sets the mark itself, unless one before it has: nftables
    /// walks a chain once for each rule that leads to it, and most rules allow. In a long chain the first that matches
    /// is the last that is tried.
    fn rules(&self, lines: &[Line]) -> Vec<Rule> {
        let allowed = self.settings.mark.allowed();
        let sets_mark = lines.len() <= FEW && lines.iter().all(|line| line.2 == Effect::Allow);
        let rule = |(number, (_, conditions, effect)): (usize, &Line)| {
            let conditions = conditions.iter().cloned();
            if !sets_mark {
                return Rule::new(conditions, effect.action());
            }
            let undecided = (number > 0).then(|| has_not(allowed));
            let set_mark = Action::SetMark {
                value: allowed,
                mask: allowed,
            };
            Rule::new(conditions.chain(undecided), set_mark)
        };
        lines.iter().enumerate().map(rule).collect()
    }

    /// What shows a denied packet before it is dropped, if that is wished.
    pub(crate) fn log(&self, chain: &ChainName) -> Option<(Match, Action)> {
        let log = self.settings.drop_log.as_ref()?;
        let prefix = chain.clone();
        let nflog = Action::Nflog {
            group: log.group,
            prefix,
        };
        Some((Match::Limit { rate: log.rate }, nflog))
    }
}

/// A way in which a rule's peers may match.
struct PeerWay<'a> {
    conditions: Vec<Match>,
    /// The pods that it means, if it means pods.
    pods: Option<&'a PodChoice>,
}

struct Renderer<'a> {
    context: Context<'a>,
    part: &'a Part,
    rule: &'a PartRule,
}

impl<'a> Renderer<'a> {
    /// The ways in which the rule matches (peers times ports), and the sets it would need that the kernel refused.
    fn ways(&self, needs: &mut Needs) -> (Vec<Vec<Match>>, BTreeSet<SetName>) {
        let peers = self.peers(needs);
        let numeric = numeric_ports(self.rule.ports.as_deref());
        let mut ways: Vec<Vec<Match>> = Vec::new();
        for peer in &peers {
            for ports in &numeric {
                let conditions = peer.conditions.iter().chain(ports).cloned();
                ways.push(conditions.collect());
            }
            for port in self.rule.ports.iter().flatten() {
                if let PartPort::Named(name, protocol) = port {
                    ways.extend(self.named(peer, name, *protocol, needs));
                }
            }
        }
        let mut seen = BTreeSet::new();
        ways.retain(|way| seen.insert(way.clone()));
        let broken = |way: &Vec<Match>| -> Vec<SetName> {
            sets_of(way)
                .filter(|name| self.context.broken.sets.contains(*name))
                .cloned()
                .collect()
        };
        let refused = ways.iter().flat_map(broken).collect();
        ways.retain(|way| broken(way).is_empty());
        (ways, refused)
    }

    fn peers(&self, needs: &mut Needs) -> Vec<PeerWay<'a>> {
        let Some(peers) = &self.rule.peers else {
            return vec![PeerWay {
                conditions: Vec::new(),
                pods: None,
            }];
        };
        let (mut ways, mut blocks) = (Vec::new(), BTreeSet::<IpBlock>::new());
        for peer in peers {
            let (meaning, pods) = match peer {
                PartPeer::Pods(choice) => (Meaning::Pods(choice.clone()), Some(choice)),
                PartPeer::Nodes(selector) => (Meaning::Nodes(selector.clone()), None),
                PartPeer::Domain(_) if self.context.settings.domain_names.is_none() => continue,
                PartPeer::Domain(name) => (Meaning::Domain(name.clone()), None),
                PartPeer::Block(block) => {
                    if family_of(&block.cidr) == self.context.family {
                        blocks.insert(block.clone());
                    }
                    continue;
                }
                PartPeer::Unsupported(_) => continue,
            };
            let conditions = vec![self.peer_set(meaning, needs)];
            ways.push(PeerWay { conditions, pods });
        }
        if !blocks.is_empty() {
            let conditions = vec![self.peer_set(Meaning::Nets(blocks), needs)];
            ways.push(PeerWay {
                conditions,
                pods: None,
            });
        }
        ways
    }

    /// A named port: on the subject's own pods for ingress, on the peers' for egress (semantics 22, 23).
    fn named(
        &self,
        peer: &PeerWay<'_>,
        name: &str,
        protocol: Option<PolicyProtocol>,
        needs: &mut Needs,
    ) -> Option<Vec<Match>> {
        let of_pods = |choice: PodChoice| Meaning::Ports(choice, name.to_owned(), protocol);
        let (mut conditions, meaning) = match (self.part.direction, peer.pods) {
            (Direction::Ingress, _) => {
                (peer.conditions.clone(), of_pods(self.part.subject.clone()?))
            }
            // The set of the peers' ports says who the peers are.
            (Direction::Egress, Some(choice)) => (Vec::new(), of_pods(choice.clone())),
            (Direction::Egress, None) => (peer.conditions.clone(), of_pods(PodChoice::any())),
        };
        conditions.extend(protocol.map(|protocol| Match::Protocol(kernel_protocol(protocol))));
        conditions.push(self.set(meaning, SetDirection::DestinationAndPort, needs));
        Some(conditions)
    }

    fn peer_set(&self, meaning: Meaning, needs: &mut Needs) -> Match {
        let direction = match self.part.direction {
            Direction::Ingress => SetDirection::Source,
            Direction::Egress => SetDirection::Destination,
        };
        self.set(meaning, direction, needs)
    }

    fn set(&self, meaning: Meaning, direction: SetDirection, needs: &mut Needs) -> Match {
        let name = meaning.name(self.context.family);
        needs.insert(name.clone(), meaning);
        Match::Set {
            name,
            direction,
            negated: false,
        }
    }
}

/// The sets that conditions ask.
pub(crate) fn sets_of(conditions: &[Match]) -> impl Iterator<Item = &SetName> {
    conditions.iter().filter_map(|condition| match condition {
        Match::Set { name, .. } => Some(name),
        _ => None,
    })
}

/// The ways in which ports that are numbers may match; one empty way if there is no list, which is every protocol.
fn numeric_ports(ports: Option<&[PartPort]>) -> Vec<Vec<Match>> {
    let Some(ports) = ports else {
        return vec![Vec::new()];
    };
    let mut by_protocol: BTreeMap<PolicyProtocol, (bool, Vec<PortRange>)> = BTreeMap::new();
    for port in ports {
        match port {
            PartPort::Any(protocol) => by_protocol.entry(*protocol).or_default().0 = true,
            PartPort::Range(protocol, range) => {
                by_protocol.entry(*protocol).or_default().1.push(*range);
            }
            PartPort::Named(..) | PartPort::Unsupported(_) => {}
        }
    }
    let mut ways = Vec::new();
    for (protocol, (any, ranges)) in by_protocol {
        let protocol = Match::Protocol(kernel_protocol(protocol));
        if any {
            ways.push(vec![protocol]);
            continue;
        }
        let chunks = PortRange::chunks(&ranges).into_iter();
        ways.extend(chunks.map(|chunk| vec![protocol.clone(), Match::DestinationPorts(chunk)]));
    }
    ways
}
