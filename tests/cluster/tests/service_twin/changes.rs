//! One Service through all that may become of it, compared after each step; and what is left when all has gone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::reach::Transport;
use tests::wait::eventually;

use crate::ask::{Effort, Got, Outcome, Way, ask_all};
use crate::compare::{Question, Tally, compare, questions};
use crate::differences::Difference;
use crate::lab::{Lab, PATIENCE};
use crate::objects::{By, Case, Endpoint, NAMESPACE, addresses, ending, raw_slice, ready, slices};
use crate::world::Place;

/// The changing Service's number, and that of the one with many endpoints.
const NUMBER: usize = 200;
const MANY: usize = 201;
/// In two slices, which hold a hundred each at most.
const ENDPOINTS: usize = 120;

/// The Service, and every way that ever led to it.
struct Changing<'a> {
    lab: &'a mut Lab,
    differences: &'a [Difference],
    asked: BTreeMap<String, Question>,
    tally: Tally,
    steps: usize,
}

impl Changing<'_> {
    /// Writes the objects by kubectl's `verb` and compares all that ever led to the Service.
    fn step(&mut self, what: &str, verb: &str, case: &Case, objects: &[&Value]) -> Result<()> {
        self.lab.settle(verb, objects).context(what.to_owned())?;
        for question in questions(case)? {
            self.asked.insert(question.to_string(), question);
        }
        let all: Vec<Question> = self.asked.values().cloned().collect();
        let tally = compare(&self.lab.worlds, &all, self.differences).context(what.to_owned())?;
        self.tally.add(&tally);
        self.steps += 1;
        Ok(())
    }

    /// The Service and its slices, which are there, become these.
    fn becomes(&mut self, what: &str, case: &Case) -> Result<()> {
        let objects: Vec<&Value> = case.slices.iter().chain([&case.service]).collect();
        self.step(what, "replace", case, &objects)
    }

    fn delete(&self, kinds: &str) -> Result<()> {
        let words = ["-n", NAMESPACE, "delete", kinds, "changing"];
        self.lab.plane.try_kubectl(&words).map(drop)
    }
}

fn changing(by: By, endpoints: &[Endpoint], more: Value) -> Case {
    Case::new(NUMBER, "changing", by, endpoints, more)
}

/// Endpoints come and go, types, policies, names of ports and labels change; what was compared, and in how many steps.
pub(crate) fn series(lab: &mut Lab, differences: &[Difference]) -> Result<(Tally, usize)> {
    let mut it = Changing {
        lab,
        differences,
        asked: BTreeMap::new(),
        tally: Tally::default(),
        steps: 0,
    };
    let three = [ready(Place::Pod1), ready(Place::Far1), ready(Place::Far2)];
    let base = changing(By::ClusterIp, &three, json!({}));
    let all: Vec<&Value> = base.slices.iter().chain([&base.service]).collect();
    it.step("made", "create", &base, &all)?;
    it.becomes(
        "an endpoint goes",
        &changing(By::ClusterIp, &three[..2], json!({})),
    )?;
    let ends = [
        ending(Place::Pod1, true),
        ready(Place::Far1),
        ready(Place::Far2),
    ];
    it.becomes(
        "one comes, another ends",
        &changing(By::ClusterIp, &ends, json!({})),
    )?;
    it.becomes("a node port", &changing(By::NodePort, &three, json!({})))?;
    let local = json!({"externalTrafficPolicy": "Local"});
    it.becomes(
        "for outside local",
        &changing(By::NodePort, &three[1..], local),
    )?;
    it.becomes(
        "and not so",
        &changing(By::NodePort, &three[1..], json!({})),
    )?;
    let mut labelled = changing(By::NodePort, &three, json!({}));
    labelled.service["metadata"]["labels"] =
        json!({"service.kubernetes.io/service-proxy-name": "another"});
    it.becomes("another proxy's", &labelled)?;
    types(&mut it, &three)?;
    names(&mut it, &three)?;
    it.delete("service")?;
    let elsewhere = changing(By::ClusterIp, &three[..1], json!({}));
    it.step("deleted", "replace", &elsewhere, &[])?;
    let all: Vec<&Value> = elsewhere.slices.iter().collect();
    it.lab.write("replace", &all)?;
    it.step(
        "made again with its address",
        "create",
        &elsewhere,
        &[&elsewhere.service],
    )?;
    let nobody = changing(By::ClusterIp, &[], json!({}));
    it.becomes("nobody is left", &nobody)?;
    let all: Vec<&Value> = nobody.slices.iter().chain([&nobody.service]).collect();
    it.lab.write("delete", &all)?;
    Ok((it.tally, it.steps))
}

/// To a name of elsewhere, to none at all, and back.
fn types(it: &mut Changing<'_>, three: &[Endpoint]) -> Result<()> {
    let none =
        json!({"clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null});
    let mut name = none;
    name["type"] = json!("ExternalName");
    name["externalName"] = json!("www.example");
    let name = changing(By::ClusterIp, three, name);
    it.becomes("a name", &name)?;
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    it.becomes("headless", &changing(By::ClusterIp, three, headless))?;
    it.becomes("a name again", &name)?;
    it.becomes(
        "a cluster IP again",
        &changing(By::ClusterIp, three, json!({})),
    )
}

/// The ports' names change and not their numbers; then the endpoints' port.
fn names(it: &mut Changing<'_>, three: &[Endpoint]) -> Result<()> {
    let mut renamed = changing(By::ClusterIp, three, json!({}));
    let slices_of = |port: u16| slices("changing", "a", three, port);
    for (slices, port) in [
        (slices_of(8080), "ports renamed"),
        (slices_of(8081), "another target"),
    ] {
        renamed.slices = slices;
        let specs = renamed.slices.iter_mut().map(|slice| &mut slice["ports"]);
        for ports in specs.chain([&mut renamed.service["spec"]["ports"]]) {
            for port in ports.as_array_mut().context("no ports")? {
                let name = if port["protocol"] == "TCP" {
                    "web"
                } else {
                    "dns"
                };
                port["name"] = json!(name);
            }
        }
        it.becomes(port, &renamed)?;
    }
    Ok(())
}

/// So many endpoints in two slices all answer, in both worlds: how many did.
pub(crate) fn many_endpoints(lab: &mut Lab) -> Result<usize> {
    let ports = json!([{"name": "tcp", "protocol": "TCP", "port": 8080}]);
    let endpoint = |number: usize| {
        let (base, place) = if number < ENDPOINTS / 2 {
            (129, Place::Far1)
        } else {
            (193 - ENDPOINTS / 2, Place::Far2)
        };
        json!({
            "addresses": [format!("10.244.2.{}", base + number)], "nodeName": place.node(),
            "conditions": {"ready": true},
        })
    };
    let (first, second) = (
        (0..100).map(endpoint).collect(),
        (100..ENDPOINTS).map(endpoint).collect(),
    );
    let mut case = Case::new(MANY, "many", By::ClusterIp, &[], json!({}));
    case.slices = vec![
        raw_slice("many", "a", 0, first, &ports),
        raw_slice("many", "b", 0, second, &ports),
    ];
    let all: Vec<&Value> = case.slices.iter().chain([&case.service]).collect();
    lab.settle("create", &all)?;
    let to = format!("{}:80", addresses("cluster", MANY)[0]).parse()?;
    // Each has its turn once in 120 times: one of them is left out once in ten thousand runs.
    let ways = [Way {
        to,
        transport: Transport::Tcp,
    }; 16];
    let effort = Effort {
        tries: 140,
        patience: PATIENCE,
    };
    let mut found = BTreeSet::new();
    for world in &lab.worlds {
        let (got, _) = ask_all(world.at(Place::Outside)?, &ways, effort)?;
        let all: Got = got.into_iter().flatten().collect();
        let addresses = all.into_iter().filter_map(|outcome| match outcome {
            Outcome::Answered { by, .. } => Some(by.ip()),
            _ => None,
        });
        let addresses: BTreeSet<_> = addresses.collect();
        ensure!(
            addresses.len() == ENDPOINTS,
            "world {}: {} answered",
            world.name,
            addresses.len()
        );
        found = addresses;
    }
    lab.write("delete", &all)?;
    Ok(found.len())
}

/// The chains of Services: both have those of the same names.
pub(crate) fn chains(saved: &str) -> BTreeSet<String> {
    let kinds = [
        "KUBE-SVC-",
        "KUBE-SVL-",
        "KUBE-SEP-",
        "KUBE-EXT-",
        "KUBE-FW-",
    ];
    let names = saved
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    names
        .filter(|name| kinds.iter().any(|kind| name.starts_with(kind)))
        .map(str::to_owned)
        .collect()
}

/// Deletes everything and waits until neither has a word of it: no address of a Service or endpoint.
pub(crate) fn nothing_is_left(lab: &Lab) -> Result<()> {
    let kinds = "services,endpointslices";
    let delete = ["-n", NAMESPACE, "delete", kinds, "--all", "--wait=false"];
    lab.plane.try_kubectl(&delete)?;
    let nets = [
        "10.96.1.",
        "fd00:10:96::1",
        "192.0.2.",
        "198.51.100.",
        "2001:db8:",
        "10.244.",
        "fd00:10:244:",
    ];
    for number in [0, 1] {
        eventually(PATIENCE, "nothing to be left", || -> Result<()> {
            let all = lab.ruleset(number)?;
            let is_left = |line: &&str| {
                // kube-proxy's nftables mode empties its chains at once, and deletes them when it has something else to do.
                let is_emptied = number == 0 && line.trim_start().starts_with("chain ");
                let is_of_one = nets.iter().any(|net| line.contains(net));
                !is_emptied && (is_of_one || line.contains(&format!("{NAMESPACE}/")))
            };
            let left: Vec<&str> = all.lines().filter(is_left).collect();
            ensure!(
                left.is_empty(),
                "{}: {}",
                lab.worlds[number].name,
                left.join("\n")
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The chains of iptables go with the mode.
pub(crate) fn nothing_of_iptables_is_left(lab: &Lab) -> Result<()> {
    for number in [0, 1] {
        eventually(PATIENCE, "no chain of Services", || -> Result<()> {
            let chains = chains(&lab.saved(number)?);
            ensure!(chains.is_empty(), "{}: {chains:?}", lab.worlds[number].name);
            Ok(())
        })?;
    }
    Ok(())
}
