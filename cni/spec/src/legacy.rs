//! Results of 0.1.0 and 0.2.0: one address of each family with its routes, and no interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::result::undecodable;
use crate::{AddResult, CniError, CniVersion, Dns, ErrorCode, IpConfig, Route};

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<Family>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<Family>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Serialize, Deserialize)]
struct Family {
    ip: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<WrittenRoute>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenRoute {
    dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

pub(crate) fn to_json(result: &AddResult, version: CniVersion) -> Result<Value, CniError> {
    let written = Written {
        ip4: family(result, true),
        ip6: family(result, false),
        dns: Some(result.dns.clone()),
    };
    if written.ip4.is_none() && written.ip6.is_none() {
        return Err(
            CniError::new(ErrorCode::InvalidConfig, "a result without an address").details(
                format!("CNI {version} cannot say it: set cniVersion to 0.3.1 or later"),
            ),
        );
    }
    let mut json = Map::from_iter([("cniVersion".to_owned(), version.as_str().into())]);
    if let Value::Object(members) = serde_json::to_value(&written).map_err(undecodable)? {
        json.extend(members);
    }
    Ok(Value::Object(json))
}

pub(crate) fn from_json(value: &Value) -> Result<AddResult, CniError> {
    let written = Written::deserialize(value).map_err(undecodable)?;
    let mut result = AddResult {
        dns: written.dns.unwrap_or_default(),
        ..AddResult::default()
    };
    for family in [written.ip4, written.ip6].into_iter().flatten() {
        result.ips.push(IpConfig {
            address: family.ip,
            gateway: family.gateway,
            interface: None,
        });
        let routes = family.routes.unwrap_or_default();
        result.routes.extend(
            routes
                .into_iter()
                .map(|route| Route::new(route.dst, route.gw)),
        );
    }
    Ok(result)
}

fn family(result: &AddResult, v4: bool) -> Option<Family> {
    let ip = result
        .ips
        .iter()
        .find(|ip| ip.address.addr().is_ipv4() == v4)?;
    let routes: Vec<WrittenRoute> = result
        .routes
        .iter()
        .filter(|route| route.dst.addr().is_ipv4() == v4)
        .map(|route| WrittenRoute {
            dst: route.dst,
            gw: route.gw,
        })
        .collect();
    Some(Family {
        ip: ip.address,
        gateway: ip.gateway,
        routes: Some(routes).filter(|routes| !routes.is_empty()),
    })
}
