//! Answers of `portolan ipam` for eyes.

use std::fmt::Write as _;

use super::view::{AddressState, AddressView, CheckView, ReleasedView, ShowView};
use crate::report::{columns, duration};

/// CIDRs, then addresses.
pub(super) fn show(view: &ShowView) -> String {
    let mut out = String::new();
    if view.cidrs.is_empty() {
        out.push_str("no CIDRs: give the Node spec.podCIDRs, or make an IPPool\n\n");
    } else {
        let mut rows = vec![row(["CIDR", "HELD", "RESTING", "RESERVED", "FREE"])];
        for cidr in &view.cidrs {
            let numbers = [cidr.held, cidr.resting, cidr.reserved, cidr.free].map(number);
            let mut cells = vec![cidr.cidr.clone()];
            cells.extend(numbers);
            rows.push(cells);
        }
        columns(&mut out, &rows);
    }
    if !view.load_balancer_pools.is_empty() {
        let mut rows = vec![row(["LOAD BALANCERS' POOL", "CIDR", "HELD", "FREE"])];
        rows.extend(view.load_balancer_pools.iter().map(|pool| {
            let numbers = [pool.held, pool.free].map(number);
            [vec![pool.name.clone(), pool.cidr.clone()], numbers.into()].concat()
        }));
        columns(&mut out, &rows);
    }
    if !view.addresses.is_empty() {
        let head = [
            "ADDRESS",
            "STATE",
            "POD",
            "CONTAINER",
            "INTERFACE",
            "HOST END",
            "FOR",
        ];
        let mut rows = vec![row(head)];
        rows.extend(view.addresses.iter().map(address));
        columns(&mut out, &rows);
    }
    if view.pending_deletions > 0 {
        // Writing to a String cannot fail; so below.
        let _ = writeln!(
            out,
            "{} deletions wait to be carried out",
            view.pending_deletions
        );
    }
    out
}

/// Findings, leaks first.
pub(super) fn check(view: &CheckView) -> String {
    let mut out = String::new();
    for finding in &view.findings {
        let word = if finding.is_leak { "leak" } else { "note" };
        let _ = writeln!(out, "{word}: {}\n      {}", finding.text, finding.advice);
    }
    let leaks = view
        .findings
        .iter()
        .filter(|finding| finding.is_leak)
        .count();
    let _ = writeln!(
        out,
        "{} attachments and {} host ends looked at: {}",
        view.attachments,
        view.host_ends,
        match leaks {
            0 => "nothing is left behind".to_owned(),
            1 => "1 leak".to_owned(),
            more => format!("{more} leaks"),
        }
    );
    out
}

/// What was released.
pub(super) fn released(view: &ReleasedView) -> String {
    let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
    let pod = view.pod.as_ref().map(|pod| format!("Pod {pod}, "));
    format!(
        "released {} of {}container {}, interface {}\n",
        addresses.join(" and "),
        pod.unwrap_or_default(),
        view.container_id,
        view.interface
    )
}

fn address(view: &AddressView) -> Vec<String> {
    let dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
    let host_end = match (&view.host_end, view.host_end_there) {
        (Some(name), Some(false)) => format!("{name} (gone)"),
        (name, _) => dash(name.as_ref()),
    };
    // A full ID is 64 digits; runtimes' tools take its start.
    let container = view
        .container_id
        .as_ref()
        .map(|id| id.chars().take(13).collect());
    vec![
        view.address.to_string(),
        match view.state {
            AddressState::Held => "held".to_owned(),
            AddressState::Resting => "resting".to_owned(),
        },
        dash(view.pod.as_ref()),
        dash(container.as_ref()),
        dash(view.interface.as_ref()),
        host_end,
        view.seconds.map_or_else(|| "-".to_owned(), duration),
    ]
}

/// An IPv6 block has more than anybody counts.
fn number(number: u64) -> String {
    match number {
        0..=9_999_999 => number.to_string(),
        _ => "many".to_owned(),
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}
