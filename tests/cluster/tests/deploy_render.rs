//! What deploy/ renders to: the chart and the kustomization make the same objects, overlays and the page's examples are whole,
//! and the agent has no more rights on its node than it needs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::kustomization::Kustomization;
use cluster::{Programs, programs};
use serde_json::{Value, json};

type Objects = BTreeMap<String, Value>;

const IMAGE: &str = "images: [{name: portolan, newName: localhost/portolan, newTag: dev}]\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// With 1 and 1.0 the same number.
fn with_plain_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(with_plain_numbers).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, field)| (name, with_plain_numbers(field)))
                .collect()
        }
        other => other,
    }
}

fn objects(text: &str) -> Objects {
    let documents = datastore::read_documents(text).unwrap().into_iter();
    let keyed = documents.map(|document| {
        let object = document.value;
        let word = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("-");
        let [kind, namespace, name] = ["/kind", "/metadata/namespace", "/metadata/name"].map(word);
        (format!("{kind} {namespace} {name}"), object)
    });
    keyed.collect()
}

fn kustomize(folder: &Path) -> Objects {
    let mut kubectl = Command::new(Programs::find().path("kubectl"));
    objects(&output(kubectl.arg("kustomize").arg(folder)))
}

/// Renders a kustomization that stands in no folder of the project; its paths begin with `deploy/`.
fn kustomization(text: &str) -> Objects {
    kustomize(Kustomization::new(text).unwrap().folder())
}

fn helm(settings: &str) -> Objects {
    let words = "template portolan deploy/helm/portolan --namespace portolan --include-crds --kube-version 1.34.4 --set";
    let mut command = Command::new(programs::helm().unwrap());
    command.current_dir(root()).args(words.split(' '));
    objects(&output(
        command.arg(format!("namespace.create=true,{settings}")),
    ))
}

fn assert_equal(chart: &Objects, other: &Objects) {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(chart), names(other));
    for (name, object) in chart {
        let [object, other] =
            [object, &other[name]].map(|object| with_plain_numbers(object.clone()));
        assert_eq!(object, other, "{name}");
    }
}

#[test]
fn the_chart_and_the_kustomization_make_the_same_objects() {
    let plain = kustomize(&root().join("deploy/kubernetes"));
    assert_equal(&helm("bfd.enabled=false"), &plain);
    assert_eq!(plain.len(), 14, "{:?}", plain.keys());
    for (component, settings) in [
        ("bfd", "bfd.enabled=true"),
        ("not-ready-taint", "notReadyTaint=true"),
        ("api-server", "apiServer.host=192.0.2.10"),
        ("own-node-writes", "ownNodeWrites=true"),
        ("services", "services.enabled=true"),
        ("load-balancer", "loadBalancer.enabled=true"),
        ("ingress", "ingress.enabled=true"),
        ("layer2", "layer2.enabled=true"),
    ] {
        let text = format!(
            "resources: [deploy/kubernetes]\ncomponents: [deploy/components/{component}]\n{IMAGE}"
        );
        let with_component = kustomization(&text);
        assert_ne!(with_component, plain, "{component}");
        assert_equal(&helm(settings), &with_component);
    }
}

#[test]
fn the_ingress_controller_needs_no_agent_and_no_right_on_its_node() {
    let text = format!("components: [deploy/components/ingress]\n{IMAGE}");
    let rendered = kustomization(&text);
    assert_eq!(rendered.len(), 10, "{:?}", rendered.keys());
    let namespace = &rendered["Namespace - portolan-ingress"]["metadata"]["labels"];
    assert_eq!(
        namespace["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let deployment = &rendered["Deployment portolan-ingress portolan-ingress"]["spec"];
    let pod = &deployment["template"]["spec"];
    for word in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
        assert!(pod[word].is_null(), "{word}");
    }
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(
        container["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
    for port in container["ports"].as_array().unwrap() {
        assert!(port["containerPort"].as_u64().unwrap() > 1024, "{port}");
    }
    // A pod has the time to end that its own flags take.
    let seconds = |flag: &str| -> u64 {
        let args = container["args"].as_array().unwrap().iter();
        let mut values = args.filter_map(|arg| arg.as_str()?.strip_prefix(flag));
        let value = values.next().unwrap().trim_end_matches('s');
        value.parse().unwrap()
    };
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > seconds("--drain-delay=") + seconds("--drain-timeout="));
    let service = &rendered["Service portolan-ingress portolan-ingress"]["spec"];
    assert_eq!(service["externalTrafficPolicy"], "Local");
    assert_eq!(service["selector"], deployment["selector"]["matchLabels"]);
}

#[test]
fn overlays_hold_the_agent_and_valid_objects_of_ours() {
    for (overlay, ours) in [
        ("full-mesh", 1),
        ("tor-per-rack", 3),
        ("route-reflectors", 3),
    ] {
        let rendered = kustomize(&root().join("deploy/overlays").join(overlay));
        assert!(
            rendered.contains_key("DaemonSet portolan portolan-agent"),
            "{overlay}"
        );
        let mut count = 0;
        for (name, object) in rendered {
            let [kind, version] =
                ["kind", "apiVersion"].map(|word| object[word].as_str().unwrap().to_owned());
            if version.starts_with("portolan.io/") {
                let parsed = api::parse::parse(&kind, &version, object);
                assert!(
                    matches!(parsed, Ok(Some(_))),
                    "{overlay}: {name}: {parsed:?}"
                );
                count += 1;
            }
        }
        assert_eq!(count, ours, "{overlay}");
    }
}

#[test]
fn no_container_is_privileged_and_each_has_the_capabilities_that_it_is_there_for() {
    let text = format!(
        "resources: [deploy/kubernetes, deploy/uninstall]\ncomponents: [deploy/components/bfd]\n{IMAGE}"
    );
    let mut seen = Vec::new();
    for object in kustomization(&text)
        .values()
        .filter(|object| object["kind"] == "DaemonSet")
    {
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for word in ["hostPID", "hostIPC"] {
            assert!(pod[word].is_null(), "{word}");
        }
        let lists = [&pod["initContainers"], &pod["containers"]];
        for container in lists.into_iter().filter_map(Value::as_array).flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert!(context["privileged"].is_null());
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            let added = context["capabilities"]["add"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let added: Vec<_> = added.iter().filter_map(Value::as_str).collect();
            let name = container["name"].as_str().unwrap();
            seen.push(format!(
                "{} {name}: {}",
                object["metadata"]["name"].as_str().unwrap(),
                added.join(" ")
            ));
            let mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let has_token = mounts.iter().any(|mount| mount["name"] == "token");
            assert_eq!(has_token, name == "agent", "{name}");
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "portolan-agent agent: NET_ADMIN NET_RAW NET_BIND_SERVICE",
            "portolan-agent cni: ",
            "portolan-bfd bfd: NET_ADMIN NET_RAW SYS_NICE",
            "portolan-uninstall cleanup: NET_ADMIN NET_RAW",
            "portolan-uninstall cni: ",
            "portolan-uninstall done: NET_ADMIN NET_RAW",
        ]
    );
}

#[test]
fn each_container_sees_of_its_node_what_the_page_says_and_writes_nothing_else() {
    let rendered = kustomize(&root().join("deploy/kubernetes"));
    let pod = &rendered["DaemonSet portolan portolan-agent"]["spec"]["template"]["spec"];
    let list = |value: &Value| value.as_array().unwrap().clone();
    let volumes = list(&pod["volumes"]);
    let mut seen = Vec::new();
    for container in list(&pod["containers"]) {
        for mount in list(&container["volumeMounts"]) {
            let volume = volumes.iter().find(|one| one["name"] == mount["name"]);
            let path = volume.unwrap()["hostPath"]["path"].as_str();
            let how = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            // What is no folder of the node is the token.
            let path = path.unwrap_or_else(|| mount["name"].as_str().unwrap());
            seen.push(format!(
                "{}: {path} {how}",
                container["name"].as_str().unwrap()
            ));
        }
    }
    assert_eq!(
        seen,
        [
            "agent: /var/lib/portolan rw",
            "agent: /run/portolan rw",
            "agent: /run/xtables.lock rw",
            "agent: /proc/sys/net rw",
            "agent: token ro",
            "cni: /run/portolan rw",
            "cni: /opt/cni/bin rw",
            "cni: /etc/cni/net.d rw",
            "cni: /etc/iproute2/rt_protos.d rw",
        ]
    );
    let page = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    for seen in seen.iter().filter(|seen| !seen.contains("token")) {
        let (container, path) = seen.split_once(": ").unwrap();
        let path = path.trim_end_matches(" rw");
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{container}`")));
        assert!(row.is_some_and(|row| row.contains(path)), "{seen}");
    }
}

#[test]
fn the_page_s_kustomization_renders_and_its_paths_are_there() {
    let page = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    let mut examples = 0;
    for part in page.split("```kustomization\n").skip(1) {
        let rendered = kustomization(part.split("```").next().unwrap());
        let agent = &rendered["DaemonSet portolan portolan-agent"]["spec"]["template"]["spec"]["containers"]
            [0];
        let daemons = rendered.values().filter(|one| one["kind"] == "DaemonSet");
        let containers = daemons.flat_map(|one| {
            let list = &one["spec"]["template"]["spec"]["containers"];
            list.as_array().unwrap()
        });
        let images: Vec<_> = containers.map(|one| &one["image"]).collect();
        assert_eq!(images, ["registry.example/net/portolan:1"; 3]);
        let args: Vec<_> = agent["args"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(args.last(), Some(&"--iptables=nft"));
        assert!(args.contains(&"--bfd=process"), "{args:?}");
        assert!(
            args.contains(&"--remove-taint=portolan.io/not-ready"),
            "{args:?}"
        );
        examples += 1;
    }
    assert_eq!(examples, 1);
    let is_end = |c: char| c.is_whitespace() || c == '`';
    let mut paths = 0;
    for word in page
        .split(is_end)
        .filter(|word| word.starts_with("deploy/"))
    {
        assert!(root().join(word).exists(), "{word}");
        paths += 1;
    }
    assert!(paths > 15, "{paths}");
}

/// `(group, resource, verb)` of a role's rules; a resource with a name is `resource/name`.
fn rights(role: &Value) -> Vec<String> {
    let words = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut all = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                let names = words(&rule["resourceNames"]);
                let resource = names
                    .first()
                    .map_or(resource.clone(), |name| format!("{resource}/{name}"));
                all.extend(
                    words(&rule["verbs"])
                        .iter()
                        .map(|verb| format!("{group} {resource} {verb}")),
                );
            }
        }
    }
    all.sort();
    all
}

#[test]
fn the_page_says_of_every_right_what_stops_without_it() {
    let page = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    let tables: Vec<Vec<String>> = page
        .split("| group | resource | verbs | without it |")
        .skip(1)
        .map(|table| {
            let lines = table
                .lines()
                .skip(2)
                .take_while(|line| line.starts_with('|'));
            let mut rows: Vec<String> = Vec::new();
            for line in lines {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                assert!(!cells[4].is_empty(), "{line}");
                // A component's, which the base does without.
                if cells[1].starts_with('(') {
                    continue;
                }
                rows.extend(
                    cells[3]
                        .split(", ")
                        .map(|verb| format!("{} {} {verb}", cells[1], cells[2])),
                );
            }
            rows.sort();
            rows
        })
        .collect();
    let rendered = kustomize(&root().join("deploy/kubernetes"));
    assert_eq!(tables[0], rights(&rendered["ClusterRole - portolan-agent"]));
    assert_eq!(tables[1], rights(&rendered["Role portolan portolan-agent"]));
    let text = format!("components: [deploy/components/ingress]\n{IMAGE}");
    let rendered = kustomization(&text);
    let [.., everywhere, at_home] = &tables[..] else {
        panic!("{tables:?}");
    };
    let role = &rendered["ClusterRole - portolan-ingress"];
    assert_eq!(*everywhere, rights(role));
    let role = &rendered["Role portolan-ingress portolan-ingress"];
    assert_eq!(*at_home, rights(role));
}
