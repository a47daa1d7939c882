//! The Services that are compared.

use serde_json::{Value, json};

use crate::objects::By::{self, ClusterIp, LoadBalancer, NodePort};
use crate::objects::{Case, Endpoint, addresses, ending, merge, raw_slice, ready, slice, slices};
use crate::world::Place::{self, Far1, Far2, Node, Outside, Pod1, Pod2, Remote};

fn unready(place: Place) -> Endpoint {
    let conditions = json!({"ready": false, "serving": false, "terminating": false});
    Endpoint(place, json!({"conditions": conditions}))
}

fn for_zones(place: Place, zones: &[&str]) -> Endpoint {
    let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
    Endpoint(
        place,
        json!({"conditions": {"ready": true}, "hints": {"forZones": zones}}),
    )
}

fn for_node(place: Place, node: &str) -> Endpoint {
    let hints = json!({"forNodes": [{"name": node}], "forZones": [{"name": "a"}, {"name": "b"}]});
    Endpoint(
        place,
        json!({"conditions": {"ready": true}, "hints": hints}),
    )
}

/// All of it, in the order of their numbers.
pub(crate) fn all() -> Vec<Case> {
    let makers = [types, policies, conditions, hints, ranges, kinds, ports];
    let mut cases = Vec::new();
    for maker in makers {
        // Each finds its numbers behind those of the ones before.
        cases.extend(maker(cases.len() + 1));
    }
    cases
}

/// Numbers cases from `first`.
struct Numbered {
    next: usize,
    cases: Vec<Case>,
}

impl Numbered {
    fn from(first: usize) -> Self {
        Self {
            next: first,
            cases: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, by: By, endpoints: &[Endpoint], more: Value) -> &mut Self {
        self.add_as(name, by, endpoints, more, |case| case)
    }

    fn add_as(
        &mut self,
        name: &str,
        by: By,
        endpoints: &[Endpoint],
        more: Value,
        change: impl FnOnce(Case) -> Case,
    ) -> &mut Self {
        self.cases
            .push(change(Case::new(self.next, name, by, endpoints, more)));
        self.next += 1;
        self
    }
}

fn types(first: usize) -> Vec<Case> {
    let both = [ready(Pod1), ready(Far1), ready(Far2)];
    let far = [ready(Far1), ready(Far2)];
    let (cluster, balancer) = (ClusterIp, LoadBalancer);
    let mut list = Numbered::from(first);
    list.add("everything", balancer, &both, json!({}))
        .add("far", balancer, &far, json!({}))
        .add("hairpin", balancer, &[ready(Pod1)], json!({}))
        .add("nobody", balancer, &[], json!({}))
        .add(
            "on-node",
            NodePort,
            &[ready(Node), ready(Remote)],
            json!({}),
        )
        .add(
            "outside",
            balancer,
            &[ready(Outside), ready(Far1)],
            json!({}),
        );
    let v4 = json!({
        "clusterIPs": [addresses("cluster", list.next)[0]], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    });
    list.add("only-v4", balancer, &both, v4);
    let v6 = addresses("cluster", list.next)[1].clone();
    let v6 = json!({
        "clusterIP": v6, "clusterIPs": [v6], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack",
    });
    list.add("only-v6", balancer, &both, v6);
    let external = json!({"externalIPs": addresses("external", list.next)});
    list.add("external", cluster, &both, external);
    list.cases
}

fn policies(first: usize) -> Vec<Case> {
    let outside = json!({"externalTrafficPolicy": "Local"});
    let inside = json!({"internalTrafficPolicy": "Local"});
    let both = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let here = [ready(Pod1), ready(Far1)];
    let away = [ready(Far1), ready(Far2)];
    let mut list = Numbered::from(first);
    list.add("outside-here", LoadBalancer, &here, outside.clone())
        .add("outside-away", LoadBalancer, &away, outside.clone())
        .add("outside-nobody", LoadBalancer, &[], outside.clone())
        .add(
            "outside-self",
            LoadBalancer,
            &[ready(Pod1)],
            outside.clone(),
        )
        .add(
            "outside-two",
            LoadBalancer,
            &[ready(Pod1), ready(Pod2)],
            outside.clone(),
        )
        .add(
            "outside-no-node",
            LoadBalancer,
            &[ready(Outside)],
            outside.clone(),
        )
        .add(
            "outside-on-node",
            NodePort,
            &[ready(Node), ready(Far1)],
            outside.clone(),
        )
        .add("inside-here", LoadBalancer, &here, inside.clone())
        .add("inside-away", NodePort, &away, inside.clone())
        .add("inside-nobody", ClusterIp, &[], inside)
        .add("both-here", LoadBalancer, &here, both.clone())
        .add("both-away", LoadBalancer, &away, both);
    let external =
        json!({"externalIPs": addresses("external", list.next), "externalTrafficPolicy": "Local"});
    list.add("external-away", ClusterIp, &away, external);
    let affinity = json!({"sessionAffinity": "ClientIP"});
    list.add_as(
        "affinity",
        LoadBalancer,
        &away,
        affinity.clone(),
        Case::sticky,
    );
    let mut local = affinity;
    merge(&mut local, outside);
    let pods = [ready(Pod2), ready(Far2)];
    list.add_as("affinity-outside", LoadBalancer, &pods, local, Case::sticky);
    list.cases
}

fn conditions(first: usize) -> Vec<Case> {
    let local = json!({"externalTrafficPolicy": "Local"});
    let bare = |place| Endpoint(place, json!({}));
    let mut list = Numbered::from(first);
    list.add(
        "all-end",
        NodePort,
        &[ending(Pod1, true), ending(Far1, true)],
        json!({}),
    )
    .add(
        "some-end",
        NodePort,
        &[ready(Pod1), ending(Far1, true)],
        json!({}),
    )
    .add(
        "here-ends",
        NodePort,
        &[ending(Pod1, true), ready(Far1)],
        local.clone(),
    )
    .add(
        "here-has-ended",
        NodePort,
        &[ending(Pod1, false), ready(Far1)],
        local.clone(),
    )
    .add(
        "all-end-local",
        LoadBalancer,
        &[ending(Pod1, true), ending(Far1, true)],
        local,
    )
    .add(
        "all-have-ended",
        NodePort,
        &[ending(Pod1, false), ending(Far1, false)],
        json!({}),
    )
    .add(
        "none-ready",
        NodePort,
        &[unready(Pod1), unready(Far1)],
        json!({}),
    )
    .add(
        "some-ready",
        ClusterIp,
        &[unready(Pod1), ready(Far1), ready(Far2)],
        json!({}),
    )
    .add("unsaid", ClusterIp, &[bare(Pod1), bare(Far1)], json!({}));
    let published = |place| {
        Endpoint(
            place,
            json!({"conditions": {"ready": true, "serving": false, "terminating": false}}),
        )
    };
    let publish = json!({"publishNotReadyAddresses": true});
    list.add(
        "published",
        NodePort,
        &[published(Pod1), published(Far1)],
        publish,
    );
    list.cases
}

fn hints(first: usize) -> Vec<Case> {
    let close = json!({"trafficDistribution": "PreferClose"});
    let same_node = json!({"trafficDistribution": "PreferSameNode"});
    let zones = [
        for_zones(Pod1, &["a"]),
        for_zones(Far1, &["b"]),
        for_zones(Far2, &["a", "b"]),
    ];
    let other_zone = [for_zones(Far1, &["b"]), for_zones(Far2, &["b"])];
    let partly = [for_zones(Pod1, &["a"]), ready(Far1)];
    let nodes = [
        for_node(Pod2, "n1"),
        for_node(Far1, "n2"),
        for_node(Far2, "n2"),
    ];
    let other_node = [for_node(Far1, "n2"), for_node(Far2, "n2")];
    let mixed = [
        for_node(Pod1, "n1"),
        for_zones(Far1, &["a"]),
        for_zones(Far2, &["b"]),
    ];
    let ends = [
        for_zones(Pod1, &["a"]),
        for_zones(Far2, &["b"]),
        ending(Far1, true),
    ];
    let local = json!({"trafficDistribution": "PreferClose", "externalTrafficPolicy": "Local"});
    let mut list = Numbered::from(first);
    list.add("zones", NodePort, &zones, close.clone())
        .add("other-zone", ClusterIp, &other_zone, close.clone())
        .add("partly-hinted", ClusterIp, &partly, close.clone())
        .add("nodes", NodePort, &nodes, same_node.clone())
        .add("other-node", ClusterIp, &other_node, same_node.clone())
        .add("nodes-and-zones", ClusterIp, &mixed, same_node)
        .add("hints-and-an-end", ClusterIp, &ends, close)
        .add(
            "hints-local",
            NodePort,
            &[for_zones(Pod1, &["b"]), for_zones(Far1, &["a"])],
            local,
        );
    list.cases
}

fn ranges(first: usize) -> Vec<Case> {
    let both = [ready(Pod1), ready(Far1)];
    let of = |ranges: &[&str]| json!({"loadBalancerSourceRanges": ranges});
    let mut local = of(&["10.71.9.0/24", "fd71:9::/64"]);
    merge(&mut local, json!({"externalTrafficPolicy": "Local"}));
    let mut list = Numbered::from(first);
    list.add(
        "ranges-in",
        LoadBalancer,
        &both,
        of(&["10.71.9.0/24", "fd71:9::/64"]),
    )
    .add(
        "ranges-out",
        LoadBalancer,
        &both,
        of(&["203.0.113.0/24", "2001:db8:9::/64"]),
    )
    .add("ranges-v4", LoadBalancer, &both, of(&["203.0.113.0/24"]))
    .add(
        "ranges-node",
        LoadBalancer,
        &both,
        of(&["10.71.1.1/32", "fd71:1::1/128"]),
    )
    .add(
        "ranges-pods",
        LoadBalancer,
        &both,
        of(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
    )
    .add(
        "ranges-far",
        LoadBalancer,
        &both,
        of(&["10.244.2.0/24", "fd00:10:244:2::/64"]),
    )
    .add(
        "ranges-any",
        LoadBalancer,
        &both,
        of(&["0.0.0.0/0", "::/0", "203.0.113.0/24"]),
    )
    .add(
        "ranges-blank",
        LoadBalancer,
        &both,
        of(&[" 10.71.9.0/24 ", " 203.0.113.0/24"]),
    )
    .add("ranges-local", LoadBalancer, &both, local)
    .add("ranges-nobody", LoadBalancer, &[], of(&["203.0.113.0/24"]));
    // The load balancer's address is an external IP of the same Service, too.
    let number = list.next;
    let mut twice = of(&["203.0.113.0/24", "2001:db8:9::/64"]);
    merge(
        &mut twice,
        json!({"externalIPs": addresses("balancer", number)}),
    );
    list.add("ranges-external", LoadBalancer, &both, twice);
    list.cases
}

fn kinds(first: usize) -> Vec<Case> {
    let both = [ready(Pod1), ready(Far1)];
    let mut list = Numbered::from(first);
    let vips = addresses("balancer", list.next);
    let proxied: Vec<Value> = vips
        .iter()
        .map(|ip| json!({"ip": ip, "ipMode": "Proxy"}))
        .collect();
    list.add_as("proxied", LoadBalancer, &both, json!({}), |case| {
        case.ingress(&proxied)
    });
    let named = [json!({"hostname": "balancer.example"})];
    list.add_as("by-name", LoadBalancer, &both, json!({}), |case| {
        case.ingress(&named)
    });
    let bare = json!({"allocateLoadBalancerNodePorts": false});
    list.add_as("no-node-port", LoadBalancer, &both, bare, |mut case| {
        for port in case.service["spec"]["ports"].as_array_mut().unwrap() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
        case
    });
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    list.add("headless", ClusterIp, &both, headless);
    let elsewhere = json!({
        "type": "ExternalName", "externalName": "www.example", "clusterIP": null, "clusterIPs": null,
        "ipFamilies": null, "ipFamilyPolicy": null, "externalIPs": addresses("external", list.next),
    });
    list.add("elsewhere", ClusterIp, &both, elsewhere);
    list.add_as("another-proxy", LoadBalancer, &both, json!({}), |case| {
        case.label("service.kubernetes.io/service-proxy-name", "another")
    });
    list.add_as("called-headless", NodePort, &both, json!({}), |case| {
        case.label("service.kubernetes.io/headless", "")
    });
    list.cases
}

fn ports(first: usize) -> Vec<Case> {
    let mut list = Numbered::from(first);
    let copies = slices("copies", "b", &[ready(Far1), ready(Pod2)], 8080);
    list.add_as(
        "copies",
        NodePort,
        &[ready(Pod1), ready(Far1)],
        json!({}),
        |case| case.and(copies),
    );
    // A named target port is another number in each pod.
    let other = slices("two-targets", "b", &[ready(Far1), ready(Pod1)], 8081);
    list.add_as(
        "two-targets",
        NodePort,
        &[ready(Pod1), ready(Far2)],
        json!({}),
        |case| case.and(other),
    );
    // One number of a node port leads elsewhere for TCP than for UDP.
    let of =
        |name: &str, protocol: &str| json!([{"name": name, "protocol": protocol, "port": 8080}]);
    let (tcp, udp) = (of("tcp", "TCP"), of("udp", "UDP"));
    let halves = [0, 1].into_iter().flat_map(|family| {
        let one = slice("halves", "a", family, &[ready(Pod1)], &tcp);
        [one, slice("halves", "b", family, &[ready(Far1)], &udp)]
    });
    let halves: Vec<Value> = halves.collect();
    list.add_as("halves", NodePort, &[], json!({}), |case| case.only(halves));
    let two = json!({"ports": [
        {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30_000 + list.next},
        {"name": "more", "protocol": "TCP", "port": 8000, "targetPort": "more"},
    ]});
    let of_more = json!([{"name": "more", "protocol": "TCP", "port": 8081}]);
    let more = [0, 1].map(|family| slice("two-ports", "b", family, &[ready(Far2)], &of_more));
    list.add_as("two-ports", NodePort, &[ready(Pod1)], two, |case| {
        case.and(more.to_vec())
    });
    let empty = json!([{"name": "", "protocol": "TCP", "port": 8080}]);
    let unnamed =
        [0, 1].map(|family| slice("unnamed", "a", family, &[ready(Pod1), ready(Far1)], &empty));
    let one = json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}]});
    list.add_as("unnamed", ClusterIp, &[], one, |case| {
        case.only(unnamed.to_vec())
    });
    let other_name = json!([{"name": "other", "protocol": "TCP", "port": 8080}]);
    let wrong = [0, 1].map(|family| slice("wrong-name", "a", family, &[ready(Pod1)], &other_name));
    list.add_as("wrong-name", ClusterIp, &[], json!({}), |case| {
        case.only(wrong.to_vec())
    });
    // Names are none of a proxy's business.
    let mut names = raw_slice(
        "with-names",
        "n",
        0,
        Vec::new(),
        &json!([{"name": "tcp", "protocol": "TCP", "port": 8080}]),
    );
    names["addressType"] = json!("FQDN");
    names["endpoints"] = json!([{"addresses": ["www.example"], "conditions": {"ready": true}}]);
    list.add_as("with-names", ClusterIp, &[ready(Far1)], json!({}), |case| {
        case.and(vec![names])
    });
    let two_addresses = json!({"conditions": {"ready": true}});
    list.add(
        "one-more",
        ClusterIp,
        &[Endpoint(Far1, two_addresses)],
        json!({}),
    );
    list.cases
}
