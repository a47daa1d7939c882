//! Names in a cluster, asked by real programs in real pods: whichever proxy leads to the DNS, and whatever is updated meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::asking::{Asker, Question, Report, Way, ask_while};
use cluster::cluster::{Cluster, DNS};
use cluster::image::TOOLS;
use cluster::pods::Pod;
use tests::netns::Netns;
use tests::wait::{eventually, pause};

use crate::workloads::{SHOP, client_on};

const PATIENCE: Duration = Duration::from_secs(60);
/// What each way of asking asks for a second, on each node.
const RATE: u32 = 20;
/// Longer than a name server that ends answers still, and until it is out of all rules.
const LAST_ONE_ENDS: Duration = Duration::from_secs(8);
/// How much longer than the slowest answer takes, a client may lose what was on its way.
const SILENCE: Duration = Duration::from_millis(500);
const DOMAIN: &str = "svc.cluster.local";

/// A crew: two pods of a StatefulSet, one with a name of its own, and one that is never ready. Those that come after the
/// Service `web` find it in their environment.
const MANIFESTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: crew, namespace: shop}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: crew}
  ports: [{name: talk, port: 7007}]
---
apiVersion: v1
kind: Service
metadata: {name: all-hands, namespace: shop}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: crew}
  ports: [{name: talk, port: 7007}]
---
apiVersion: v1
kind: Service
metadata: {name: ashore, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: crew, namespace: shop}
spec:
  serviceName: crew
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: crew, kind: hand}}
  template:
    metadata: {labels: {app: crew, kind: hand}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {kind: hand}}
      containers: [{name: hand, image: IMAGE, command: [sleep, '86400']}]
---
apiVersion: v1
kind: Pod
metadata: {name: third, namespace: shop, labels: {app: crew, kind: officer}}
spec:
  hostname: bosun
  subdomain: crew
  terminationGracePeriodSeconds: 1
  containers: [{name: officer, image: IMAGE, command: [sleep, '86400']}]
---
apiVersion: v1
kind: Pod
metadata: {name: fourth, namespace: shop, labels: {app: crew, kind: sleeper}}
spec:
  hostname: sleeper
  subdomain: all-hands
  terminationGracePeriodSeconds: 1
  containers:
  - name: sleeper
    image: IMAGE
    command: [sleep, '86400']
    readinessProbe: {exec: {command: ['false']}, periodSeconds: 5}
";

/// What was asked and what must be said, all asked by one shell.
#[derive(Default)]
struct Talk {
    asked: Vec<(String, Vec<String>)>,
}

impl Talk {
    /// Lines of an answer are compared in any order, each once.
    fn expect(&mut self, command: &str, lines: &[String]) {
        let mut lines = lines.to_vec();
        lines.sort();
        lines.dedup();
        self.asked.push((command.to_owned(), lines));
    }

    /// Asks the DNS by UDP and TCP at its addresses of both families, where the cluster has two.
    fn dig(&mut self, question: &str, lines: &[String]) {
        for server in DNS {
            for transport in ["+notcp", "+tcp"] {
                let words = format!("dig @{server} {transport} +time=2 +tries=3 +short {question}");
                self.expect(&words, lines);
            }
        }
    }

    fn hold(&self, cluster: &Cluster, pod: &Pod) -> Result<usize> {
        let mut script = SHELL.to_owned();
        for (number, (command, _)) in self.asked.iter().enumerate() {
            script +=
                &format!("{command} | while read -r line; do echo \"{number} $line\"; done; ");
        }
        let said = cluster.exec(pod, &script)?;
        for (number, (command, expected)) in self.asked.iter().enumerate() {
            let prefix = format!("{number} ");
            let mut lines: Vec<&str> = said
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix))
                .collect();
            lines.sort_unstable();
            lines.dedup();
            ensure!(
                lines == *expected,
                "{command}: {lines:?} and not {expected:?}"
            );
        }
        Ok(self.asked.len())
    }
}

/// Addresses of pods, of one family.
fn addresses(pods: &[&Pod], is_v6: bool) -> Vec<String> {
    let each = pods.iter();
    each.map(|pod| pod.ip(is_v6).unwrap().to_string()).collect()
}

fn cluster_ips(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<String>> {
    let service = cluster.get(&["-n", namespace, "service", name])?;
    let ips = service["spec"]["clusterIPs"].as_array().context("no IPs")?;
    let ips = ips.iter().filter_map(|ip| Some(ip.as_str()?.to_owned()));
    Ok(ips.collect())
}

/// The crew by the names of its pods.
fn crew(cluster: &Cluster) -> Result<BTreeMap<String, Pod>> {
    let pods = cluster.pods(SHOP, "app=crew")?;
    ensure!(pods.len() == 4, "{pods:?}");
    ensure!(pods.iter().all(|pod| pod.ips.len() == 2), "{pods:?}");
    Ok(pods
        .into_iter()
        .map(|pod| (pod.name.clone(), pod))
        .collect())
}

/// Of Services: A, AAAA, SRV and the way back, and what an ExternalName stands for.
fn of_services(cluster: &Cluster, talk: &mut Talk) {
    let web = cluster_ips(cluster, SHOP, "web").unwrap();
    let name = format!("web.shop.{DOMAIN}");
    talk.dig(&format!("{name} A"), &web[..1]);
    talk.dig(&format!("{name} AAAA"), &web[1..]);
    let record = [format!("0 50 80 {name}.")];
    talk.dig(&format!("_http._tcp.{name} SRV"), &record);
    for ip in &web {
        talk.dig(&format!("-x {ip}"), &[format!("{name}.")]);
    }
    let ashore = [format!("{name}."), web[0].clone()];
    talk.dig(&format!("ashore.shop.{DOMAIN} A"), &ashore);
    talk.dig(&format!("nobody.shop.{DOMAIN} A"), &[]);
}

/// Of headless Services: the pods that are ready, unless the others are asked for, too; and each by its name.
fn of_pods(crew: &BTreeMap<String, Pod>, talk: &mut Talk) {
    let ready = ["crew-0", "crew-1", "third"].map(|name| &crew[name]);
    let all: Vec<&Pod> = crew.values().collect();
    for (is_v6, kind) in [(false, "A"), (true, "AAAA")] {
        let name = format!("crew.shop.{DOMAIN}");
        talk.dig(&format!("{name} {kind}"), &addresses(&ready, is_v6));
        for (host, pod) in ["crew-0", "crew-1", "bosun"].iter().zip(ready) {
            let own = addresses(&[pod], is_v6);
            talk.dig(&format!("{host}.{name} {kind}"), &own);
            let back = format!("{host}.{name}.");
            // Several Services give a pod's address a name; those of its own host name alone are told.
            talk.expect(
                &format!("dig +time=2 +tries=3 +short -x {} | grep {host}", own[0]),
                &[back],
            );
        }
    }
    let records = ["bosun", "crew-0", "crew-1"].map(|host| format!("{host}.crew.shop.{DOMAIN}."));
    let ports = "dig +time=2 +tries=3 +short _talk._tcp.crew.shop.svc.cluster.local SRV";
    talk.expect(&format!("{ports} | cut_last"), &records);
    let v4 = addresses(&all, false);
    talk.dig(&format!("all-hands.shop.{DOMAIN} A"), &v4);
    let sleeper = addresses(&[&crew["fourth"]], false);
    talk.dig(&format!("sleeper.all-hands.shop.{DOMAIN} A"), &sleeper);
    talk.dig(&format!("sleeper.crew.shop.{DOMAIN} A"), &[]);
}

/// By the resolver of the C library and what the kubelet wrote for it, as nearly all programs ask.
fn of_search_domains(cluster: &Cluster, crew: &BTreeMap<String, Pod>, talk: &mut Talk) {
    talk.expect(
        "grep -E '^(search|options|nameserver)' /etc/resolv.conf",
        &[
            format!("search shop.{DOMAIN} {DOMAIN} cluster.local"),
            "options ndots:5".to_owned(),
            format!("nameserver {}", DNS[0]),
            format!("nameserver {}", DNS[1]),
        ],
    );
    let web = cluster_ips(cluster, SHOP, "web").unwrap();
    let dns = cluster_ips(cluster, "kube-system", "kube-dns").unwrap();
    let whole = format!("web.shop.{DOMAIN}.");
    for (name, ip) in [
        (whole.as_str(), &web[0]),
        ("web", &web[0]),
        ("web.shop", &web[0]),
        ("web.shop.svc", &web[0]),
        ("kube-dns.kube-system", &dns[0]),
        ("ashore", &web[0]),
        ("bosun.crew", &addresses(&[&crew["third"]], false)[0]),
        ("crew-1.crew", &addresses(&[&crew["crew-1"]], false)[0]),
    ] {
        let words = format!("getent ahostsv4 {name} | first_word");
        talk.expect(&words, std::slice::from_ref(ip));
    }
    talk.expect("getent ahostsv6 web | first_word", &web[1..]);
    // Of another Namespace a name alone leads nowhere.
    talk.expect("getent ahostsv4 kube-dns | first_word", &[]);
}

/// Of Services in the environment of a pod that came after them.
fn of_environment(cluster: &Cluster, talk: &mut Talk) {
    let web = cluster_ips(cluster, SHOP, "web").unwrap()[0].clone();
    let api = cluster_ips(cluster, "default", "kubernetes").unwrap()[0].clone();
    let words = [
        ("WEB_SERVICE_HOST", web.clone()),
        ("WEB_SERVICE_PORT", "80".to_owned()),
        ("WEB_SERVICE_PORT_HTTP", "80".to_owned()),
        ("WEB_PORT", format!("tcp://{web}:80")),
        ("WEB_PORT_80_TCP", format!("tcp://{web}:80")),
        ("WEB_PORT_80_TCP_ADDR", web),
        ("WEB_PORT_80_TCP_PORT", "80".to_owned()),
        ("WEB_PORT_80_TCP_PROTO", "tcp".to_owned()),
        ("KUBERNETES_SERVICE_HOST", api),
        ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
    ];
    for (name, value) in words {
        talk.expect(&format!("echo \"${name}\""), &[value]);
    }
    // A headless Service has no address to tell.
    talk.expect("env | grep ^CREW_", &[]);
    talk.expect(
        "curl -s -f -m 5 http://$WEB_SERVICE_HOST:$WEB_SERVICE_PORT/healthz >/dev/null && echo reached",
        &["reached".to_owned()],
    );
}

pub(crate) fn pods_find_services_and_each_other_by_name(cluster: &mut Cluster) {
    cluster.plane().apply(&MANIFESTS.replace("IMAGE", TOOLS));
    cluster.wait_rollout(SHOP, "statefulset/crew");
    let crew = eventually(PATIENCE, "the crew's addresses", || {
        let ready = ["-n", SHOP, "pod", "third"];
        let status = &cluster.get(&ready)?["status"];
        let conditions = status["conditions"].to_string();
        let is_ready = r#""status":"True","type":"Ready""#;
        ensure!(conditions.contains(is_ready), "{conditions}");
        crew(cluster)
    })
    .unwrap();
    let mut talk = Talk::default();
    of_services(cluster, &mut talk);
    of_pods(&crew, &mut talk);
    of_search_domains(cluster, &crew, &mut talk);
    of_environment(cluster, &mut talk);
    let mut asked = 0;
    for node in ["n1", "n2"] {
        let pod = cluster.pod_on(node, SHOP, "kind=hand").unwrap();
        // The DNS hears of pods a little later than we do.
        let held = eventually(PATIENCE, "names", || talk.hold(cluster, &pod));
        asked += held.unwrap();
    }
    assert!(asked > 150, "{asked}");
    // Nobody makes the single pods anew: a node with one of them cannot be drained.
    let crew = MANIFESTS.replace("IMAGE", TOOLS);
    let gone = ["delete", "--wait=false", "-f", "-"];
    cluster.plane().kubectl_with(&gone, &crew).unwrap();
    cluster.tell(&format!(
        "names: {asked} questions by dig, getent and the environment, each rightly answered"
    ));
}

/// What the image's shell lacks.
const SHELL: &str = "first_word() { while read -r word rest; do echo $word; done; }; \
                     cut_last() { while read -r one two three four; do echo $four; done; }; ";

/// Who asks on a node, in both families by UDP.
fn askers<'a>(node: &str, from: &'a Netns) -> Vec<Asker<'a>> {
    let [v4, v6] = DNS;
    let ways = [
        (Way::Udp, v4),
        (Way::Udp, v6),
        (Way::UdpOnePort, v4),
        (Way::UdpOnePort, v6),
        (Way::Tcp, v4),
    ];
    let each = ways.iter().map(|&(way, server)| Asker {
        name: format!("pod of {node}, {way:?} {server}"),
        from,
        server: SocketAddr::new(server, 53),
        way,
        rate: RATE,
    });
    each.collect()
}

/// Enough was asked, and all of it answered.
pub(crate) fn assert_all_answered(report: &Report) {
    let asked = report.asked();
    assert!(asked > 1000, "{asked}: too little to prove anything");
    assert_eq!(report.lost(), 0, "of {asked}");
}

/// Clients on both nodes that ask the DNS, and what.
pub(crate) struct Resolvers {
    clients: Vec<(&'static str, Netns)>,
    groups: Vec<Vec<Question>>,
}

impl Resolvers {
    pub(crate) fn of_both(cluster: &mut Cluster) -> Self {
        let clients = ["n1", "n2"].map(|node| {
            let pod = client_on(cluster, node);
            (node, cluster.netns_of(&pod).unwrap())
        });
        let question = |name: &str, kind: &str, data: &[String]| {
            Question::new(&format!("{name}.{DOMAIN}"), kind, data).unwrap()
        };
        let mut groups = Vec::new();
        for (namespace, name) in [(SHOP, "web"), ("default", "kubernetes")] {
            let ips = cluster_ips(cluster, namespace, name).unwrap();
            let whole = format!("{name}.{namespace}");
            let mut group = vec![question(&whole, "A", &ips[..1])];
            group.push(question(&whole, "AAAA", &ips[1..]));
            groups.push(group);
        }
        let record = format!("0 50 80 web.shop.{DOMAIN}");
        groups.push(vec![question("_http._tcp.web.shop", "SRV", &[record])]);
        Self {
            clients: clients.into(),
            groups,
        }
    }

    /// Asks while `during` runs, and tells what was counted.
    pub(crate) fn ask_while<T>(
        &self,
        title: &str,
        during: impl FnOnce() -> Result<T>,
    ) -> Result<(Report, T)> {
        let each = self.clients.iter();
        let askers: Vec<Asker<'_>> = each.flat_map(|(node, from)| askers(node, from)).collect();
        let begun = Instant::now();
        let (report, happened) = ask_while(&askers, &self.groups, during)?;
        let (asked, lost) = (report.asked(), report.lost());
        let took = begun.elapsed().as_secs_f64();
        tests::rack::say(&format!(
            "DNS, {title}: {took:.0} s, asked {asked}, answered {}, lost {lost}{}",
            asked - lost,
            report.text()
        ));
        Ok((report, happened))
    }

    /// Proves that a loss would be seen: for 300 ms nothing of a client's comes to the DNS.
    fn prove(&self) {
        let (_, cut) = &self.clients[0];
        let set = |word: &str| -> Result<()> {
            for (program, server) in ["iptables", "ip6tables"].iter().zip(DNS) {
                let server = server.to_string();
                cut.run(program, &[word, "OUTPUT", "-d", &server, "-j", "DROP"])?;
            }
            Ok(())
        };
        let during = || {
            pause(Duration::from_secs(1))?;
            set("-I")?;
            pause(Duration::from_millis(300))?;
            set("-D")?;
            pause(Duration::from_millis(700))
        };
        let (found, ()) = self
            .ask_while("control run: a cut of 300 ms", during)
            .unwrap();
        for (number, one) in found.counts().enumerate() {
            // Those of the first node come first.
            let is_cut = number < found.counts().count() / 2;
            let is_right = if is_cut {
                one.lost > 0 && one.lost < one.asked / 2
            } else {
                one.lost == 0
            };
            assert!(is_right, "{number}: {one:?}: not what a cut of 300 ms is");
        }
    }
}

pub(crate) fn restart(cluster: &Cluster, namespace: &str, what: &str) {
    cluster.kubectl(&["-n", namespace, "rollout", "restart", what]);
    cluster.wait_rollout(namespace, what);
}

/// The name servers' uids.
fn servers(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods("kube-system", "k8s-app=kube-dns").unwrap();
    pods.into_iter().map(|pod| pod.uid).collect()
}

/// Every name server is replaced, one after the other, and nobody waits for an answer in vain that a new flow was to get.
pub(crate) fn names_are_answered_while_the_dns_is_updated(cluster: &mut Cluster) {
    let resolvers = Resolvers::of_both(cluster);
    resolvers.prove();
    let before = servers(cluster);
    let (found, ()) = resolvers
        .ask_while("CoreDNS is updated", || {
            restart(cluster, "kube-system", "deployment/coredns");
            pause(LAST_ONE_ENDS)
        })
        .unwrap();
    let after = servers(cluster);
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(before.iter().all(|uid| !after.contains(uid)));
    let slowest = found.counts().map(|one| one.slowest).max().unwrap();
    for one in found.counts() {
        // Who keeps a port is led to another server by the end of the flow to the one that ends: what was on its way just
        // then comes back to nobody.
        let most = if one.way == Way::UdpOnePort {
            slowest + SILENCE
        } else {
            Duration::ZERO
        };
        assert!(one.asked > 100 && one.silence <= most, "{one:?}");
        assert!(one.way == Way::UdpOnePort || one.lost == 0, "{one:?}");
    }
}
