//! What a node announces of Services, as manifests come and go.

use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::{HERE, Is, World, endpoint, name};

const ELSEWHERE: &str = "n2";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn range(cidr: &str, is_aggregated: bool) -> Range {
    Range {
        cidr: net(cidr),
        is_aggregated,
    }
}

/// Cluster IPs as a whole, load balancers' addresses each by itself, external ones not at all.
fn settings() -> Settings {
    Settings {
        ranges: Ranges {
            cluster: vec![range("10.96.0.0/12", true)],
            external: Vec::new(),
            load_balancer: vec![range("198.51.100.0/24", false)],
        },
        unfit: None,
    }
}

/// A World, and what is announced of it.
struct Scene {
    world: World,
    announcements: Announcements,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        let world = World::new();
        let mut announcements = Announcements::default();
        announcements.set(settings, &world.index, &world.model);
        Self {
            world,
            announcements,
        }
    }

    fn service(&mut self, of: &str, more: Value) -> &mut Self {
        let changed = self.world.service(of, more);
        self.update(of, changed)
    }

    fn endpoints(&mut self, of: &str, endpoints: &[Value]) -> &mut Self {
        let changed = self.world.endpoints(of, endpoints);
        self.update(of, changed)
    }

    fn remove(&mut self, of: &str) -> &mut Self {
        let changed = self.world.remove(of);
        self.update(of, changed)
    }

    fn update(&mut self, of: &str, mut concerned: Touched) -> &mut Self {
        let World { index, model } = &self.world;
        concerned.insert(name(of));
        self.announcements.update(index, model, &concerned);
        // Whatever the way here, it is what one who comes now would find.
        let mut fresh = Announcements::default();
        let settings = self.announcements.settings.clone().unwrap();
        fresh.set(settings, index, model);
        assert_eq!(self.announcements, fresh);
        self
    }

    fn announced(&self) -> Vec<String> {
        let prefixes = self.announcements.prefixes().into_iter();
        prefixes.map(|prefix| prefix.to_string()).collect()
    }

    fn way(&self, of: &str, address: &str) -> Result<Way, Silence> {
        let address: IpAddr = address.parse().unwrap();
        let mut all = self.announcements.of(&name(of)).iter();
        all.find(|one| one.address == address).unwrap().way
    }
}

fn balanced(policy: &str) -> Value {
    json!({
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}},
    })
}

#[test]
fn an_address_is_announced_while_somebody_can_be_asked_and_a_range_always() {
    let mut scene = Scene::new(settings());
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
    scene.service("web", balanced("Cluster"));
    assert_eq!(scene.way("web", "198.51.100.7"), Err(Silence::NoEndpoint));
    scene.endpoints("web", &[endpoint("10.0.1.1", ELSEWHERE, Is::Starting)]);
    assert_eq!(scene.way("web", "198.51.100.7"), Err(Silence::NoEndpoint));
    scene.endpoints("web", &[endpoint("10.0.1.1", ELSEWHERE, Is::Ready)]);
    assert_eq!(scene.announced(), ["10.96.0.0/12", "198.51.100.7/32"]);
    let aggregate = Way::Aggregate(net("10.96.0.0/12"));
    assert_eq!(scene.way("web", "10.96.0.1"), Ok(aggregate));
    scene.endpoints("web", &[]);
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
    scene.endpoints("web", &[endpoint("10.0.1.1", ELSEWHERE, Is::Ready)]);
    scene.remove("web");
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
}

#[test]
fn with_policy_local_a_node_is_withdrawn_when_its_last_endpoint_begins_to_end() {
    let mut scene = Scene::new(settings());
    scene.service("web", balanced("Local"));
    let there = endpoint("10.0.2.1", ELSEWHERE, Is::Ready);
    scene.endpoints("web", std::slice::from_ref(&there));
    assert_eq!(
        scene.way("web", "198.51.100.7"),
        Err(Silence::NoEndpointHere)
    );
    let here = |is| endpoint("10.0.1.1", HERE, is);
    scene.endpoints("web", &[there.clone(), here(Is::Ready)]);
    assert_eq!(scene.way("web", "198.51.100.7"), Ok(Way::Itself));
    // It would answer still, and the model asks it: who has not heard of the withdrawal is served.
    scene.endpoints("web", &[there, here(Is::Draining)]);
    let port = scene.world.port("web");
    assert!(matches!(port.external.other, Answer::Forward { .. }));
    assert_eq!(
        scene.way("web", "198.51.100.7"),
        Err(Silence::NoEndpointHere)
    );
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
}

#[test]
fn in_a_range_that_is_aggregated_only_local_ones_are_announced_by_themselves() {
    let mut ranges = settings().ranges;
    ranges.load_balancer = vec![
        range("198.51.100.0/24", true),
        range("198.51.100.0/28", false),
    ];
    let mut scene = Scene::new(Settings {
        ranges,
        unfit: None,
    });
    let ready = [endpoint("10.0.1.1", HERE, Is::Ready)];
    scene
        .service("web", balanced("Cluster"))
        .endpoints("web", &ready);
    assert_eq!(
        scene.way("web", "198.51.100.7"),
        Ok(Way::Itself),
        "the longest range"
    );
    let high = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.99"}]}}});
    let mut other = balanced("Cluster");
    other["status"] = high["status"].clone();
    scene.service("web", other.clone());
    let aggregate = Way::Aggregate(net("198.51.100.0/24"));
    assert_eq!(scene.way("web", "198.51.100.99"), Ok(aggregate));
    other["spec"]["externalTrafficPolicy"] = json!("Local");
    scene.service("web", other);
    assert_eq!(scene.way("web", "198.51.100.99"), Ok(Way::Itself));
    // Both have the cluster IP of the manifests: by its name it is this one's.
    let local = json!({"spec": {"internalTrafficPolicy": "Local"}});
    scene.service("inner", local);
    assert_eq!(scene.way("inner", "10.96.0.1"), Err(Silence::NoEndpoint));
    assert_eq!(scene.way("web", "10.96.0.1"), Err(Silence::OfAnother));
    scene.endpoints("inner", &[endpoint("10.0.1.2", HERE, Is::Ready)]);
    assert_eq!(scene.way("inner", "10.96.0.1"), Ok(Way::Itself));
    scene.endpoints("inner", &[endpoint("10.0.1.2", ELSEWHERE, Is::Ready)]);
    assert_eq!(
        scene.way("inner", "10.96.0.1"),
        Err(Silence::NoEndpointHere)
    );
    scene.remove("inner");
    assert_eq!(
        scene.way("web", "10.96.0.1"),
        Ok(Way::Aggregate(net("10.96.0.0/12")))
    );
}

#[test]
fn a_node_that_takes_no_part_announces_cluster_ips_alone() {
    let node = |more: Value| {
        let mut value = json!({"metadata": {"name": HERE}});
        value["metadata"]
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        match api::parse("Node", "v1", value).unwrap().unwrap().1 {
            api::Resource::Node(node) => Unfit::of(&node),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(node(json!({})), None);
    assert_eq!(
        node(json!({"labels": {EXCLUDED: ""}})),
        Some(Unfit::Excluded)
    );
    let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(node(gone), Some(Unfit::Leaving));

    let mut settings = settings();
    settings.ranges.external = vec![range("203.0.113.0/24", true)];
    let mut scene = Scene::new(settings.clone());
    let ready = [endpoint("10.0.1.1", HERE, Is::Ready)];
    scene
        .service("web", balanced("Cluster"))
        .endpoints("web", &ready);
    assert_eq!(
        scene.announced(),
        ["10.96.0.0/12", "198.51.100.7/32", "203.0.113.0/24"]
    );
    settings.unfit = Some(Unfit::Excluded);
    let World { index, model } = &scene.world;
    scene.announcements.set(settings, index, model);
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
    let silence = Silence::Unfit(Unfit::Excluded);
    assert_eq!(scene.way("web", "198.51.100.7"), Err(silence));
}

#[test]
fn an_address_that_two_share_stays_until_neither_wants_it() {
    let mut scene = Scene::new(settings());
    let ready = [endpoint("10.0.1.1", HERE, Is::Ready)];
    for (of, port) in [("dns", 53), ("web", 80)] {
        let mut more = balanced("Cluster");
        more["spec"]["clusterIPs"] = json!([format!("10.96.0.{port}")]);
        more["spec"]["ports"] = json!([{"name": "http", "port": port}]);
        scene.service(of, more).endpoints(of, &ready);
    }
    assert!(scene.announced().contains(&"198.51.100.7/32".to_owned()));
    scene.remove("dns");
    assert!(scene.announced().contains(&"198.51.100.7/32".to_owned()));
    scene.endpoints("web", &[]);
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
}

#[test]
fn an_address_in_no_range_is_announced_by_nobody_and_says_so() {
    let mut scene = Scene::new(settings());
    let more = json!({"spec": {"externalIPs": ["203.0.113.5"]}});
    scene
        .service("web", more)
        .endpoints("web", &[endpoint("10.0.1.1", HERE, Is::Ready)]);
    assert_eq!(scene.way("web", "203.0.113.5"), Err(Silence::NoRange));
    assert_eq!(scene.announced(), ["10.96.0.0/12"]);
}

#[test]
fn without_ranges_every_address_says_so_and_one_of_no_family_of_its_own_is_served_by_nobody() {
    let mut scene = Scene::new(Settings::default());
    let more = json!({"spec": {"externalIPs": ["2001:db8::5"]}});
    scene
        .service("web", more)
        .endpoints("web", &[endpoint("10.0.1.1", HERE, Is::Ready)]);
    assert_eq!(scene.way("web", "2001:db8::5"), Err(Silence::NoRange));
    let mut settings = settings();
    settings.ranges.external = vec![range("2001:db8::/64", true)];
    let World { index, model } = &scene.world;
    scene.announcements.set(settings, index, model);
    assert_eq!(
        scene.way("web", "2001:db8::5"),
        Err(Silence::NotOfItsFamilies)
    );
}

#[test]
fn what_is_announced_is_not_forwarded_and_addresses_of_nodes_always_are() {
    let mut scene = Scene::new(settings());
    let more = json!({"spec": {"externalIPs": ["203.0.113.5"]}});
    scene
        .service("web", balanced("Local"))
        .service("other", more);
    let guarded = |nodes: &[&str]| {
        let nodes = nodes.iter().map(|ip| ip.parse().unwrap()).collect();
        let guarded = scene.announcements.guarded(&nodes).into_iter();
        guarded.map(|net| net.to_string()).collect::<Vec<_>>()
    };
    // Announced elsewhere, or soon.
    assert_eq!(guarded(&[]), ["10.96.0.0/12", "198.51.100.7/32"]);
    assert_eq!(guarded(&["198.51.100.7", "198.51.100.8"]), ["10.96.0.0/12"]);
    assert_eq!(guarded(&["10.96.3.3"]), ["10.96.0.1/32", "198.51.100.7/32"]);
}

/// What a node announces of a Service's load balancer addresses, as seen from here.
fn ways_on(
    scene: &Scene,
    of: &str,
    place: &str,
    unfit: Option<Unfit>,
) -> Vec<Result<Way, Silence>> {
    let index = &scene.world.index;
    let mut elsewhere = scene.announcements.elsewhere(&name(of), index).unwrap();
    let place = Place {
        node: place.to_owned(),
        ..Place::default()
    };
    let addresses = elsewhere.on(place, unfit).into_iter();
    let balanced = addresses.filter(|one| one.kind == FrontendKind::LoadBalancer);
    balanced.map(|one| one.way).collect()
}

#[test]
fn every_node_is_told_of_with_its_reasons_and_an_address_of_another_is_so_everywhere() {
    let mut scene = Scene::new(settings());
    scene
        .service("web", balanced("Local"))
        .endpoints("web", &[endpoint("10.0.1.1", ELSEWHERE, Is::Ready)]);
    assert_eq!(ways_on(&scene, "web", ELSEWHERE, None), [Ok(Way::Itself)]);
    let leaving = Unfit::Leaving;
    assert_eq!(
        ways_on(&scene, "web", ELSEWHERE, Some(leaving)),
        [Err(Silence::Unfit(leaving))]
    );
    scene
        .service("later", balanced("Cluster"))
        .endpoints("later", &[endpoint("10.0.1.2", HERE, Is::Ready)]);
    let mut of_another = 0;
    for of in ["web", "later"] {
        let here = scene.way(of, "198.51.100.7");
        assert_eq!(ways_on(&scene, of, HERE, None), [here]);
        let elsewhere = ways_on(&scene, of, ELSEWHERE, None);
        of_another += usize::from(elsewhere == [Err(Silence::OfAnother)]);
    }
    assert_eq!(of_another, 1);
    assert_eq!(ways_on(&scene, "nobody", HERE, None), []);
}
