//! What a cluster needs of its Services, served by the agents alone.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use cluster::image::TOOLS;
use cluster::kustomization::Kustomization;
use cluster::portolan::{AGENT, NAMESPACE, peers};
use tests::flow::{Flow, Kind, measure};
use tests::netns::Netns;
use tests::rack::sum;
use tests::reach::Server;
use tests::wait::{eventually, pause};

use crate::names::{Resolvers, assert_all_answered, restart};
use crate::workloads::{PROBES, SHOP, client_on, curl};

const PATIENCE: Duration = Duration::from_secs(120);
/// Probes per second of each flow.
const RATE: u32 = 50;
/// How long the end of agents is measured.
const KILL: Duration = Duration::from_secs(12);
/// Much longer than a pod that has nobody behind it any more is tried.
const ANSWER: Duration = Duration::from_secs(5);
const NODE_PORT: u16 = 30_081;

/// A web server that waits before it ends, as those do that are rolled without a loss, and an echo server in each client.
const MANIFESTS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolled, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: rolled}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: rolled}}
    spec:
      terminationGracePeriodSeconds: 8
      containers:
      - name: web
        image: IMAGE
        command: [agnhost, netexec, --http-port=8080]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, timeoutSeconds: 3}
        lifecycle: {preStop: {sleep: {seconds: 4}}}
---
apiVersion: v1
kind: Service
metadata: {name: rolled, namespace: shop}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: rolled}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: client}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 8080, nodePort: 30082}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 8080, nodePort: 30082}
";

/// `deploy/kubernetes` with the components that a cluster without kube-proxy takes, the API server's address written in.
pub(crate) fn nodes_become_ready_without_kube_proxy(cluster: &mut Cluster) {
    let url = cluster.plane().url();
    let (host, port) = url.trim_start_matches("https://").rsplit_once(':').unwrap();
    let text = format!(
        "resources: [deploy/kubernetes]
components: [deploy/components/api-server, deploy/components/services, deploy/components/load-balancer]
patches:
  - target: {{kind: DaemonSet, name: portolan-agent}}
    patch: |
      - {{op: replace, path: /spec/template/spec/containers/0/env/3/value, value: {host}}}
      - {{op: replace, path: /spec/template/spec/containers/0/env/4/value, value: '{port}'}}
"
    );
    let kustomization = Kustomization::new(&text).unwrap();
    let folder = kustomization.folder().to_string_lossy().into_owned();
    cluster.kubectl(&["apply", "-k", &folder]);
    let established = ["wait", "--for=condition=Established", "crd", "--all"];
    cluster.kubectl(&[&established[..], &["--timeout=60s"]].concat());
    cluster.plane().apply(&peers());
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap();
        assert!(cluster.node(node).check_running("kube-proxy").is_err());
        eventually(PATIENCE, "chains of Services", || -> Result<()> {
            let saved = cluster.on(node).run("iptables-save", &["-t", "nat"])?;
            ensure!(
                saved.contains("default/kubernetes:https cluster IP"),
                "{saved}"
            );
            Ok(())
        })
        .unwrap();
        // Else the scheduler has one node for all that comes.
        eventually(PATIENCE, "pods to be let in", || -> Result<()> {
            let taints = &cluster.get(&["node", node])?["spec"]["taints"];
            ensure!(taints.is_null(), "{node}: {taints}");
            Ok(())
        })
        .unwrap();
    }
    cluster.tell("nodes Ready, and no kube-proxy");
}

/// By name, which asks CoreDNS, which asks the API server by the same Service.
pub(crate) fn pods_reach_the_api_server_by_its_service(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        let client = client_on(cluster, node);
        let command = format!("{} -k", curl("https://kubernetes.default.svc/livez"));
        assert_eq!(cluster.exec(&client, &command).unwrap().trim(), "ok");
        let answered = cluster.count(&client, &command, PROBES).unwrap();
        assert_eq!(answered, PROBES, "{node}");
    }
}

fn cluster_ip(cluster: &Cluster, name: &str) -> Result<IpAddr> {
    let service = cluster.get(&["-n", SHOP, "service", name])?;
    let text = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?;
    Ok(text.parse()?)
}

fn flow<'a>(
    name: &str,
    from: &'a Netns,
    kind: Kind,
    to: (IpAddr, u16),
    server: &Netns,
) -> (&'a Netns, Flow) {
    let flow = Flow {
        name: name.to_owned(),
        kind,
        is_allowed: true,
        to: to.into(),
        server: server.name().to_owned(),
        rate: RATE,
    };
    (from, flow)
}

/// Pods of both nodes and the outside ask by new connections while every endpoint is replaced.
pub(crate) fn a_rollout_refuses_nobody(cluster: &mut Cluster) {
    cluster.plane().apply(&MANIFESTS.replace("IMAGE", TOOLS));
    cluster.wait_rollout(SHOP, "deployment/rolled");
    let ip = cluster_ip(cluster, "rolled").unwrap();
    let clients = ["n1", "n2"].map(|node| {
        let pod = client_on(cluster, node);
        cluster.netns_of(&pod).unwrap()
    });
    let outside = cluster.fabric().outside();
    let node: IpAddr = Link(1).v4().into();
    wait_answer(outside, (node, NODE_PORT).into());
    let asking = [
        (&clients[0], SocketAddr::from((ip, 80))),
        (&clients[1], (ip, 80).into()),
        (outside, (node, NODE_PORT).into()),
    ];
    let before = uids(cluster);
    let counts = asked_while(&asking, "rolled", || {
        cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/rolled"]);
        cluster.wait_rollout(SHOP, "deployment/rolled");
        // Those that end do so after it is said to be over.
        pause(Duration::from_secs(6)).unwrap();
    });
    cluster.tell(&format!(
        "a Deployment rolls: {counts:?} asked, all answered"
    ));
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    let after = uids(cluster);
    assert!(
        before.iter().all(|uid| !after.contains(uid)),
        "{before:?}, {after:?}"
    );
}

/// Asks web servers again and again as long as `during` runs, each from its place, and says how often each did. Answers may be
/// late, for pods that start have the machine to themselves; a connection that is refused or leads nowhere is an error.
pub(crate) fn asked_while(
    asking: &[(&Netns, SocketAddr)],
    host: &str,
    during: impl FnOnce(),
) -> Vec<usize> {
    let is_over = AtomicBool::new(false);
    let ask = |to: SocketAddr| -> Result<usize> {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            get(to, host).with_context(|| format!("{to}, after {count} answers"))?;
            count += 1;
            pause(Duration::from_millis(10))?;
        }
        Ok(count)
    };
    std::thread::scope(|scope| {
        let each = asking.iter();
        let all: Vec<_> = each
            .map(|&(from, to)| scope.spawn(move || from.inside(|| ask(to))?))
            .collect();
        during();
        is_over.store(true, Ordering::Relaxed);
        let joined = all.into_iter().map(|one| one.join().unwrap());
        joined.collect::<Result<_>>().unwrap()
    })
}

fn get(to: SocketAddr, host: &str) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.contains(" 200 "), "{text}");
    Ok(())
}

fn uids(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods(SHOP, "app=rolled").unwrap().into_iter();
    pods.map(|pod| pod.uid).collect()
}

fn wait_answer(from: &Netns, to: SocketAddr) {
    let url = format!("http://{to}/");
    eventually(PATIENCE, &url, || {
        from.run("curl", &["-s", "-f", "-m", "2", &url])
    })
    .unwrap();
}

/// Both agents end by `kill -9` and come back: what is established, and what is new, goes on.
pub(crate) fn agents_killed_under_traffic_to_services_lose_nothing(cluster: &mut Cluster) {
    let ip = cluster_ip(cluster, "echo").unwrap();
    let resolvers = Resolvers::of_both(cluster);
    let clients = ["n1", "n2"].map(|node| {
        let pod = client_on(cluster, node);
        cluster.netns_of(&pod).unwrap()
    });
    let _servers = [0, 1].map(|at| Server::start(&clients[at]).unwrap());
    let outside = cluster.fabric().outside();
    let node: IpAddr = Link(2).v4().into();
    let flows = [
        flow(
            "pod of n1, established",
            &clients[0],
            Kind::EstablishedTcp,
            (ip, 8080),
            &clients[1],
        ),
        flow(
            "pod of n2",
            &clients[1],
            Kind::NewTcp,
            (ip, 8080),
            &clients[0],
        ),
        flow(
            "pod of n2, UDP",
            &clients[1],
            Kind::Udp,
            (ip, 8080),
            &clients[0],
        ),
        flow(
            "outside, established",
            outside,
            Kind::EstablishedTcp,
            (node, 30_082),
            &clients[1],
        ),
        flow(
            "outside",
            outside,
            Kind::NewTcp,
            (node, 30_082),
            &clients[0],
        ),
    ];
    let start = Instant::now();
    let kill = || -> Result<()> {
        pause(Duration::from_secs(1))?;
        for node in ["n1", "n2"] {
            let found = cluster
                .on(node)
                .run("pgrep", &["-f", "^/usr/bin/portolan agent"])?;
            let process = found.lines().next().context("no agent")?.to_owned();
            cluster.on(node).run("kill", &["-9", &process])?;
        }
        pause(Duration::from_secs(1))?;
        cluster.wait_rollout(NAMESPACE, AGENT);
        let took = start.elapsed();
        ensure!(took < KILL, "{took:?}: measured for {KILL:?} only");
        Ok(())
    };
    let title = "both agents killed";
    let (names, outcomes) = resolvers
        .ask_while(title, || measure(&flows, KILL, kill))
        .unwrap();
    let (sent, lost) = sum(title, &flows, &outcomes).unwrap();
    assert_eq!(lost, 0, "of {sent}");
    assert_all_answered(&names);
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap();
    }
}

/// Their DaemonSet is updated, node after node, by which its pods are new ones.
pub(crate) fn names_are_answered_while_agents_are_updated(cluster: &mut Cluster) {
    let resolvers = Resolvers::of_both(cluster);
    let (names, ()) = resolvers
        .ask_while("agents are updated", || {
            restart(cluster, NAMESPACE, AGENT);
            pause(Duration::from_secs(1))
        })
        .unwrap();
    assert_all_answered(&names);
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap();
    }
}
