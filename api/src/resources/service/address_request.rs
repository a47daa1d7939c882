//! What a Service of type LoadBalancer asks for: addresses, pools, and to share.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::manifest;
use crate::metadata::is_dns_subdomain;

/// The addresses that it asks for, a JSON list, at most one a family.
const ADDRESSES: &str = "portolan.io/ip-addresses";
/// The IPPools that its addresses may be of, JSON lists of names.
const POOLS: [&str; 2] = ["portolan.io/ipv4pools", "portolan.io/ipv6pools"];
/// Services of one namespace with the same key may have one address, if their ports differ.
const SHARING_KEY: &str = "portolan.io/sharing-key";
/// The most pools that are named.
const MOST_POOLS: usize = 16;
/// The longest sharing key, in octets.
const LONGEST_KEY: usize = 253;

/// What a Service of type LoadBalancer asks of who gives it addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressRequest {
    /// Annotation `portolan.io/ip-addresses`, or `spec.loadBalancerIP`: these and no others of their families.
    pub addresses: Vec<IpAddr>,
    /// Annotation `portolan.io/ipv4pools`: of IPv4 only these; empty: of any pool.
    pub ipv4_pools: Vec<String>,
    /// Annotation `portolan.io/ipv6pools`, as `ipv4_pools`.
    pub ipv6_pools: Vec<String>,
    /// Annotation `portolan.io/sharing-key`.
    pub sharing_key: Option<String>,
}

impl AddressRequest {
    pub(super) fn read(metadata: &ObjectMeta, spec: &manifest::Spec) -> Result<Self, String> {
        let annotations = metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        let written = spec.load_balancer_ip.as_deref();
        let addresses = match (
            annotation(ADDRESSES),
            written.filter(|text| !text.is_empty()),
        ) {
            (Some(text), _) => read_addresses(text)?,
            (None, Some(text)) => {
                let wrong = |_| format!("spec.loadBalancerIP: {:?} is no address", short(text));
                vec![usable(text.parse().map_err(wrong)?, "spec.loadBalancerIP")?]
            }
            (None, None) => Vec::new(),
        };
        let [ipv4_pools, ipv6_pools] = POOLS;
        Ok(Self {
            addresses,
            ipv4_pools: read_pools(ipv4_pools, annotation(ipv4_pools))?,
            ipv6_pools: read_pools(ipv6_pools, annotation(ipv6_pools))?,
            sharing_key: annotation(SHARING_KEY).map(read_key).transpose()?,
        })
    }

    /// The pools that addresses of a family may be of; empty: any.
    pub fn pools(&self, is_ipv4: bool) -> &[String] {
        if is_ipv4 {
            &self.ipv4_pools
        } else {
            &self.ipv6_pools
        }
    }
}

/// As much of a text as a message can hold.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn read_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let wanted = "a JSON list of addresses, at most one a family";
    let wrong = || {
        format!(
            "annotation {ADDRESSES} is {:?}: it should be {wanted}",
            short(text)
        )
    };
    let addresses: Vec<IpAddr> = serde_json::from_str(text).map_err(|_| wrong())?;
    let of_ipv4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    if of_ipv4 > 1 || addresses.len() - of_ipv4 > 1 {
        return Err(wrong());
    }
    let field = format!("annotation {ADDRESSES}");
    let usable = |address| usable(address, &field);
    addresses.into_iter().map(usable).collect()
}

fn usable(address: IpAddr, field: &str) -> Result<IpAddr, String> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(format!("{field}: no Service can have {address}"));
    }
    Ok(address)
}

fn read_pools(key: &str, text: Option<&str>) -> Result<Vec<String>, String> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let wrong = || {
        format!(
            "annotation {key} is {:?}: it should be a JSON list of 1 to {MOST_POOLS} names of IPPools",
            short(text)
        )
    };
    let pools: Vec<String> = serde_json::from_str(text).map_err(|_| wrong())?;
    let is_named = pools.iter().all(|pool| is_dns_subdomain(pool));
    match (1..=MOST_POOLS).contains(&pools.len()) && is_named {
        true => Ok(pools),
        false => Err(wrong()),
    }
}

fn read_key(text: &str) -> Result<String, String> {
    match (1..=LONGEST_KEY).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "annotation {SHARING_KEY} has {} octets: it should have 1 to {LONGEST_KEY}",
            text.len()
        )),
    }
}
