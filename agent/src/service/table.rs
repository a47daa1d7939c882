//! `portolan service` as tables for eyes.

use super::announced;
use super::view::{ListView, ServiceView};
use crate::report::columns;

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn or_dash(list: &[String]) -> String {
    match list.is_empty() {
        true => "-".to_owned(),
        false => list.join(" "),
    }
}

/// One line a Service.
pub(super) fn list(view: &ListView) -> String {
    let mut out = String::new();
    if let Some(why) = &view.not_served {
        out += &format!("not served by this agent: {why}\n\n");
    }
    let mut rows = vec![row([
        "SERVICE",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL",
        "PORTS",
        "ENDPOINTS",
        "NOTES",
    ])];
    for one in &view.services {
        let left_out = match one.left_out {
            0 => String::new(),
            count => format!(" ({count} left out)"),
        };
        rows.push(vec![
            format!("{}/{}", one.namespace, one.name),
            one.service_type.clone(),
            or_dash(&one.cluster_ips),
            or_dash(&one.external),
            or_dash(&one.ports),
            format!("{}{left_out}", one.endpoints),
            one.notes.join("; "),
        ]);
    }
    columns(&mut out, &rows);
    out
}

/// All of one Service.
pub(super) fn show(view: &ServiceView) -> String {
    let mut out = format!(
        "Service {}/{}: {}, mode {}\n",
        view.namespace, view.name, view.service_type, view.mode
    );
    if let Some(why) = &view.not_served {
        out += &format!("not served by this agent: {why}\n");
    }
    out += &format!(
        "traffic policy: internal {}, external {}\n",
        view.internal_traffic_policy, view.external_traffic_policy
    );
    if !view.addresses.is_empty() {
        out += &format!("load balancer: {}\n", view.addresses.join("; "));
    }
    if let Some(seconds) = view.session_affinity_seconds {
        out += &format!("a client keeps its endpoint for {seconds} s\n");
    }
    if !view.load_balancer_source_ranges.is_empty() {
        let ranges = view.load_balancer_source_ranges.join(" ");
        out += &format!("load balancer addresses may be asked from {ranges}\n");
    }
    if let Some(health) = &view.health_check {
        out += &match &health.error {
            None => format!(
                "health checks at port {}: {} endpoints are here\n",
                health.port, health.local_endpoints
            ),
            Some(error) => format!("{error}\n"),
        };
    }
    announced::table(&view.announced, &mut out);
    announced::answering(&view.layer2, &mut out);
    ports(view, &mut out);
    counters(view, &mut out);
    out
}

fn ports(view: &ServiceView, out: &mut String) {
    for port in &view.ports {
        let name = match port.name.as_str() {
            "" => "port".to_owned(),
            name => format!("port {name}"),
        };
        *out += &format!("\n{name}, {} over {}\n", port.protocol, port.family);
        let mut rows = vec![row(["  KIND", "ADDRESS", "PODS-HERE", "NODE", "OTHERS"])];
        rows.extend(port.frontends.iter().map(|one| {
            vec![
                format!("  {}", one.kind),
                one.address.clone(),
                one.pods.clone(),
                one.node.clone(),
                one.others.clone(),
            ]
        }));
        columns(out, &rows);
        for lost in &port.lost {
            *out += &format!(
                "  {} {} is Service {}'s: give one of them another address\n",
                lost.kind, lost.address, lost.holder
            );
        }
        if let Some(hints) = &port.hints {
            *out += &format!("  hints: {hints}\n");
        }
        if port.endpoints.is_empty() {
            *out +=
                "  no endpoints: its selector matches no pod, or nobody wrote its EndpointSlice\n";
            continue;
        }
        let mut rows = vec![row(["  ENDPOINT", "NODE", "ASKED-BY", "LEFT-OUT"])];
        rows.extend(port.endpoints.iter().map(|one| {
            vec![
                format!("  {}", one.address),
                one.node.clone().unwrap_or_else(|| "-".to_owned()),
                or_dash(&one.asked_by).replace(' ', ","),
                one.left_out.clone().unwrap_or_default(),
            ]
        }));
        columns(out, &rows);
    }
}

fn counters(view: &ServiceView, out: &mut String) {
    if let Some(error) = &view.counters_error {
        *out += &format!("no counters: {error}\n");
    }
    if view.counters.is_empty() {
        return;
    }
    *out += "what the kernel counted since each rule was written (first packets of connections; by IPVS all that clients sent)\n";
    let mut rows = vec![row(["  RULE", "IN", "CONNECTIONS", "PACKETS", "OCTETS"])];
    rows.extend(view.counters.iter().map(|one| {
        let connections = one.connections.map(|count| count.to_string());
        vec![
            format!("  {}", one.what),
            one.place.clone(),
            connections.unwrap_or_else(|| "-".to_owned()),
            one.packets.to_string(),
            one.octets.to_string(),
        ]
    }));
    columns(out, &rows);
}
