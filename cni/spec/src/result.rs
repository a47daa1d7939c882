//! What an ADD came to: held in the newest form, written in the form of the version asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CniError, CniVersion, ErrorCode, legacy};

/// A result; serialised by serde it is a 1.1.0 result without `cniVersion`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// Interfaces that were made, on the host and in the container.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ips: Vec<IpConfig>,
    /// Routes that were put into the container.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub routes: Vec<Route>,
    /// Name servers; every known writer prints it even when it is empty, and so do we.
    #[serde(default, deserialize_with = "absent_or_null")]
    pub dns: Dns,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path for an interface in the container; empty on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A socket that stands for it; since 1.1.0.
    #[serde(
        default,
        rename = "socketPath",
        skip_serializing_if = "String::is_empty"
    )]
    pub socket_path: String,
    /// Its PCI device; since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address, with its prefix length.
    pub address: IpNet,
    /// The gateway of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of `interfaces` bears it; must be one in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// A route in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub dst: IpNet,
    /// The next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes; this and the following since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Advertised maximal segment size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric; lower is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope as the kernel numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(
        default,
        deserialize_with = "absent_or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
}

impl Route {
    /// A route with nothing but a destination and a next hop.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

impl AddResult {
    /// The JSON of a version; what that version cannot say is left out.
    ///
    /// # Errors
    /// If a version before 0.3.0 is asked for and there is no address (code 7).
    pub fn to_json(&self, version: CniVersion) -> Result<Value, CniError> {
        if version < CniVersion::V0_3_0 {
            return legacy::to_json(self, version);
        }
        let mut result = self.clone();
        if version < CniVersion::V1_1_0 {
            result.forget_what_came_with_1_1();
        }
        let mut json = Map::from_iter([("cniVersion".to_owned(), version.as_str().into())]);
        if let Value::Object(members) = serde_json::to_value(&result).map_err(undecodable)? {
            json.extend(members);
        }
        if version < CniVersion::V1_0_0
            && let Some(ips) = json.get_mut("ips").and_then(Value::as_array_mut)
        {
            for (ip, typed) in ips.iter_mut().zip(&result.ips) {
                let family = if typed.address.addr().is_ipv4() {
                    "4"
                } else {
                    "6"
                };
                if let Some(ip) = ip.as_object_mut() {
                    ip.insert("version".to_owned(), family.into());
                }
            }
        }
        Ok(Value::Object(json))
    }

    /// Reads a result of any version; `version` holds where the result does not say its own.
    ///
    /// # Errors
    /// If it is none (code 6), or says a version we do not speak (1).
    pub fn from_json(value: &Value, version: CniVersion) -> Result<Self, CniError> {
        if !value.is_object() {
            return Err(CniError::new(ErrorCode::Decoding, "cannot decode a result")
                .details("it is not an object"));
        }
        let version = match value.get("cniVersion").and_then(Value::as_str) {
            None | Some("") => version,
            Some(said) => said.parse()?,
        };
        if version < CniVersion::V0_3_0 {
            return legacy::from_json(value);
        }
        Self::deserialize(value).map_err(undecodable)
    }

    /// The addresses that are said to be on an interface of the container.
    pub fn addresses_of(&self, interface: &str) -> impl Iterator<Item = IpAddr> {
        let is_it = move |ip: &&IpConfig| {
            let index = ip.interface.and_then(|index| usize::try_from(index).ok());
            let bearer = index.and_then(|index| self.interfaces.get(index));
            bearer.is_some_and(|one| one.name == interface && !one.sandbox.is_empty())
        };
        self.ips.iter().filter(is_it).map(|ip| ip.address.addr())
    }

    fn forget_what_came_with_1_1(&mut self) {
        for interface in &mut self.interfaces {
            interface.mtu = None;
            interface.socket_path.clear();
            interface.pci_id.clear();
        }
        for route in &mut self.routes {
            *route = Route::new(route.dst, route.gw);
        }
    }
}

pub(crate) fn undecodable(error: serde_json::Error) -> CniError {
    CniError::new(ErrorCode::Decoding, "cannot decode a result").details(error.to_string())
}

/// Some writers print an empty list as `null`.
fn absent_or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
