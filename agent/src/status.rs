//! Fills in the report of `portolan status`, and waits for `portolan sync`.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use api::NamespacedName;
use bgp_proto::speaker::PeerStatus;
use tokio::sync::oneshot;

use crate::core::{Core, Endpoint};
use crate::load_balancer::LoadBalancerReport;
use crate::message::Message;
use crate::report::{self, Report};
use crate::shell::Shell;
use crate::{firewall, routing, service, service_proxy};

/// Waits until what the source holds now is in the kernel.
pub(crate) fn wait(shell: &Shell, timeout: Duration, reply: oneshot::Sender<Result<(), String>>) {
    let refresh = shell.refresh.clone();
    let core = shell.messages.clone();
    let mut firewall = shell.firewall_applied.clone();
    let mut routing = shell.routing_applied.clone();
    let mut proxy = shell.proxy.applied.clone();
    tokio::spawn(async move {
        let work = async {
            refresh.refresh().await;
            let (barrier, generation) = oneshot::channel();
            core.send(Message::Barrier(barrier)).await.ok()?;
            let generation = generation.await.ok()?;
            // Generation 0 is the one that was never published.
            let goal = generation.max(1);
            firewall
                .wait_for(|state| state.generation >= goal)
                .await
                .ok()?;
            routing
                .wait_for(|state| state.generation >= goal)
                .await
                .ok()?;
            proxy
                .wait_for(|state| state.generation >= goal)
                .await
                .ok()?;
            Some(())
        };
        let outcome = match tokio::time::timeout(timeout, work).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err("the agent is stopping".to_owned()),
            Err(_) => Err(missing(
                &firewall.borrow(),
                &routing.borrow(),
                &proxy.borrow(),
            )),
        };
        let _ = reply.send(outcome);
    });
}

fn host_ports(firewall: &firewall::Applied, flows_stale: u64) -> report::HostPorts {
    report::HostPorts {
        led: firewall.host_ports.led.len(),
        left_out: firewall.host_ports.left_out.len(),
        flows_stale,
    }
}

/// What is wrong, in words for people, with the object and the way out.
fn errors(
    core: &Core,
    shell: &Shell,
    firewall: &firewall::Applied,
    cut: &crate::conntrack::Cut,
) -> Vec<String> {
    let mut errors = core.errors().to_vec();
    errors.extend(
        firewall
            .error
            .iter()
            .map(|error| format!("policy is not in the kernel: {error}")),
    );
    errors.extend(
        cut.error
            .iter()
            .map(|error| format!("flows that policy denies now, or that lead to endpoints which are gone, may go on: {error}")),
    );
    errors.extend(other_proxy(firewall));
    let proxy = shell.proxy.applied.borrow();
    let what = match proxy.failing_since {
        Some(_) => "Services are not in the kernel",
        None => "what another mode of serving Services left is still in the kernel",
    };
    errors.extend(proxy.error.iter().map(|error| format!("{what}: {error}")));
    errors.extend(shell.service.iter().flat_map(service::Handle::errors));
    // Left to another proxy, the Service is not this agent's.
    let is_left = firewall.other_proxy.is_some();
    let server = shell.source.server.filter(|_| !is_left);
    errors.extend(server.and_then(|server| core.asks_by_itself(server)));
    let blocks = shell.blocks_failed.borrow().clone();
    errors.extend(blocks);
    errors.extend(not_here(core, shell));
    errors
}

/// Why Services are not served although they should be.
pub(crate) fn other_proxy(firewall: &firewall::Applied) -> Option<String> {
    firewall.other_proxy.as_ref().map(|sign| {
        format!("Services are left to another proxy, whose {sign} is here: end it and run `kube-proxy --cleanup`, or start the agent without `services` in --features")
    })
}

/// Tells all there is to tell.
pub(crate) fn report(
    core: &Core,
    shell: &Shell,
    problems: Vec<String>,
    reply: oneshot::Sender<Report>,
) {
    let firewall = shell.firewall_applied.borrow().clone();
    let routing = shell.routing_applied.borrow().clone();
    let cut = shell.cut.borrow().clone();
    let errors = errors(core, shell, &firewall, &cut);
    let waits_for = waits_for(core, shell, &firewall, &routing);
    let services = core.services_report();
    let services = services.zip(shell.service.as_ref());
    let services = services.map(|(counts, service)| service::ServicesReport {
        mode: core
            .proxy_mode()
            .map(service_proxy::ProxyMode::name)
            .unwrap_or_default(),
        left_to: firewall.other_proxy.clone(),
        ..service.report(counts, &cut)
    });
    let report = Report {
        node: shell.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: waits_for.is_empty(),
        waits_for,
        sessions: Vec::new(),
        listeners: Vec::new(),
        routes: report::Routes {
            desired: routing.desired,
            in_kernel: routing.in_kernel,
            learned: routing.learned,
            failed: routing
                .failed
                .into_iter()
                .map(|(prefix, reason)| report::FailedRoute { prefix, reason })
                .collect(),
            clashes: routing.clashes,
            kept_out: routing
                .kept_out
                .into_iter()
                .map(|(range, count)| (range.to_string(), count))
                .collect(),
            gateway_downs: routing.gateway_downs,
            initial_sync: routing.initial_sync,
        },
        wireguard: routing.wireguard,
        endpoints: core.endpoints().into_iter().map(describe).collect(),
        host_ports: host_ports(&firewall, cut.stale),
        policy: report::Policy {
            policies: core.policy_count(),
            sets: firewall.sets,
            chains: firewall.chains,
            writes: firewall.writes,
            repairs: firewall.repairs,
            last_apply_milliseconds: u64::try_from(firewall.last_duration.as_millis())
                .unwrap_or(u64::MAX),
            backend: firewall.backend.map(str::to_owned),
            has_leftover: firewall.has_leftover,
            read_backs: firewall.read_backs,
            apply: firewall.apply,
            event_to_kernel: firewall.event_to_kernel,
            flows_cut: cut.denied,
            flows_orphaned: cut.orphaned,
            cut: cut.took,
            unsupported: core.unsupported().to_vec(),
        },
        services,
        load_balancer: shell.balanced().as_deref().map(LoadBalancerReport::of),
        announced_services: core.announced_examples(),
        layer2: shell.layer2.as_ref().map(|layer2| layer2.report()),
        ipam: shell.ipam_report(),
        dns: core.domains.report(),
        drops: shell
            .drops
            .as_ref()
            .map(|ring| ring.report())
            .unwrap_or_default(),
        sources: vec![source(core, shell, problems)],
        errors,
    };
    let speaker = shell.speaker.clone();
    tokio::spawn(async move {
        let _ = reply.send(with_sessions(report, speaker).await);
    });
}

fn source(core: &Core, shell: &Shell, problems: Vec<String>) -> report::Source {
    let since = *shell.source.away.borrow();
    report::Source {
        kind: shell.source.kind.to_owned(),
        path: shell.source.path.clone(),
        in_sync: core.in_sync(),
        away_seconds: since.map(|since| since.elapsed().as_secs()),
        problems,
    }
}

/// What keeps the agent from being ready (semantics 169). A mistake in one object does not, nor does an API server that has
/// gone away: what is in force stays so.
fn waits_for(
    core: &Core,
    shell: &Shell,
    firewall: &firewall::Applied,
    routing: &routing::Applied,
) -> Vec<String> {
    if !core.in_sync() {
        return vec!["the sources are not in sync".to_owned()];
    }
    let mut waits_for: Vec<String> = core.node_error().map(str::to_owned).into_iter().collect();
    let policy = firewall.error.iter();
    waits_for.extend(policy.map(|error| format!("policy is not in the kernel: {error}")));
    if firewall.generation == 0 && waits_for.is_empty() {
        waits_for.push("the first program is not in the kernel".to_owned());
    }
    if routing.generation == 0 {
        waits_for.push("the first routes are not in the kernel".to_owned());
    }
    if shell.is_bgp_missing() && core.node_error().is_none() {
        waits_for.push("BGP is not configured".to_owned());
    }
    waits_for
}

/// This node's own addresses that no interface here has: its BGP could not speak from them.
fn not_here(core: &Core, shell: &Shell) -> Vec<String> {
    let is_here = |address: &&IpAddr| match UdpSocket::bind((**address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    };
    let addresses = core.own_addresses().iter();
    let missing = addresses.filter(|address| !is_here(address));
    missing
        .map(|address| {
            format!(
                "Node {}: its address {address} is on no interface of this host: correct status.addresses (the kubelet's --node-ip), or annotation portolan.io/{}-address",
                shell.node,
                if address.is_ipv4() { "ipv4" } else { "ipv6" }
            )
        })
        .collect()
}

async fn with_sessions(mut report: Report, speaker: Option<bgp_speaker::Handle>) -> Report {
    let Some(speaker) = speaker else {
        return report;
    };
    let asked = async { Ok((speaker.status().await?, speaker.listeners().await?)) };
    let answer: Result<_, bgp_speaker::Stopped> = asked.await;
    match answer {
        Ok((peers, listeners)) => {
            report.sessions = peers.into_iter().map(session).collect();
            report.listeners = listeners.into_iter().map(listener).collect();
        }
        Err(error) => {
            report.ready = false;
            report.waits_for.push(error.to_string());
            report.errors.push(error.to_string());
        }
    }
    report
}

fn listener(held: bgp_speaker::ListenerStatus) -> report::Listener {
    report::Listener {
        address: held.address.to_string(),
        error: held.error,
        refused: held.refused,
    }
}

fn session(peer: PeerStatus) -> report::Session {
    report::Session {
        name: peer.name,
        address: peer
            .address
            .map_or_else(|| "-".to_owned(), |address| address.to_string()),
        asn: peer.asn.map(|asn| asn.0),
        router_id: peer.router_id.map(|id| id.to_string()),
        state: peer.state.name().to_owned(),
        established_seconds: peer.established_for.map(|time| time.as_secs()),
        hold_time_seconds: peer
            .negotiated
            .as_ref()
            .map(|agreed| agreed.hold_time.as_secs()),
        prefixes_received: peer.counts.accepted + peer.counts.rejected,
        prefixes_accepted: peer.counts.accepted,
        prefixes_rejected: peer.counts.rejected,
        prefixes_stale: peer.counts.stale,
        prefixes_sent: peer.counts.sent,
        updates_received: peer.updates.0,
        updates_sent: peer.updates.1,
        max_prefixes: peer.max_prefixes,
        bfd_up: peer.bfd_up,
        flaps: peer.flaps,
        last_down: peer.last_down.map(|(why, _)| why),
    }
}

fn describe(endpoint: Endpoint) -> report::Endpoint {
    let pod = endpoint.pod.unwrap_or_else(|| NamespacedName::new("", ""));
    report::Endpoint {
        namespace: pod.namespace,
        name: pod.name,
        container_id: endpoint.holder.container_id,
        interface: endpoint.interface,
        pod_ips: endpoint.addresses.iter().map(ToString::to_string).collect(),
    }
}

fn missing(
    firewall: &firewall::Applied,
    routing: &routing::Applied,
    proxy: &service_proxy::Applied,
) -> String {
    if let Some(error) = &proxy.error {
        return format!("Services: {error}");
    }
    match (&firewall.error, routing.failed.first()) {
        (Some(error), _) => format!("policy: {error}"),
        (None, Some((prefix, why))) => format!("route {prefix}: {why}"),
        (None, None) => "sources are not in sync, or programming takes longer than this".to_owned(),
    }
}
