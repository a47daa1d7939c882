//! Answers `portolan service`: asks the core for copies, reads the kernel's counters, and works off the core's task.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{Service, ServiceType};
use ipnet::IpNet;
use services::proxy::endpoints::Endpoint;
use services::proxy::model::{Frontend, Served, ServicePort};
use tokio::sync::{mpsc, oneshot};

use super::announced::{self, AnnouncedView};
use super::counters;
use super::state::ServiceState;
use super::view::{
    CounterView, EndpointView, FrontendView, HealthView, ListView, LostView, PortView,
    ServiceAnswer, ServiceQuestion, ServiceRow, ServiceView,
};
use super::words;
use crate::layer2::{Answering, Layer2Report};
use crate::load_balancer::State;
use crate::message::{Message, Serving};
use crate::service_proxy::ProxyMode;

/// So many names are told that are like one that is not there.
const MOST_NEAR: usize = 5;

/// Answers one question.
///
/// # Errors
/// In words that say what to do.
pub(crate) async fn answer(
    core: &mpsc::Sender<Message>,
    question: ServiceQuestion,
) -> Result<ServiceAnswer, String> {
    let stopping = || "the agent is stopping".to_owned();
    let asked = match &question {
        ServiceQuestion::List { .. } => None,
        ServiceQuestion::Show { namespace, name } => Some(NamespacedName::new(namespace, name)),
    };
    let (reply, state) = oneshot::channel();
    let sent = core.send(Message::Services(asked, reply)).await;
    sent.map_err(|_| stopping())?;
    let serving = state.await.map_err(|_| stopping())?;
    let Some(state) = &serving.state else {
        return Err(
            "this agent does not serve Services: start it with `services` in --features (docs/services.md), or ask kube-proxy"
                .to_owned(),
        );
    };
    if !state.in_sync {
        return Err("the sources are not in sync yet: try again in a moment".to_owned());
    }
    match question {
        ServiceQuestion::List { namespace } => {
            off_task(move || {
                let state = serving.state.as_ref();
                let services = state
                    .map(|state| rows(state, serving.balanced.as_deref(), namespace.as_deref()));
                Ok(ServiceAnswer::List(ListView {
                    not_served: serving.not_served.clone(),
                    services: services.unwrap_or_default(),
                }))
            })
            .await
        }
        ServiceQuestion::Show { namespace, name } => {
            let mut view = view(&serving, state, &namespace, &name)?;
            view.announced = announced_by(state).await?;
            match counted(&serving, state, NamespacedName::new(&namespace, &name)).await {
                Ok(counters) => view.counters = counters,
                Err(error) => view.counters_error = Some(error),
            }
            Ok(ServiceAnswer::Show(Box::new(view)))
        }
    }
}

/// What the kernel counted for a Service, by what it is served by.
async fn counted(
    serving: &Serving,
    state: &ServiceState,
    name: NamespacedName,
) -> Result<Vec<CounterView>, String> {
    let mut services = state.services.iter();
    let found = services.find(|(service, _)| service.name == name);
    let served = found.and_then(|(_, served)| served.as_deref());
    match (serving.mode, served) {
        (Some(ProxyMode::Nftables), Some(served)) => counters::of_nftables(served).await,
        (Some(ProxyMode::Nftables), None) => Ok(Vec::new()),
        (Some(ProxyMode::Ipvs), Some(served)) => {
            let mut found = counters::of_ipvs(served, &state.node_addresses).await?;
            // Rules lead those senders that IPVS can't tell from others.
            found.extend(counters::of_iptables(name.to_string()).await?);
            Ok(found)
        }
        _ => counters::of_iptables(name.to_string()).await,
    }
}

/// Who answers for the addresses of a Service.
fn answering(service: &Service, report: &Layer2Report) -> BTreeMap<IpAddr, Answering> {
    let both = [&service.load_balancer_ips, &service.external_ips];
    let known = both.into_iter().flatten().filter_map(|address| {
        let answering = report.addresses.get(address)?;
        Some((*address, answering.clone()))
    });
    known.collect()
}

/// Who announces the Service that was asked for.
async fn announced_by(state: &ServiceState) -> Result<Vec<AnnouncedView>, String> {
    let Some(announced) = state.announced.clone() else {
        return Ok(Vec::new());
    };
    off_task(move || Ok(announced::views(&announced))).await
}

/// Works where it holds up nobody.
async fn off_task<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked
        .map_err(|_| "the question could not be worked out: the agent's log says why".to_owned())?
}

pub(super) fn rows(
    state: &ServiceState,
    balanced: Option<&State>,
    namespace: Option<&str>,
) -> Vec<ServiceRow> {
    let is_asked = |service: &Service| namespace.is_none_or(|name| service.name.namespace == name);
    let services = state.services.iter();
    let services = services.filter(|(service, _)| is_asked(service));
    services
        .map(|(service, served)| {
            let mut row = row(service, served.as_deref());
            row.notes
                .extend(balanced.map_or_else(Vec::new, |state| state.notes(service)));
            row
        })
        .collect()
}

fn row(service: &Service, served: Option<&Served>) -> ServiceRow {
    let external = service
        .load_balancer_ips
        .iter()
        .chain(&service.external_ips);
    let ports = service.ports.iter().map(|port| {
        let node_port = port
            .node_port
            .map_or_else(String::new, |number| format!(":{number}"));
        format!(
            "{}{node_port}/{}",
            port.port,
            words::protocol(port.protocol)
        )
    });
    let all = || served.into_iter().flat_map(|served| &served.ports);
    let asked: BTreeSet<_> = all().flat_map(asked).map(|one| one.address).collect();
    let left_out = all().flat_map(|port| &port.choice.left_out);
    let left_out: BTreeSet<_> = left_out.map(|(one, _)| one.address).collect();
    ServiceRow {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        service_type: words::service_type(service.service_type).to_owned(),
        cluster_ips: service
            .cluster_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        external: external.map(ToString::to_string).collect(),
        ports: ports.collect(),
        endpoints: asked.len(),
        left_out: left_out.difference(&asked).count(),
        notes: notes(service, served),
    }
}

/// All that somebody here asks; who is asked by both policies comes twice.
fn asked(port: &ServicePort) -> impl Iterator<Item = &Endpoint> {
    port.choice.cluster.iter().chain(&port.choice.local)
}

fn notes(service: &Service, served: Option<&Served>) -> Vec<String> {
    let mut notes: Vec<String> = not_proxied(service)
        .map(str::to_owned)
        .into_iter()
        .collect();
    let ports = || served.into_iter().flat_map(|served| &served.ports);
    if ports().any(|port| !port.choice.has_any) {
        notes.push("no endpoints".to_owned());
    }
    let lost = ports().map(|port| port.lost.len()).sum::<usize>();
    if lost > 0 {
        notes.push(format!("{lost} addresses are another Service's"));
    }
    notes
}

/// Why no node's proxy serves a Service.
fn not_proxied(service: &Service) -> Option<&'static str> {
    if service.is_proxied() {
        return None;
    }
    Some(match service.service_type {
        ServiceType::ExternalName => "a name in the DNS: nothing for a node to do",
        _ if service.cluster_ips.is_empty() => {
            "headless: the DNS gives its endpoints' own addresses"
        }
        _ => "a label says that another proxy serves it, or that it is headless",
    })
}

fn view(
    serving: &Serving,
    state: &ServiceState,
    namespace: &str,
    name: &str,
) -> Result<ServiceView, String> {
    let mut all = state.services.iter();
    let is_it =
        |service: &Arc<Service>| service.name.namespace == namespace && service.name.name == name;
    let Some((service, served)) = all.find(|(service, _)| is_it(service)) else {
        return Err(unknown(state, namespace, name));
    };
    let not_served = serving.not_served.clone();
    let not_proxied = not_proxied(service).map(str::to_owned);
    let ports = served.iter().flat_map(|served| &served.ports);
    let health = served.as_ref().and_then(|served| served.health.as_ref());
    Ok(ServiceView {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        service_type: words::service_type(service.service_type).to_owned(),
        mode: serving.mode.map(ProxyMode::name).unwrap_or_default(),
        not_served: not_proxied.or(not_served),
        internal_traffic_policy: words::policy(service.internal_traffic_policy).to_owned(),
        external_traffic_policy: words::policy(service.external_traffic_policy).to_owned(),
        addresses: serving
            .balanced
            .as_ref()
            .map_or_else(Vec::new, |state| state.notes(service)),
        session_affinity_seconds: service.session_affinity.map(|time| time.as_secs()),
        load_balancer_source_ranges: service
            .load_balancer_source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
        health_check: health.map(|check| HealthView {
            port: check.port,
            local_endpoints: check.local_endpoints,
            error: serving.health.refused.get(&service.name).cloned(),
        }),
        announced: Vec::new(),
        layer2: answering(service, &serving.layer2),
        ports: ports
            .map(|one| port(one, &state.node_port_addresses))
            .collect(),
        counters: Vec::new(),
        counters_error: None,
    })
}

/// `ranges`: the node's addresses that answer at node ports.
fn port(port: &ServicePort, ranges: &[IpNet]) -> PortView {
    let frontend = |one: &Frontend| {
        let answers = port.answers(one.kind);
        FrontendView {
            kind: words::kind(one.kind).to_owned(),
            address: words::address(one, ranges),
            pods: words::answer(answers.own_pod),
            node: words::answer(answers.node),
            others: words::answer(answers.other),
        }
    };
    let lost = port.lost.iter().map(|(one, holder)| LostView {
        kind: words::kind(one.kind).to_owned(),
        address: words::address(one, ranges),
        holder: holder.to_string(),
    });
    PortView {
        name: port.name.port.clone(),
        protocol: words::protocol(port.name.protocol).to_owned(),
        family: match port.family {
            netfilter::Family::V4 => "IPv4",
            netfilter::Family::V6 => "IPv6",
        }
        .to_owned(),
        frontends: port.frontends.iter().map(frontend).collect(),
        lost: lost.collect(),
        hints: words::topology(port.choice.topology).map(str::to_owned),
        endpoints: endpoints(port),
    }
}

/// Those that are asked first; each once.
fn endpoints(port: &ServicePort) -> Vec<EndpointView> {
    let choice = &port.choice;
    let view = |one: &Endpoint| EndpointView {
        address: one.address.to_string(),
        node: one.node.clone(),
        asked_by: Vec::new(),
        left_out: None,
    };
    let is_in =
        |list: &[Endpoint], one: &Endpoint| list.iter().any(|held| held.address == one.address);
    let local_alone = choice
        .local
        .iter()
        .filter(|one| !is_in(&choice.cluster, one));
    let asked = choice.cluster.iter().chain(local_alone).map(|one| {
        let scopes = [("cluster", &choice.cluster), ("local", &choice.local)];
        let scopes = scopes.into_iter().filter(|(_, list)| is_in(list, one));
        EndpointView {
            asked_by: scopes.map(|(name, _)| name.to_owned()).collect(),
            ..view(one)
        }
    });
    let left_out = choice.left_out.iter().map(|(one, why)| EndpointView {
        left_out: Some(words::why(*why).to_owned()),
        ..view(one)
    });
    asked.chain(left_out).collect()
}

/// Names what is like it: the same name in other namespaces, or a name that has it in it.
fn unknown(state: &ServiceState, namespace: &str, name: &str) -> String {
    let names = || state.services.iter().map(|(service, _)| &service.name);
    let same = names().filter(|one| one.name == name);
    let alike = names().filter(|one| {
        one.namespace == namespace
            && one.name != name
            && (one.name.contains(name) || name.contains(one.name.as_str()))
    });
    let near: Vec<String> = same
        .chain(alike)
        .take(MOST_NEAR)
        .map(ToString::to_string)
        .collect();
    match near.is_empty() {
        true => format!(
            "there is no Service {namespace}/{name}: `portolan service list -n {namespace}` names those that are there"
        ),
        false => format!(
            "there is no Service {namespace}/{name}; there is {}",
            near.join(", ")
        ),
    }
}
