//! What one port of a Service adds: its elements; and chains of its own where it has source ranges or clients keep their endpoint.

use api::resources::Protocol as Spoken;
use netfilter::nft::{
    Data, Expr, MetaKey, Name, Octets, Register, Rule, Set, Type, Value, Verdict,
};
use netfilter::{Note, Protocol};

use super::door::{self, Door};
use super::{Made, Options, Wanted, base};
use crate::proxy::endpoints::Endpoint;
use crate::proxy::model::{Answers, Frontend, FrontendKind, Scope, Served, ServicePort};
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
    let maker = Maker {
        port,
        options,
        title: port.name.to_string(),
        protocol: protocol(port.name.protocol),
    };
    for frontend in &port.frontends {
        maker.lead(made, frontend);
    }
    if port.affinity.is_some() {
        maker.add_affinity(made);
    }
}

/// Where a frontend stands: the set ([`base::SERVICES`] or [`base::NODE_PORTS`]), and its key there.
fn place(protocol: Protocol, frontend: &Frontend) -> (&'static str, Octets) {
    let (set, key) = match frontend.address {
        Some(address) => (base::SERVICES, Octets::new().address(address)),
        None => (base::NODE_PORTS, Octets::new()),
    };
    (set, key.protocol(protocol).port(frontend.port))
}

/// Each frontend of a Service, with the set and the key of the element that counts the flows that asked there.
pub fn asked_at(served: &Served) -> Vec<(&ServicePort, &Frontend, &'static str, Octets)> {
    let mut all = Vec::new();
    for port in &served.ports {
        for frontend in &port.frontends {
            let (set, key) = place(protocol(port.name.protocol), frontend);
            all.push((port, frontend, set, key));
        }
    }
    all
}

fn words(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::LoadBalancer => "loadbalancer IP",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::NodePort => "node port",
    }
}

/// A kind of chain that one port alone has.
#[derive(Clone, Copy)]
enum Own {
    /// Its cluster IP's.
    Inside,
    /// Its other frontends'.
    Outside,
    /// Its load balancer's.
    Ranges,
    /// Its endpoints.
    Of(Scope),
}

impl Own {
    /// What starts the name, and what people are told.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Inside => ("svc", "cluster IP"),
            Self::Outside => ("ext", "from outside"),
            Self::Ranges => ("fw", "loadbalancer IP"),
            Self::Of(Scope::Cluster) => ("eps", "endpoints"),
            Self::Of(Scope::Local) => ("epl", "local endpoints"),
        }
    }
}

struct Maker<'a> {
    port: &'a ServicePort,
    options: &'a Options,
    /// What people call it.
    title: String,
    protocol: Protocol,
}

impl Maker<'_> {
    fn word(&self) -> &'static str {
        protocol_word(self.port.name.protocol)
    }

    fn name(&self, own: Own) -> Name {
        Name::hashed(own.words().0, &[self.title.as_str(), self.word()])
    }

    fn put(&self, made: &mut Made, own: Own, rules: Vec<Rule>) {
        let note = format!("{} {} {}", self.title, self.word(), own.words().1);
        let chain = base::chain(&note, rules);
        made.part.chains.insert(self.name(own), chain);
    }

    /// The elements of a frontend.
    fn lead(&self, made: &mut Made, frontend: &Frontend) {
        let family = self.port.family;
        let (_, key) = place(self.protocol, frontend);
        let address = frontend.address.unwrap_or(base::unspecified(family));
        let asked = Octets::new().address(address).protocol(self.protocol);
        let asked = asked.port(frontend.port);
        let set = match frontend.address {
            Some(_) => base::services(),
            None => base::node_ports(),
        };
        let what = format!("{} {} {}", self.title, self.word(), words(frontend.kind));
        let note = Value::Noted(Note::new(&what));
        made.part.elements.insert((set, key), note);
        if let (FrontendKind::ClusterIp, Some(address)) = (frontend.kind, frontend.address) {
            let key = Octets::new().address(address);
            let element = (base::cluster_ips(), key);
            made.shared.insert(Wanted::Element(element));
        }
        let door = Door::new(self.port.answers(frontend.kind), self.port);
        let chain = self.chain(made, frontend.kind, door);
        let element = (base::doors(), asked.clone());
        made.part.elements.insert(element, Value::Goto(chain));
        for scope in door.scopes() {
            self.add_endpoints(made, (scope, door.count(scope)), &asked);
        }
    }

    /// Where packets to a frontend go: to a door that others share, or to chains of this port's own.
    fn chain(&self, made: &mut Made, kind: FrontendKind, door: Door) -> Name {
        let own = match kind {
            _ if self.port.affinity.is_none() => None,
            FrontendKind::ClusterIp => Some(Own::Inside),
            _ => Some(Own::Outside),
        };
        let own = own.filter(|_| door.leads());
        if own.is_none() && !door.is_fixed() {
            made.shared.insert(Wanted::Door(door));
        }
        let to = own.map_or_else(|| door.name(), |own| self.name(own));
        let is_ranged = kind == FrontendKind::LoadBalancer && !self.port.sources.is_empty();
        if is_ranged && door.leads() {
            self.put(made, Own::Ranges, self.ranges(&to));
            return self.name(Own::Ranges);
        }
        to
    }

    /// Semantics 136.
    fn ranges(&self, to: &Name) -> Vec<Rule> {
        let ranges = self.port.sources.iter();
        let mut rules: Vec<Rule> = ranges
            .map(|range| {
                let mut rule = base::is_in(range, true);
                rule.push(Expr::Verdict(Verdict::Goto(to.clone())));
                rule
            })
            .collect();
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        rules
    }

    /// Whom packets to a frontend may be led to.
    fn add_endpoints(&self, made: &mut Made, (scope, count): (Scope, u32), asked: &Octets) {
        let endpoints = self.port.endpoints(scope);
        if self.port.affinity.is_none() {
            let elements = &mut made.part.elements;
            let map = door::endpoints(scope, count);
            let each = (0..).zip(endpoints).map(|(number, one)| {
                let key = asked.clone().number(number);
                ((map.clone(), key), Value::Values(value(one)))
            });
            elements.extend(each);
            let first = endpoints.first().map(|one| {
                let key = (base::firsts(scope), asked.clone());
                (key, Value::Values(value(one)))
            });
            elements.extend(first);
        }
        // Who is on another node is masqueraded here anyway, or not led to itself.
        let may_ask_itself = |one: &&Endpoint| one.is_local || one.node.is_none();
        for one in endpoints.iter().filter(may_ask_itself) {
            let address = one.address.ip();
            let pair = Octets::new().address(address).address(address);
            let element = (base::hairpin(), pair);
            made.shared.insert(Wanted::Element(element));
        }
    }

    /// Where clients keep their endpoints: the chains of this port, and the set of its clients.
    fn add_affinity(&self, made: &mut Made) {
        let is_inside = |one: &Frontend| one.kind == FrontendKind::ClusterIp;
        let frontends = &self.port.frontends;
        let mut asked: Vec<(Own, &Answers)> = Vec::new();
        if frontends.iter().any(is_inside) {
            asked.push((Own::Inside, &self.port.internal));
        }
        if !frontends.iter().all(is_inside) {
            asked.push((Own::Outside, &self.port.external));
        }
        for (own, answers) in asked {
            let door = Door::new(answers, self.port);
            if !door.leads() {
                continue;
            }
            let to = |scope| self.name(Own::Of(scope));
            let rules = door::rules(door.answers(), self.port.family, self.options, &to);
            self.put(made, own, rules);
            for scope in door.scopes() {
                self.put(made, Own::Of(scope), self.endpoints(scope));
            }
            made.part.sets.insert(self.affinity(), self.clients());
        }
    }

    /// The set of clients, each with its endpoint: another time another set, for a set's own cannot be changed.
    fn affinity(&self) -> Name {
        let seconds = self.port.affinity.unwrap_or_default().as_secs().to_string();
        Name::hashed("aff", &[self.title.as_str(), self.word(), &seconds])
    }

    fn clients(&self) -> Set {
        let address = Type::Address(self.port.family);
        Set {
            key: vec![address, address, Type::Port],
            data: Data::None,
            is_counted: false,
            timeout: self.port.affinity,
            is_behind: false,
        }
    }

    /// The client's last endpoint first; else each with the same chance (semantics 137). Where no client more can be remembered,
    /// the same once more without that.
    fn endpoints(&self, scope: Scope) -> Vec<Rule> {
        let endpoints = self.port.endpoints(scope);
        let left = || (1..=endpoints.len()).rev();
        let each = || endpoints.iter().zip(left());
        let mut rules: Vec<Rule> = endpoints.iter().map(|one| self.remembered(one)).collect();
        rules.extend(each().map(|(one, left)| self.by_chance(one, left, true)));
        rules.extend(each().map(|(one, left)| self.by_chance(one, left, false)));
        rules
    }

    /// Ports are the protocol's: nft reads no rule without it.
    fn spoken(&self) -> Rule {
        vec![
            Expr::Meta(MetaKey::Protocol, base::FIRST),
            base::is(&[self.protocol.number()]),
        ]
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
            set: self.affinity(),
            key: base::FIRST,
            to: None,
        });
        rule.extend([self.remember(), self.dnat()]);
        rule
    }

    /// To an endpoint, by a chance of one in so many; it is the client's then, if it is to be remembered.
    fn by_chance(&self, endpoint: &Endpoint, left: usize, is_kept: bool) -> Rule {
        let mut rule = self.spoken();
        if left > 1 {
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            rule.extend([Expr::Numgen(count, base::FIRST), base::is(&[0; 4])]);
        }
        rule.extend(self.client_and(endpoint));
        rule.extend(is_kept.then(|| self.remember()));
        rule.push(self.dnat());
        rule
    }

    fn remember(&self) -> Expr {
        Expr::Update {
            set: self.affinity(),
            key: base::FIRST,
        }
    }

    /// To what stands behind the client's address.
    fn dnat(&self) -> Expr {
        let family = self.port.family;
        let address = base::behind(family);
        Expr::Dnat {
            family,
            address,
            port: Register(address.0 + base::words(family)),
        }
    }
}

fn value(endpoint: &Endpoint) -> Octets {
    let address = endpoint.address;
    Octets::new().address(address.ip()).port(address.port())
}
