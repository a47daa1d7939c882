//! Deployments across the nodes: pods reach each other, kubectl reaches them, and Services and names lead to them.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use cluster::image::TOOLS;
use cluster::pods::Pod;
use tests::wait::eventually;

/// The Namespace of all that is tried.
pub(crate) const SHOP: &str = "shop";

/// How often each way is tried.
pub(crate) const PROBES: usize = 20;

const PATIENCE: Duration = Duration::from_secs(60);

/// A web server of two replicas behind Services of three kinds, and a client on each node.
const MANIFESTS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
        matchLabelKeys: [pod-template-hash]
      containers:
      - name: web
        image: IMAGE
        command: [agnhost, netexec, --http-port=8080, --udp-port=8081]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, timeoutSeconds: 3}
        livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 2, timeoutSeconds: 3}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: client, image: IMAGE, command: [sleep, '86400']}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web-headless, namespace: shop}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web-node, namespace: shop}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
";

/// curl of a URL, at most five seconds.
pub(crate) fn curl(url: &str) -> String {
    format!("curl -s -f -g -m 5 {url}")
}

/// The URL of a pod's web server, of a family.
pub(crate) fn url_of(pod: &Pod, is_v6: bool) -> String {
    match pod.ip(is_v6).unwrap() {
        std::net::IpAddr::V4(ip) => format!("http://{ip}:8080/hostname"),
        std::net::IpAddr::V6(ip) => format!("http://[{ip}]:8080/hostname"),
    }
}

/// The client on a node.
pub(crate) fn client_on(cluster: &Cluster, node: &str) -> Pod {
    cluster.pod_on(node, SHOP, "app=client").unwrap()
}

pub(crate) fn deployments_run_on_both_nodes_and_their_pods_reach_each_other(cluster: &mut Cluster) {
    cluster.plane().apply(&MANIFESTS.replace("IMAGE", TOOLS));
    cluster.wait_rollout(SHOP, "deployment/web");
    cluster.wait_rollout(SHOP, "daemonset/client");
    cluster.tell("two Deployments rolled out");
    answers_between_all(cluster);
}

/// The clients of both nodes get an answer of the web server on each, in both families, whenever they ask.
pub(crate) fn answers_between_all(cluster: &Cluster) {
    let mut tried = 0;
    for from in ["n1", "n2"] {
        let client = client_on(cluster, from);
        for to in ["n1", "n2"] {
            let web = cluster.pod_on(to, SHOP, "app=web").unwrap();
            for is_v6 in [false, true] {
                let command = curl(&url_of(&web, is_v6));
                let answered = cluster.count(&client, &command, PROBES).unwrap();
                assert_eq!(answered, PROBES, "{from} to {to}: {command}");
                let said = cluster.exec(&client, &command).unwrap();
                assert_eq!(said, web.name, "{from} to {to}");
                tried += PROBES;
            }
        }
    }
    cluster.tell(&format!(
        "pod to pod: {tried} of {tried} answered, 4 ways in 2 families"
    ));
}

pub(crate) fn kubectl_exec_and_logs_reach_pods_of_both_nodes(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        let web = cluster.pod_on(node, SHOP, "app=web").unwrap();
        let said = cluster.exec(&web, "cat /etc/hostname").unwrap();
        assert_eq!(said.trim(), web.name);
        let log = cluster.kubectl(&["-n", SHOP, "logs", &web.name]);
        assert!(log.contains("Started HTTP server on port 8080"), "{log}");
        let failed = cluster.exec(&web, "exit 7").unwrap_err().to_string();
        assert!(failed.contains("exit code 7"), "{failed}");
    }
}

pub(crate) fn names_lead_to_services_and_pods(cluster: &mut Cluster) {
    cluster.wait_rollout("kube-system", "deployment/coredns");
    cluster.tell("CoreDNS ready");
    let service = cluster.get(&["-n", SHOP, "service", "web"]).unwrap();
    let ips = &service["spec"]["clusterIPs"];
    let (v4, v6) = (ips[0].as_str().unwrap(), ips[1].as_str().unwrap());
    let mut pods: Vec<String> = Vec::new();
    for web in cluster.pods(SHOP, "app=web").unwrap() {
        pods.push(web.ip(false).unwrap().to_string());
    }
    pods.sort();
    for node in ["n1", "n2"] {
        let client = client_on(cluster, node);
        let dig = |words: &str| {
            let said = cluster
                .exec(&client, &format!("dig +time=2 +tries=3 +short {words}"))
                .unwrap();
            let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let name = "web.shop.svc.cluster.local";
        eventually(PATIENCE, "an answer of the DNS", || -> Result<()> {
            ensure!(dig(&format!("{name} A")) == [v4]);
            Ok(())
        })
        .unwrap();
        assert_eq!(dig(&format!("{name} AAAA")), [v6]);
        assert_eq!(dig(&format!("+tcp {name} A")), [v4]);
        assert_eq!(
            dig(&format!("_http._tcp.{name} SRV")),
            [format!("0 50 80 {name}.")]
        );
        assert_eq!(dig("web-headless.shop.svc.cluster.local A"), pods);
        assert_eq!(dig("web-headless.shop.svc.cluster.local AAAA").len(), 2);
        assert_eq!(dig("+search web A"), [v4]);
        assert_eq!(dig("+search kube-dns.kube-system A").len(), 1);
        let foreign = cluster
            .exec(&client, "dig +time=2 www.example.org A")
            .unwrap();
        assert!(foreign.contains("status: NXDOMAIN"), "{foreign}");
        // By the resolver of the C library, with the search domains that the kubelet wrote.
        let answered = cluster
            .count(&client, &curl("http://web/hostname"), PROBES)
            .unwrap();
        assert_eq!(answered, PROBES, "{node}: http://web");
    }
}

pub(crate) fn services_are_reached_by_cluster_ip_and_node_port(cluster: &mut Cluster) {
    let service = cluster.get(&["-n", SHOP, "service", "web"]).unwrap();
    let ips = &service["spec"]["clusterIPs"];
    let cluster_ips = [
        format!("http://{}/hostname", ips[0].as_str().unwrap()),
        format!("http://[{}]/hostname", ips[1].as_str().unwrap()),
    ];
    let node_ports = [Link(1), Link(2)].map(|link| {
        let (v4, v6) = (link.v4(), link.v6());
        [
            format!("http://{v4}:30080/hostname"),
            format!("http://[{v6}]:30080/hostname"),
        ]
    });
    for node in ["n1", "n2"] {
        let client = client_on(cluster, node);
        for url in &cluster_ips {
            let answered = cluster.count(&client, &curl(url), PROBES).unwrap();
            assert_eq!(answered, PROBES, "pod on {node}: {url}");
        }
        // Both replicas get their share, one of them on the other node.
        let script = format!(
            "for i in $(seq 1 40); do {}; echo; done",
            curl(&cluster_ips[0])
        );
        let said = cluster.exec(&client, &script).unwrap();
        let mut served: Vec<&str> = said.lines().collect();
        assert_eq!(served.len(), 40, "{said}");
        served.sort_unstable();
        served.dedup();
        assert_eq!(served.len(), 2, "{served:?}");
        // The node itself.
        for url in &cluster_ips {
            let said = cluster
                .node(node)
                .run("curl", &["-s", "-f", "-g", "-m", "5", url]);
            assert!(said.unwrap().starts_with("web-"), "{node}: {url}");
        }
    }
    let mut tried = 0;
    for url in node_ports.iter().flatten() {
        for _ in 0..PROBES {
            let said = cluster
                .fabric()
                .outside()
                .run("curl", &["-s", "-f", "-g", "-m", "5", url]);
            assert!(said.unwrap().starts_with("web-"), "outside: {url}");
            tried += 1;
        }
    }
    cluster.tell(&format!(
        "NodePort from outside: {tried} of {tried} answered"
    ));
}
