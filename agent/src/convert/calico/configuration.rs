//! Calico's BGPConfiguration: the one named `default`, and those of single nodes.

use api::Selector;
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::communities;
use super::super::input::{Reader, at};
use super::super::output::Output;

const SERVICES: &str = "the agents read Services where their --features name `services`, or `load-balancer` beside another proxy";

pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    if reader.spec().is_none() {
        return reader.common(None);
    }
    match reader.input.name.strip_prefix("node.") {
        _ if reader.input.name == "default" => default(reader, cluster, output),
        Some(node) => of_node(reader, node, output),
        None => {
            reader.common(None);
            reader.not_needed("spec", "Calico reads only `default` and `node.NAME`");
        }
    }
}

fn default(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    reader.common(Some(super::super::report::Place {
        kind: "BGPConfiguration",
        name: "default".to_owned(),
        field: "metadata.name".to_owned(),
    }));
    if let Some(number) = reader.as_number("spec.asNumber") {
        configure(reader, output, "spec.asNumber", "asNumber", number.into());
    }
    if let Some(mesh) = reader.flag("spec.nodeToNodeMeshEnabled") {
        configure(
            reader,
            output,
            "spec.nodeToNodeMeshEnabled",
            "nodeToNodeMeshEnabled",
            mesh.into(),
        );
    }
    if let Some(port) = reader.number::<u16>("spec.listenPort") {
        match port {
            0 => reader.not_needed("spec.listenPort", "0 is the default, 179"),
            port => configure(reader, output, "spec.listenPort", "listenPort", port.into()),
        }
    }
    let names = named(reader, output);
    advertisements(reader, output, &names);
    services(reader, output);
    mesh_peer(reader, cluster, output);
    rest(reader);
}

/// Ranges of Services' addresses: they have the same names and mean the same.
fn services(reader: &mut Reader<'_>, output: &mut Output) {
    const AGGREGATION: &str = "spec.serviceLoadBalancerAggregation";
    for name in [
        "serviceClusterIPs",
        "serviceExternalIPs",
        "serviceLoadBalancerIPs",
    ] {
        let field = format!("spec.{name}");
        match reader.get(&field) {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => reader.not_needed(&field, "it is empty"),
            Some(list) => match output.configure(name, list.clone()) {
                Ok(to) => reader.carried_so(&field, vec![to], SERVICES),
                Err(why) => reader.none(&field, &why),
            },
        }
    }
    if let Some(aggregation) = reader.get(AGGREGATION).cloned() {
        let ours = "serviceLoadBalancerAggregation";
        configure(reader, output, AGGREGATION, ours, aggregation);
    }
}

/// Sets a field of ours, or says why it cannot be.
fn configure(reader: &mut Reader<'_>, output: &mut Output, field: &str, ours: &str, value: Value) {
    match output.configure(ours, value) {
        Ok(to) => reader.carried(field, to),
        Err(why) => reader.none(field, &why),
    }
}

/// `spec.communities`; the names that are known from now on.
fn named(reader: &mut Reader<'_>, output: &mut Output) -> Vec<String> {
    let mut names = Vec::new();
    let mut all = Vec::new();
    for (index, entry) in reader.list("spec.communities").iter().enumerate() {
        let field = format!("spec.communities[{index}]");
        let text = |name| at(entry, name).and_then(Value::as_str);
        let (Some(name), Some(value)) = (text("name"), text("value")) else {
            reader.none(&field, "it has no name or no value");
            continue;
        };
        let Some(community) = communities::of_calico(value) else {
            reader.none(&field, "its value is no community: write aa:nn or aa:nn:mm");
            continue;
        };
        let mut more = all.clone();
        more.push(json!({"name": name, "value": community.to_string()}));
        match output.replace("communities", more.clone().into()) {
            Ok(to) => {
                reader.carried(&field, to);
                names.push(name.to_owned());
                all = more;
            }
            Err(why) => reader.none(&field, &why),
        }
    }
    names
}

fn advertisements(reader: &mut Reader<'_>, output: &mut Output, names: &[String]) {
    let mut all = Vec::new();
    let list = reader.list("spec.prefixAdvertisements");
    for (index, entry) in list.iter().enumerate() {
        let field = format!("spec.prefixAdvertisements[{index}]");
        let Some(cidr) = at(entry, "cidr").and_then(Value::as_str) else {
            reader.none(&field, "it has no cidr");
            continue;
        };
        let written = at(entry, "communities").and_then(Value::as_array);
        let written = written.map(Vec::as_slice).unwrap_or_default();
        let read = |value: &Value| {
            let text = value.as_str()?;
            match names.iter().any(|name| name == text) {
                true => Some(text.to_owned()),
                false => communities::of_calico(text).map(|found| found.to_string()),
            }
        };
        let Some(communities) = written.iter().map(read).collect::<Option<Vec<_>>>() else {
            let why = "one of its communities is neither a name in spec.communities nor aa:nn or aa:nn:mm";
            reader.none(&field, why);
            continue;
        };
        let mut more = all.clone();
        more.push(json!({"cidr": cidr, "communities": communities}));
        match output.replace("prefixAdvertisements", more.clone().into()) {
            Ok(to) => {
                reader.carried(&field, to);
                all = more;
            }
            Err(why) => reader.none(&field, &why),
        }
    }
}

/// What holds for the mesh alone stands in a BGPPeer here: a node that a BGPPeer reaches is left to it by the mesh.
fn mesh_peer(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    const PASSWORD: &str = "spec.nodeMeshPassword";
    const RESTART: &str = "spec.nodeMeshMaxRestartTime";
    let restart = reader.seconds(RESTART);
    if restart.is_none() && reader.get(PASSWORD).is_none() {
        return;
    }
    if reader.get("spec.nodeToNodeMeshEnabled") == Some(&Value::Bool(false)) {
        for field in [PASSWORD, RESTART] {
            if reader.get(field).is_some() {
                reader.not_needed(field, "there is no node-to-node mesh");
            }
        }
        return;
    }
    let mut draft = output.draft("BGPPeer", "node-to-node-mesh");
    let all = Selector::all().to_string();
    draft.set("nodeSelector", all.as_str());
    draft.set("peerSelector", all.as_str());
    draft.set("asNumber", "internal");
    super::password(reader, PASSWORD, cluster, output, &mut draft);
    if let Some(seconds) = restart {
        let to = draft.set(
            "gracefulRestart",
            json!({"restartTime": format!("{seconds}s")}),
        );
        reader.carried_so(
            RESTART,
            vec![to],
            "this BGPPeer makes the sessions of the mesh",
        );
    }
    output.add(draft);
}

fn rest(reader: &mut Reader<'_>) {
    if let Some(level) = reader.text("spec.logSeverityScreen") {
        match level.eq_ignore_ascii_case("info") {
            true => reader.not_needed("spec.logSeverityScreen", "the agent's default"),
            false => reader.none(
                "spec.logSeverityScreen",
                "a flag of the agent's says it: --log debug, info, warn or error",
            ),
        }
    }
    for (field, none) in [
        ("localWorkloadPeeringIPV4", WORKLOADS),
        ("localWorkloadPeeringIPV6", WORKLOADS),
    ] {
        let field = format!("spec.{field}");
        match reader.get(&field) {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => reader.not_needed(&field, "it is empty"),
            Some(Value::String(text)) if text.is_empty() => {
                reader.not_needed(&field, "it is empty")
            }
            Some(_) => reader.none(&field, none),
        }
    }
    match reader.text("spec.bindMode") {
        Some("None") => reader.not_needed("spec.bindMode", "so it is here"),
        Some(_) => reader.none(
            "spec.bindMode",
            "Portolan listens on every address, and closes a connection from nobody it peers with before it reads a byte",
        ),
        None => {}
    }
    if !reader.list("spec.ignoredInterfaces").is_empty() {
        reader.not_needed(
            "spec.ignoredInterfaces",
            "Portolan announces what pods hold, never routes of devices",
        );
    }
    for field in [
        "programClusterRoutes",
        "ipv4NormalRoutePriority",
        "ipv6NormalRoutePriority",
    ] {
        let field = format!("spec.{field}");
        if reader.get(&field).is_some() {
            reader.not_needed(
                &field,
                "one program learns and installs routes here, with protocol 179 and metric 179",
            );
        }
    }
}

const WORKLOADS: &str = "Portolan does not peer with pods by a virtual address: a listenRange that holds the pods' CIDR lets them dial the node";

/// `node.NAME`: a node's AS is an annotation here, the rest holds for every node.
fn of_node(reader: &mut Reader<'_>, node: &str, output: &mut Output) {
    const FOR_ALL: &str = "one BGPConfiguration, `default`, holds for all nodes here";
    reader.common(None);
    if let Some(number) = reader.as_number("spec.asNumber") {
        let to = output.annotate(node, "portolan.io/as-number", &number.to_string());
        reader.carried("spec.asNumber", to);
    }
    for (field, value) in reader.spec().into_iter().flatten() {
        let field = super::super::report::join("spec", field);
        match (field.as_str(), value) {
            ("spec.asNumber", _) => {}
            ("spec.logSeverityScreen", _) => reader.none(
                &field,
                "a flag of this node's agent says it: --log debug, info, warn or error",
            ),
            ("spec.prefixAdvertisements" | "spec.communities", _) => reader.none(
                &field,
                "write a BGPFilter with addCommunity, and name it in BGPPeers whose nodeSelector is this node",
            ),
            ("spec.serviceLoadBalancerAggregation", _) => {
                reader.not_needed(&field, "it is read in `default` alone");
            }
            _ => reader.none(&field, FOR_ALL),
        }
    }
}
