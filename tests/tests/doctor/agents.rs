//! What is wrong with the agent: elsewhere, of another release, misinformed, dead, or kept from its work.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::Value;

use crate::clinic::{Clinic, look, of};

const MISTAKE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: wrong}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Sideways]}
";

/// From another namespace, and at an agent of another release.
pub(crate) fn agent_elsewhere(clinic: &mut Clinic) {
    let run_dir = clinic.lab.nodes[0].agent.run_dir();
    let words = clinic.words(&run_dir);
    let (findings, code) = look(clinic.lab.outside.command(&clinic.program), &words);
    let found = of(&findings, "agent-namespace").remove(0);
    assert_eq!((found["verdict"].as_str(), code), (Some("failure"), 1));
    let kernels = of(&findings, "forwarding").remove(0);
    assert_eq!(kernels["verdict"], "skipped");
    let remedy = found["remedy"].as_str().unwrap();
    // It ends with 1 where anything is wrong; here only its words count.
    let text = clinic
        .lab
        .outside
        .run("bash", &["-c", &format!("{remedy}; true")]);
    let again: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let again = again["findings"].as_array().unwrap();
    assert_eq!(of(again, "agent-namespace")[0]["verdict"], "ok");
    clinic.tried.insert("agent-namespace".to_owned());
    clinic.mended += 1;

    let older = clinic.path("older");
    fs::create_dir(&older).unwrap();
    let _older = older_agent(&older, &run_dir);
    let (findings, _) = look(
        clinic.node().command(&clinic.program),
        &clinic.words(&older),
    );
    let found = of(&findings, "agent-version").remove(0);
    assert_eq!(found["verdict"], "warning", "{found}");
    assert!(found["what"].as_str().unwrap().contains("0.0.0-older"));
    clinic.tried.insert("agent-version".to_owned());
    clinic.is_well("agent-version");
}

/// Passes questions on, and says that the answer is of another release.
pub(crate) fn older_agent(folder: &Path, real: &Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(folder.join("agent.sock")).unwrap();
    let real = real.join("agent.sock");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = String::new();
            // One that only looks who is there asks nothing.
            let asked = BufReader::new(&stream).read_line(&mut question);
            if !matches!(asked, Ok(count) if count > 0) {
                continue;
            }
            let mut agent = UnixStream::connect(&real).unwrap();
            agent.write_all(question.as_bytes()).unwrap();
            let mut answer = String::new();
            BufReader::new(agent).read_line(&mut answer).unwrap();
            let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
            let older = answer.replace(&version, "\"version\":\"0.0.0-older\"");
            let _ = stream.write_all(older.as_bytes());
        }
    })
}

pub(crate) fn source(clinic: &mut Clinic) {
    clinic.lab.drop_manifest("mistake.yaml", MISTAKE).unwrap();
    let remedy = clinic.finds("agent-source", "warning", "wrong");
    assert!(clinic.run(&remedy).unwrap().contains("wrong"));
    fs::remove_file(clinic.lab.manifests().join("mistake.yaml")).unwrap();
    clinic.is_well("agent-source");
}

/// What the agent would heal at once is found when it is dead, too.
pub(crate) fn without_an_agent(clinic: &mut Clinic) {
    clinic.kill_agent();
    let remedy = clinic.finds("agent-answers", "failure", "nobody listens on");
    assert!(
        remedy.starts_with("kubectl -n portolan delete pod -l app.kubernetes.io/name=portolan"),
        "{remedy}"
    );
    let remedy = clinic.finds("cni-status", "failure", "STATUS");
    assert!(remedy.starts_with("portolan status --run-dir"), "{remedy}");
    let (_, web) = clinic.lab.place("shop/web", false).unwrap();
    clinic.ip(&format!("route del {web}"));
    clinic.found_and_mended(
        "route-missing",
        "failure",
        &format!("no route to {web} of Pod shop/web"),
    );
    let rule = clinic
        .run("iptables-nft-save -t filter | grep -- '-A FORWARD.*ACCEPT'")
        .unwrap();
    clinic.run("iptables-nft -P FORWARD DROP").unwrap();
    clinic.is_well("forward-accept");
    clinic
        .run(&format!(
            "iptables-nft {}",
            rule.trim().replacen("-A", "-D", 1)
        ))
        .unwrap();
    clinic.found_and_mended(
        "forward-accept",
        "failure",
        "iptables-nft: the policy of FORWARD is DROP",
    );
    clinic
        .run("iptables-nft -I FORWARD 1 -i none -j ACCEPT")
        .unwrap();
    clinic.found_and_mended(
        "jumps-first",
        "warning",
        "FORWARD has 1 rules before ours, the first is `-i none -j ACCEPT`",
    );
    clinic
        .run("iptables-nft -D FORWARD -i none -j ACCEPT")
        .unwrap();
    clinic.ip("route add default via 10.10.1.1");
    let end = clinic.host_end(0);
    clinic.ip(&format!("link set {end} mtu 9000"));
    clinic.found_and_mended(
        "pod-mtu",
        "failure",
        &format!("{end} has an MTU of 9000, the way out by uplink takes 1500"),
    );
    clinic.ip(&format!("link set {end} mtu 1400"));
    clinic.found_and_mended(
        "pod-mtu",
        "failure",
        &format!("the pod's end of {end} has an MTU of 1500, the host's of 1400"),
    );
    clinic.ip("route del default");
    clinic.lab.tor.ip("link set node1 down").unwrap();
    let remedy = clinic.finds("route-dead", "failure", "lead to uplink, which is down");
    assert!(clinic.run(&remedy).unwrap().contains("NO-CARRIER"));
    clinic.lab.tor.ip("link set node1 up").unwrap();
    clinic.is_well("route-dead");
    clinic.start_agent();
    clinic.is_well("agent-answers");
    clinic.is_well("cni-status");
}

const BALANCED: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: balanced}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.50
  clusterIPs: [10.96.0.50]
  externalTrafficPolicy: Local
  healthCheckNodePort: 32150
  ports: [{port: 80, nodePort: 30150}]
";

/// Beside another proxy, and where ports for load balancers are another's.
pub(crate) fn services(clinic: &mut Clinic) {
    clinic.restart_agent(&["--drop-log", "7", "--features", "bgp,policy,cni,services"]);
    clinic.says("service-proxy", "the agent serves Services by iptables");
    clinic.says("service-ports", "0 ports of Services");
    let theirs =
        "*nat\\n:KUBE-SERVICES - [0:0]\\n-A KUBE-SERVICES -d 10.96.9.9/32 -j RETURN\\nCOMMIT\\n";
    clinic
        .run(&format!(
            "printf '{theirs}' | iptables-nft-restore --noflush"
        ))
        .unwrap();
    let remedy = clinic.finds(
        "service-proxy",
        "warning",
        "whose chain KUBE-SERVICES is here",
    );
    assert!(remedy.ends_with("kube-proxy --cleanup"), "{remedy}");
    // What that command does.
    clinic
        .run("iptables-nft -t nat -F KUBE-SERVICES; iptables-nft -t nat -X KUBE-SERVICES")
        .unwrap();
    clinic.is_well("service-proxy");
    let hold = || TcpListener::bind("[::]:32150");
    let held = clinic.node().inside(hold).unwrap().unwrap();
    clinic.lab.drop_manifest("balanced.yaml", BALANCED).unwrap();
    let remedy = clinic.finds("service-ports", "warning", "healthCheckNodePort 32150");
    assert!(clinic.run(&remedy).unwrap().contains(":32150"), "{remedy}");
    drop(held);
    clinic.is_well("service-ports");
    clinic.says("service-ports", "1 ports of Services");
    silent_node(clinic);
    fs::remove_file(clinic.lab.manifests().join("balanced.yaml")).unwrap();
    clinic.restart_agent(&["--drop-log", "7"]);
}

/// Addresses of Services are announced to the ToR, which knows of this node's death by its session alone.
fn silent_node(clinic: &mut Clinic) {
    let manifest = clinic.lab.manifests().join("30-bgp.yaml");
    let before = fs::read_to_string(&manifest).unwrap();
    let mesh = "nodeToNodeMeshEnabled: false\n";
    let announced = before.replace(
        mesh,
        &format!("{mesh}  serviceClusterIPs: [{{cidr: 10.96.0.0/16}}]\n"),
    );
    assert_ne!(announced, before);
    clinic.says("silent-node", "no peer outside is told addresses");
    clinic.lab.drop_manifest("30-bgp.yaml", &announced).unwrap();
    // The agent's holdTime, as FRR's is 180 s; without BFD silence is no restart.
    let remedy = clinic.finds("silent-node", "warning", "10.96.0.0/16");
    let found = clinic.look().0;
    let what = of(&found, "silent-node")[0]["what"].clone();
    assert!(what.as_str().unwrap().contains("for up to 90 s"), "{what}");
    let (patch, peer) = remedy.split_once("; on the peer (FRR): vtysh ").unwrap();
    // What kubectl does with the patch, in a directory.
    let patch = patch.strip_prefix("kubectl patch bgppeer tor-node1 --type=merge -p ");
    let patch: Value = serde_json::from_str(patch.unwrap().trim_matches('\'')).unwrap();
    let target = "peerAddress: 10.10.1.1\n";
    let with_bfd = format!("{target}  bfd: {}\n", patch["spec"]["bfd"]);
    let mended = announced.replace(target, &with_bfd);
    clinic.lab.drop_manifest("30-bgp.yaml", &mended).unwrap();
    let words: Vec<&str> = peer.split('\'').skip(1).step_by(2).collect();
    assert!(words.len() > 3, "{peer}");
    clinic.lab.frr.vtysh(&words).unwrap();
    clinic.says(
        "silent-node",
        "1 peers that are told addresses of Services have BFD",
    );
    clinic.says("bfd", "up with 1 peers");
    clinic.mended += 1;
    clinic.lab.drop_manifest("30-bgp.yaml", &before).unwrap();
    clinic.lab.wait_established().unwrap();
}

/// An agent that starts where its port is taken, and where rules are in both back ends.
pub(crate) fn start_with_obstacles(clinic: &mut Clinic) {
    clinic.kill_agent();
    clinic
        .run(
            "iptables-nft -A FORWARD -i none -j ACCEPT; iptables-legacy -A FORWARD -i none -j DROP",
        )
        .unwrap();
    let taken = ["0.0.0.0:179", "[::]:179"];
    let hold = || {
        taken
            .into_iter()
            .filter_map(|at| TcpListener::bind(at).ok())
            .collect::<Vec<_>>()
    };
    let held = clinic.node().inside(hold).unwrap();
    assert!(!held.is_empty());
    let node = clinic.lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
    let remedy = clinic.finds("bgp-listener", "failure", "BGP does not listen on");
    assert!(clinic.run(&remedy).unwrap().contains(":179"), "{remedy}");
    let remedy = clinic.finds(
        "agent-ready",
        "failure",
        "the agent is not ready: policy is not in the kernel",
    );
    assert!(
        clinic
            .run(&remedy)
            .unwrap()
            .contains("both iptables back ends")
    );
    clinic.found_and_mended(
        "iptables-backend",
        "failure",
        "rules of others are in both back ends",
    );
    drop(held);
    clinic
        .run("iptables-nft -D FORWARD -i none -j ACCEPT")
        .unwrap();
    clinic.kill_agent();
    clinic.start_agent();
    clinic.is_well("bgp-listener");
    clinic.is_well("agent-ready");
}
