//! The chain that endpoints with the same policies share: the tiers in their order, and what comes after them.

use std::collections::BTreeSet;

use api::Key;
use netfilter::{Action, ChainName, CtState, InterfaceMatch, InterfaceName, Match, Protocol, Rule};

use crate::policing::Policing;
use crate::render::Context;
use crate::{Direction, EgressToOwnNode, Origin, Problem};

/// The chain of a policy in a direction; `None` if it has none.
pub(crate) type ChainOf<'a> = &'a dyn Fn(&Key) -> Option<ChainName>;

/// A group's chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The chain that endpoints go to.
    pub(crate) name: ChainName,
    pub(crate) rules: Vec<Rule>,
    /// The admin tier's own chain, if it has several policies.
    pub(crate) admin: Option<(ChainName, Vec<Rule>)>,
    pub(crate) problems: BTreeSet<Problem>,
}

impl Group {
    pub(crate) fn new(
        context: Context<'_>,
        direction: Direction,
        policing: &Policing,
        chain_of: ChainOf<'_>,
    ) -> Self {
        let maker = Maker { context, direction };
        let admin: Vec<ChainName> = policing.admin_keys().iter().filter_map(chain_of).collect();
        let tier = (admin.len() > 1).then(|| maker.admin(&admin));
        let mut rules = maker.start();
        if let Some(first) = tier.as_ref().map(|(name, _)| name).or(admin.first()) {
            rules.push(Rule::new([], Action::Jump(first.clone())));
            rules.push(maker.if_allowed());
        }
        if policing.isolating.is_empty() {
            let baseline = policing.baseline_keys();
            maker.baseline(
                !admin.is_empty(),
                baseline.iter().filter_map(chain_of),
                &mut rules,
            );
        } else {
            let keys = policing.isolating.iter().cloned().map(Key::NetworkPolicy);
            let chains: Vec<ChainName> = keys.filter_map(|key| chain_of(&key)).collect();
            maker.isolation(chains, &mut rules);
        }
        maker.finish(policing, rules, tier)
    }
}

impl Group {
    /// What its chains stand for.
    pub(crate) fn origins(
        &self,
        policing: &Policing,
        direction: Direction,
    ) -> Vec<(ChainName, Origin)> {
        let group = |name: &ChainName, policies| {
            let origin = Origin::Group {
                policies,
                direction,
            };
            (name.clone(), origin)
        };
        let mut origins = vec![group(&self.name, policing.keys())];
        if let Some((name, _)) = &self.admin {
            origins.push(group(name, policing.admin_keys()));
        }
        origins
    }

    /// Its chains.
    pub(crate) fn chains(&self) -> impl Iterator<Item = (&ChainName, &[Rule])> {
        let admin = self.admin.iter();
        let admin = admin.map(|(name, rules)| (name, rules.as_slice()));
        std::iter::once((&self.name, self.rules.as_slice())).chain(admin)
    }
}

/// The name of an endpoint's chain: it hangs on the endpoint alone.
pub(crate) fn endpoint_chain(interface: &InterfaceName, direction: Direction) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "EI",
        Direction::Egress => "EO",
    };
    ChainName::hashed(prefix, &[interface.as_str()])
}

/// An endpoint's chain: to its group, if it has one. What a pod sends to itself is not judged.
pub(crate) fn endpoint_rules(
    interface: &InterfaceName,
    direction: Direction,
    group: Option<&ChainName>,
) -> Vec<Rule> {
    let Some(group) = group else {
        return vec![Rule::new([], Action::Return)];
    };
    let same = InterfaceMatch::Exact(interface.clone());
    let other_way = match direction {
        Direction::Ingress => Match::InInterface(same),
        Direction::Egress => Match::OutInterface(same),
    };
    vec![
        Rule::new([other_way], Action::Return),
        Rule::new([], Action::Goto(group.clone())),
    ]
}

struct Maker<'a> {
    context: Context<'a>,
    direction: Direction,
}

impl Maker<'_> {
    fn start(&self) -> Vec<Rule> {
        let new = Match::CtState(BTreeSet::from([CtState::New]));
        let invalid = Match::CtState(BTreeSet::from([CtState::Invalid]));
        let no_connection = [Match::Protocol(Protocol::Tcp), Match::TcpNotSyn, new];
        vec![
            self.clear(self.decided()),
            Rule::new(no_connection, Action::Drop),
            Rule::new([invalid], Action::Drop),
        ]
    }

    fn admin(&self, chains: &[ChainName]) -> (ChainName, Vec<Rule>) {
        let mut rules = Vec::new();
        for chain in chains {
            rules.push(Rule::new([], Action::Jump(chain.clone())));
            rules.push(self.if_decided());
        }
        rules.push(Rule::new([], Action::Return));
        let prefix = match self.direction {
            Direction::Ingress => "AI",
            Direction::Egress => "AO",
        };
        (named_by_content(prefix, &rules, &[]), rules)
    }

    fn isolation(&self, chains: Vec<ChainName>, rules: &mut Vec<Rule>) {
        let marks = self.context.settings.mark;
        let lenient = self.context.settings.egress_to_own_node == EgressToOwnNode::Allowed;
        if self.direction == Direction::Egress && lenient {
            rules.push(Rule::new([has(marks.own_node())], Action::Return));
        }
        let is_any = !chains.is_empty();
        for (number, chain) in chains.into_iter().enumerate() {
            // One rule a policy: what an earlier one allowed passes by the others.
            let undecided = (number > 0).then(|| has_not(marks.allowed()));
            rules.push(Rule::new(undecided, Action::Jump(chain)));
        }
        if is_any {
            rules.push(self.if_allowed());
        }
        rules.push(Rule::new([], Action::Drop));
    }

    fn baseline(
        &self,
        after_admin: bool,
        chains: impl Iterator<Item = ChainName>,
        rules: &mut Vec<Rule>,
    ) {
        let mut chains = chains.peekable();
        if after_admin && chains.peek().is_some() {
            rules.push(self.clear(self.context.settings.mark.passed()));
        }
        for chain in chains {
            rules.push(Rule::new([], Action::Jump(chain)));
            rules.push(self.if_decided());
        }
        rules.push(Rule::new([], Action::Return));
    }

    /// Names the chain. One that the kernel refused becomes one that denies all.
    fn finish(
        &self,
        policing: &Policing,
        mut rules: Vec<Rule>,
        mut admin: Option<(ChainName, Vec<Rule>)>,
    ) -> Group {
        let prefix = match self.direction {
            Direction::Ingress => "GI",
            Direction::Egress => "GO",
        };
        let logs = format!("{:?}", self.context.settings.drop_log);
        let mut name = named_by_content(prefix, &rules, &[logs.as_str()]);
        let mut problems = BTreeSet::new();
        let of_tier = admin.as_ref().map(|(name, _)| name.clone());
        let mut own = [Some(name.clone()), of_tier].into_iter().flatten();
        if let Some(refused) = own.find(|name| self.context.broken.chains.contains(name)) {
            let direction = self.direction;
            problems.extend(policing.keys().into_iter().map(|key| Problem {
                key,
                message: format!(
                    "{direction}: the kernel refused the chain {refused}: all is denied"
                ),
            }));
            rules = vec![Rule::new([], Action::Drop)];
            admin = None;
            name = named_by_content(prefix, &rules, &[logs.as_str(), name.as_str()]);
        }
        let denies = rules
            .last()
            .is_some_and(|rule| *rule.action() == Action::Drop);
        if let Some((limit, nflog)) = self.context.log(&name).filter(|_| denies) {
            let before_the_last = rules.len().saturating_sub(1);
            rules.insert(before_the_last, Rule::new([limit], nflog));
        }
        Group {
            name,
            rules,
            admin,
            problems,
        }
    }

    fn decided(&self) -> u32 {
        self.context.settings.mark.allowed() | self.context.settings.mark.passed()
    }

    fn clear(&self, mask: u32) -> Rule {
        Rule::new([], Action::SetMark { value: 0, mask })
    }

    fn if_allowed(&self) -> Rule {
        Rule::new([has(self.context.settings.mark.allowed())], Action::Return)
    }

    /// Allowed or passed: the tier is left.
    fn if_decided(&self) -> Rule {
        let condition = Match::Mark {
            value: 0,
            mask: self.decided(),
            negated: true,
        };
        Rule::new([condition], Action::Return)
    }
}

/// The condition that a bit of the mark is set.
pub(crate) fn has(bit: u32) -> Match {
    Match::Mark {
        value: bit,
        mask: bit,
        negated: false,
    }
}

/// The condition that it is not.
pub(crate) fn has_not(bit: u32) -> Match {
    Match::Mark {
        value: bit,
        mask: bit,
        negated: true,
    }
}

fn named_by_content(prefix: &'static str, rules: &[Rule], more: &[&str]) -> ChainName {
    let mut words: Vec<String> = rules.iter().map(Rule::render).collect();
    words.extend(more.iter().map(|word| (*word).to_owned()));
    ChainName::hashed(prefix, &words)
}
