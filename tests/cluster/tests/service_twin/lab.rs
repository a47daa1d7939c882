//! The API server that both proxies watch, and the two worlds with the proxies.

use anyhow::{Result, ensure};
use cluster::{ControlPlane, Options, Place as Site, Programs, Scratch};
use serde_json::{Value, json};
use tests::agent::{Agent, binaries};
use tests::netns::Netns;
use tests::process::Process;
use tests::reach::Transport;
use tests::wait::eventually;

use crate::ask::{Effort, Outcome, PORTS, Way, ask_all};
use crate::objects::{By, Case, NAMESPACE, addresses, ready, slices};
use crate::world::{API, Place, World};

pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// The Service by which the proxies say how far they are.
const MARKER: usize = 250;

/// How both proxies serve Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Iptables,
    Nftables,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// kube-proxy's world, and ours.
pub(crate) struct Lab {
    // In the order in which they are dropped.
    agent: Agent,
    kube_proxy: Option<Process>,
    pub(crate) worlds: [World; 2],
    pub(crate) plane: ControlPlane,
    step: u16,
    scratch: Scratch,
    _api: Netns,
}

impl Lab {
    /// The API server with two Nodes, and the worlds; no proxy yet.
    pub(crate) fn start() -> Result<Self> {
        let scratch = Scratch::new("ptl-twin-")?;
        let api = Netns::new("twin", "api")?;
        api.ip(&format!("addr add {API}/32 dev lo"))?;
        let plane = ControlPlane::start(Options {
            place: Site::Namespace {
                name: api.name().to_owned(),
                address: API.parse()?,
            },
            service_cidrs: "10.96.0.0/16,fd00:10:96::/112".to_owned(),
            ..Options::default()
        });
        plane.install_crds();
        plane.kubectl(&["create", "namespace", NAMESPACE]);
        let worlds = [World::start("k", 1, &api)?, World::start("p", 2, &api)?];
        let program = binaries()?.join("portolan");
        let agent = Agent::new(
            "n1",
            &program,
            worlds[1].node()?,
            scratch.path(),
            scratch.path(),
        )?;
        let agent = agent
            .with_kubeconfig(plane.admin_kubeconfig())
            .with_features("services");
        let lab = Self {
            agent,
            kube_proxy: None,
            worlds,
            plane,
            step: 0,
            scratch,
            _api: api,
        };
        for (place, zone) in [(Place::Node, "a"), (Place::Remote, "b")] {
            lab.make_node(place, zone)?;
        }
        Ok(lab)
    }

    fn make_node(&self, place: Place, zone: &str) -> Result<()> {
        let name = place.node().unwrap_or_default();
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
        let number = &name[1..];
        let cidr = format!("10.244.{number}.0/24");
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr, format!("fd00:10:244:{number}::/64")]},
        });
        self.plane.try_apply(&node.to_string())?;
        let of = |ip: &str| json!({"type": "InternalIP", "address": ip});
        let status = json!({"status": {"addresses": place.addresses().map(of)}}).to_string();
        let patch = ["patch", "node", name, "--subresource=status", "-p", &status];
        self.plane.try_kubectl(&patch).map(drop)
    }

    /// Both proxies, each in its world, in place of those that run.
    pub(crate) fn start_proxies(&mut self, mode: Mode) -> Result<()> {
        if let Some(mut process) = self.kube_proxy.take() {
            process.terminate(PATIENCE)?;
        }
        self.agent.terminate()?;
        self.agent.set_arguments(&["--proxy-mode", mode.word()]);
        let kubeconfig = self.plane.kubeconfig_for("system:kube-proxy", &[]);
        let mut command = self.worlds[0]
            .node()?
            .command(Programs::find().path("kube-proxy"));
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.arg(format!("--proxy-mode={}", mode.word()));
        command.args([
            "--hostname-override=n1",
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=ptl",
            // Those sysctls can be written in the first network namespace alone.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--iptables-min-sync-period=0s",
        ]);
        let log = self.scratch.path().join("kube-proxy.log");
        self.kube_proxy = Some(cluster::start("kube-proxy", command, &log)?);
        let node = self.worlds[1].node()?;
        self.agent.start(node)?;
        self.agent.wait_synced()
    }

    /// An error with the ends of the logs if a proxy has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        if let Some(process) = &mut self.kube_proxy {
            process.check_running()?;
        }
        self.agent.check_running()
    }

    /// Makes Services and slices as they are told, with the status of load balancers.
    pub(crate) fn create(&self, cases: &[Case]) -> Result<()> {
        let slices = cases.iter().flat_map(|case| case.slices.iter());
        let all: Vec<&Value> = slices
            .chain(cases.iter().map(|case| &case.service))
            .collect();
        self.write("create", &all)?;
        let told: Vec<Value> = cases
            .iter()
            .filter(|case| !case.ingress.is_empty())
            .map(status)
            .collect();
        if !told.is_empty() {
            let list = list(&told.iter().collect::<Vec<_>>());
            let apply = ["apply", "--server-side", "--subresource=status", "-f", "-"];
            self.plane.kubectl_with(&apply, &list)?;
        }
        Ok(())
    }

    /// Runs kubectl's `verb` with a list of objects.
    pub(crate) fn write(&self, verb: &str, objects: &[&Value]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        // What it would be checked by is some megabytes that take seconds.
        let flag = match verb {
            "delete" => "--wait=false",
            _ => "--validate=false",
        };
        let words = [verb, flag, "-f", "-"];
        self.plane.kubectl_with(&words, &list(objects)).map(drop)
    }

    /// Writes the objects, and waits until both proxies serve all that was written so far: the last thing written is a Service
    /// with a new port and another endpoint, and each world must answer so.
    pub(crate) fn settle(&mut self, verb: &str, objects: &[&Value]) -> Result<()> {
        let mut marker = Case::new(MARKER, "marker", By::ClusterIp, &[], json!({}));
        self.step += 1;
        let port = 1000 + self.step;
        marker.service["spec"]["ports"] = json!([{"name": "tcp", "protocol": "TCP", "port": port}]);
        let target = PORTS[usize::from(self.step % 2)];
        let slices = slices("marker", "a", &[ready(Place::Pod1)], target);
        let own: Vec<&Value> = slices.iter().chain([&marker.service]).collect();
        let of_marker = if self.step == 1 { "create" } else { "replace" };
        if verb == of_marker {
            self.write(verb, &[objects, &own].concat())?;
        } else {
            self.write(verb, objects)?;
            self.write(of_marker, &own)?;
        }
        self.wait_served(port, target)
    }

    fn wait_served(&mut self, port: u16, target: u16) -> Result<()> {
        let [v4, _] = addresses("cluster", MARKER);
        let way = Way {
            to: format!("{v4}:{port}").parse()?,
            transport: Transport::Tcp,
        };
        let effort = Effort {
            tries: 1,
            patience: std::time::Duration::from_secs(2),
        };
        for number in [0, 1] {
            let name = self.worlds[number].name;
            let what = format!("world {name} to be served");
            let served = eventually(PATIENCE, &what, || -> Result<()> {
                let got = ask_all(self.worlds[number].at(Place::Pod2)?, &[way], effort)?.0;
                let is_it = |outcome: &Outcome| matches!(outcome, Outcome::Answered { by, .. } if by.port() == target);
                ensure!(got[0].iter().all(is_it), "{got:?}");
                Ok(())
            });
            self.check_running()?;
            served.map_err(|error| error.context(self.logs()))?;
        }
        Ok(())
    }

    /// The ends of both logs.
    pub(crate) fn logs(&self) -> String {
        let other = self
            .kube_proxy
            .as_ref()
            .map(Process::log_end)
            .unwrap_or_default();
        format!("kube-proxy: {other}\nours: {}", self.agent.log_end())
    }

    /// What iptables holds in a world, both families.
    pub(crate) fn saved(&self, number: usize) -> Result<String> {
        let node = self.worlds[number].node()?;
        Ok(node.run("iptables-save", &[])? + &node.run("ip6tables-save", &[])?)
    }

    /// All that nftables holds in a world; iptables writes there, too.
    pub(crate) fn ruleset(&self, number: usize) -> Result<String> {
        self.worlds[number].node()?.run("nft", &["list", "ruleset"])
    }
}

fn list(objects: &[&Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

fn status(case: &Case) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": case.service["metadata"],
        "status": {"loadBalancer": {"ingress": case.ingress}},
    })
}
