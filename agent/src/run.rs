//! Starts the parts, and runs the one task that owns the state.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use datastore::{PodReader, PodStatus, Source};
use netfilter::Family;
use services::proxy::iptables;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::attachments::{LAST_BREATH, Leases};
use crate::cli::{AgentArgs, BfdArgs, Feature};
use crate::core::{Asked, Core, Endpoint, Seen, Serve, when};
use crate::message::{Attached, Message, Refused, Reply, When};
use crate::service_proxy::ProxyMode;
use crate::shell::Shell;
use crate::sockets::listen;
use crate::{
    capabilities, cni, control, dns, firewall, http, ipam, load_balancer, service_proxy, source,
    status,
};

/// Runs the agent until it is told to stop.
///
/// # Errors
/// If it cannot start; the text says what to do.
pub(crate) fn agent(args: &AgentArgs) -> anyhow::Result<()> {
    log_to_stderr(&args.log)?;
    runtime()?.block_on(run(args))
}

/// Runs BFD until it is told to stop.
///
/// # Errors
/// If its socket cannot be served, or another process serves it.
pub(crate) fn bfd(args: &BfdArgs) -> anyhow::Result<()> {
    log_to_stderr(&args.log)?;
    make_run_dir(&args.run_dir)?;
    let socket = args.run_dir.join(BFD_SOCKET);
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        info!(socket = %socket.display(), "BFD serves");
        let settings = bgp_speaker::bfd::BfdSettings::default();
        bgp_speaker::bfd::server::run_server(&socket, settings, stop)
            .await
            .with_context(|| format!("BFD at {} has ended", socket.display()))
    })
}

/// The socket by which the agent adopts BFD, in the run folder.
pub(crate) const BFD_SOCKET: &str = "bfd.sock";

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_new(filter)
                .with_context(|| format!("--log {filter} is not a filter"))?,
        )
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn make_run_dir(run_dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .with_context(|| format!("cannot make the run folder {}", run_dir.display()))
}

/// Makes this host a router, and says what that changed.
fn forward() {
    for outcome in routes::host_sysctls(true, true) {
        let name = outcome.sysctl.name;
        match outcome.changed {
            Ok(true) => info!(name, before = outcome.before, "switched on forwarding"),
            Ok(false) => {}
            Err(error) => {
                warn!(name, %error, "cannot switch on forwarding: set it to 1 before the agent")
            }
        }
    }
}

/// Takes everything of ours out of the kernel.
///
/// # Errors
/// If an agent still runs, or the kernel refuses.
pub(crate) fn cleanup(run_dir: &Path) -> anyhow::Result<()> {
    if control::agent_answers(run_dir) {
        anyhow::bail!("an agent runs in {}: stop it first", run_dir.display());
    }
    runtime()?.block_on(async {
        for link in routes::pod_links().await? {
            routes::delete_link(&link.name).await?;
        }
        routes::delete_lone_shapers().await?;
        crate::routing::delete_tunnels().await?;
        let mut table = routes::RouteTable::open().await?;
        let report = table.remove_all().await;
        if let Some((prefix, why)) = report.failed.first() {
            anyhow::bail!("cannot remove the route {prefix}: {why}");
        }
        firewall::clean().await?;
        service_proxy::clean().await.map_err(anyhow::Error::msg)?;
        Ok(())
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Waits for the last breath of one that was killed: its sockets may outlive it as its state folder's lock does.
async fn be_alone(run_dir: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + LAST_BREATH;
    while control::agent_answers(run_dir) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "another agent runs in {}: stop it, or give this one its own --run-dir and --state-dir",
            run_dir.display()
        );
        tokio::time::sleep(LAST_BREATH / 40).await;
    }
    Ok(())
}

async fn run(args: &AgentArgs) -> anyhow::Result<()> {
    capabilities::check(args)?;
    be_alone(&args.run_dir).await?;
    make_run_dir(&args.run_dir)?;
    let mut leases = Leases::open(&args.state_dir)?;
    leases.set_cool_down(args.address_cool_down.as_secs());
    let (source, whereabouts) = source::open(args).await?;
    forward();
    let (sender, messages) = mpsc::channel(256);
    // Routes of an earlier run forward still: peers may keep theirs to us (RFC 4724, the F bit).
    let kept = routes::RouteTable::open().await?.status().in_kernel > 0;
    let forwarding = if kept {
        bgp_speaker::Forwarding::Preserved
    } else {
        bgp_speaker::Forwarding::Lost
    };
    let (kind, path) = (whereabouts.kind, whereabouts.path.clone());
    let mut shell = Shell::start(args, (&source, whereabouts), sender.clone(), forwarding);
    if let Some(address) = args.metrics {
        let soundness = shell.service.as_ref();
        let soundness = soundness.map(|service| service.soundness.clone());
        http::listen(address, sender.clone(), soundness).await?;
    }
    let cni = args
        .has(Feature::Cni)
        .then(|| serve_cni(args, &mut shell, source.pods.clone(), sender.clone()))
        .transpose()?;
    let parts = control::Parts { core: sender, cni };
    listen(&args.run_dir.join(control::SOCKET), parts, control::serve)?;
    info!(node = args.node, source = kind, path, "started");
    let mut settings = settings(args);
    settings.ipvs = ipvs_settings(args);
    let mut core = Core::new(args.node.clone(), leases, settings);
    if args.has(Feature::Cni) {
        core.use_pools(args.idle_block_time);
    }
    if args.has(Feature::Services) {
        core.serve_services(Serve {
            mode: args.proxy_mode,
            scheduler: args.ipvs_scheduler,
            node_port_addresses: args.node_port_addresses.clone(),
            pods_are_judged: args.has(Feature::Policy),
        });
    }
    if args.has(Feature::LoadBalancer) {
        core.announce_services();
        core.balance_services(source.pods.is_some());
    }
    if source.pods.is_some() {
        core.ask_for_pods();
    }
    shell.start_dns(args, &mut core.domains).await;
    Loop {
        core,
        shell,
        source,
        messages,
    }
    .run()
    .await
}

/// All host ends, and whether each is up.
async fn look_at_links() -> Option<Seen> {
    let links = routes::pod_links().await;
    let links = links.inspect_err(|error| warn!(%error, "cannot list the pods' interfaces"));
    let seen = |link: routes::LinkInfo| (link.name, link.up);
    Some(links.ok()?.into_iter().map(seen).collect())
}

/// Attaches pods from now on, and takes back what nobody holds.
fn serve_cni(
    args: &AgentArgs,
    shell: &mut Shell,
    pods: Option<PodReader>,
    core: mpsc::Sender<Message>,
) -> anyhow::Result<cni::Server> {
    let cni = cni::Server::new(
        core,
        shell.firewall_applied.clone(),
        shell.routing_applied.clone(),
        shell.cut.clone(),
        shell.mtu.pods.clone(),
        &args.state_dir,
    )
    .with_pods(pods.map(|reader| cni::Pods {
        reader,
        node: args.node.clone(),
    }));
    shell.reclaimed = Some(cni.reclaimed.subscribe());
    tokio::spawn(cni.clone().take_pending_deletions());
    tokio::spawn(ipam::run_task(cni.clone(), args.reclaim_after));
    listen(
        &args.run_dir.join(cni::SOCKET),
        cni.clone(),
        |stream, cni| async move { cni.serve(stream).await },
    )?;
    Ok(cni)
}

/// A host end goes with its pod's namespace and leaves what shaped the pod behind, as a killed ADD or DEL does.
async fn sweep_shapers() {
    match routes::delete_lone_shapers().await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => info!(devices = ?gone, "deleted shapers whose pods are gone"),
        Err(error) => warn!(%error, "cannot look for shapers whose pods are gone"),
    }
}

/// What the flags say of policy.
pub(crate) fn settings(args: &AgentArgs) -> policy::Settings {
    policy::Settings {
        mark: args.mark_mask,
        egress_to_own_node: args.egress_to_own_node.into(),
        drop_log: args.drop_log.clone(),
        domain_names: Some(policy::DomainNameSettings {
            queue: dns::QUEUE,
            cluster_dns: args.cluster_dns.0.clone(),
            resolvers: args.dns_resolver.iter().copied().collect(),
        }),
        ..policy::Settings::default()
    }
}

/// What IPVS leads is judged where Services are served by it, and where connections of an earlier mode may still go by it.
fn ipvs_settings(args: &AgentArgs) -> Option<policy::IpvsSettings> {
    let is_chosen = args.has(Feature::Services) && args.proxy_mode == ProxyMode::Ipvs;
    let led = is_chosen.then(|| Family::ALL.map(iptables::led_for_pods));
    let is_used = is_chosen || service_proxy::is_ipvs_used();
    is_used.then_some(policy::IpvsSettings { led })
}

struct Loop {
    core: Core,
    shell: Shell,
    source: Source,
    messages: mpsc::Receiver<Message>,
}

impl Loop {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut routing = self.shell.routing_applied.clone();
        let mut links = 0;
        let core_messages = self.shell.messages.clone();
        // Before the first publication: routes of pods that are there stay.
        self.core.begin_look();
        self.core.end_look(look_at_links().await);
        self.core
            .set_standing(&crate::routing::left_standing().await);
        loop {
            let mut replies = Vec::new();
            let dirty = tokio::select! {
                event = self.source.events.recv() => match event {
                    Some(event) => { self.core.handle_event(event); true }
                    None => anyhow::bail!("the watch of the source has ended"),
                },
                // Conditions follow, below.
                Ok(()) = self.source.problems.changed() => false,
                message = self.messages.recv() => match message {
                    Some(message) => self.handle_message(message, &mut replies),
                    None => false,
                },
                _ = routing.changed() => {
                    let (now, standing) = {
                        let applied = routing.borrow_and_update();
                        (applied.links, applied.standing.clone())
                    };
                    if now != links {
                        links = now;
                        self.look_at_links();
                    }
                    self.core.set_standing(&standing)
                }
                () = dns::due(self.core.domains.poll_timeout()) => {
                    self.core.domains.look_for_flows(Instant::now(), core_messages.clone());
                    false
                }
                // A block has been empty for long: what is published says so.
                () = dns::due(self.core.blocks().poll_timeout()) => true,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            };
            let dirty = self.drain(&mut replies) | dirty;
            if dirty {
                self.publish().await;
            }
            self.publish_conditions();
            self.shell.balance(&mut self.core).await;
            let generation = self.shell.firewall.borrow().generation;
            for reply in replies {
                reply.answer(generation, || self.shell.policy_state(&self.core));
            }
        }
        info!("stopping; what is in the kernel keeps forwarding");
        if let Some(layer2) = &self.shell.layer2 {
            layer2.stop().await;
        }
        if let Some(speaker) = &self.shell.speaker {
            // No NOTIFICATION: peers hold our routes as RFC 4724 says.
            let _ = speaker.shutdown(bgp_speaker::Shutdown::Graceful).await;
        }
        Ok(())
    }

    /// Says what becomes of objects of our kinds. In a directory, status and events say it.
    fn publish_conditions(&mut self) {
        if self.source.pods.is_none() {
            return;
        }
        let conditions = self.core.conditions(&self.source.problems.borrow());
        if let Some(conditions) = conditions {
            self.shell.set_conditions(conditions);
        }
    }

    /// Hands what is to be now to every task, once all sources are in sync.
    async fn publish(&mut self) {
        let start = Instant::now();
        let Some(outputs) = self.core.outputs() else {
            return;
        };
        let compiled = start.elapsed();
        self.shell.set_lacks(self.core.lacks_addresses());
        self.shell.publish(outputs, self.pod_statuses()).await;
        debug!(?compiled, published = ?start.elapsed(), "published");
    }

    /// Takes all that waits, so that one publication serves it.
    fn drain(&mut self, replies: &mut Vec<Reply>) -> bool {
        let mut dirty = false;
        while let Ok(event) = self.source.events.try_recv() {
            self.core.handle_event(event);
            dirty = true;
        }
        while let Ok(message) = self.messages.try_recv() {
            dirty |= self.handle_message(message, replies);
        }
        dirty
    }

    /// Carries a message out; true if the desired state may be another now.
    fn handle_message(&mut self, message: Message, replies: &mut Vec<Reply>) -> bool {
        match message {
            Message::Report(reply) => {
                let problems = self.source.problems.borrow().clone();
                let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                problems.extend_from_slice(self.core.pool_problems());
                status::report(&self.core, &self.shell, problems, reply);
            }
            Message::Speaker(reply) => drop(reply.send(self.shell.speaker.clone())),
            Message::Sync { timeout, reply } => status::wait(&self.shell, timeout, reply),
            Message::Lookup { holder, reply } => drop(reply.send(self.core.endpoint(&holder))),
            Message::Endpoints(reply) => drop(reply.send(self.core.endpoints())),
            Message::Room(reply) => drop(reply.send(self.core.room())),
            Message::Broken { sets, chains } => {
                self.core.set_broken(sets, chains);
                return true;
            }
            Message::BlockTaken(block) => {
                self.core.handle_taken(block);
                return true;
            }
            Message::Policy(reply) => replies.push(Reply::Policy(reply)),
            Message::Services(asked, reply) => {
                let serving = self.shell.serving(&self.core, asked.as_ref());
                drop(reply.send(Box::new(serving)));
            }
            Message::Ipam(reply) => {
                let mut state = self.core.ipam_state();
                let balanced = self.shell.balanced();
                state.balancer_pools =
                    balanced.map_or_else(Vec::new, |balanced| load_balancer::pools(&balanced));
                drop(reply.send(Box::new(state)));
            }
            Message::Barrier(reply) => replies.push(Reply::Generation(reply)),
            Message::Link {
                interface,
                there,
                reply,
            } => {
                self.core.set_link(&interface, there);
                replies.push(Reply::Generation(reply));
                return true;
            }
            Message::DnsAnswer { answer, reply } => {
                match self.core.domains.handle_answer(Instant::now(), answer) {
                    Some(generation) => drop(reply.send(generation)),
                    None => {
                        replies.push(Reply::Generation(reply));
                        return true;
                    }
                }
            }
            Message::LiveFlows(used) => {
                return self.core.domains.handle_flows(Instant::now(), &used);
            }
            Message::Drops { since, reply } => {
                drop(reply.send(self.shell.drops(since, self.core.objects())));
            }
            Message::RotateKeys(reply) => drop(reply.send(self.shell.rotate_keys())),
            Message::Attach { asked, reply } => return self.attach(&asked, reply, replies),
            Message::PodRead(pod) => {
                self.core.handle_read(*pod);
                return true;
            }
            Message::Links(seen) => return self.end_look(seen),
            Message::Detach { holder, reply } => {
                let outcome = self
                    .core
                    .detach(&holder)
                    .map_err(|error| format!("{error:#}"));
                if let Ok(Some(endpoint)) = &outcome {
                    self.core.set_link(&endpoint.interface, false);
                }
                let _ = reply.send(outcome);
                return true;
            }
        }
        false
    }

    /// Gives an attachment its addresses, unless that is refused; the answer comes once they are published.
    fn attach(&mut self, asked: &Asked, reply: Attached, replies: &mut Vec<Reply>) -> bool {
        if !self.core.in_sync() {
            let text = "the sources are not in sync yet".to_owned();
            let when = When::Soon;
            let _ = reply.send(Err(Refused { when, text }));
            return false;
        }
        match self.core.attach(asked) {
            Ok(endpoint) => replies.push(Reply::Attached(Box::new(endpoint), reply)),
            Err(error) => {
                let (when, text) = (when(&error), format!("{error:#}"));
                let _ = reply.send(Err(Refused { when, text }));
            }
        }
        true
    }

    /// Has all host ends looked at, unless that is under way. The core goes on: while pods come and go, the kernel's answer
    /// waits for each of their links.
    fn look_at_links(&mut self) {
        if self.core.begin_look() {
            let core = self.shell.messages.clone();
            tokio::spawn(async move {
                // Without the core the agent is stopping.
                let _ = core.send(Message::Links(look_at_links().await)).await;
                sweep_shapers().await;
            });
        }
    }

    /// Whether what a look found changes anything.
    fn end_look(&mut self, seen: Option<Seen>) -> bool {
        let (changed, again) = self.core.end_look(seen);
        if again {
            self.look_at_links();
        }
        changed
    }

    fn pod_statuses(&self) -> Vec<PodStatus> {
        let named = |endpoint: Endpoint| {
            let pod = endpoint.pod?;
            Some(PodStatus {
                namespace: pod.namespace,
                name: pod.name,
                uid: endpoint.uid,
                pod_ips: endpoint.addresses,
            })
        };
        self.core
            .endpoints()
            .into_iter()
            .filter_map(named)
            .collect()
    }
}
