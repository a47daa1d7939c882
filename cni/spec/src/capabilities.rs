//! What the runtime asks for beyond addresses: `runtimeConfig`, the older `args.cni`, and the pod's annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CniError, Dns, ErrorCode, NetworkConfig};

/// The capability under which containerd passes the pod's annotations.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The annotation by which a pod asks for its addresses: a JSON list, or addresses with commas between.
pub const ANNOTATION_IP_ADDRESSES: &str = "portolan.io/ip-addresses";

/// The kernel counts a burst in bytes, in 32 bits.
const MAX_BURST_BITS: u64 = (u32::MAX as u64) * 8;

/// The transport of a mapped port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP, which an absent protocol means.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to one of the pod's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port; never 0.
    pub host_port: u16,
    /// The pod's port; never 0.
    pub container_port: u16,
    /// The transport.
    pub protocol: PortProtocol,
    /// Of which of the node's addresses; all of them when absent, all of the family when unspecified.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// How fast a pod may be sent to (ingress) and send (egress): rates in bits a second, bursts in bits, 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(default)]
    pub ingress_rate: u64,
    /// What may come at once; never 0 with a rate.
    #[serde(default)]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(default)]
    pub egress_rate: u64,
    /// What may leave at once; never 0 with a rate.
    #[serde(default)]
    pub egress_burst: u64,
}

/// Addresses to choose from, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The network they lie in, without host bits.
    pub subnet: IpNet,
    /// The first of them, if not the network's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last of them, if not the network's last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
}

impl NetworkConfig {
    /// The ports of the node to map; entries without a host port (0) are left out, repeated ones given once.
    ///
    /// # Errors
    /// If `portMappings` is malformed (code 7).
    pub fn port_mappings(&self) -> Result<Vec<PortMapping>, CniError> {
        let Some(list) = self.runtime_list("portMappings")? else {
            return Ok(Vec::new());
        };
        let mut mappings = Vec::new();
        for entry in list {
            if let Some(mapping) = port_mapping(entry)?
                && !mappings.contains(&mapping)
            {
                mappings.push(mapping);
            }
        }
        Ok(mappings)
    }

    /// The limits of the pod's traffic; `None` when there is none.
    ///
    /// # Errors
    /// If `bandwidth` is malformed, or has a rate without a burst or a burst without a rate (code 7).
    pub fn bandwidth(&self) -> Result<Option<Bandwidth>, CniError> {
        let Some(value) = self.runtime("bandwidth") else {
            return Ok(None);
        };
        let read: Bandwidth = object("bandwidth", value)?;
        for (direction, rate, burst) in [
            ("ingress", read.ingress_rate, read.ingress_burst),
            ("egress", read.egress_rate, read.egress_burst),
        ] {
            let why = match (rate, burst) {
                (0, 0) => continue,
                (0, _) => format!("{direction}Burst without {direction}Rate"),
                (_, 0) => format!("{direction}Rate without {direction}Burst"),
                (_, bits) if bits > MAX_BURST_BITS => {
                    format!("{direction}Burst is above {MAX_BURST_BITS} bits")
                }
                _ => continue,
            };
            return Err(malformed("bandwidth", value, &why));
        }
        Ok(Some(read).filter(|limits| *limits != Bandwidth::default()))
    }

    /// The hardware address asked for: `mac` of the capabilities, or of `args.cni`.
    ///
    /// # Errors
    /// If it is not the address of one interface, in six hexadecimal bytes (code 7).
    pub fn requested_mac(&self) -> Result<Option<[u8; 6]>, CniError> {
        let Some(value) = self.runtime("mac").or(self.legacy("mac")) else {
            return Ok(None);
        };
        match value.as_str() {
            Some("") => Ok(None),
            text => text.and_then(mac).map(Some).ok_or_else(|| {
                malformed(
                    "mac",
                    value,
                    "not the address of one interface, as in 02:00:5e:10:00:01",
                )
            }),
        }
    }

    /// The addresses asked for: `ips` of the capabilities, or of `args.cni`, or else the pod's annotation
    /// [`ANNOTATION_IP_ADDRESSES`].
    ///
    /// # Errors
    /// If they are not a list of addresses with or without a prefix length (code 7).
    pub fn requested_ips(&self) -> Result<Vec<IpAddr>, CniError> {
        match self.runtime("ips").or(self.legacy("ips")) {
            None => self.annotated_ips(),
            Some(ips) => {
                let list = ips.as_array().ok_or_else(|| not_addresses("ips", ips))?;
                addresses("ips", list)
            }
        }
    }

    /// The ranges asked for: of each set one address.
    ///
    /// # Errors
    /// If `ipRanges` is not a list of sets, each of ranges of one family (code 7).
    pub fn ip_ranges(&self) -> Result<Vec<Vec<IpRange>>, CniError> {
        let Some(sets) = self.runtime_list("ipRanges")? else {
            return Ok(Vec::new());
        };
        sets.iter().map(range_set).collect()
    }

    /// The name servers for a result that has `base`: those of the configuration instead, and `dns` of the capabilities
    /// over either, field by field.
    ///
    /// # Errors
    /// If `runtimeConfig.dns` is malformed (code 7).
    pub fn dns_over(&self, base: Dns) -> Result<Dns, CniError> {
        let mut dns = if self.dns == Dns::default() {
            base
        } else {
            self.dns.clone()
        };
        let Some(value) = self.runtime("dns") else {
            return Ok(dns);
        };
        let read: RuntimeDns = object("dns", value)?;
        let servers = read.servers.unwrap_or_default();
        if let Some(wrong) = servers.iter().find(|text| text.parse::<IpAddr>().is_err()) {
            return Err(malformed("dns", value, &format!("{wrong:?} is no address")));
        }
        for (given, field) in [
            (servers, &mut dns.nameservers),
            (read.searches.unwrap_or_default(), &mut dns.search),
            (read.options.unwrap_or_default(), &mut dns.options),
        ] {
            if !given.is_empty() {
                *field = given;
            }
        }
        Ok(dns)
    }

    /// The pod's annotations, as far as the runtime passes them; what is no text is left out.
    pub fn pod_annotations(&self) -> BTreeMap<String, String> {
        let map = self.runtime(POD_ANNOTATIONS).and_then(Value::as_object);
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        map.into_iter().flatten().filter_map(text).collect()
    }

    /// Reads all of it, so that what is malformed is said before anything is done.
    ///
    /// # Errors
    /// Code 7, with the key's name.
    pub fn check_capabilities(&self) -> Result<(), CniError> {
        self.port_mappings()?;
        self.bandwidth()?;
        self.requested_mac()?;
        self.requested_ips()?;
        self.ip_ranges()?;
        self.dns_over(Dns::default())?;
        match self.runtime(POD_ANNOTATIONS) {
            Some(value) if BTreeMap::<String, String>::deserialize(value).is_err() => {
                Err(malformed(POD_ANNOTATIONS, value, "not a map of texts"))
            }
            _ => Ok(()),
        }
    }

    /// Sets a capability that is neither set nor in `args.cni`.
    pub(crate) fn ask_for(&mut self, key: &str, value: Value) {
        if self.runtime(key).or(self.legacy(key)).is_none() {
            self.runtime_config.insert(key.to_owned(), value);
        }
    }

    fn annotated_ips(&self) -> Result<Vec<IpAddr>, CniError> {
        let annotations = self.pod_annotations();
        let Some(text) = annotations.get(ANNOTATION_IP_ADDRESSES) else {
            return Ok(Vec::new());
        };
        let list: Vec<Value> = serde_json::from_str(text).unwrap_or_else(|_| {
            let parts = text.split(',').map(str::trim);
            parts
                .filter(|part| !part.is_empty())
                .map(Value::from)
                .collect()
        });
        addresses(ANNOTATION_IP_ADDRESSES, &list)
    }

    fn runtime(&self, key: &str) -> Option<&Value> {
        self.runtime_config
            .get(key)
            .filter(|value| !value.is_null())
    }

    fn runtime_list(&self, key: &str) -> Result<Option<&Vec<Value>>, CniError> {
        let list = |value: &'_ Value| malformed(key, value, "not a list");
        self.runtime(key)
            .map(|value| value.as_array().ok_or_else(|| list(value)))
            .transpose()
    }

    /// The way of before capabilities: `args.cni`.
    fn legacy(&self, key: &str) -> Option<&Value> {
        let value = self.args.get("cni").and_then(Value::as_object)?.get(key);
        value.filter(|value| !value.is_null())
    }
}

/// An address with or without a prefix length, as runtimes write both.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()))
}

/// The address of one interface: neither that of a group nor all zeros.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        let part = parts.next()?;
        let is_hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_hex)?;
    }
    let [first, ..] = bytes;
    (parts.next().is_none() && first & 1 == 0 && bytes != [0; 6]).then_some(bytes)
}

#[derive(Deserialize)]
struct RuntimeDns {
    servers: Option<Vec<String>>,
    searches: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

fn addresses(key: &str, list: &[Value]) -> Result<Vec<IpAddr>, CniError> {
    let read = list.iter().map(|ip| {
        let parsed = ip.as_str().and_then(address);
        parsed.ok_or_else(|| not_addresses(key, ip))
    });
    read.collect()
}

fn port_mapping(entry: &Value) -> Result<Option<PortMapping>, CniError> {
    let wrong = |why: &str| malformed("portMappings", entry, why);
    let fields = entry.as_object().ok_or_else(|| wrong("not an object"))?;
    let Some(host_port) = port(fields, "hostPort").map_err(wrong)? else {
        return Ok(None);
    };
    let container_port = port(fields, "containerPort").map_err(wrong)?;
    let container_port = container_port.ok_or_else(|| wrong("containerPort is missing"))?;
    let text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(value) => value
            .as_str()
            .ok_or_else(|| wrong("not a text where one belongs")),
    };
    let protocol = match text("protocol")?.to_ascii_lowercase().as_str() {
        "" | "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        "sctp" => PortProtocol::Sctp,
        _ => return Err(wrong("protocol is none of tcp, udp and sctp")),
    };
    let host_ip = match text("hostIP")? {
        "" => None,
        ip => Some(ip.parse().map_err(|_| wrong("hostIP is no address"))?),
    };
    Ok(Some(PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip,
    }))
}

/// A port; `None` when it is absent or 0.
fn port(fields: &Map<String, Value>, key: &str) -> Result<Option<u16>, &'static str> {
    let Some(value) = fields.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    match number {
        Some(0) => Ok(None),
        Some(port) => Ok(Some(port)),
        None if key == "hostPort" => Err("hostPort is no port number"),
        None => Err("containerPort is no port number"),
    }
}

fn range_set(set: &Value) -> Result<Vec<IpRange>, CniError> {
    let wrong = |why: &str| malformed("ipRanges", set, why);
    let list = set.as_array().ok_or_else(|| wrong("not a list"))?;
    let ranges: Vec<IpRange> = list
        .iter()
        .map(|range| object("ipRanges", range))
        .collect::<Result<_, _>>()?;
    let is_v4 = |range: &IpRange| range.subnet.addr().is_ipv4();
    let Some(first) = ranges.first() else {
        return Err(wrong("a set without a range"));
    };
    for range in &ranges {
        if is_v4(range) != is_v4(first) {
            return Err(wrong("a set is of one family"));
        }
        let ends = [range.range_start, range.range_end];
        if !ends.iter().flatten().all(|end| range.subnet.contains(end)) {
            return Err(wrong("rangeStart and rangeEnd lie in the subnet"));
        }
        if let [Some(start), Some(end)] = ends
            && start > end
        {
            return Err(wrong("rangeStart is after rangeEnd"));
        }
    }
    let whole = |range: IpRange| IpRange {
        subnet: range.subnet.trunc(),
        ..range
    };
    Ok(ranges.into_iter().map(whole).collect())
}

/// Reads the members of an object; serde would take a list for one, too.
fn object<T: DeserializeOwned>(key: &str, value: &Value) -> Result<T, CniError> {
    if !value.is_object() {
        return Err(malformed(key, value, "not an object"));
    }
    T::deserialize(value).map_err(|error| malformed(key, value, &error.to_string()))
}

fn not_addresses(key: &str, value: &Value) -> CniError {
    CniError::new(
        ErrorCode::InvalidConfig,
        format!("{key} is not a list of addresses"),
    )
    .details(format!("{value} is not an address"))
}

fn malformed(key: &str, value: &Value, why: &str) -> CniError {
    CniError::new(ErrorCode::InvalidConfig, format!("invalid {key}"))
        .details(format!("{value}: {why}"))
}
