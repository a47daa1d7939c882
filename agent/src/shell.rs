//! The tasks that carry out what the core decides, and what they report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use api::NamespacedName;
use bgp_speaker::{Forwarding, RouteEvents};
use datastore::{ObjectCondition, PodStatus, Refresher, Source, StatusWriter};
use policy::Problem;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::cli::{AgentArgs, BfdPlace, Feature, TunnelChecksums};
use crate::core::{Core, Goal, Outputs};
use crate::drops::{DropsAnswer, Ring};
use crate::ipam::Reclaimed;
use crate::load_balancer::Balancing;
use crate::message::{Message, Serving};
use crate::policy::PolicyState;
use crate::report::IpamReport;
use crate::run::BFD_SOCKET;
use crate::source::{self, Whereabouts};
use crate::speaker::{self, Compiled};
use crate::{
    bgp_status, blocks, conntrack, dns, drops, events, firewall, layer2, load_balancer, mtu,
    nexthops, node_health, routing, service, service_proxy, status, wireguard,
};

/// The tasks that carry things out, seen from the core.
pub(crate) struct Shell {
    pub(crate) node: String,
    pub(crate) source: Whereabouts,
    pub(crate) firewall: watch::Sender<firewall::Desired>,
    pub(crate) firewall_applied: watch::Receiver<firewall::Applied>,
    flows: watch::Sender<conntrack::Goal>,
    pub(crate) cut: watch::Receiver<conntrack::Cut>,
    local: watch::Sender<routing::Local>,
    pub(crate) routing_applied: watch::Receiver<routing::Applied>,
    pub(crate) proxy: service_proxy::Handle,
    pub(crate) mtu: mtu::Handle,
    pods: watch::Sender<Vec<PodStatus>>,
    conditions: watch::Sender<Vec<ObjectCondition>>,
    health: watch::Sender<node_health::Goal>,
    /// The speaker, for whoever waits for it.
    running: watch::Sender<Option<bgp_speaker::Handle>>,
    blocks: watch::Sender<Goal>,
    /// What cannot be claimed or given back now.
    pub(crate) blocks_failed: watch::Receiver<Option<String>>,
    problems: watch::Sender<Vec<Problem>>,
    pub(crate) refresh: Refresher,
    pub(crate) speaker: Option<bgp_speaker::Handle>,
    compiled: Option<Compiled>,
    configured: watch::Sender<bgp_status::Configured>,
    routers: watch::Sender<Arc<nexthops::Routers>>,
    status: StatusWriter,
    route_events: Option<oneshot::Sender<RouteEvents>>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) drops: Option<Arc<Ring>>,
    /// What is around the rules of Services; none without that feature.
    pub(crate) service: Option<service::Handle>,
    /// Who answers for addresses of Services on the link; none without that feature.
    pub(crate) layer2: Option<layer2::Handle>,
    /// How often new WireGuard keys were asked for.
    rotations: watch::Sender<u64>,
    /// Where load balancers' addresses are worked out; none without that feature.
    balancing: Option<Balancing>,
    /// What was taken back; none where no pods are attached.
    pub(crate) reclaimed: Option<watch::Receiver<Reclaimed>>,
    forwarding: Forwarding,
    bgp: bool,
    cni: bool,
    /// The socket of a process of its own, and whether that one is waited for.
    bfd: (PathBuf, bool),
}

impl Shell {
    /// Starts the tasks; nothing is written before the first publication.
    pub(crate) fn start(
        args: &AgentArgs,
        (source, whereabouts): (&Source, Whereabouts),
        messages: mpsc::Sender<Message>,
        forwarding: Forwarding,
    ) -> Self {
        let (local, local_goal) = watch::channel(routing::Local::default());
        let (routing_report, routing_applied) = watch::channel(routing::Applied::default());
        let (route_events, speaker_started) = oneshot::channel();
        let (pods, pods_goal) = watch::channel(Vec::new());
        let (conditions, conditions_goal) = watch::channel(Vec::new());
        let health = watch::Sender::new(node_health::Goal::default());
        let running = watch::Sender::new(None);
        let (blocks, blocks_goal) = watch::channel(Goal::default());
        let (failed, blocks_failed) = watch::channel(None);
        let (problems, known_problems) = watch::channel(Vec::new());
        let (routers, known_routers) = watch::channel(Arc::default());
        let (firewall, firewall_applied, proxy) = start_rules(args, messages.clone());
        let in_force = service::InForce {
            firewall: firewall_applied.clone(),
            proxy: proxy.applied.clone(),
        };
        let (flows, cut) = start_conntrack(args, &in_force);
        let feeds = (local_goal, speaker_started, known_routers);
        let rotations = watch::Sender::new(0);
        let keys = start_wireguard(args, &source.status, &rotations);
        start_routing(keys, feeds, routing_report, args.tunnel_checksums);
        publish_to(&source.status, pods_goal, conditions_goal);
        tokio::spawn(blocks::run_task(
            source.status.clone(),
            source.refresh.clone(),
            blocks_goal,
            messages.clone(),
            failed,
        ));
        if source.pods.is_some() {
            let speaker = args.has(Feature::Bgp).then(|| running.subscribe());
            let applied = (&firewall_applied, &routing_applied);
            start_health(source, &health, applied, speaker, forwarding);
        }
        let drops = start_drops(args, &firewall);
        let service = start_services(args, &firewall, &in_force);
        let layer2 = start_layer2(args, source, &running, in_force);
        let balancing = Balancing::start(args.has(Feature::LoadBalancer), source);
        let told = (service.as_ref(), balancing.as_ref());
        start_events(&source.status, known_problems, told);
        Self {
            node: args.node.clone(),
            source: whereabouts,
            firewall,
            firewall_applied,
            flows,
            cut,
            local,
            proxy,
            mtu: mtu::Handle::start(args, &routing_applied),
            routing_applied,
            pods,
            conditions,
            health,
            running,
            blocks,
            blocks_failed,
            problems,
            refresh: source.refresh.clone(),
            speaker: None,
            compiled: None,
            configured: watch::Sender::default(),
            routers,
            status: source.status.clone(),
            // Dropped where no speaker will come: then nobody is waited for.
            route_events: args.has(Feature::Bgp).then_some(route_events),
            messages,
            drops,
            service,
            layer2,
            rotations,
            balancing,
            reclaimed: None,
            forwarding,
            bgp: args.has(Feature::Bgp),
            cni: args.has(Feature::Cni),
            bfd: (args.run_dir.join(BFD_SOCKET), args.bfd == BfdPlace::Process),
        }
    }

    /// Takes back what an earlier run knew of domain names, and has answers of the DNS held.
    pub(crate) async fn start_dns(&self, args: &AgentArgs, domains: &mut dns::Domains) {
        if !args.has(Feature::Policy) {
            return;
        }
        domains.restore(Instant::now(), dns::read_left().await);
        tokio::spawn(dns::run_task(dns::Task {
            queue: dns::QUEUE,
            names: domains.names(),
            core: self.messages.clone(),
            applied: self.firewall_applied.clone(),
            counts: domains.counts(),
        }));
    }

    /// What of addresses and host ends was taken back in this run.
    pub(crate) fn ipam_report(&self) -> IpamReport {
        let reclaimed = self.reclaimed.as_ref().map(|state| state.borrow());
        reclaimed.map_or_else(IpamReport::default, |state| IpamReport {
            attachments_reclaimed: state.attachments,
            host_ends_reclaimed: state.host_ends,
        })
    }

    /// Denied packets from a number on.
    pub(crate) fn drops(
        &self,
        since: u64,
        objects: &policy::Objects,
    ) -> Result<DropsAnswer, String> {
        let ring = self.drops.as_ref().ok_or(
            "denied packets are not shown: start the agent with --drop-log GROUP, as in --drop-log 7",
        )?;
        Ok(drops::answer(ring, since, objects))
    }

    /// Has this node's WireGuard keys replaced as soon as that loses nothing.
    pub(crate) fn rotate_keys(&self) -> Result<(), String> {
        if self.routing_applied.borrow().wireguard.is_none() {
            return Err("this node has no WireGuard keys: no IPPool has encapsulation WireGuard, or its devices can't be made (`portolan status` says why)".to_owned());
        }
        self.rotations.send_modify(|count| *count += 1);
        Ok(())
    }

    /// What `portolan service` is answered from.
    pub(crate) fn serving(&self, core: &Core, asked: Option<&NamespacedName>) -> Serving {
        let health = self.service.as_ref();
        let health = health.map(|service| service.health.borrow().clone());
        Serving {
            state: core.service_state(asked),
            mode: core.proxy_mode(),
            not_served: status::other_proxy(&self.firewall_applied.borrow()),
            health: health.unwrap_or_default(),
            balanced: self.balanced(),
            layer2: self
                .layer2
                .as_ref()
                .map(layer2::Handle::report)
                .unwrap_or_default(),
        }
    }

    /// Who has which address of a load balancer, as it was worked out last; none without that feature.
    pub(crate) fn balanced(&self) -> Option<Arc<load_balancer::State>> {
        let balancing = self.balancing.as_ref();
        balancing.map(|balancing| balancing.state.borrow().clone())
    }

    /// Hands on what load balancers' addresses depend on, and what the core has worked out itself.
    pub(crate) async fn balance(&self, core: &mut Core) {
        if let Some(balancing) = &self.balancing {
            balancing
                .take(core.balancing_notes(), core.balancing_news())
                .await;
        }
    }

    /// What policy verbs are answered from: copies, so that nobody waits for them.
    pub(crate) fn policy_state(&self, core: &Core) -> PolicyState {
        PolicyState {
            node: self.node.clone(),
            in_sync: core.in_sync(),
            objects: core.objects().clone(),
            settings: core.policy_settings().clone(),
            problems: core.unsupported().to_vec(),
            desired: self.firewall.subscribe(),
            applied: self.firewall_applied.clone(),
        }
    }

    /// Hands the newest state to every task. Only what differs reaches the kernel or a peer.
    pub(crate) async fn publish(&mut self, outputs: Outputs, pods: Vec<PodStatus>) {
        let mut flows = outputs.flows;
        if !self.cni {
            // Another plugin gives this node's pods their addresses: who holds none here may be there all the same.
            flows.pod_cidrs.clear();
        }
        self.flows.send_replace(flows);
        let problems = outputs.firewall.compiled.problems.clone();
        self.problems.send_if_modified(|old| {
            let changed = *old != problems;
            *old = problems;
            changed
        });
        if let Some(service) = &self.service {
            service.publish(outputs.service);
        }
        if let Some(layer2) = &self.layer2 {
            layer2.publish(outputs.layer2);
        }
        // What is not the firewall's may be later: until both are done, /healthz asks since when a change waits.
        let applied = self.firewall_applied.borrow().generation;
        let applied = applied.min(self.proxy.applied.borrow().generation);
        self.firewall
            .send_modify(|state| state.follow(outputs.firewall, applied));
        let overlays = outputs.local.overlays.values();
        let overhead = overlays.map(overlay::Demand::overhead).max();
        self.mtu
            .set_ways(outputs.ways, overhead.unwrap_or_default());
        self.proxy.goal.send_replace(outputs.proxy);
        self.local.send_replace(outputs.local);
        self.blocks.send_if_modified(|old| {
            let changed = *old != outputs.blocks;
            *old = outputs.blocks;
            changed
        });
        self.pods.send_if_modified(|old| {
            let changed = *old != pods;
            *old = pods;
            changed
        });
        if let Some(compiled) = outputs.speaker.filter(|_| self.bgp) {
            self.configure_speaker(compiled).await;
        }
    }

    /// Says why no pod here can have an address, where this agent gives any.
    pub(crate) fn set_lacks(&self, lacks: Option<String>) {
        let lacks = lacks.filter(|_| self.cni);
        self.health.send_modify(|goal| goal.lacks = lacks);
    }

    /// Says what becomes of objects of our kinds.
    pub(crate) fn set_conditions(&self, conditions: Vec<ObjectCondition>) {
        self.conditions.send_if_modified(|old| {
            let changed = *old != conditions;
            *old = conditions;
            changed
        });
    }

    /// Whether BGP is to run and has no configuration yet.
    pub(crate) fn is_bgp_missing(&self) -> bool {
        self.bgp && self.speaker.is_none()
    }

    async fn configure_speaker(&mut self, mut compiled: Compiled) {
        let (socket, awaited) = &self.bfd;
        compiled.config.bfd_socket = Some(socket.clone());
        compiled.config.bfd_awaited = *awaited;
        if self.compiled.as_ref() == Some(&compiled) {
            return;
        }
        let before = self.compiled.as_ref();
        for line in speaker::changes(before, &compiled) {
            info!("BGP: {line}");
        }
        for line in speaker::refusals(before, &compiled) {
            warn!("{line}");
        }
        self.configured.send_replace((&compiled).into());
        self.health.send_modify(|goal| goal.set_speaker(&compiled));
        match &self.speaker {
            Some(speaker) => {
                if speaker.configure(compiled.config.clone()).await.is_err() {
                    error!("the BGP speaker has ended: restart the agent");
                }
            }
            None => self.start_speaker(compiled.config.clone()),
        }
        self.compiled = Some(compiled);
    }

    fn start_speaker(&mut self, config: bgp_speaker::Config) {
        let (speaker, events) = bgp_speaker::spawn_after(config, self.forwarding);
        if let Some(sender) = self.route_events.take() {
            // The routing task may have ended; it has said why.
            let _ = sender.send(events);
        }
        self.running.send_replace(Some(speaker.clone()));
        tokio::spawn(nexthops::run_task(speaker.clone(), self.routers.clone()));
        tokio::spawn(bgp_status::run_task(
            speaker.clone(),
            self.configured.subscribe(),
            self.status.clone(),
        ));
        self.speaker = Some(speaker);
    }
}

/// Starts what brings rules into the kernel, by iptables and else: each waits for the other where it must.
fn start_rules(
    args: &AgentArgs,
    messages: mpsc::Sender<Message>,
) -> (
    watch::Sender<firewall::Desired>,
    watch::Receiver<firewall::Applied>,
    service_proxy::Handle,
) {
    let (firewall, goal) = watch::channel(firewall::Desired::default());
    let (report, firewall_applied) = watch::channel(firewall::Applied::default());
    let proxy = service_proxy::Handle::start(firewall_applied.clone());
    let held_until = args
        .serves_without_iptables()
        .then(|| proxy.applied.clone());
    start_policy(args, (goal, report, held_until), messages);
    (firewall, firewall_applied, proxy)
}

/// Cuts flows that a change denies or that lead nowhere.
fn start_conntrack(
    args: &AgentArgs,
    in_force: &service::InForce,
) -> (
    watch::Sender<conntrack::Goal>,
    watch::Receiver<conntrack::Cut>,
) {
    let (flows, goal) = watch::channel(conntrack::Goal::default());
    let (report, cut) = watch::channel(conntrack::Cut::default());
    let is_enforced = args.has(Feature::Policy);
    let task = conntrack::run_task(goal, in_force.clone(), report, is_enforced);
    tokio::spawn(task);
    (flows, cut)
}

/// What is around the rules of Services, where they are served.
fn start_services(
    args: &AgentArgs,
    firewall: &watch::Sender<firewall::Desired>,
    in_force: &service::InForce,
) -> Option<service::Handle> {
    let at = args.service_healthz;
    args.has(Feature::Services)
        .then(|| service::Handle::start(at, firewall.subscribe(), in_force))
}

/// Has the Node's conditions follow what is applied.
fn start_health(
    source: &Source,
    health: &watch::Sender<node_health::Goal>,
    (firewall, routing): (
        &watch::Receiver<firewall::Applied>,
        &watch::Receiver<routing::Applied>,
    ),
    speaker: Option<watch::Receiver<Option<bgp_speaker::Handle>>>,
    forwarding: Forwarding,
) {
    tokio::spawn(node_health::run_task(node_health::Parts {
        status: source.status.clone(),
        goal: health.subscribe(),
        firewall: firewall.clone(),
        routing: routing.clone(),
        speaker,
        was_forwarding: forwarding == Forwarding::Preserved,
    }));
}

/// Answers for addresses on the link, where Services are known.
fn start_layer2(
    args: &AgentArgs,
    source: &Source,
    speaker: &watch::Sender<Option<bgp_speaker::Handle>>,
    in_force: service::InForce,
) -> Option<layer2::Handle> {
    let parts = layer2::Parts {
        node: args.node.clone(),
        leases: source.address_leases.clone(),
        speaker: speaker.subscribe(),
        in_force,
    };
    (args.has(Feature::Services) || args.has(Feature::LoadBalancer))
        .then(|| layer2::Handle::start(parts))
}

/// Says what is wrong with objects on them.
fn start_events(
    status: &StatusWriter,
    problems: watch::Receiver<Vec<Problem>>,
    (service, balancing): (Option<&service::Handle>, Option<&Balancing>),
) {
    let unserved = balancing.map(Balancing::unserved);
    let refused = service.map(|service| service.health.clone());
    let task = events::run_task(status.clone(), problems, (refused, unserved));
    tokio::spawn(task);
}

/// Brings chains and sets into the kernel; without policy those that pods need all the same.
fn start_policy(
    args: &AgentArgs,
    (goal, report, held_until): (
        watch::Receiver<firewall::Desired>,
        watch::Sender<firewall::Applied>,
        Option<watch::Receiver<service_proxy::Applied>>,
    ),
    core: mpsc::Sender<Message>,
) {
    let choice = args.iptables;
    if args.has(Feature::Policy) {
        let task = firewall::Task::new(choice, goal, report, core);
        tokio::spawn(task.keeping_services(held_until).run());
    } else {
        let attaches_pods = args.has(Feature::Cni);
        let look = firewall::WithoutPolicy {
            choice,
            attaches_pods,
            held_until,
        };
        tokio::spawn(firewall::run_without_policy(look, goal, report, core));
    }
}

/// Reads denied packets, where they are to be shown.
fn start_drops(args: &AgentArgs, firewall: &watch::Sender<firewall::Desired>) -> Option<Arc<Ring>> {
    let log = args.drop_log.as_ref()?;
    let ring = Arc::<Ring>::default();
    let shown = drops::run_task(log.group, Arc::clone(&ring), firewall.subscribe());
    tokio::spawn(shown);
    Some(ring)
}

/// Brings routes into the kernel.
fn start_routing(
    keys: (wireguard::Settings, routing::Publisher),
    (local, speaker, routers): (
        watch::Receiver<routing::Local>,
        oneshot::Receiver<RouteEvents>,
        watch::Receiver<Arc<nexthops::Routers>>,
    ),
    report: watch::Sender<routing::Applied>,
    checksums: Option<TunnelChecksums>,
) {
    let task = routing::run_task((local, speaker, routers), report, keys, checksums);
    tokio::spawn(async move {
        if let Err(error) = task.await {
            error!(%error, "routes cannot be programmed: is the agent root, with NET_ADMIN?");
        }
    });
}

/// Publishes this node's WireGuard keys, once it has some.
fn start_wireguard(
    args: &AgentArgs,
    status: &StatusWriter,
    rotations: &watch::Sender<u64>,
) -> (wireguard::Settings, routing::Publisher) {
    let settings = wireguard::Settings {
        node: args.node.clone(),
        state_dir: args.state_dir.clone(),
        lifetime: args.wireguard_key_lifetime,
    };
    let (wish, wished) = watch::channel(wireguard::Publication::default());
    let (publisher, done) = watch::channel(None);
    tokio::spawn(wireguard::run_task(status.clone(), wished, publisher));
    let asked = rotations.subscribe();
    (settings, routing::Publisher { wish, done, asked })
}

/// Says which pods are here, and what becomes of objects, each time that it changes.
fn publish_to(
    status: &StatusWriter,
    pods: watch::Receiver<Vec<PodStatus>>,
    conditions: watch::Receiver<Vec<ObjectCondition>>,
) {
    let writer = status.clone();
    tokio::spawn(source::publish(pods, "this node's pods", move |pods| {
        let writer = writer.clone();
        async move { writer.publish(pods).await }
    }));
    let writer = status.clone();
    let what = "conditions of objects";
    tokio::spawn(source::publish(conditions, what, move |conditions| {
        let writer = writer.clone();
        async move { writer.publish_conditions(conditions).await }
    }));
}
