//! BGPConfiguration `default`: what holds for every node's speaker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use super::node::is_usable_as;
use super::{Community, graceful_restart};
use crate::ParseError;
use crate::crd::{self, BGPConfiguration, BgpConfigurationSpec};
use crate::metadata::Subject;

/// The BGPConfiguration named `default`, defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// Its name.
    pub name: String,
    /// `asNumber` of nodes that have no annotation of their own (64512).
    pub as_number: u32,
    /// `listenPort` (179).
    pub listen_port: u16,
    /// `nodeToNodeMeshEnabled` (true).
    pub node_to_node_mesh_enabled: bool,
    /// `gracefulRestart.restartTime` (120 s), whole seconds up to 4095.
    pub restart_time: Duration,
    /// `gracefulRestart.longLivedStaleTime` (0: none), whole seconds up to 16777215.
    pub long_lived_stale_time: Duration,
    /// `multipath` with `multipathRelax`, `maxPaths` and `linkBandwidth`.
    pub multipath: Multipath,
    /// `prefixAdvertisements`, names of communities resolved, in the order written.
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// `installRoutes` (true).
    pub install_routes: bool,
}

/// Which equally good paths are used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipath {
    /// How many at most, 1 to 64; 1 is one path only.
    pub max_paths: u8,
    /// Also paths of the same length through different neighbours.
    pub as_path_relax: bool,
    /// By the link bandwidth that they bear.
    pub link_bandwidth: bool,
}

impl Default for Multipath {
    fn default() -> Self {
        Self {
            max_paths: 1,
            as_path_relax: false,
            link_bandwidth: false,
        }
    }
}

/// Communities for what is announced in a CIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    /// `cidr`, host bits cleared: it and what lies in it.
    pub cidr: IpNet,
    /// `communities`.
    pub communities: BTreeSet<Community>,
}

impl Default for BgpConfiguration {
    /// What holds when no BGPConfiguration is there.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            as_number: 64512,
            listen_port: 179,
            node_to_node_mesh_enabled: true,
            restart_time: Duration::from_secs(120),
            long_lived_stale_time: Duration::ZERO,
            multipath: Multipath::default(),
            prefix_advertisements: Vec::new(),
            install_routes: true,
        }
    }
}

const DEFAULT_MAX_PATHS: u8 = 16;
const MOST_PATHS: u8 = 64;
const MOST_ENTRIES: usize = 256;

impl TryFrom<BGPConfiguration> for BgpConfiguration {
    type Error = ParseError;

    fn try_from(config: BGPConfiguration) -> Result<Self, ParseError> {
        let subject = Subject::cluster("BGPConfiguration", &config.metadata)?;
        if subject.name() != "default" {
            return Err(subject.error("metadata.name: only `default` is read"));
        }
        let spec = config.spec;
        if let Some(field) = unsupported(&spec) {
            return Err(subject.error(format!("spec.{field} is not supported yet")));
        }
        let defaults = Self::default();
        let as_number = spec.as_number.unwrap_or(defaults.as_number);
        if !is_usable_as(as_number) {
            return Err(subject.error("spec.asNumber: this AS number is reserved"));
        }
        let listen_port = spec.listen_port.unwrap_or(defaults.listen_port);
        if listen_port == 0 {
            return Err(subject.error("spec.listenPort is 0"));
        }
        let wrong = |(field, why): (&str, String)| subject.error(format!("spec.{field} {why}"));
        let restart = graceful_restart::read(spec.graceful_restart.clone()).map_err(wrong)?;
        let long_lived = restart.long_lived_stale_time;
        Ok(Self {
            name: defaults.name,
            as_number,
            listen_port,
            node_to_node_mesh_enabled: spec
                .node_to_node_mesh_enabled
                .unwrap_or(defaults.node_to_node_mesh_enabled),
            restart_time: restart.restart_time.unwrap_or(defaults.restart_time),
            long_lived_stale_time: long_lived.unwrap_or(defaults.long_lived_stale_time),
            multipath: multipath(&spec).map_err(wrong)?,
            prefix_advertisements: prefix_advertisements(&spec).map_err(wrong)?,
            install_routes: spec.install_routes.unwrap_or(defaults.install_routes),
        })
    }
}

/// The first field that asks for what is not built yet.
fn unsupported(spec: &BgpConfigurationSpec) -> Option<&'static str> {
    fn filled<T>(list: Option<&Vec<T>>) -> bool {
        list.is_some_and(|list| !list.is_empty())
    }
    let fields = [
        (
            "serviceClusterIPs",
            filled(spec.service_cluster_ips.as_ref()),
        ),
        (
            "serviceExternalIPs",
            filled(spec.service_external_ips.as_ref()),
        ),
        (
            "serviceLoadBalancerIPs",
            filled(spec.service_load_balancer_ips.as_ref()),
        ),
    ];
    fields
        .into_iter()
        .find_map(|(field, asked_for)| asked_for.then_some(field))
}

fn multipath(spec: &BgpConfigurationSpec) -> Result<Multipath, (&'static str, String)> {
    let details = [
        ("maxPaths", spec.max_paths.is_some_and(|paths| paths != 1)),
        ("multipathRelax", spec.multipath_relax == Some(true)),
        ("linkBandwidth", spec.link_bandwidth == Some(true)),
    ];
    if spec.multipath != Some(true) {
        return match details.into_iter().find(|(_, asked_for)| *asked_for) {
            Some((field, _)) => Err((field, "needs multipath: true".to_owned())),
            None => Ok(Multipath::default()),
        };
    }
    let max_paths = spec.max_paths.unwrap_or(DEFAULT_MAX_PATHS);
    if !(1..=MOST_PATHS).contains(&max_paths) {
        return Err(("maxPaths", format!("is not from 1 to {MOST_PATHS}")));
    }
    Ok(Multipath {
        max_paths,
        as_path_relax: spec.multipath_relax.unwrap_or(false),
        link_bandwidth: spec.link_bandwidth.unwrap_or(false),
    })
}

fn prefix_advertisements(
    spec: &BgpConfigurationSpec,
) -> Result<Vec<PrefixAdvertisement>, (&'static str, String)> {
    let named = named_communities(spec.communities.as_deref().unwrap_or_default())?;
    let written = spec.prefix_advertisements.as_deref().unwrap_or_default();
    if written.len() > MOST_ENTRIES {
        let why = format!("has more than {MOST_ENTRIES} entries");
        return Err(("prefixAdvertisements", why));
    }
    let read = |entry: &crd::PrefixAdvertisement| -> Result<PrefixAdvertisement, String> {
        let Ok(cidr) = entry.cidr.parse::<IpNet>() else {
            return Err(format!("has {:?}, which is no CIDR", entry.cidr));
        };
        let resolve = |text: &String| match named.get(text.as_str()) {
            Some(community) => Ok(*community),
            None => text.parse().map_err(|_| {
                format!(
                    "of {cidr} has {text:?}: neither a community nor a name in spec.communities"
                )
            }),
        };
        Ok(PrefixAdvertisement {
            cidr: cidr.trunc(),
            communities: entry
                .communities
                .iter()
                .map(resolve)
                .collect::<Result<_, _>>()?,
        })
    };
    let all: Result<_, _> = written.iter().map(read).collect();
    all.map_err(|why| ("prefixAdvertisements", why))
}

fn named_communities(
    written: &[crd::Community],
) -> Result<BTreeMap<&str, Community>, (&'static str, String)> {
    let wrong = |why| Err(("communities", why));
    if written.len() > MOST_ENTRIES {
        return wrong(format!("has more than {MOST_ENTRIES} entries"));
    }
    let mut named = BTreeMap::new();
    for entry in written {
        let name = entry.name.as_str();
        if name.is_empty() || name.parse::<Community>().is_ok() {
            return wrong(format!("has {name:?}, which cannot be a community's name"));
        }
        match entry.value.parse() {
            Err(error) => return wrong(format!("{name:?}: {error}")),
            Ok(community) => {
                if named.insert(name, community).is_some() {
                    return wrong(format!("has two named {name:?}"));
                }
            }
        }
    }
    Ok(named)
}
