//! Rule 138: what a load balancer hears.

use serde_json::json;

use super::*;
use crate::proxy::tests::*;

fn told(service_type: &str, policy: &str, endpoints: &[serde_json::Value]) -> Option<HealthCheck> {
    let mut world = World::new();
    let spec = json!({"type": service_type, "externalTrafficPolicy": policy, "healthCheckNodePort": 32_000});
    world.service("web", json!({"spec": spec}));
    world.endpoints("web", endpoints);
    let served = world.model.service(&name("web")).unwrap();
    served.health.clone()
}

#[test]
fn rule_138_only_ready_endpoints_of_this_node_count_each_address_once() {
    let count = |endpoints: &[serde_json::Value]| {
        let check = told("LoadBalancer", "Local", endpoints).unwrap();
        assert_eq!(check.port, 32_000);
        check.local_endpoints
    };
    let here = |address: &str, is| endpoint(address, HERE, is);
    assert_eq!(count(&[]), 0);
    assert_eq!(
        count(&[
            here("10.1.0.1", Is::Draining),
            here("10.1.0.2", Is::Starting)
        ]),
        0
    );
    assert_eq!(count(&[endpoint("10.1.0.1", "n2", Is::Ready)]), 0);
    let two = [
        here("10.1.0.1", Is::Ready),
        here("10.1.0.1", Is::Ready),
        here("10.1.0.2", Is::Ready),
    ];
    assert_eq!(count(&two), 2);
    assert_eq!(told("LoadBalancer", "Cluster", &two), None);
    assert_eq!(told("NodePort", "Local", &two), None);
}

#[test]
fn rule_138_the_answer_is_200_where_packets_are_answered_and_the_proxy_works() {
    let answer = |local_endpoints, is_healthy| {
        let check = HealthCheck {
            port: 32_000,
            local_endpoints,
        };
        check.answer(&name("web"), is_healthy)
    };
    let statuses = [answer(2, true), answer(0, true), answer(2, false)].map(|one| one.status);
    assert_eq!(statuses, [200, 503, 503]);
    let said = answer(2, true);
    let body: serde_json::Value = serde_json::from_str(&said.body).unwrap();
    let expected = json!({
        "service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true
    });
    assert_eq!((body, said.weight), (expected, 2));
}
