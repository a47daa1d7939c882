//! The controller's own addresses, and in whose status they must stand or stand no more. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use serde_json::{Value, json};

/// Which addresses are written into the statuses of Ingresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Those of the Service by which the controller is reached (`--publish-service`): of its load balancer, or else its
    /// external ones.
    Service(NamespacedName),
    /// These (`--publish-address`): addresses, or names.
    Addresses(Vec<String>),
    /// None: statuses are left alone.
    Nothing,
}

/// What is known of an Ingress beside its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `status.loadBalancer.ingress` now.
    pub(super) addresses: Vec<String>,
    /// Whether it is this controller that has written that, as the API server has it in `managedFields`.
    pub(super) is_written_by_us: bool,
    /// `metadata.uid`.
    pub(super) uid: String,
}

/// The statuses that are to be written: those that we serve get our addresses, and what we have written goes where we serve no
/// more. What another controller wrote into the status of an Ingress that isn't ours is never touched.
pub(super) fn due(
    known: &BTreeMap<NamespacedName, Facts>,
    served: &BTreeSet<NamespacedName>,
    addresses: &[String],
) -> Vec<(NamespacedName, Vec<String>)> {
    let mut wanted = addresses.to_vec();
    wanted.sort();
    wanted.dedup();
    let each = known.iter().filter_map(|(name, facts)| {
        let mut present = facts.addresses.clone();
        present.sort();
        let is_served = served.contains(name) && !wanted.is_empty();
        match is_served {
            true if present != wanted => Some((name.clone(), wanted.clone())),
            false if facts.is_written_by_us && !present.is_empty() => {
                Some((name.clone(), Vec::new()))
            }
            _ => None,
        }
    });
    each.collect()
}

/// A status as it is applied: an empty one takes away what was applied before.
pub(super) fn status(name: &NamespacedName, addresses: &[String]) -> Value {
    let points = addresses.iter().map(|one| match one.parse::<IpAddr>() {
        Ok(ip) => json!({"ip": ip.to_string()}),
        Err(_) => json!({"hostname": one}),
    });
    let points: Vec<Value> = points.collect();
    let status = if points.is_empty() {
        json!({})
    } else {
        json!({"loadBalancer": {"ingress": points}})
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"namespace": name.namespace, "name": name.name},
        "status": status,
    })
}

/// The addresses of a Service: its load balancer's, or else its external ones.
pub(super) fn addresses_of(service: &Value) -> Vec<String> {
    let points = service.pointer("/status/loadBalancer/ingress");
    let points = points.and_then(Value::as_array).into_iter().flatten();
    let word = |point: &Value, key: &str| Some(point.get(key)?.as_str()?.to_owned());
    let mut found: Vec<String> = points
        .filter_map(|point| word(point, "ip").or_else(|| word(point, "hostname")))
        .collect();
    if found.is_empty() {
        let external = service
            .pointer("/spec/externalIPs")
            .and_then(Value::as_array);
        let external = external.into_iter().flatten();
        found = external
            .filter_map(|ip| Some(ip.as_str()?.to_owned()))
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> NamespacedName {
        NamespacedName::new("shop", name)
    }

    fn facts(addresses: &[&str], is_written_by_us: bool) -> Facts {
        Facts {
            addresses: addresses.iter().map(|&one| one.to_owned()).collect(),
            is_written_by_us,
            uid: "u".to_owned(),
        }
    }

    #[test]
    fn who_is_served_has_our_addresses_and_who_is_no_more_has_none_of_ours() {
        let ours = ["192.0.2.7".to_owned(), "2001:db8::7".to_owned()];
        let known = BTreeMap::from([
            (name("new"), facts(&[], false)),
            (name("right"), facts(&["2001:db8::7", "192.0.2.7"], true)),
            (name("taken-over"), facts(&["198.51.100.1"], false)),
            (name("no-more"), facts(&["192.0.2.7"], true)),
            (name("anothers"), facts(&["192.0.2.7"], false)),
            (name("cleared"), facts(&[], true)),
        ]);
        let served = ["new", "right", "taken-over"].map(name).into();
        let due = due(&known, &served, &ours);
        let expected = [
            (name("new"), ours.to_vec()),
            (name("no-more"), vec![]),
            (name("taken-over"), ours.to_vec()),
        ];
        assert_eq!(due, expected);
    }

    #[test]
    fn without_an_address_of_our_own_what_we_wrote_goes_and_nothing_is_written() {
        let known = BTreeMap::from([
            (name("new"), facts(&[], false)),
            (name("old"), facts(&["192.0.2.7"], true)),
        ]);
        let served = ["new", "old"].map(name).into();
        assert_eq!(due(&known, &served, &[]), [(name("old"), vec![])]);
    }

    #[test]
    fn a_status_has_addresses_and_names_and_an_empty_one_says_nothing() {
        let points = ["192.0.2.7".to_owned(), "lb.example.org".to_owned()];
        let applied = status(&name("web"), &points);
        let expected = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "lb.example.org"}]}});
        assert_eq!(applied["status"], expected);
        assert_eq!(status(&name("web"), &[])["status"], json!({}));
    }

    #[test]
    fn a_services_addresses_are_its_load_balancers_or_else_its_external_ones() {
        let mut service =
            json!({"spec": {"externalIPs": ["198.51.100.9"]}, "status": {"loadBalancer": {}}});
        assert_eq!(addresses_of(&service), ["198.51.100.9"]);
        service["status"]["loadBalancer"]["ingress"] =
            json!([{"ip": "192.0.2.7"}, {"hostname": "a.b"}]);
        assert_eq!(addresses_of(&service), ["192.0.2.7", "a.b"]);
    }
}
