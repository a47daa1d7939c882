//! A cluster of manifests on one or two nodes, in the kernel: what reaches what, by real packets of both families.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use api::{Change, Key};
use netfilter::Effort;
use policy::{Endpoint, Index};
use serde_json::{Value, json};

use crate::kernel::{BackEnd, Kernel, Meanwhile, output};
use crate::lab::{Lab, Place, interface_of, remote_address, slot_address};
use crate::packet::Transport;
use crate::prober::{Probe, Prober};

/// A pod of the cluster, by `namespace/name`.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) labels: Value,
    /// As in a container's `ports`.
    pub(crate) ports: Value,
    pub(crate) host_network: bool,
}

/// Which pods there are, and the labels of their namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    pub(crate) namespaces: Vec<(String, Value)>,
    pub(crate) actors: Vec<Actor>,
}

/// Whether a packet of a pod reaches another, and through the Service's address or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    pub(crate) by_service: bool,
}

/// Which of the pods a node has, by their indices.
pub(crate) type Placement = fn(usize) -> bool;

/// What one node knows and where its pods are. The lab stands for one node after the other.
struct View {
    number: u8,
    is_local: Vec<bool>,
    index: Index,
}

/// The lab, with the nodes it stands for.
pub(crate) struct Stage {
    cast: Cast,
    prober: Prober,
    kernel: Kernel,
    views: Vec<View>,
    /// By kind and name, as last set.
    manifests: BTreeMap<String, Value>,
    arrived_at_nodes: u64,
}

impl Stage {
    /// With the cast's namespaces and pods, and no policy.
    pub(crate) fn new(
        tag: &str,
        processor: usize,
        back_end: BackEnd,
        cast: Cast,
        placements: &[Placement],
    ) -> Result<Self> {
        let views = (1..).zip(placements).map(|(number, is_local)| View {
            number,
            is_local: (0..cast.actors.len()).map(is_local).collect(),
            index: Index::new(),
        });
        let mut stage = Self {
            views: views.collect(),
            prober: Prober::new(Lab::new(tag, processor)?),
            kernel: Kernel::new(back_end),
            cast,
            manifests: BTreeMap::new(),
            arrived_at_nodes: 0,
        };
        for manifest in stage.cast.manifests() {
            stage.set(&manifest)?;
        }
        for view in &mut stage.views {
            let endpoints = view.endpoints(&stage.cast);
            view.index.set_endpoints(endpoints);
        }
        stage.install_services()?;
        Ok(stage)
    }

    /// Sets an object. In its text `{v4 x/b}` stands for the address of pod `x/b`.
    pub(crate) fn set(&mut self, manifest: &Value) -> Result<()> {
        for view in &mut self.views {
            let (key, resource) = view.read(&self.cast, manifest)?;
            let value = Some(resource);
            view.index.handle(&Change { key, value });
        }
        self.manifests.insert(id(manifest), manifest.clone());
        Ok(())
    }

    /// Takes an object away, by its kind and `namespace/name`.
    pub(crate) fn remove(&mut self, id: &str) -> Result<()> {
        let manifest = self.manifests.remove(id).with_context(|| id.to_owned())?;
        for view in &mut self.views {
            let (key, _) = view.read(&self.cast, &manifest)?;
            view.index.handle(&Change { key, value: None });
        }
        Ok(())
    }

    /// An object as last set.
    pub(crate) fn manifest(&self, id: &str) -> Result<Value> {
        let found = self.manifests.get(id).cloned();
        found.with_context(|| format!("no {id}"))
    }

    /// As it was made: no policies, and the labels that namespaces and pods had.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let policies = self.manifests.keys().filter(|id| id.contains("Policy "));
        for id in policies.cloned().collect::<Vec<_>>() {
            self.remove(&id)?;
        }
        for manifest in self.cast.manifests() {
            self.set(&manifest)?;
        }
        Ok(())
    }

    /// What could not be compiled, of any node.
    pub(crate) fn problems(&mut self) -> Vec<policy::Problem> {
        let of = |view: &mut View| view.index.compile().problems.clone();
        self.views.iter_mut().flat_map(of).collect()
    }

    /// Installs what there is now on each node, and asks both families: the answers, IPv4's first.
    pub(crate) fn ask(&mut self, questions: &[Question]) -> Result<Vec<[bool; 2]>> {
        let mut answers = vec![[true; 2]; questions.len()];
        let mut asked = vec![false; questions.len()];
        for number in 0..self.views.len() {
            let compiled = self.views[number].index.compile();
            self.kernel
                .install(&mut Quiet(&mut self.prober), &compiled, Effort::Exact)?;
            self.kernel.check(&compiled, Effort::Exact)?;
            // What was asked before must not answer for what is asked now.
            output("conntrack", &["-F"])?;
            let view = &self.views[number];
            let mut probes = Vec::new();
            for (place, question) in questions.iter().enumerate() {
                if !view.is_local[question.from] && !view.is_local[question.to] {
                    continue;
                }
                for is_ipv4 in [true, false] {
                    let probe = view.probe(&self.cast, question, is_ipv4);
                    probes.push((place, usize::from(!is_ipv4), probe));
                }
            }
            let packets: Vec<Probe> = probes.iter().map(|(_, _, probe)| *probe).collect();
            for ((place, family, probe), arrived) in probes.iter().zip(self.prober.ask(&packets)?) {
                answers[*place][*family] &= arrived;
                asked[*place] = true;
                self.arrived_at_nodes += u64::from(arrived && probe.to == Place::Node);
            }
        }
        ensure!(asked.iter().all(|asked| *asked), "a question for no node");
        Ok(answers)
    }

    /// Installs what there is now on the first node, and sends packets as they are.
    pub(crate) fn send(&mut self, probes: &[Probe]) -> Result<Vec<bool>> {
        let compiled = self.views[0].index.compile();
        self.kernel
            .install(&mut Quiet(&mut self.prober), &compiled, Effort::Exact)?;
        output("conntrack", &["-F"])?;
        self.prober.ask(probes)
    }

    /// Where a pod is, as seen from the first node.
    pub(crate) fn place(&self, actor: usize, is_ipv4: bool) -> (Place, IpAddr) {
        self.views[0].address(&self.cast, actor, is_ipv4)
    }

    /// Adds a rule to the node's own table of translations.
    pub(crate) fn translate(&mut self, is_ipv4: bool, rule: &str) -> Result<()> {
        let program = self.kernel.back_end.program(is_ipv4, "-restore");
        let text = format!("*nat\n{rule}\nCOMMIT\n");
        let arguments = ["--noflush", "-w"];
        self.kernel
            .run(&mut Quiet(&mut self.prober), &program, &arguments, &text)
    }

    /// Runs `ip` on the node.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        output("ip", &words).map(drop)
    }

    /// Whether every packet that did not arrive met silence. What arrives at a node itself, where no program listens,
    /// is refused by its kernel.
    pub(crate) fn check_silence(&self) -> Result<()> {
        let (refusals, heard) = (self.prober.lab.refusals(), self.arrived_at_nodes);
        ensure!(refusals <= heard, "{refusals} refusals, {heard} at nodes");
        Ok(())
    }

    pub(crate) fn packets_sent(&self) -> u64 {
        self.prober.counts.sent
    }

    fn install_services(&mut self) -> Result<()> {
        for is_ipv4 in [true, false] {
            let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n".to_owned();
            for view in &self.views {
                for actor in 0..self.cast.actors.len() {
                    let (_, to) = view.address(&self.cast, actor, is_ipv4);
                    let service = service_address(view.number, actor, is_ipv4);
                    writeln!(
                        text,
                        "-A PREROUTING -d {service} -j DNAT --to-destination {to}"
                    )?;
                }
            }
            text += "COMMIT\n";
            let program = self.kernel.back_end.program(is_ipv4, "-restore");
            self.kernel
                .run(&mut Quiet(&mut self.prober), &program, &["-w"], &text)?;
        }
        Ok(())
    }
}

/// Kind and name: `NetworkPolicy x/deny`.
pub(crate) fn id(manifest: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &manifest["metadata"];
    let kind = text(&manifest["kind"]);
    let name = text(&metadata["name"]);
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

impl Cast {
    /// The index of a pod.
    pub(crate) fn index(&self, name: &str) -> Result<usize> {
        let found = self.actors.iter().position(|actor| actor.name == name);
        found.with_context(|| format!("no pod {name}"))
    }

    /// Everything but the pods' addresses and nodes, which each view fills in.
    fn manifests(&self) -> Vec<Value> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| {
            let mut labels = labels.clone();
            labels["kubernetes.io/metadata.name"] = json!(name);
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        });
        let nodes = [("here", Place::Node), ("there", Place::Remote)].map(|(name, place)| {
            let own = |is_ipv4| place.addresses(is_ipv4).pop().expect("its own is the last");
            let addresses =
                [true, false].map(|v4| json!({"type": "InternalIP", "address": own(v4)}));
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
                "status": {"addresses": addresses}})
        });
        let pods = self.actors.iter().map(|actor| {
            let (namespace, name) = actor.name.split_once('/').expect("namespace/name");
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": actor.labels},
                "spec": {"hostNetwork": actor.host_network, "nodeName": format!("{{node {}}}", actor.name),
                    "containers": [{"name": "c", "ports": actor.ports}]},
                "status": {"phase": "Running", "podIPs": [
                    {"ip": format!("{{v4 {}}}", actor.name)}, {"ip": format!("{{v6 {}}}", actor.name)}]}})
        });
        namespaces.chain(nodes).chain(pods).collect()
    }
}

impl View {
    /// Fills in what differs from node to node, and reads the manifest as the agent does.
    fn read(&self, cast: &Cast, manifest: &Value) -> Result<(Key, api::Resource)> {
        let mut text = manifest.to_string();
        for (number, actor) in cast.actors.iter().enumerate() {
            let node = if self.is_local[number] {
                "here"
            } else {
                "there"
            };
            text = text.replace(&format!("{{node {}}}", actor.name), node);
            for (family, is_ipv4) in [("v4", true), ("v6", false)] {
                let (_, address) = self.address(cast, number, is_ipv4);
                let words = format!("{{{family} {}}}", actor.name);
                text = text.replace(&words, &address.to_string());
            }
        }
        let value: Value = serde_saphyr::from_str(&text)?;
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let (kind, version) = (field("kind"), field("apiVersion"));
        let read = api::parse(&kind, &version, value)?;
        read.with_context(|| format!("{kind} is passed over"))
    }

    /// The pods of the network of its own that this node has.
    fn endpoints(&self, cast: &Cast) -> BTreeMap<String, Endpoint> {
        let mut endpoints = BTreeMap::new();
        for (number, actor) in cast.actors.iter().enumerate() {
            let (Place::Slot(slot), v4) = self.address(cast, number, true) else {
                continue;
            };
            let (_, v6) = self.address(cast, number, false);
            let (namespace, name) = actor.name.split_once('/').expect("namespace/name");
            let endpoint = Endpoint {
                pod: api::NamespacedName::new(namespace, name),
                uid: String::new(),
                addresses: vec![v4, v6],
            };
            endpoints.insert(interface_of(slot), endpoint);
        }
        endpoints
    }

    /// Where a pod is, as seen from this node.
    fn address(&self, cast: &Cast, actor: usize, is_ipv4: bool) -> (Place, IpAddr) {
        let own = |place: Place| {
            let last = place.addresses(is_ipv4).pop();
            (place, last.expect("its own is the last"))
        };
        let is_local = self.is_local[actor];
        if cast.actors[actor].host_network {
            return own(if is_local { Place::Node } else { Place::Remote });
        }
        let alike =
            |other: &usize| self.is_local[*other] == is_local && !cast.actors[*other].host_network;
        let number = (0..actor).filter(alike).count();
        if is_local {
            (Place::Slot(number), slot_address(number, is_ipv4))
        } else {
            (Place::Remote, remote_address(number, is_ipv4))
        }
    }

    fn probe(&self, cast: &Cast, question: &Question, is_ipv4: bool) -> Probe {
        let (from, source) = self.address(cast, question.from, is_ipv4);
        let (to, address) = self.address(cast, question.to, is_ipv4);
        // What comes from the other node was translated there.
        let by_service = question.by_service && matches!(from, Place::Slot(_));
        let sent_to = if by_service {
            service_address(self.number, question.to, is_ipv4)
        } else {
            address
        };
        Probe {
            from,
            source,
            sent_to: (sent_to, question.port),
            transport: question.transport,
            to,
            destination: (address, question.port),
        }
    }
}

fn service_address(view: u8, actor: usize, is_ipv4: bool) -> IpAddr {
    let last = u8::try_from(actor + 1).expect("a few pods");
    if is_ipv4 {
        IpAddr::from([10, 96, view, last])
    } else {
        IpAddr::from([0xfd00, 0x96, view.into(), 0, 0, 0, 0, last.into()])
    }
}

/// Sends nothing while a program runs.
struct Quiet<'a>(&'a mut Prober);

impl Meanwhile for Quiet<'_> {
    fn lab(&mut self) -> &mut Lab {
        &mut self.0.lab
    }

    fn meanwhile(&mut self) -> Result<()> {
        std::thread::sleep(std::time::Duration::from_micros(300));
        Ok(())
    }
}

/// Everything on one node.
pub(crate) const ONE_NODE: &[Placement] = &[|_| true];

/// Half on each of two nodes, seen from the one and then from the other.
pub(crate) const TWO_NODES: &[Placement] = &[|actor| actor % 2 == 0, |actor| actor % 2 == 1];

/// The names of what a table says twice.
pub(crate) fn doubles<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}
