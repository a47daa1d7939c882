//! Numbered Services of one family with node ports, compiled as they change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::{NamespacedName, Resource};
use netfilter::nft::Parts;
use netfilter::{Family, InterfaceName, Ruleset};
use serde_json::{Value, json};
use services::proxy::index::{Index, Place, Touched};
use services::proxy::iptables::{Compiler, Options};
use services::proxy::model::Model;
use services::proxy::nftables;

use crate::programs::run;

pub(crate) struct Cluster {
    family: Family,
    index: Index,
    model: Model,
    compiler: Compiler,
    nftables: nftables::Compiler,
}

fn address(family: Family, v4: [u8; 3], v6: u16, last: u16) -> IpAddr {
    let [a, b, c] = v4;
    let low = u8::try_from(last).unwrap();
    match family {
        Family::V4 => Ipv4Addr::new(a, b, c, low).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, v6, 0, 0, 0, 0, 0, last).into(),
    }
}

impl Cluster {
    pub(crate) fn new(family: Family) -> Self {
        let mut index = Index::default();
        index.set_place(Place {
            node: "n1".to_owned(),
            zone: None,
            addresses: vec![Self::node(family)],
        });
        let prefix = InterfaceName::new("ptl").unwrap();
        let compiler = Compiler::new(Options::new(prefix.clone()));
        let nftables = nftables::Compiler::new(nftables::Options::new(prefix));
        Self {
            family,
            index,
            model: Model::default(),
            compiler,
            nftables,
        }
    }

    pub(crate) fn node(family: Family) -> IpAddr {
        address(family, [192, 0, 2], 2, 1)
    }

    pub(crate) fn endpoint(family: Family, number: u16) -> IpAddr {
        address(family, [10, 1, 0], 1, number)
    }

    pub(crate) fn cluster_ip(family: Family, number: u16) -> IpAddr {
        address(family, [10, 96, 0], 0x96, number)
    }

    /// The node's address and the first endpoint's, and a way to everybody else: what has no route is not even sent, and so
    /// never led.
    pub(crate) fn make_links(family: Family) {
        let ip = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            run("ip", &words, "");
        };
        let (bits, nodad) = match family {
            Family::V4 => (32, ""),
            Family::V6 => (128, " nodad"),
        };
        ip("link set lo up");
        for address in [Self::node(family), Self::endpoint(family, 1)] {
            ip(&format!("address add {address}/{bits} dev lo{nodad}"));
        }
        ip("link add v0 type veth peer name v1");
        for end in ["v0", "v1"] {
            ip(&format!("link set {end} up"));
        }
        let own = address(family, [192, 0, 3], 5, 1);
        let next = address(family, [192, 0, 3], 5, 2);
        ip(&format!("address add {own}/{} dev v0{nodad}", bits - 8));
        let six = if family == Family::V6 { "-6 " } else { "" };
        ip(&format!("{six}route add default via {next}"));
    }

    pub(crate) fn rules(&self) -> &Ruleset {
        self.compiler.rules(self.family)
    }

    pub(crate) fn tables(&self) -> &Arc<Parts> {
        self.nftables.parts(self.family)
    }

    /// A Service with a cluster IP alone.
    pub(crate) fn plain_service(&mut self, number: u16) {
        let manifest = json!({
            "metadata": {"namespace": "shop", "name": format!("s{number}")},
            "spec": {
                "clusterIPs": [Self::cluster_ip(self.family, number)],
                "ports": [{"name": "http", "port": 80}],
            },
        });
        self.put(manifest);
    }

    pub(crate) fn remove(&mut self, number: u16) {
        let name = NamespacedName::new("shop", format!("s{number}"));
        let touched = self.index.remove_service(&name);
        self.take(&touched);
    }

    fn put(&mut self, manifest: Value) {
        let Some((_, Resource::Service(service))) = api::parse("Service", "v1", manifest).unwrap()
        else {
            panic!("no Service");
        };
        let touched = self.index.set_service(Arc::from(service));
        self.take(&touched);
    }

    fn take(&mut self, touched: &Touched) {
        let changed = self.model.refresh(&self.index, touched);
        self.compiler.update(&self.model, &changed);
        self.nftables.update(&self.model, &changed);
    }

    /// A Service with every kind of address and affinity: number `n` has node port 30000 + n.
    pub(crate) fn service(&mut self, number: u16, policy: &str) {
        let family = self.family;
        let manifest = json!({
            "metadata": {"namespace": "shop", "name": format!("s{number}")},
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": [Self::cluster_ip(family, number)],
                "externalIPs": [address(family, [198, 51, 100], 3, number)],
                "externalTrafficPolicy": policy,
                "healthCheckNodePort": 32_000,
                "loadBalancerSourceRanges": ["198.18.0.0/15", "fd00:18::/32"],
                "sessionAffinity": "ClientIP",
                "ports": [{"name": "http", "port": 80, "nodePort": 30_000 + number}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": address(family, [203, 0, 113], 4, number)}]}},
        });
        self.put(manifest);
    }

    /// Its endpoints, on this node.
    pub(crate) fn endpoints(&mut self, number: u16, endpoints: &[u16]) {
        let family = self.family;
        let kind = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let name = format!("s{number}");
        let endpoints = endpoints
            .iter()
            .map(|one| json!({"addresses": [Self::endpoint(family, *one)], "nodeName": "n1"}));
        let manifest = json!({
            "metadata": {
                "namespace": "shop", "name": format!("{name}-1"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": kind,
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        let read = api::parse("EndpointSlice", "discovery.k8s.io/v1", manifest).unwrap();
        let Some((_, Resource::EndpointSlice(slice))) = read else {
            panic!("no EndpointSlice");
        };
        let touched = self.index.set_slice(Arc::from(slice));
        self.take(&touched);
    }
}
