//! Chains that Services share: all that answer each kind of sender alike and have as many endpoints.

use netfilter::Family;
use netfilter::nft::{Expr, MetaKey, Name, Part, Register, Rule, Verdict};

use super::{Options, base};
use crate::proxy::model::{Answer, Answers, Scope, ServicePort};

/// What becomes of packets by who sends them, and among how many endpoints one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Door {
    answers: Answers,
    /// How many there are of the cluster; 0 if nobody is led to them.
    cluster: u32,
    /// And of this node.
    local: u32,
}

impl Door {
    pub(super) const REFUSED: Self = Self::shut(Answer::Reject);
    pub(super) const DROPPED: Self = Self::shut(Answer::Drop);

    const fn shut(answer: Answer) -> Self {
        Self {
            answers: Answers {
                own_pod: answer,
                node: answer,
                other: answer,
            },
            cluster: 0,
            local: 0,
        }
    }

    /// That of a port's cluster IP, or of its other frontends. Where nobody is, the sender is told.
    pub(super) fn new(answers: &Answers, port: &ServicePort) -> Self {
        let told = |answer: Answer| match answer {
            Answer::Forward { to, .. } if port.endpoints(to).is_empty() => Answer::Reject,
            other => other,
        };
        let answers = Answers {
            own_pod: told(answers.own_pod),
            node: told(answers.node),
            other: told(answers.other),
        };
        let count = |scope: Scope| match is_asked(&answers, scope) {
            true => u32::try_from(port.endpoints(scope).len()).unwrap_or(u32::MAX),
            false => 0,
        };
        Self {
            answers,
            cluster: count(Scope::Cluster),
            local: count(Scope::Local),
        }
    }

    /// Whether it is there without any Service.
    pub(super) fn is_fixed(&self) -> bool {
        [Self::REFUSED, Self::DROPPED].contains(self)
    }

    /// Whether somebody is led somewhere.
    pub(super) fn leads(&self) -> bool {
        self.cluster > 0 || self.local > 0
    }

    /// What answers each kind of sender.
    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Whose endpoints are asked.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        let counts = [(Scope::Cluster, self.cluster), (Scope::Local, self.local)];
        let asked = counts.into_iter().filter(|(_, count)| *count > 0);
        asked.map(|(scope, _)| scope)
    }

    /// Among how many of these one is chosen.
    pub(super) fn count(&self, scope: Scope) -> u32 {
        match scope {
            Scope::Cluster => self.cluster,
            Scope::Local => self.local,
        }
    }

    /// `to-cCC-5`: the cluster's for all, masqueraded but for pods of this node, one of five.
    pub(super) fn name(&self) -> Name {
        match *self {
            Self::REFUSED => base::refuse(),
            Self::DROPPED => base::drop(),
            _ => {
                let [own_pod, node, other] = all(&self.answers).map(letter);
                let counts: Vec<u32> = self.scopes().map(|scope| self.count(scope)).collect();
                Name::numbered(&["to-", own_pod, node, other], &counts)
            }
        }
    }

    fn note(&self) -> String {
        let words = |answer| match answer {
            Answer::Forward { to, masquerade } => {
                let to = match to {
                    Scope::Cluster => "any endpoint",
                    Scope::Local => "a local endpoint",
                };
                format!("{to}{}", if masquerade { " masqueraded" } else { "" })
            }
            Answer::Reject => "refused".to_owned(),
            Answer::Drop => "dropped".to_owned(),
        };
        let [own_pod, node, other] = all(&self.answers).map(words);
        format!("pods here: {own_pod} - this node: {node} - others: {other}")
    }
}

/// A great one masquerades.
fn letter(answer: Answer) -> &'static str {
    match answer {
        Answer::Forward { to, masquerade } => match (to, masquerade) {
            (Scope::Cluster, false) => "c",
            (Scope::Cluster, true) => "C",
            (Scope::Local, false) => "l",
            (Scope::Local, true) => "L",
        },
        Answer::Reject => "r",
        Answer::Drop => "d",
    }
}

fn all(answers: &Answers) -> [Answer; 3] {
    [answers.own_pod, answers.node, answers.other]
}

/// Whether some sender is led to these.
pub(super) fn is_asked(answers: &Answers, scope: Scope) -> bool {
    let is_led = |answer: Answer| matches!(answer, Answer::Forward { to, .. } if to == scope);
    all(answers).into_iter().any(is_led)
}

/// The map of all endpoints that are some of so many. One for each number: what asks a map is looked at with each element of it, and
/// all elements with each that comes to ask.
pub(super) fn endpoints(scope: Scope, count: u32) -> Name {
    match scope {
        Scope::Cluster => Name::numbered(&["endpoints"], &[count]),
        Scope::Local => Name::numbered(&["endpoints-local"], &[count]),
    }
}

/// The chains of doors, and those that choose among their endpoints.
pub(super) fn add<'a>(
    part: &mut Part,
    family: Family,
    doors: impl Iterator<Item = &'a Door>,
    options: &Options,
) {
    for door in doors {
        let to = |scope| one_of(scope, door.count(scope));
        let rules = rules(&door.answers, family, options, &to);
        let chain = base::chain(&door.note(), rules);
        part.chains.insert(door.name(), chain);
        for scope in door.scopes() {
            let count = door.count(scope);
            let chain = base::chain("", choose(family, scope, count));
            part.chains.insert(one_of(scope, count), chain);
            let map = base::of_endpoints(family, true);
            part.sets.insert(endpoints(scope, count), map);
        }
    }
}

fn one_of(scope: Scope, count: u32) -> Name {
    match scope {
        Scope::Cluster => Name::numbered(&["one-of"], &[count]),
        Scope::Local => Name::numbered(&["one-of-local"], &[count]),
    }
}

/// To an endpoint, each with the same chance. A change may come between a packet's way to here and its look into the map: then it is
/// led to the first that there is now, for no packet to a Service may go on as it came.
fn choose(family: Family, scope: Scope, count: u32) -> Vec<Rule> {
    let number = Register(base::behind(family).0 + 2);
    let map = endpoints(scope, count);
    let chance = [Expr::Numgen(count, number)];
    let mut rules = base::to_endpoints(family, &chance, &map);
    let first = Verdict::Goto(base::firsts(scope));
    rules.push(vec![Expr::Verdict(first)]);
    rules
}

/// What becomes of a packet by who sent it; `to` names the chain that leads to endpoints.
pub(super) fn rules(
    answers: &Answers,
    family: Family,
    options: &Options,
    to: &dyn Fn(Scope) -> Name,
) -> Vec<Rule> {
    let go = |scope| Expr::Verdict(Verdict::Goto(to(scope)));
    if let Some(scope) = common(answers) {
        let mut rules = marks(answers, options);
        rules.push(vec![go(scope)]);
        return rules;
    }
    let conditions = [of_pod(options, false), of_node(), Vec::new()];
    let each = conditions.into_iter().zip(all(answers));
    let rule = |(mut rule, answer): (Rule, Answer)| {
        match answer {
            Answer::Reject => rule.push(Expr::Reject(family)),
            Answer::Drop => rule.push(Expr::Verdict(Verdict::Drop)),
            Answer::Forward { to, masquerade } => {
                if masquerade {
                    rule.extend(base::mark(options));
                }
                rule.push(go(to));
            }
        }
        rule
    };
    each.map(rule).collect()
}

/// Where all senders are led, if that is the same for all.
fn common(answers: &Answers) -> Option<Scope> {
    let scopes = all(answers).map(|answer| match answer {
        Answer::Forward { to, .. } => Some(to),
        Answer::Reject | Answer::Drop => None,
    });
    let [first, rest @ ..] = scopes;
    first.filter(|_| rest.iter().all(|one| *one == first))
}

/// By an interface of our pods, or by none of them: the node's own packets came by none.
fn of_pod(options: &Options, is_negated: bool) -> Vec<Expr> {
    let prefix = options.pod_interfaces.as_str().as_bytes();
    let compare = if is_negated { base::is_not } else { base::is };
    vec![Expr::Meta(MetaKey::InputName, base::FIRST), compare(prefix)]
}

/// The node's own packets came by no interface.
fn of_node() -> Vec<Expr> {
    vec![Expr::Meta(MetaKey::Input, base::FIRST), base::is(&[0; 4])]
}

/// Marks those that are to get the node's address.
fn marks(answers: &Answers, options: &Options) -> Vec<Rule> {
    let is_marked = |answer: Answer| {
        matches!(
            answer,
            Answer::Forward {
                masquerade: true,
                ..
            }
        )
    };
    let mark = |mut rule: Rule| {
        rule.extend(base::mark(options));
        rule
    };
    match all(answers).map(is_marked) {
        [true, true, true] => vec![mark(Vec::new())],
        [false, true, true] => vec![mark(of_pod(options, true))],
        [by_pod, by_node, by_others] => {
            let mut rules = Vec::new();
            if by_pod {
                rules.push(mark(of_pod(options, false)));
            }
            if by_node {
                rules.push(mark(of_node()));
            }
            if by_others {
                let mut other = of_pod(options, true);
                other.push(Expr::Meta(MetaKey::Input, base::FIRST));
                other.push(base::is_not(&[0; 4]));
                rules.push(mark(other));
            }
            rules
        }
    }
}
