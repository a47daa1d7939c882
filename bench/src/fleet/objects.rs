//! The fleet's objects as an API server has them when kubelets and controllers have done their part: with all that nobody here reads.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// The node under test; the others are `fleet-2` and so on.
pub(super) const OURS: &str = "fleet-1";
/// Pods of our node.
pub(super) const LOCAL: usize = 110;
const NAMESPACES: usize = 400;
/// Pods of one ReplicaSet.
const REPLICAS: usize = 10;
const SINCE: &str = "2026-11-01T00:00:00Z";

/// How many there are of what there is much of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) pods: usize,
    pub(super) policies: usize,
}

/// Pod `number` of the fleet; the first [`LOCAL`] are our node's.
#[derive(Clone, Copy, Debug)]
pub(super) struct PodNumber(pub(super) usize);

impl Size {
    /// That part of 5,000 nodes, 50,000 pods and 500 policies.
    pub(super) fn of(scale: f64) -> Self {
        let part = |whole: f64, least: f64| (whole * scale).max(least) as usize;
        Self {
            nodes: part(5e3, 20.0),
            pods: part(5e4, 400.0),
            policies: part(5e2, 40.0),
        }
    }

    /// On which node a pod is, counted from 1.
    pub(super) fn node_of(self, pod: PodNumber) -> usize {
        match pod.0 {
            local if local < LOCAL => 1,
            other => 2 + other % (self.nodes - 1),
        }
    }
}

impl PodNumber {
    fn set(self) -> usize {
        self.0 / REPLICAS
    }

    pub(super) fn namespace(self) -> String {
        // Each of our pods has a namespace of its own, and others there beside it.
        match self.0 {
            local if local < LOCAL => namespace_name(local),
            _ => namespace_name(self.set()),
        }
    }

    pub(super) fn name(self) -> String {
        format!("{}-{}-{:05x}", self.app(), self.hash(), self.0)
    }

    fn app(self) -> String {
        format!("service-{}", self.set())
    }

    fn hash(self) -> String {
        format!("{:010x}", self.set() as u64 * 0x9e37_79b9 % (1 << 40))
    }

    pub(super) fn labels(self) -> Value {
        json!({
            "app": self.app(), "tier": tier(self.set()), "pod-template-hash": self.hash(),
            "app.kubernetes.io/name": self.app(), "app.kubernetes.io/part-of": format!("product-{}", self.set() % 50),
        })
    }

    /// Its place among the pods of its node.
    fn place(self, size: Size) -> usize {
        match self.0 {
            local if local < LOCAL => local,
            other => other / (size.nodes - 1),
        }
    }

    pub(super) fn uid(self) -> String {
        uid("bbbb", self.0)
    }

    /// Of both families.
    pub(super) fn addresses(self, size: Size) -> [String; 2] {
        let (node, place) = (size.node_of(self), self.place(size));
        let v4 = Ipv4Addr::from(u32::from(pod_network(node)) + 2 + place as u32);
        [
            v4.to_string(),
            format!("{}{:x}", pod_network_v6(node), 2 + place),
        ]
    }
}

/// Where a namespace's objects of a kind are in etcd, and what they are.
pub(crate) type Stored = (String, Value);

pub(super) fn node_name(number: usize) -> String {
    format!("fleet-{number}")
}

pub(super) fn namespace_name(number: usize) -> String {
    format!("team-{:03}", number % NAMESPACES)
}

/// InternalIP.
pub(super) fn node_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 20, 0, 0)) + number as u32)
}

fn pod_network(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 0, 0)) + ((node as u32) << 8))
}

fn pod_network_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x32, 0, node as u16, 0, 0, 0, 0)
}

fn tier(set: usize) -> &'static str {
    match set % 5 {
        0 => "web",
        1 => "api",
        2 => "cache",
        3 => "queue",
        _ => "batch",
    }
}

fn uid(kind: &str, number: usize) -> String {
    format!("{number:08x}-{kind}-4000-8000-{:012x}", number * 7_919)
}

pub(super) fn namespaces() -> impl Iterator<Item = Stored> {
    (0..NAMESPACES).map(|number| {
        let name = namespace_name(number);
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": name, "uid": uid("aaaa", number), "creationTimestamp": SINCE,
                "labels": {"kubernetes.io/metadata.name": name, "team": format!("t{}", number % 40), "stage": (if number.is_multiple_of(2) { "dev" } else { "live" })},
            },
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        (format!("namespaces/{name}"), object)
    })
}

/// A Node as a kubelet keeps it, with the images it has.
pub(super) fn node(number: usize) -> Stored {
    let name = node_name(number);
    let v4 = format!("{}/24", pod_network(number));
    let v6 = format!("{}/64", pod_network_v6(number));
    let images: Vec<Value> = (0..25)
        .map(|image| {
            let tag = format!("registry.example/team/service-{image}");
            json!({"names": [format!("{tag}@sha256:{:064x}", image * 7_919 + number), format!("{tag}:v1.{image}")], "sizeBytes": 87_654_321 + image})
        })
        .collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": uid("cccc", number), "creationTimestamp": SINCE,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
                "rack": format!("r{}", number / 40), "topology.kubernetes.io/zone": format!("z{}", number % 3),
                "node.kubernetes.io/instance-type": "bare",
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "managedFields": [
                managed("kube-controller-manager", "", json!({"f:metadata": {"f:annotations": {"f:node.alpha.kubernetes.io/ttl": {}}}, "f:spec": {"f:podCIDR": {}, "f:podCIDRs": {".": {}, "v:\"x\"": {}}}})),
                managed("kubelet", "status", json!({"f:status": {"f:allocatable": {"f:memory": {}}, "f:conditions": {
                    "k:{\"type\":\"DiskPressure\"}": {"f:lastHeartbeatTime": {}}, "k:{\"type\":\"MemoryPressure\"}": {"f:lastHeartbeatTime": {}},
                    "k:{\"type\":\"PIDPressure\"}": {"f:lastHeartbeatTime": {}}, "k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}, "f:message": {}, "f:reason": {}}}, "f:images": {}}})),
            ],
        },
        "spec": {"podCIDR": v4, "podCIDRs": [v4, v6]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": node_address(number).to_string()}, {"type": "Hostname", "address": name}],
            "capacity": {"cpu": "64", "memory": "528000000Ki", "pods": "110", "ephemeral-storage": "1900000000Ki"},
            "allocatable": {"cpu": "63", "memory": "520000000Ki", "pods": "110", "ephemeral-storage": "1800000000"},
            "conditions": node_conditions(SINCE), "images": images,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": format!("{number:032x}"), "systemUUID": uid("eeee", number), "bootID": uid("ffff", number),
                "kernelVersion": "6.12.0", "osImage": "Debian GNU/Linux 13", "containerRuntimeVersion": "containerd://2.1.4",
                "kubeletVersion": "v1.34.4", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    });
    (format!("minions/{name}"), object)
}

/// What a kubelet says of itself every five minutes.
pub(super) fn node_conditions(now: &str) -> Value {
    let one = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": format!("kubelet says {reason}"),
            "lastHeartbeatTime": now, "lastTransitionTime": SINCE,
        })
    };
    json!([
        one("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        one("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        one("PIDPressure", "False", "KubeletHasSufficientPID"),
        one("Ready", "True", "KubeletReady"),
    ])
}

/// A Lease as a kubelet renews it.
pub(super) fn lease(number: usize, now: &str) -> Stored {
    let name = node_name(number);
    let object = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "uid": uid("dddd", number), "creationTimestamp": SINCE},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
    });
    (format!("leases/kube-node-lease/{name}"), object)
}

/// A pod that runs; one of our node has no address yet: its kubelet has not been told any.
pub(super) fn pod(number: PodNumber, size: Size) -> Stored {
    let (namespace, name) = (number.namespace(), number.name());
    let mut status = json!({"phase": "Pending", "qosClass": "Burstable"});
    if number.0 >= LOCAL {
        let node = node_address(size.node_of(number)).to_string();
        status = pod_status(&number.name(), &node, &number.addresses(size));
    }
    let mut object = pod_object(
        &namespace,
        &name,
        &number.labels(),
        &node_name(size.node_of(number)),
    );
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!(number.uid()));
        metadata.insert("creationTimestamp".to_owned(), json!(SINCE));
        metadata.insert("managedFields".to_owned(), pod_managed_fields());
    }
    (format!("pods/{namespace}/{name}"), object)
}

/// A pod as its ReplicaSet's controller makes it, bound to a node.
pub(super) fn pod_object(namespace: &str, name: &str, labels: &Value, node: &str) -> Value {
    let mount = json!({"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    let container = |name: &str, port: u16, port_name: &str| {
        json!({
            "name": name, "image": format!("registry.example/team/{name}:v1.17.3"), "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": port_name, "containerPort": port, "protocol": "TCP"}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}, {"name": "LEVEL", "value": "info"},
                {"name": "UPSTREAM", "value": "http://backend.team-001.svc.cluster.local:8080"}],
            "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/service"}, mount],
            "livenessProbe": probe("/livez"), "readinessProbe": probe("/readyz"),
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let (set, _) = name.rsplit_once('-').unwrap_or((name, ""));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "generateName": format!("{set}-"), "labels": labels,
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9102", "checksum/config": format!("{:064x}", set.len())},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": uid("9999", set.len()), "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "nodeName": node, "serviceAccountName": "default", "serviceAccount": "default", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority", "securityContext": {"fsGroup": 1000},
            "containers": [container("service", 8080, "http"), container("metrics", 9102, "metrics")],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [
                {"name": "config", "configMap": {"name": "service", "defaultMode": 420}},
                {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}],
        },
    })
}

/// What a kubelet says of a pod that runs.
pub(super) fn pod_status(name: &str, node: &str, addresses: &[String]) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": SINCE});
    let container = |container: &str| {
        json!({
            "name": container, "ready": true, "started": true, "restartCount": 0, "image": format!("registry.example/team/{container}:v1.17.3"),
            "imageID": format!("registry.example/team/{container}@sha256:{:064x}", container.len()),
            "containerID": format!("containerd://{:064x}", name.len()),
            "state": {"running": {"startedAt": SINCE}}, "lastState": {},
        })
    };
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let kinds = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    json!({
        "phase": "Running", "qosClass": "Burstable", "startTime": SINCE, "hostIP": node, "hostIPs": [{"ip": node}],
        "podIP": addresses.first(), "podIPs": ips, "conditions": kinds.map(condition),
        "containerStatuses": [container("service"), container("metrics")],
    })
}

fn managed(manager: &str, subresource: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": SINCE, "fieldsType": "FieldsV1", "fieldsV1": fields, "subresource": subresource})
}

fn pod_managed_fields() -> Value {
    let all = |names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| (format!("f:{name}"), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let container = all(&[
        "name",
        "image",
        "imagePullPolicy",
        "env",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "ports",
        "volumeMounts",
        "securityContext",
        "terminationMessagePath",
    ]);
    let condition = all(&["type", "status", "lastProbeTime", "lastTransitionTime"]);
    let conditions: serde_json::Map<String, Value> = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
    ]
    .map(|kind| (format!("k:{{\"type\":\"{kind}\"}}"), condition.clone()))
    .into_iter()
    .collect();
    json!([
        managed(
            "kube-controller-manager",
            "",
            json!({
                "f:metadata": {"f:generateName": {}, "f:labels": all(&["app", "tier", "pod-template-hash"]), "f:annotations": {}, "f:ownerReferences": {}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"service\"}": container, "k:{\"name\":\"metrics\"}": container},
                    "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}, "f:volumes": {},
                },
            })
        ),
        managed(
            "kubelet",
            "status",
            json!({
                "f:status": {"f:conditions": conditions, "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {}, "f:startTime": {}},
            })
        ),
    ])
}

/// A NetworkPolicy; every third is in the namespace of a pod of ours.
pub(super) fn policy(number: usize) -> Stored {
    let namespace = match number.is_multiple_of(3) {
        true => namespace_name(number / 3 % LOCAL),
        false => namespace_name(number),
    };
    let name = format!("policy-{number}");
    let near = json!({"podSelector": {"matchLabels": {"tier": tier(number)}}});
    let far = json!({"namespaceSelector": {"matchLabels": {"team": format!("t{}", number % 40)}}, "podSelector": {"matchLabels": {"tier": tier(number + 1)}}});
    let block = json!({"ipBlock": {"cidr": format!("198.51.{}.0/24", number % 256), "except": [format!("198.51.{}.128/25", number % 256)]}});
    let ports = json!([{"protocol": "TCP", "port": "http"}, {"protocol": "TCP", "port": 9102}]);
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [near, far, block], "ports": ports}]});
    if number.is_multiple_of(4)
        && let Some(spec) = spec.as_object_mut()
    {
        let product = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": format!("product-{}", number % 50)}}});
        spec.insert(
            "egress".to_owned(),
            json!([{"to": [product]}, {"ports": [{"protocol": "UDP", "port": 53}]}]),
        );
        spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress"]));
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name, "uid": uid("7777", number), "creationTimestamp": SINCE, "generation": 1},
        "spec": spec,
    });
    (format!("networkpolicies/{namespace}/{name}"), object)
}

/// What the API server has to know besides: no mesh, some ClusterNetworkPolicies, and the policy whose peers come and go.
pub(super) fn rest() -> Vec<Value> {
    let mut all = vec![
        json!({"apiVersion": "portolan.io/v1alpha1", "kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": {"nodeToNodeMeshEnabled": false}}),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace_name(0), "name": "churned"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"churn": "selected"}}}]}]},
        }),
    ];
    all.extend((0..6).map(|number| {
        let (tier, action) = match number {
            0 | 2 | 4 => ("Admin", "Pass"),
            _ => ("Baseline", "Deny"),
        };
        let team = |team: usize| json!({"matchLabels": {"team": format!("t{team}")}});
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": format!("cluster-{number}")},
            "spec": {
                "tier": tier, "priority": number, "subject": {"namespaces": team(number)},
                "ingress": [{"name": "one", "action": action, "from": [{"namespaces": team(number + 7)}]}],
            },
        })
    }));
    all
}

/// The account that pods need to be admitted.
pub(super) fn service_accounts() -> impl Iterator<Item = Stored> {
    (0..NAMESPACES).map(|number| {
        let namespace = namespace_name(number);
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace, "uid": uid("8888", number), "creationTimestamp": SINCE},
        });
        (format!("serviceaccounts/{namespace}/default"), object)
    })
}

/// Addresses of a node that no pod of the fleet has, of each family.
pub(super) fn spare_addresses(node: usize, place: usize) -> (Ipv4Addr, Ipv6Addr) {
    let last = 128 + place as u16 % 120;
    let v4 = Ipv4Addr::from(u32::from(pod_network(node)) + u32::from(last));
    (
        v4,
        Ipv6Addr::new(0xfd00, 0x32, 0, node as u16, 0, 0, 0, last),
    )
}
