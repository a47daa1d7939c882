//! Answers of `portolan policy` as tables for eyes.

use std::fmt::Write as _;

use super::view::{
    DirectionView, ExplainView, FlowView, KernelView, ListView, OpenFlow, PolicyShown, ShowView,
    SideView, TryView,
};
use crate::report::columns;

/// All policies.
pub(super) fn list(view: &ListView) -> String {
    let mut out = String::new();
    if view.policies.is_empty() {
        out.push_str("no policies: everything is allowed\n");
        return out;
    }
    let mut rows = vec![row([
        "TIER",
        "PRIORITY",
        "NAME",
        "DIRECTIONS",
        "PODS HERE",
        "PODS",
        "ALLOWED",
        "DENIED",
        "PASSED",
    ])];
    for policy in &view.policies {
        let packets = |of: fn(&super::view::Packets) -> u64| {
            let number = policy.packets.as_ref().map(of);
            or_dash(number.map(|number| number.to_string()))
        };
        rows.push(vec![
            policy.tier.clone(),
            or_dash(policy.priority.map(|priority| priority.to_string())),
            policy.name.clone(),
            policy.directions.join(", "),
            policy.local_pods.to_string(),
            policy.pods.to_string(),
            packets(|packets| packets.allowed),
            packets(|packets| packets.denied),
            packets(|packets| packets.passed),
        ]);
    }
    columns(&mut out, &rows);
    for policy in &view.policies {
        for problem in &policy.problems {
            line(
                &mut out,
                &format!("problem: {} {}: {problem}", policy.tier, policy.name),
            );
        }
    }
    kernel_error(&mut out, view.kernel_error.as_ref());
    out
}

/// One pod.
pub(super) fn show(view: &ShowView) -> String {
    let mut out = String::new();
    let node = view
        .runs_on
        .as_deref()
        .unwrap_or("a node that is not known");
    line(&mut out, &format!("pod {} on {node}", view.pod));
    line(
        &mut out,
        &format!("addresses: {}", view.addresses.join(", ")),
    );
    if !view.named_ports.is_empty() {
        let ports = view.named_ports.iter();
        let ports: Vec<String> = ports
            .map(|port| format!("{} ({}/{})", port.name, port.port, port.protocol))
            .collect();
        line(&mut out, &format!("named ports: {}", ports.join(", ")));
    }
    match &view.interface {
        Some(interface) => line(&mut out, &format!("interface: {interface}")),
        None => line(
            &mut out,
            &format!(
                "not attached to {}: ask the agent of its own node for chains and counters",
                view.node
            ),
        ),
    }
    for direction in &view.directions {
        show_direction(&mut out, direction);
    }
    kernel_error(&mut out, view.kernel_error.as_ref());
    out
}

fn show_direction(out: &mut String, view: &DirectionView) {
    let says = match (view.isolated, view.policies.is_empty()) {
        (true, _) => "isolated: only what a rule allows passes",
        (false, true) => "no policy is about it: everything passes",
        (false, false) => "not isolated: what no rule denies passes",
    };
    line(out, &format!("\n{}: {says}", view.direction));
    if !view.policies.is_empty() {
        let mut rows = vec![row([
            "TIER",
            "PRIORITY",
            "POLICY",
            "RULE",
            "ACTION",
            "PACKETS",
            "WHOM: WHAT",
        ])];
        view.policies
            .iter()
            .for_each(|policy| show_policy(&mut rows, policy));
        columns(out, &rows);
    }
    for policy in &view.policies {
        for problem in &policy.problems {
            line(out, &format!("problem: {}: {problem}", policy.name));
        }
    }
    if let Some(chain) = &view.endpoint_chain {
        let groups = match view.group_chains.is_empty() {
            true => String::new(),
            false => format!(" → {}", view.group_chains.join(", ")),
        };
        line(out, &format!("chain: {chain}{groups}"));
    }
    if let Some(packets) = view.packets_asked {
        line(
            out,
            &format!("packets of this pod that were judged: {packets}"),
        );
    }
    if let Some(packets) = view.packets_isolated {
        let text =
            format!("packets that isolation dropped, of all pods with these policies: {packets}");
        line(out, &text);
    }
}

fn show_policy(rows: &mut Vec<Vec<String>>, policy: &PolicyShown) {
    let priority = or_dash(policy.priority.map(|priority| priority.to_string()));
    let start = |tier: &str, name: &str| vec![tier.to_owned(), priority.clone(), name.to_owned()];
    if !policy.asked {
        let mut cells = start(&policy.tier, &policy.name);
        cells
            .extend(["", "", "", "not asked: a NetworkPolicy isolates the pod"].map(str::to_owned));
        rows.push(cells);
        return;
    }
    if policy.rules.is_empty() {
        let mut cells = start(&policy.tier, &policy.name);
        cells.extend(["", "", "", "no rule: it allows nothing"].map(str::to_owned));
        rows.push(cells);
    }
    for rule in &policy.rules {
        let mut cells = start(&policy.tier, &policy.name);
        let named = match rule.name.is_empty() {
            true => rule.number.to_string(),
            false => format!("{} ({})", rule.number, rule.name),
        };
        let packets = or_dash(rule.packets.map(|packets| packets.to_string()));
        cells.extend([named, rule.action.clone(), packets, rule.text.clone()]);
        rows.push(cells);
    }
}

/// A connection, as each agent has it.
pub(super) fn explain(views: &[ExplainView]) -> String {
    let mut out = String::new();
    for view in views {
        if views.len() > 1 {
            line(
                &mut out,
                &format!("== as the agent of {} has it", view.node),
            );
        }
        for flow in &view.families {
            explain_flow(&mut out, view, flow);
        }
        if let Some(error) = &view.kernel_error {
            line(&mut out, &format!("the kernel was not asked: {error}"));
        }
        let unasked = unasked(view, views);
        for node in unasked {
            line(
                &mut out,
                &format!(
                    "what {node}'s kernel does, its own agent says: ask there, or add its --run-dir"
                ),
            );
        }
    }
    out
}

/// Nodes that enforce a side and whose agents were not asked.
fn unasked(view: &ExplainView, views: &[ExplainView]) -> std::collections::BTreeSet<String> {
    let sides = view.families.iter().flat_map(|flow| &flow.sides);
    let elsewhere = sides.filter(|side| side.subject.is_some() && !side.local);
    let nodes = elsewhere.filter_map(|side| side.node.clone());
    nodes
        .filter(|node| views.iter().all(|view| view.node != *node))
        .collect()
}

fn explain_flow(out: &mut String, view: &ExplainView, flow: &FlowView) {
    let port = flow.port.map_or(String::new(), |port| format!(" {port}"));
    let end = |name: &str, address: &str| match name == address {
        true => address.to_owned(),
        false => format!("{name} ({address})"),
    };
    let verdict = if flow.allowed { "ALLOWED" } else { "DENIED" };
    line(
        out,
        &format!(
            "{} → {} {}{port}: {verdict}",
            end(&view.from, &flow.source),
            end(&view.to, &flow.destination),
            flow.protocol
        ),
    );
    flow.sides.iter().for_each(|side| explain_side(out, side));
    if let Some(kernel) = &flow.kernel {
        explain_kernel(out, &view.node, kernel);
    }
    line(out, "");
}

fn explain_side(out: &mut String, side: &SideView) {
    let verdict = if side.allowed { "allowed" } else { "denied" };
    let whose = match (&side.subject, &side.node) {
        (Some(pod), Some(node)) => format!("{} of {pod}, on {node}", side.direction),
        (Some(pod), None) => format!("{} of {pod}", side.direction),
        (None, _) => side.direction.clone(),
    };
    line(out, &format!("  {whose}: {verdict}: {}", side.decided_by));
    for step in &side.steps {
        let rule = step
            .rule
            .map_or(String::new(), |number| format!(" rule {number}"));
        let named = match step.rule_name.is_empty() {
            true => String::new(),
            false => format!(" ({})", step.rule_name),
        };
        line(
            out,
            &format!(
                "    {} {}{rule}{named}: {}",
                step.tier, step.policy, step.outcome
            ),
        );
    }
}

fn explain_kernel(out: &mut String, node: &str, kernel: &KernelView) {
    line(out, &format!("  the kernel of {node} {}:", kernel.verdict));
    let mut rows = vec![row([
        "   ", "TABLE", "CHAIN", "NO", "PACKETS", "RULE", "FROM",
    ])];
    // What matched is the way; of what did not, only the policies' rules tell something.
    let told = kernel
        .trail
        .iter()
        .filter(|tried| tried.matched || tried.policy.is_some());
    for tried in told {
        let from = match (&tried.policy, tried.policy_rule) {
            (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
            _ => String::new(),
        };
        rows.push(vec![
            if tried.matched { "   *" } else { "   -" }.to_owned(),
            tried.table.clone(),
            tried.chain.clone(),
            tried.number.to_string(),
            tried.packets.to_string(),
            tried.rule.clone(),
            from,
        ]);
    }
    columns(out, &rows);
    // What else is told of the kernel stands with it.
    out.pop();
    for rule in &kernel.foreign {
        line(out, &format!("  not Portolan's: {rule}"));
    }
    if let Some(difference) = &kernel.difference {
        line(out, &format!("  !!! THEY DIFFER: {difference}"));
    }
}

/// What a manifest would change.
pub(super) fn trial(view: &TryView) -> String {
    let mut out = String::new();
    for object in &view.objects {
        line(&mut out, &format!("{}: {}", object.object, object.change));
    }
    for problem in &view.problems {
        line(&mut out, &format!("problem: {problem}"));
    }
    line(&mut out, "");
    trial_pods(&mut out, view);
    trial_flows(&mut out, view);
    line(&mut out, "nothing was changed");
    out
}

fn trial_pods(out: &mut String, view: &TryView) {
    if view.isolation.is_empty() {
        line(out, "no pod would be newly isolated or freed");
    } else {
        let mut rows = vec![row(["POD", "DIRECTION", "WOULD BE"])];
        rows.extend(view.isolation.iter().map(|change| {
            let then = if change.isolated { "isolated" } else { "free" };
            row([&change.pod, &change.direction, then])
        }));
        columns(out, &rows);
        left_out(out, view.isolation_left_out, "pods");
    }
    if view.connections.is_empty() {
        line(
            out,
            "no new connection between pods would be judged otherwise",
        );
    } else {
        let mut rows = vec![row(["FROM", "TO", "WOULD BE", "WHAT", "FAMILY"])];
        rows.extend(view.connections.iter().map(|change| {
            let then = if change.allowed { "allowed" } else { "denied" };
            let family = change.family.as_deref().unwrap_or("both");
            let what = change.ports.join(", ");
            row([&change.from, &change.to, then, &what, family])
        }));
        columns(out, &rows);
        left_out(out, view.connections_left_out, "connections");
    }
    if view.pairs_left_out > 0 {
        line(
            out,
            &format!(
                "{} pairs of pods were not looked at: there are too many",
                view.pairs_left_out
            ),
        );
    }
}

fn trial_flows(out: &mut String, view: &TryView) {
    if let Some(error) = &view.flows_error {
        line(out, &format!("open flows are not known: {error}"));
        return;
    }
    if view.flows.is_empty() {
        line(
            out,
            &format!(
                "none of the {} open flows of {} would be cut or newly allowed",
                view.flows_seen, view.node
            ),
        );
        return;
    }
    let mut rows = vec![row(["OPEN FLOW", "FROM", "TO", "WOULD BE"])];
    rows.extend(view.flows.iter().map(|flow| {
        let then = if flow.allowed { "allowed" } else { "cut" };
        let [from, to] = ends(flow);
        row([&flow.protocol, &from, &to, then])
    }));
    columns(out, &rows);
    left_out(out, view.flows_left_out, "flows");
}

fn ends(flow: &OpenFlow) -> [String; 2] {
    let end = |address: &str, port: u16, pod: Option<&String>| {
        let bare = match (address.contains(':'), port) {
            (_, 0) => address.to_owned(),
            (true, port) => format!("[{address}]:{port}"),
            (false, port) => format!("{address}:{port}"),
        };
        pod.map_or_else(|| bare.clone(), |pod| format!("{pod} {bare}"))
    };
    [
        end(&flow.source, flow.source_port, flow.from_pod.as_ref()),
        end(
            &flow.destination,
            flow.destination_port,
            flow.to_pod.as_ref(),
        ),
    ]
}

fn left_out(out: &mut String, count: usize, what: &str) {
    if count > 0 {
        line(out, &format!("… and {count} more {what}"));
    }
}

fn kernel_error(out: &mut String, error: Option<&String>) {
    if let Some(error) = error {
        line(out, &format!("there are no counters: {error}"));
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

fn line(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}
