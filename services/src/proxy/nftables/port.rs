//! The chains of one port of a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::resources::Protocol as Spoken;
use netfilter::Protocol;
use netfilter::nft::{
    Data, Expr, MetaKey, Name, Octets, Register, Rule, Set, SetRef, Type, Value, Verdict,
};

use super::{Made, Options, base};
use crate::proxy::endpoints::Endpoint;
use crate::proxy::model::{Answer, Answers, Frontend, FrontendKind, Scope, Served, ServicePort};
use crate::proxy::protocol_word;

fn protocol(of: Spoken) -> Protocol {
    match of {
        Spoken::Tcp => Protocol::Tcp,
        Spoken::Udp => Protocol::Udp,
        Spoken::Sctp => Protocol::Sctp,
    }
}

/// Adds a port to what its Service has.
pub(super) fn add(made: &mut Made, port: &ServicePort, options: &Options) {
    let maker = Maker::new(port, options);
    let has = |is_inside: bool| {
        let mut kinds = port.frontends.iter().map(|one| one.kind);
        kinds.any(|kind| (kind == FrontendKind::ClusterIp) == is_inside)
    };
    if has(true) && is_led(&port.internal) {
        let rules = maker.door(&port.internal);
        maker.put(made, "svc", "cluster IP", rules);
    }
    if has(false) && is_led(&port.external) {
        let rules = maker.door(&port.external);
        maker.put(made, "ext", "from outside", rules);
        if maker.has_firewall() {
            maker.put(made, "fw", "loadbalancer IP", maker.firewall());
        }
    }
    for (scope, uses) in &maker.uses {
        if *uses > 1 {
            let (kind, note) = of_scope(*scope);
            maker.put(made, kind, note, maker.endpoints(*scope));
        }
        for one in port.endpoints(*scope) {
            // Who is on another node is masqueraded here anyway, or not led to itself.
            if one.is_local || one.node.is_none() {
                let address = one.address.ip();
                let pair = Octets::new().address(address).address(address);
                made.shared.insert((base::hairpin(), pair));
            }
        }
    }
    if port.affinity.is_some() && !maker.uses.is_empty() {
        let clients = maker.clients();
        made.part.sets.insert(maker.affinity(), clients);
    }
    for frontend in &port.frontends {
        maker.lead(made, frontend);
    }
}

/// Where a frontend stands: the map ([`base::SERVICES`] or [`base::NODE_PORTS`]), and its key there.
fn door(protocol: Protocol, frontend: &Frontend) -> (&'static str, Octets) {
    let (map, key) = match frontend.address {
        Some(address) => (base::SERVICES, Octets::new().address(address)),
        None => (base::NODE_PORTS, Octets::new()),
    };
    (map, key.protocol(protocol).port(frontend.port))
}

/// Each frontend of a Service, with the map and the key of the element that leads to it and counts the flows that it led.
pub fn doors(served: &Served) -> Vec<(&ServicePort, &Frontend, &'static str, Octets)> {
    let mut doors = Vec::new();
    for port in &served.ports {
        for frontend in &port.frontends {
            let (map, key) = door(protocol(port.name.protocol), frontend);
            doors.push((port, frontend, map, key));
        }
    }
    doors
}

/// Whether some sender is led somewhere.
fn is_led(answers: &Answers) -> bool {
    all(answers)
        .into_iter()
        .any(|answer| matches!(answer, Answer::Forward { .. }))
}

fn all(answers: &Answers) -> [Answer; 3] {
    [answers.own_pod, answers.node, answers.other]
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

fn of_scope(scope: Scope) -> (&'static str, &'static str) {
    match scope {
        Scope::Cluster => ("eps", "endpoints"),
        Scope::Local => ("epl", "local endpoints"),
    }
}

struct Maker<'a> {
    port: &'a ServicePort,
    options: &'a Options,
    /// What people call it.
    title: String,
    protocol: Protocol,
    /// How many rules lead to a scope's endpoints: to more than one they are a chain of their own.
    uses: BTreeMap<Scope, usize>,
}

impl<'a> Maker<'a> {
    fn new(port: &'a ServicePort, options: &'a Options) -> Self {
        let mut uses = BTreeMap::new();
        let mut asked: Vec<&Answers> = Vec::new();
        let is_inside = |one: &Frontend| one.kind == FrontendKind::ClusterIp;
        if port.frontends.iter().any(is_inside) {
            asked.push(&port.internal);
        }
        if !port.frontends.iter().all(is_inside) {
            asked.push(&port.external);
        }
        for answers in asked {
            if let Some(scope) = common(answers) {
                *uses.entry(scope).or_default() += 1;
                continue;
            }
            for answer in all(answers) {
                if let Answer::Forward { to, .. } = answer {
                    // A condition stands before it: it cannot go on in the same chain.
                    *uses.entry(to).or_default() += 2;
                }
            }
        }
        Self {
            port,
            options,
            title: port.name.to_string(),
            protocol: protocol(port.name.protocol),
            uses,
        }
    }

    fn name(&self, kind: &'static str) -> Name {
        let word = protocol_word(self.port.name.protocol);
        Name::hashed(kind, &[self.title.as_str(), word])
    }

    fn put(&self, made: &mut Made, kind: &'static str, note: &str, rules: Vec<Rule>) {
        let word = protocol_word(self.port.name.protocol);
        let chain = base::chain(&format!("{} {word} {note}", self.title), rules);
        made.part.chains.insert(self.name(kind), chain);
    }

    /// Whether some may not ask the load balancer's addresses.
    fn has_firewall(&self) -> bool {
        let is_balanced = |one: &Frontend| one.kind == FrontendKind::LoadBalancer;
        !self.port.sources.is_empty() && self.port.frontends.iter().any(is_balanced)
    }

    /// Semantics 136.
    fn firewall(&self) -> Vec<Rule> {
        let ranges = self.port.sources.iter();
        let mut rules: Vec<Rule> = ranges
            .map(|range| {
                let mut rule = base::is_in(range, true);
                rule.push(Expr::Verdict(Verdict::Goto(self.name("ext"))));
                rule
            })
            .collect();
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        rules
    }

    /// The element by which a frontend is found.
    fn lead(&self, made: &mut Made, frontend: &Frontend) {
        let answers = self.port.answers(frontend.kind);
        let chain = match (is_led(answers), frontend.kind) {
            (false, _) if answers.other == Answer::Drop => base::drop(),
            (false, _) => base::refuse(),
            (true, FrontendKind::ClusterIp) => self.name("svc"),
            (true, FrontendKind::LoadBalancer) if self.has_firewall() => self.name("fw"),
            (true, _) => self.name("ext"),
        };
        let (map, key) = door(self.protocol, frontend);
        let element = (Name::fixed(map), key);
        made.part.elements.insert(element, Value::Goto(chain));
        if let (FrontendKind::ClusterIp, Some(address)) = (frontend.kind, frontend.address) {
            let key = Octets::new().address(address);
            made.shared.insert((base::cluster_ips(), key));
        }
    }

    /// What becomes of a packet by who sent it.
    fn door(&self, answers: &Answers) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(scope) = common(answers) {
            rules.extend(self.marks(answers));
            rules.extend(self.to(scope));
            return rules;
        }
        let conditions = [self.of_pod(false), of_node(), Vec::new()];
        for (condition, answer) in conditions.into_iter().zip(all(answers)) {
            let mut rule = condition;
            match answer {
                Answer::Reject => rule.push(Expr::Reject(self.port.family)),
                Answer::Drop => rule.push(Expr::Verdict(Verdict::Drop)),
                Answer::Forward { to, masquerade } => {
                    if masquerade {
                        rule.extend(base::mark(self.options));
                    }
                    rule.push(Expr::Verdict(Verdict::Goto(self.name(of_scope(to).0))));
                }
            }
            rules.push(rule);
        }
        rules
    }

    /// By an interface of our pods, or by none of them: the node's own packets came by none.
    fn of_pod(&self, is_negated: bool) -> Vec<Expr> {
        let prefix = self.options.pod_interfaces.as_str().as_bytes();
        let compare = if is_negated { base::is_not } else { base::is };
        vec![Expr::Meta(MetaKey::InputName, base::FIRST), compare(prefix)]
    }

    /// Marks those that are to get the node's address.
    fn marks(&self, answers: &Answers) -> Vec<Rule> {
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
            rule.extend(base::mark(self.options));
            rule
        };
        match all(answers).map(is_marked) {
            [true, true, true] => vec![mark(Vec::new())],
            [false, true, true] => vec![mark(self.of_pod(true))],
            [of_pod, of_node_itself, of_others] => {
                let mut rules = Vec::new();
                if of_pod {
                    rules.push(mark(self.of_pod(false)));
                }
                if of_node_itself {
                    rules.push(mark(of_node()));
                }
                if of_others {
                    let mut other = self.of_pod(true);
                    other.push(Expr::Meta(MetaKey::Input, base::FIRST));
                    other.push(base::is_not(&[0; 4]));
                    rules.push(mark(other));
                }
                rules
            }
        }
    }

    /// What leads to a scope's endpoints, at a chain's end.
    fn to(&self, scope: Scope) -> Vec<Rule> {
        match self.uses.get(&scope) {
            Some(1) => self.endpoints(scope),
            _ => vec![vec![Expr::Verdict(Verdict::Goto(
                self.name(of_scope(scope).0),
            ))]],
        }
    }

    /// The set of clients, each with its endpoint: another time another set, for a set's own cannot be changed.
    fn affinity(&self) -> Name {
        let word = protocol_word(self.port.name.protocol);
        let seconds = self.port.affinity.unwrap_or_default().as_secs().to_string();
        Name::hashed("aff", &[self.title.as_str(), word, &seconds])
    }

    fn clients(&self) -> Set {
        let address = Type::Address(self.port.family);
        Set {
            key: vec![address, address, Type::Port],
            data: Data::None,
            is_counted: false,
            timeout: self.port.affinity,
        }
    }

    /// Each endpoint with the same chance; or, where clients keep theirs, the last one first (semantics 137).
    fn endpoints(&self, scope: Scope) -> Vec<Rule> {
        let endpoints = self.port.endpoints(scope);
        if endpoints.is_empty() {
            return vec![vec![Expr::Reject(self.port.family)]];
        }
        let mut rules = Vec::new();
        if self.port.affinity.is_some() {
            rules.extend(endpoints.iter().map(|one| self.remembered(one)));
            let left = (1..=endpoints.len()).rev();
            let each = endpoints.iter().zip(left);
            rules.extend(each.map(|(one, left)| self.remembering(one, left)));
        }
        // With affinity: where no client more can be remembered.
        let [numgen, lookup] = self.choose(endpoints);
        let mut rule = self.spoken();
        rule.extend([numgen, lookup, self.dnat(base::FIRST)]);
        rules.push(rule);
        rules
    }

    /// Ports are the protocol's: nft reads no rule without it.
    fn spoken(&self) -> Rule {
        vec![
            Expr::Meta(MetaKey::Protocol, base::FIRST),
            base::is(&[self.protocol.number()]),
        ]
    }

    /// To what stands there and behind it.
    fn dnat(&self, address: Register) -> Expr {
        let port = Register(address.0 + base::words(self.port.family));
        Expr::Dnat {
            family: self.port.family,
            address,
            port,
        }
    }

    /// The client's address, and one endpoint behind it.
    fn client_and(&self, endpoint: &Endpoint) -> [Expr; 3] {
        let family = self.port.family;
        let (address, port) = (endpoint.address.ip(), endpoint.address.port());
        let behind = base::behind(family);
        [
            base::address(family, true, base::FIRST),
            Expr::Load(Octets::new().address(address), behind),
            Expr::Load(
                Octets::new().port(port),
                Register(behind.0 + base::words(family)),
            ),
        ]
    }

    /// To an endpoint, if it is the client's; that counts as use.
    fn remembered(&self, endpoint: &Endpoint) -> Rule {
        let mut rule = self.spoken();
        rule.extend(self.client_and(endpoint));
        rule.push(Expr::Lookup {
            set: SetRef::Named(self.affinity()),
            key: base::FIRST,
            to: None,
        });
        rule.extend(self.remember_and_lead());
        rule
    }

    /// To an endpoint, by a chance of one in so many: it is the client's then.
    fn remembering(&self, endpoint: &Endpoint, left: usize) -> Rule {
        let mut rule = self.spoken();
        if left > 1 {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            rule.extend([Expr::Numgen(left, base::FIRST), base::is(&[0; 4])]);
        }
        rule.extend(self.client_and(endpoint));
        rule.extend(self.remember_and_lead());
        rule
    }

    fn remember_and_lead(&self) -> [Expr; 2] {
        let update = Expr::Update {
            set: self.affinity(),
            key: base::FIRST,
        };
        [update, self.dnat(base::behind(self.port.family))]
    }

    /// One of them, by chance.
    fn choose(&self, endpoints: &[Endpoint]) -> [Expr; 2] {
        let map = Set {
            key: vec![Type::Number],
            data: Data::Values(vec![Type::Address(self.port.family), Type::Port]),
            is_counted: false,
            timeout: None,
        };
        let numbered = (0..).zip(endpoints);
        let all = numbered.map(|(number, one): (u32, _)| {
            (Octets::new().number(number), Value::Values(value(one)))
        });
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        [
            Expr::Numgen(count, base::FIRST),
            Expr::Lookup {
                set: SetRef::Anonymous(map, Arc::new(all.collect())),
                key: base::FIRST,
                to: Some(base::FIRST),
            },
        ]
    }
}

/// The node's own packets came by no interface.
fn of_node() -> Vec<Expr> {
    vec![Expr::Meta(MetaKey::Input, base::FIRST), base::is(&[0; 4])]
}

fn value(endpoint: &Endpoint) -> Octets {
    let address = endpoint.address;
    Octets::new().address(address.ip()).port(address.port())
}
