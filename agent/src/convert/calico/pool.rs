//! Calico's IPPool and IPReservation.

use serde_json::{Value, json};

use super::super::input::Reader;
use super::super::output::{Draft, Output};
use super::super::report::join;

const NAT_OUTGOING: &str = "nodes see pods by their own addresses, as with natOutgoingExclusions: IPPoolsAndHostIPs, and link-local \
addresses and multicast are never outside";

pub(super) fn convert(reader: &mut Reader<'_>, output: &mut Output) {
    let mut draft = output.draft("IPPool", &reader.input.name);
    let mut name = draft.itself();
    name.field = "metadata.name".to_owned();
    reader.common(Some(name));
    if let Some(cidr) = reader.text("spec.cidr") {
        let to = draft.set("cidr", cidr);
        reader.carried("spec.cidr", to);
    }
    match reader.number::<u8>("spec.blockSize") {
        Some(0) => reader.not_needed("spec.blockSize", "0 is the default, 26 or for IPv6 122"),
        Some(size) => {
            let to = draft.set("blockSize", size);
            reader.carried("spec.blockSize", to);
        }
        None => {}
    }
    if let Some(selector) = reader.text("spec.nodeSelector") {
        let to = draft.set("nodeSelector", selector);
        reader.carried("spec.nodeSelector", to);
    }
    if let Some(disabled) = reader.flag("spec.disabled") {
        let to = draft.set("disabled", disabled);
        reader.carried("spec.disabled", to);
    }
    uses(reader, &mut draft);
    encapsulation(reader, &mut draft);
    if let Some(nat) = reader.flag("spec.natOutgoing") {
        let to = draft.set("natOutgoing", nat);
        match nat {
            true => reader.changed("spec.natOutgoing", vec![to], NAT_OUTGOING),
            false => reader.carried("spec.natOutgoing", to),
        }
    }
    without_counterpart(reader, output, &draft);
    output.add(draft);
}

fn uses(reader: &mut Reader<'_>, draft: &mut Draft) {
    let mut uses = Vec::new();
    let texts = reader.texts("spec.allowedUses");
    for (field, text) in texts {
        match text {
            "Workload" | "Tunnel" | "LoadBalancer" => {
                uses.push(Value::from(text));
                let to = draft.set("allowedUses", uses.clone());
                match text {
                    "LoadBalancer" => reader.changed(
                        &field,
                        vec![to],
                        "agents with `load-balancer` in --features give its addresses to Services, once Calico's controller does so no more",
                    ),
                    _ => reader.carried(&field, to),
                }
            }
            _ => reader.none(&field, "Portolan knows Workload, Tunnel and LoadBalancer"),
        }
    }
}

/// `ipipMode` and `vxlanMode`; a pool of an old version may say it in `ipip` and `nat-outgoing`.
fn encapsulation(reader: &mut Reader<'_>, draft: &mut Draft) {
    let both = ["ipipMode", "vxlanMode"].map(|mode| {
        let field = format!("spec.{mode}");
        let value = reader.text(&field);
        (field, value)
    });
    for (field, value) in both {
        let ours = match (field.as_str(), value) {
            (_, None) => continue,
            (_, Some("Never")) => {
                reader.carried_so(&field, vec![draft.place("encapsulation")], "no such tunnel");
                continue;
            }
            ("spec.ipipMode", Some("Always")) => "IPIP",
            ("spec.ipipMode", Some("CrossSubnet")) => "IPIPCrossSubnet",
            ("spec.vxlanMode", Some("Always")) => "VXLAN",
            ("spec.vxlanMode", Some("CrossSubnet")) => "VXLANCrossSubnet",
            _ => {
                reader.none(&field, "it is not Never, Always or CrossSubnet");
                continue;
            }
        };
        if draft.has("encapsulation") {
            reader.none(&field, "a pool has one encapsulation");
            continue;
        }
        let to = draft.set("encapsulation", ours);
        let note = "by a device of Portolan's own: while nodes of both kinds are there, the network between them must know the pods' \
routes (peer with it, or put the nodes in one subnet)";
        reader.carried_so(&field, vec![to], note);
    }
}

fn without_counterpart(reader: &mut Reader<'_>, output: &mut Output, draft: &Draft) {
    match reader.flag("spec.disableBGPExport") {
        Some(true) => reader.none(
            "spec.disableBGPExport",
            "write a BGPFilter that rejects the cidr in exportV4 or exportV6, and name it in your BGPPeers; the mesh announces every pool",
        ),
        Some(false) => reader.not_needed("spec.disableBGPExport", "so it is here"),
        None => {}
    }
    if reader.text("spec.namespaceSelector").is_some() {
        reader.none(
            "spec.namespaceSelector",
            "a pool is for nodes here, not for namespaces: give those namespaces nodes of their own, or their pods fixed addresses \
by the annotation portolan.io/ip-addresses",
        );
    }
    match reader.text("spec.assignmentMode") {
        Some("Automatic") => reader.not_needed("spec.assignmentMode", "so it is here"),
        Some("Manual") => {
            let cidr = reader.get("spec.cidr").and_then(Value::as_str);
            let mut reservation = output.draft("IPReservation", &reader.input.name);
            let to = reservation.set("reservedCIDRs", json!([cidr.unwrap_or_default()]));
            output.add(reservation);
            reader.carried_so(
                "spec.assignmentMode",
                vec![to, draft.itself()],
                "no pod is given a reserved address unless it asks for it",
            );
        }
        Some(_) => reader.none("spec.assignmentMode", "it is not Automatic or Manual"),
        None => {}
    }
    for (field, instead) in [
        ("ipip", "spec.ipipMode"),
        ("nat-outgoing", "spec.natOutgoing"),
    ] {
        let field = join("spec", field);
        if reader.get(&field).is_some() {
            reader.none(
                &field,
                &format!("of an old version of Calico: say it in {instead} first"),
            );
        }
    }
}

pub(super) fn reservation(reader: &mut Reader<'_>, output: &mut Output) {
    let mut draft = output.draft("IPReservation", &reader.input.name);
    let mut name = draft.itself();
    name.field = "metadata.name".to_owned();
    reader.common(Some(name));
    let texts = reader.texts("spec.reservedCIDRs");
    if texts.is_empty() {
        return reader.none("(the whole object)", "it reserves nothing");
    }
    let all: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
    let to = draft.set("reservedCIDRs", all);
    for (field, _) in texts {
        reader.carried(&field, to.clone());
    }
    output.add(draft);
}
