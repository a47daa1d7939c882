//! BGPConfiguration `default`: what holds for every node's speaker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use super::node::{is_usable_as, reserved_for_others};
use super::{Community, graceful_restart};
use crate::ParseError;
use crate::crd::{self, Aggregation, BGPConfiguration, BgpConfigurationSpec};
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
    /// `gracefulRestart.notifications`; none: as a peer's BFD says.
    pub restart_notifications: Option<bool>,
    /// `multipath` with `multipathRelax`, `maxPaths` and `linkBandwidth`.
    pub multipath: Multipath,
    /// `serviceClusterIPs`.
    pub service_cluster_ips: Vec<ServiceRange>,
    /// `serviceExternalIPs`.
    pub service_external_ips: Vec<ServiceRange>,
    /// `serviceLoadBalancerIPs`, with `serviceLoadBalancerAggregation`.
    pub service_load_balancer_ips: Vec<ServiceRange>,
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

/// A range of addresses of Services to announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRange {
    /// `cidr`, host bits cleared.
    pub cidr: IpNet,
    /// `aggregation` is Enabled: the range is announced as a whole.
    pub is_aggregated: bool,
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
            restart_notifications: None,
            multipath: Multipath::default(),
            service_cluster_ips: Vec::new(),
            service_external_ips: Vec::new(),
            service_load_balancer_ips: Vec::new(),
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
            restart_notifications: restart.notifications,
            multipath: multipath(&spec).map_err(wrong)?,
            service_cluster_ips: service_ranges(
                "serviceClusterIPs",
                spec.service_cluster_ips.as_ref(),
                None,
            )
            .map_err(wrong)?,
            service_external_ips: service_ranges(
                "serviceExternalIPs",
                spec.service_external_ips.as_ref(),
                None,
            )
            .map_err(wrong)?,
            service_load_balancer_ips: service_ranges(
                "serviceLoadBalancerIPs",
                spec.service_load_balancer_ips.as_ref(),
                spec.service_load_balancer_aggregation,
            )
            .map_err(wrong)?,
            prefix_advertisements: prefix_advertisements(&spec).map_err(wrong)?,
            install_routes: spec.install_routes.unwrap_or(defaults.install_routes),
        })
    }
}

fn service_ranges(
    field: &'static str,
    written: Option<&Vec<crd::ServiceRange>>,
    aggregation: Option<Aggregation>,
) -> Result<Vec<ServiceRange>, (&'static str, String)> {
    let written = written.map_or(&[][..], Vec::as_slice);
    if written.len() > MOST_ENTRIES {
        return Err((field, format!("has more than {MOST_ENTRIES} entries")));
    }
    let mut read: BTreeMap<IpNet, bool> = BTreeMap::new();
    for entry in written {
        let Ok(cidr) = entry.cidr.parse::<IpNet>() else {
            return Err((field, format!("has {:?}, which is no CIDR", entry.cidr)));
        };
        if cidr.prefix_len() == 0 {
            return Err((
                field,
                format!("has {cidr}: name the ranges that Services have"),
            ));
        }
        if let Some(reserved) = reserved_for_others(&cidr) {
            return Err((
                field,
                format!("has {cidr}, which holds {reserved} addresses"),
            ));
        }
        let aggregation = entry.aggregation.or(aggregation);
        let is_aggregated = aggregation != Some(Aggregation::Disabled);
        if read.insert(cidr.trunc(), is_aggregated).is_some() {
            return Err((field, format!("has {cidr} twice")));
        }
    }
    let ranges = read.into_iter();
    Ok(ranges
        .map(|(cidr, is_aggregated)| ServiceRange {
            cidr,
            is_aggregated,
        })
        .collect())
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
