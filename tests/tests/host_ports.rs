//! Ports of the node lead to pods: from everywhere, with the client's address kept, over restarts, and gone with the pod.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use tests::cni::{Plugin, Sandbox};
use tests::flow::{Flow, Kind, measure};
use tests::netns::{Netns, join};
use tests::one_node::OneNode;
use tests::reach::{PORT, Server, Transport, Verdict, attempt};
use tests::require_root;
use tests::seen::{Teller, ask, ask_udp};
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(5);
/// For what is not to come.
const SILENCE: Duration = Duration::from_millis(400);
const TRY_AGAIN_LATER: Option<u64> = Some(11);
const NODE_V4: &str = "192.0.2.1";
const NODE_V6: &str = "2001:db8::1";
const OUTSIDE_V4: &str = "192.0.2.10";
const OUTSIDE_V6: &str = "2001:db8::10";

fn ports(list: &[(&str, u16, u16, &str)]) -> Map<String, Value> {
    let one = |(protocol, host, container, address): &(&str, u16, u16, &str)| json!({"protocol": protocol, "hostPort": host, "containerPort": container, "hostIP": address});
    let list: Vec<Value> = list.iter().map(one).collect();
    let fields = json!({"runtimeConfig": {"portMappings": list}});
    fields.as_object().unwrap().clone()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn who(from: &Netns, to: SocketAddr, transport: Transport) -> Option<IpAddr> {
    ask(from, to, transport, PATIENCE).unwrap()
}

/// All rules of both families, in the back end that the agent writes to. The program fails where a set that it read of
/// goes meanwhile, as it does after DEL: then once more.
fn rules(node: &Netns, backend: &str) -> String {
    let of = |program: &str| {
        let save = format!("{program}-{backend}-save");
        let read = || node.run(&save, &["-c"]);
        eventually(PATIENCE, &format!("{save} to show rules"), read).unwrap()
    };
    of("iptables") + &of("ip6tables")
}

/// What of ours stands in nat, and what host ports have elsewhere.
fn left(node: &Netns, backend: &str) -> Vec<String> {
    let rules = rules(node, backend);
    let is_ours = |line: &&str| {
        line.contains("PTL-HOSTPORT") || line.contains("PTL-HP-") || line.contains("127.0.0.0/8")
    };
    let sets = node.run("ipset", &["list", "-n"]).unwrap();
    let sets = sets.lines().filter(|name| name.contains("hairpin"));
    let left = rules.lines().filter(is_ours).chain(sets);
    left.map(str::to_owned).collect()
}

/// Every way there is, in one back end; DEL then leaves nothing, and what others have in the table stays.
fn every_way(tag: &str, backend: &str) {
    require_root!();
    let mut lab = OneNode::start(tag, "", &["--iptables", backend]).unwrap();
    lab.node.ip("addr add 192.0.2.2/24 dev uplink").unwrap();
    let kube_proxy = "*nat\n:KUBE-NODEPORTS - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
        -A KUBE-NODEPORTS -p tcp --dport 30080 -j DNAT --to-destination 10.244.1.99:80\nCOMMIT\n";
    let file = lab.folder().join("kube-proxy");
    std::fs::write(&file, kube_proxy).unwrap();
    let program = format!("iptables-{backend}-restore");
    let words = ["--noflush", file.to_str().unwrap()];
    lab.node.run(&program, &words).unwrap();
    assert!(left(&lab.node, backend).is_empty());
    assert!(!rules(&lab.node, backend).contains("PTL-HOSTPORT"));

    let wanted = ports(&[
        ("tcp", 8080, 80, ""),
        ("UDP", 8080, 80, ""),
        ("tcp", 8081, 80, NODE_V4),
        ("udp", 8082, 80, "127.0.0.1"),
        ("tcp", 8083, 80, NODE_V6),
        ("tcp", 8084, 80, "0.0.0.0"),
        ("tcp", 8085, 80, "::"),
        ("sctp", 9000, 90, ""),
    ]);
    lab.attach_with("shop", "web", wanted).unwrap();
    lab.attach("shop", "other").unwrap();
    let pod = &lab.pods[0];
    let _server = Teller::start(&pod.sandbox.netns, 80).unwrap();
    let saved = rules(&lab.node, backend);
    for address in &pod.addresses {
        let to = SocketAddr::new(*address, 90);
        let sctp = format!("-j DNAT --to-destination {to}");
        let led = saved
            .lines()
            .filter(|line| line.contains("-p sctp") && line.contains(&sctp));
        assert_eq!(led.count(), 1, "{sctp} of {saved}");
    }
    leads_from_everywhere(&lab);
    leads_as_host_ip_says(&lab);

    let before = lab.agent.status().unwrap();
    assert_eq!(before["hostPorts"]["led"], 11, "{before}");
    let pod = lab.detach("shop", "web").unwrap();
    let to = at(NODE_V4, 8080);
    let answer = attempt(&lab.outside, to, Transport::Tcp, SILENCE).unwrap();
    assert_ne!(answer, Verdict::Answered, "{:?} is gone", pod.addresses);
    eventually(PATIENCE * 3, "host ports to leave nothing", || {
        let left = left(&lab.node, backend);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    })
    .unwrap();
    let saved = rules(&lab.node, backend);
    assert!(saved.contains("--dport 30080 -j DNAT --to-destination 10.244.1.99:80"));
    assert_eq!(saved.matches("-j KUBE-NODEPORTS").count(), 1);
}

/// Where a flow comes from, to which address of the node, and who is seen there.
type Case<'a> = (&'a str, &'a Netns, &'a str, Option<&'a str>);

/// Every way to a pod's host port; seen is the client, but by the pod itself and from the node's loopback.
fn ways<'a>(node: &'a Netns, outside: &'a Netns, pod: &'a Netns) -> [Case<'a>; 9] {
    [
        ("outside", outside, NODE_V4, Some(OUTSIDE_V4)),
        ("outside", outside, "192.0.2.2", Some(OUTSIDE_V4)),
        ("outside", outside, NODE_V6, Some(OUTSIDE_V6)),
        ("node", node, NODE_V4, Some(NODE_V4)),
        ("node", node, NODE_V6, Some(NODE_V6)),
        ("node", node, "127.0.0.1", Some(NODE_V4)),
        ("node", node, "::1", None),
        ("the pod itself", pod, NODE_V4, Some(NODE_V4)),
        ("the pod itself", pod, NODE_V6, Some(NODE_V6)),
    ]
}

fn leads_from_everywhere(lab: &OneNode) {
    let (web, other) = (&lab.pods[0], &lab.pods[1]);
    let other_v4 = other.addresses[0].to_string();
    let other_v6 = other.addresses[1].to_string();
    let neighbour = &other.sandbox.netns;
    let from_neighbour: [Case<'_>; 2] = [
        ("another pod", neighbour, NODE_V4, Some(&other_v4)),
        ("another pod", neighbour, NODE_V6, Some(&other_v6)),
    ];
    let cases = ways(&lab.node, &lab.outside, &web.sandbox.netns).into_iter();
    for (name, from, to, seen) in cases.chain(from_neighbour) {
        let expected = seen.map(|address| address.parse::<IpAddr>().unwrap());
        for transport in [Transport::Tcp, Transport::Udp] {
            let patience = if seen.is_some() { PATIENCE } else { SILENCE };
            let seen = ask(from, at(to, 8080), transport, patience).unwrap();
            assert_eq!(seen, expected, "{transport} from {name} to {to}");
        }
    }
}

fn leads_as_host_ip_says(lab: &OneNode) {
    let cases: [(&Netns, &str, u16, Transport, bool); 12] = [
        (&lab.outside, NODE_V4, 8081, Transport::Tcp, true),
        (&lab.outside, "192.0.2.2", 8081, Transport::Tcp, false),
        (&lab.node, "127.0.0.1", 8081, Transport::Tcp, false),
        (&lab.node, "127.0.0.1", 8082, Transport::Udp, true),
        (&lab.outside, NODE_V4, 8082, Transport::Udp, false),
        (&lab.outside, NODE_V6, 8083, Transport::Tcp, true),
        (&lab.outside, NODE_V4, 8083, Transport::Tcp, false),
        (&lab.outside, NODE_V4, 8084, Transport::Tcp, true),
        (&lab.outside, NODE_V6, 8084, Transport::Tcp, false),
        (&lab.outside, NODE_V6, 8085, Transport::Tcp, true),
        (&lab.outside, NODE_V4, 8085, Transport::Tcp, false),
        (&lab.outside, NODE_V4, 8080, Transport::Udp, true),
    ];
    for (from, to, port, transport, is_led) in cases {
        let patience = if is_led { PATIENCE } else { SILENCE };
        let seen = ask(from, at(to, port), transport, patience).unwrap();
        assert_eq!(seen.is_some(), is_led, "{transport} to {to} port {port}");
    }
}

#[test]
fn a_host_port_is_reached_from_everywhere_and_gone_with_its_pod_with_nft() {
    every_way("hpn", "nft");
}

#[test]
fn a_host_port_is_reached_from_everywhere_and_gone_with_its_pod_with_legacy() {
    every_way("hpl", "legacy");
}

#[test]
fn a_flow_that_found_nobody_before_the_pod_came_is_answered_by_it() {
    require_root!();
    let mut lab = OneNode::start("hpu", "", &[]).unwrap();
    let bind = |address: &'static str| lab.outside.inside(|| UdpSocket::bind(address).unwrap());
    let clients = [
        (bind("0.0.0.0:5353").unwrap(), at(NODE_V4, 8053)),
        (bind("[::]:5354").unwrap(), at(NODE_V6, 8053)),
    ];
    for (client, to) in &clients {
        assert_eq!(ask_udp(client, *to, SILENCE).unwrap(), None);
    }
    for pod in ["first", "second"] {
        // The second time the flow goes to the pod that is gone.
        lab.attach_with("shop", pod, ports(&[("udp", 8053, 53, "")]))
            .unwrap();
        let _server = Teller::start(&lab.pods[0].sandbox.netns, 53).unwrap();
        for (client, to) in &clients {
            let seen = ask_udp(client, *to, PATIENCE).unwrap();
            assert!(seen.is_some(), "{to} leads to the {pod} pod");
        }
        lab.detach("shop", pod).unwrap();
        for (client, to) in &clients {
            assert_eq!(ask_udp(client, *to, SILENCE).unwrap(), None, "{pod}");
        }
    }
}

#[test]
fn an_agent_killed_and_started_again_loses_no_packet_of_a_host_port() {
    require_root!();
    let mut lab = OneNode::start("hpk", "", &[]).unwrap();
    let wanted = ports(&[("tcp", 9080, PORT, ""), ("udp", 9080, PORT, "")]);
    lab.attach_with("shop", "web", wanted).unwrap();
    let _server = Server::start(&lab.pods[0].sandbox.netns).unwrap();
    let server = lab.pods[0].sandbox.netns.name().to_owned();
    let flow = |kind: Kind, node: &str| Flow {
        name: format!("{} by {node}", kind.name()),
        kind,
        is_allowed: true,
        to: at(node, 9080),
        server: server.clone(),
        rate: 100,
    };
    let kinds = [Kind::NewTcp, Kind::EstablishedTcp, Kind::Udp];
    let both = [NODE_V4, NODE_V6].into_iter();
    let flows: Vec<(&Netns, Flow)> = both
        .flat_map(|node| kinds.map(|kind| (&lab.outside, flow(kind, node))))
        .collect();
    let (agent, node) = (&mut lab.agent, &lab.node);
    let outcomes = measure(&flows, Duration::from_secs(6), || {
        pause(Duration::from_secs(1))?;
        agent.kill()?;
        pause(Duration::from_secs(1))?;
        agent.start(node)?;
        agent.wait_synced()
    })
    .unwrap();
    for ((_, flow), outcome) in flows.iter().zip(outcomes) {
        assert!(outcome.is_meaningful(), "{}: {outcome:?}", flow.name);
        assert_eq!(outcome.lost, 0, "{}: {outcome:?}", flow.name);
    }
    drop(flows);
    let status = lab.agent.status().unwrap();
    assert_eq!(status["hostPorts"]["led"], 4, "known from disk: {status}");
    lab.detach("shop", "web").unwrap();
    lab.agent.terminate().unwrap();
    lab.agent.verb(&["cleanup"]).unwrap();
    assert_eq!(left(&lab.node, "nft"), Vec::<String>::new());
}

#[test]
fn a_port_that_a_live_pod_holds_is_refused_by_name_and_one_of_a_pod_without_a_link_is_taken() {
    require_root!();
    let mut lab = OneNode::start("hpc", "", &[]).unwrap();
    let wanted = ports(&[("tcp", 8080, 80, "")]);
    lab.attach_with("shop", "web", wanted.clone()).unwrap();
    let late = Sandbox::new("hpc", "shop", "late").unwrap();
    let start = Instant::now();
    let refused = lab.call("ADD", &late, wanted.clone()).unwrap();
    assert_eq!(refused.code(), TRY_AGAIN_LATER, "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "at once");
    let text = refused.output.to_string();
    assert!(
        text.contains("shop/web") && text.contains("8080/TCP"),
        "{text}"
    );
    // What was refused holds nothing.
    let named = ports(&[("udp", 8080, 80, ""), ("tcp", 8081, 80, NODE_V4)]);
    lab.attach_with("shop", "others", named).unwrap();
    let also = ports(&[("tcp", 8081, 80, "192.0.2.2")]);
    lab.attach_with("shop", "apart", also).unwrap();

    let web = host_end(&lab);
    lab.node.ip(&format!("link del {web}")).unwrap();
    eventually(PATIENCE, "the lost pod's port to be free", || {
        let answer = lab.call("ADD", &late, wanted.clone()).unwrap();
        answer.success().map(drop)
    })
    .unwrap();
    let _server = Teller::start(&late.netns, 80).unwrap();
    assert!(who(&lab.outside, at(NODE_V4, 8080), Transport::Tcp).is_some());
    // The loser's own DEL takes nothing away from who has it now.
    lab.detach("shop", "web").unwrap();
    assert!(who(&lab.outside, at(NODE_V4, 8080), Transport::Tcp).is_some());
}

/// The interface that leads to the first pod.
fn host_end(lab: &OneNode) -> String {
    let address = lab.pods[0].addresses[0];
    let route = lab.node.ip(&format!("-o route get {address}")).unwrap();
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap().to_owned()
}

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - from: [{ipBlock: {cidr: 192.0.2.10/32}}]
      ports: [{protocol: TCP, port: 80}]
";

#[test]
fn policy_judges_the_pods_port_and_the_clients_address_and_cuts_what_goes_on() {
    require_root!();
    let mut lab = OneNode::start("hpp", "", &[]).unwrap();
    lab.outside.ip("addr add 192.0.2.11/24 dev eth0").unwrap();
    let wanted = ports(&[("tcp", 8080, 80, ""), ("tcp", 8081, PORT, "")]);
    lab.attach_with("shop", "web", wanted).unwrap();
    let pod = &lab.pods[0].sandbox.netns;
    let _server = Teller::start(pod, 80).unwrap();
    let _echo = Server::start(pod).unwrap();
    // A flow that is allowed now and will not be.
    let mut client = lab
        .outside
        .inside(|| TcpStream::connect(at(NODE_V4, 8081)).unwrap())
        .unwrap();
    client.write_all(b"echo").unwrap();
    client.read_exact(&mut [0_u8; 4]).unwrap();
    std::fs::write(lab.folder().join("manifests/policy.yaml"), POLICY).unwrap();
    lab.agent.wait_synced().unwrap();

    assert!(who(&lab.outside, at(NODE_V4, 8080), Transport::Tcp).is_some());
    let echo = |from: &Netns, node| attempt(from, at(node, 8081), Transport::Tcp, SILENCE).unwrap();
    assert_eq!(
        echo(&lab.outside, NODE_V4),
        Verdict::Silent,
        "the pod's other port is not allowed"
    );
    let from_other = lab.outside.inside(|| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&at("192.0.2.11", 0).into()).unwrap();
        socket.connect_timeout(&at(NODE_V4, 8080).into(), SILENCE)
    });
    assert!(
        from_other.unwrap().is_err(),
        "the client is judged by its own address"
    );
    assert_eq!(
        echo(&lab.node, "127.0.0.1"),
        Verdict::Answered,
        "the node may"
    );
    eventually(PATIENCE, "the denied flow to be cut", || {
        let _ = client.write_all(b"x");
        let flows = lab
            .node
            .run("conntrack", &["-L", "-p", "tcp", "--orig-port-dst", "8081"]);
        let flows = flows.unwrap_or_default();
        let alive = flows.lines().filter(|line| line.contains("src=192.0.2.10"));
        match alive.count() {
            0 => Ok(()),
            _ => Err(flows),
        }
    })
    .unwrap();
}

#[test]
fn no_pod_reaches_what_listens_on_the_nodes_loopback() {
    require_root!();
    let mut lab = OneNode::start("hpg", "", &[]).unwrap();
    lab.attach_with("shop", "web", ports(&[("tcp", 8080, 80, "")]))
        .unwrap();
    let node_only = lab
        .node
        .inside(|| UdpSocket::bind("127.0.0.1:9999").unwrap())
        .unwrap();
    node_only.set_read_timeout(Some(SILENCE)).unwrap();
    let pod = &lab.pods[0].sandbox.netns;
    let address = lab.pods[0].addresses[0];
    // What a pod with NET_ADMIN can do: 127.0.0.1 is elsewhere, behind its link.
    pod.sysctl("net.ipv4.conf.all.route_localnet", "1").unwrap();
    pod.ip("addr del 127.0.0.1/8 dev lo").unwrap();
    pod.ip("route add 127.0.0.1/32 via 169.254.1.1 dev eth0 onlink")
        .unwrap();
    let end = host_end(&lab);
    let switch = format!("/proc/sys/net/ipv4/conf/{end}/route_localnet");
    let is_on = lab
        .node
        .inside(|| std::fs::read_to_string(&switch).unwrap())
        .unwrap();
    assert_eq!(is_on.trim(), "1", "else the kernel itself would drop it");
    pod.inside(|| {
        let socket = UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
        for _ in 0..3 {
            socket.send_to(b"let me in", at("127.0.0.1", 9999)).unwrap();
        }
    })
    .unwrap();
    let mut buffer = [0_u8; 16];
    assert!(node_only.recv_from(&mut buffer).is_err(), "{buffer:?}");
    let saved = rules(&lab.node, "nft");
    let guard = saved
        .lines()
        .find(|line| line.contains("-d 127.0.0.0/8 -i ptl+"))
        .unwrap();
    assert!(
        guard.starts_with("[3:"),
        "the packets came to the guard: {guard}"
    );
}

#[test]
fn host_ports_are_led_without_policy_too_and_nothing_is_written_before_the_first() {
    require_root!();
    let mut lab = OneNode::start_with("hpo", "cni", "", &["--iptables", "nft"]).unwrap();
    lab.attach("shop", "other").unwrap();
    assert!(!rules(&lab.node, "nft").contains("PTL-"));
    lab.attach_with("shop", "web", ports(&[("tcp", 8080, 80, "")]))
        .unwrap();
    let _server = Teller::start(&lab.pods[1].sandbox.netns, 80).unwrap();
    lab.pods.rotate_left(1);
    lab.node.ip("addr add 192.0.2.2/24 dev uplink").unwrap();
    for (name, from, to, seen) in ways(&lab.node, &lab.outside, &lab.pods[0].sandbox.netns) {
        let expected = seen.map(|address| address.parse::<IpAddr>().unwrap());
        let patience = if seen.is_some() { PATIENCE } else { SILENCE };
        let seen = ask(from, at(to, 8080), Transport::Tcp, patience).unwrap();
        assert_eq!(seen, expected, "from {name} to {to}");
    }
    let saved = rules(&lab.node, "nft");
    assert!(
        !saved.contains("PTL-FORWARD") && saved.contains("PTL-HOSTPORT-DNAT"),
        "{saved}"
    );
    lab.detach("shop", "web").unwrap();
    eventually(PATIENCE * 3, "host ports to leave nothing", || {
        let left = left(&lab.node, "nft");
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    })
    .unwrap();
}

#[test]
fn a_nat_table_that_another_emptied_is_healed_in_both_back_ends() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let mut lab = OneNode::start("hph", "", &["--iptables", backend]).unwrap();
        lab.attach_with("shop", "web", ports(&[("tcp", 8080, 80, "")]))
            .unwrap();
        let _server = Teller::start(&lab.pods[0].sandbox.netns, 80).unwrap();
        lab.agent.wait_settled().unwrap();
        let all = left(&lab.node, backend).len();
        let program = format!("iptables-{backend}");
        // It heals faster than this looks, on some days.
        lab.agent.signal(Signal::SIGSTOP).unwrap();
        lab.node.run(&program, &["-t", "nat", "-F"]).unwrap();
        let reached = || attempt(&lab.outside, at(NODE_V4, 8080), Transport::Tcp, SILENCE);
        let while_empty = reached();
        lab.agent.signal(Signal::SIGCONT).unwrap();
        assert_ne!(while_empty.unwrap(), Verdict::Answered, "{backend}");
        eventually(PATIENCE, "the port to lead there again", || {
            let now = left(&lab.node, backend).len();
            match reached() {
                Ok(Verdict::Answered) if now == all => Ok(()),
                verdict => Err(format!("{verdict:?}, {now} of {all} rules")),
            }
        })
        .unwrap();
    }
}

/// A node of its own whose pod has its port by the reference plugins ptp and portmap.
struct Reference {
    node: Netns,
    outside: Netns,
    pod: Sandbox,
    leases: tempfile::TempDir,
}

impl Reference {
    const PLUGINS: &'static str = "/usr/lib/cni";

    fn new(tag: &str) -> Self {
        let (node, outside) = (
            Netns::new(tag, "node").unwrap(),
            Netns::new(tag, "outside").unwrap(),
        );
        join((&node, "uplink"), (&outside, "eth0")).unwrap();
        for address in [NODE_V4, "192.0.2.2"] {
            node.ip(&format!("addr add {address}/24 dev uplink"))
                .unwrap();
        }
        node.ip(&format!("addr add {NODE_V6}/64 dev uplink nodad"))
            .unwrap();
        outside
            .ip(&format!("addr add {OUTSIDE_V4}/24 dev eth0"))
            .unwrap();
        outside
            .ip(&format!("addr add {OUTSIDE_V6}/64 dev eth0 nodad"))
            .unwrap();
        outside
            .ip(&format!("route add default via {NODE_V4}"))
            .unwrap();
        outside
            .ip(&format!("route add default via {NODE_V6}"))
            .unwrap();
        let leases = tempfile::tempdir().unwrap();
        let pod = Sandbox::new(tag, "shop", "web").unwrap();
        let reference = Self {
            node,
            outside,
            pod,
            leases,
        };
        reference.attach();
        reference
    }

    fn attach(&self) {
        let ipam = json!({
            "type": "host-local", "dataDir": self.leases.path(),
            "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        let made = self.call("ptp", json!({"ipam": ipam}));
        let mappings = ports(&[("tcp", 8080, 80, ""), ("udp", 8080, 80, "")]);
        let mut fields = json!({"prevResult": made, "capabilities": {"portMappings": true}});
        fields.as_object_mut().unwrap().extend(mappings);
        self.call("portmap", fields);
    }

    fn call(&self, name: &str, mut fields: Value) -> Value {
        let plugin = Plugin {
            program: Path::new(Self::PLUGINS).join(name),
            socket: "/nowhere".into(),
            version: "1.0.0".to_owned(),
        };
        let fields = fields.as_object_mut().unwrap();
        fields.insert("type".to_owned(), name.into());
        let answer = plugin
            .call_with("ADD", &self.node, &self.pod, fields.clone())
            .unwrap();
        answer.success().unwrap()
    }
}

#[test]
fn the_reference_plugins_lead_the_same_ways() {
    require_root!();
    let reference = Reference::new("hpr");
    let mut lab = OneNode::start("hpr", "", &[]).unwrap();
    lab.node.ip("addr add 192.0.2.2/24 dev uplink").unwrap();
    let wanted = ports(&[("tcp", 8080, 80, ""), ("udp", 8080, 80, "")]);
    lab.attach_with("shop", "web", wanted).unwrap();
    let ours = &lab.pods[0].sandbox.netns;
    let _servers = [ours, &reference.pod.netns].map(|pod| Teller::start(pod, 80).unwrap());
    let of_ours = ways(&lab.node, &lab.outside, ours);
    let of_theirs = ways(&reference.node, &reference.outside, &reference.pod.netns);
    for ((name, from, to, seen), (_, there, ..)) in of_ours.into_iter().zip(of_theirs) {
        let patience = if seen.is_some() { PATIENCE } else { SILENCE };
        for transport in [Transport::Tcp, Transport::Udp] {
            let [ours, theirs] =
                [from, there].map(|from| ask(from, at(to, 8080), transport, patience).unwrap());
            assert_eq!(
                ours.is_some(),
                theirs.is_some(),
                "{transport} from {name} to {to}"
            );
            if name == "outside" {
                assert_eq!(ours, theirs, "{transport} to {to}: who is seen");
            }
        }
    }
}
