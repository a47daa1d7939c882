//! What the server says of a Service of which load balancers' addresses are written: its status, and its version.

use std::net::IpAddr;

use api::resources::ADDRESSES_ALLOCATED;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Deserialize;

/// Of a Service that is of type LoadBalancer, or has what only those have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Balanced {
    /// `metadata.resourceVersion`.
    pub(crate) version: String,
    /// The print of the Service as it was understood; none of one that is not.
    pub(crate) print: Option<u64>,
    /// `status.loadBalancer.ingress`: addresses whose packets come as they are.
    pub(crate) addresses: Vec<IpAddr>,
    /// There are other entries, too: names, or proxies' addresses.
    pub(crate) has_others: bool,
    /// Our condition.
    pub(crate) condition: Option<Condition>,
}

#[derive(Default, Deserialize)]
pub(super) struct Spec {
    #[serde(rename = "type")]
    type_: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    load_balancer: Option<LoadBalancer>,
    conditions: Option<Vec<AnyCondition>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Point>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Point {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// What others say is theirs, and may lack what ours has.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyCondition {
    Whole(Box<Condition>),
    Other(serde::de::IgnoredAny),
}

impl Balanced {
    /// Nothing of a Service that has nothing to do with load balancers.
    pub(super) fn read(
        version: String,
        spec: Option<Spec>,
        status: Option<Status>,
    ) -> Option<Self> {
        let status = status.unwrap_or_default();
        let points = status.load_balancer.unwrap_or_default().ingress;
        let points = points.unwrap_or_default();
        let address = |point: &Point| {
            let is_vip = point.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
            point.ip.as_ref().filter(|_| is_vip)?.parse().ok()
        };
        let addresses: Vec<IpAddr> = points.iter().filter_map(address).collect();
        let mut ours = status
            .conditions
            .into_iter()
            .flatten()
            .filter_map(|one| match one {
                AnyCondition::Whole(one) if one.type_ == ADDRESSES_ALLOCATED => Some(*one),
                _ => None,
            });
        let condition = ours.next();
        let is_of_its_type = spec.unwrap_or_default().type_.as_deref() == Some("LoadBalancer");
        (is_of_its_type || !points.is_empty() || condition.is_some()).then_some(Self {
            version,
            print: None,
            has_others: addresses.len() < points.len(),
            addresses,
            condition,
        })
    }
}
