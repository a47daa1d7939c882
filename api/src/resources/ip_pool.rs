//! IPPool: addresses for pods, and the blocks that nodes take of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::node::reserved_for_others;
use crate::crd::{AllowedUse, Encapsulation, IPPool};
use crate::metadata::Subject;
use crate::{ParseError, Selector};

const MOST_EXCEPTIONS: usize = 256;

/// An IPPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    /// Its name.
    pub name: String,
    /// `cidr`, host bits cleared.
    pub cidr: IpNet,
    /// `blockSize`: the prefix length of its blocks, not shorter than the CIDR's.
    pub block_size: u8,
    /// `encapsulation`.
    pub encapsulation: Encapsulation,
    /// `natOutgoing`.
    pub nat_outgoing: bool,
    /// `nonMasqueradeCIDRs`, host bits cleared, of the CIDR's family.
    pub non_masquerade_cidrs: BTreeSet<IpNet>,
    /// `nodeSelector`.
    pub node_selector: Selector,
    /// `allowedUses`.
    pub allowed_uses: BTreeSet<AllowedUse>,
    /// `layer2.interfaces`, if its addresses are answered for by ARP and neighbour discovery.
    pub layer2: Option<BTreeSet<String>>,
    /// `disabled`.
    pub disabled: bool,
}

impl IpPool {
    /// How many blocks there are.
    pub fn block_count(&self) -> u128 {
        // At most 128 - 0 bits: a CIDR that long is refused, as it holds reserved ranges.
        1 << (self.block_size - self.cidr.prefix_len())
    }

    /// The block of that number, counted from 0.
    pub fn block(&self, number: u128) -> Option<IpNet> {
        if number >= self.block_count() {
            return None;
        }
        let step = u32::from(self.cidr.max_prefix_len() - self.block_size);
        let block = match self.cidr {
            IpNet::V4(cidr) => {
                let number = u32::try_from(number).ok()?;
                let first = u32::from(cidr.network()) | number.checked_shl(step).unwrap_or(0);
                Ipv4Net::new(first.into(), self.block_size).ok()?.into()
            }
            IpNet::V6(cidr) => {
                let first = u128::from(cidr.network()) | number.checked_shl(step).unwrap_or(0);
                Ipv6Net::new(first.into(), self.block_size).ok()?.into()
            }
        };
        Some(block)
    }

    /// The number of the block that an address is in.
    pub fn block_number(&self, address: IpAddr) -> Option<u128> {
        if !self.cidr.contains(&address) {
            return None;
        }
        let step = u32::from(self.cidr.max_prefix_len() - self.block_size);
        let offset = match (self.cidr, address) {
            (IpNet::V4(cidr), IpAddr::V4(address)) => {
                u128::from(u32::from(address) - u32::from(cidr.network()))
            }
            (IpNet::V6(cidr), IpAddr::V6(address)) => {
                u128::from(address) - u128::from(cidr.network())
            }
            _ => return None,
        };
        Some(offset.checked_shr(step).unwrap_or(0))
    }

    /// Whether this is one of its blocks: inside of it, and of its block size.
    pub fn has_block(&self, cidr: &IpNet) -> bool {
        self.cidr.contains(cidr) && cidr.prefix_len() == self.block_size && *cidr == cidr.trunc()
    }

    /// Whether its addresses are for pods.
    pub fn is_for_pods(&self) -> bool {
        self.allowed_uses.contains(&AllowedUse::Workload)
    }

    /// Whether its addresses are for Services of type LoadBalancer.
    pub fn is_for_load_balancers(&self) -> bool {
        self.allowed_uses.contains(&AllowedUse::LoadBalancer)
    }

    /// Whether two pools have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.cidr.contains(&other.cidr) || other.cidr.contains(&self.cidr)
    }
}

impl TryFrom<IPPool> for IpPool {
    type Error = ParseError;

    fn try_from(pool: IPPool) -> Result<Self, ParseError> {
        let subject = Subject::cluster("IPPool", &pool.metadata)?;
        let spec = pool.spec;
        let wrong = |why| subject.error(why);
        let cidr = read_cidr(&spec.cidr).map_err(wrong)?;
        let selector = Selector::parse(&spec.node_selector)
            .map_err(|error| subject.error(format!("spec.nodeSelector {error}")))?;
        if spec.allowed_uses.is_empty() {
            return Err(subject
                .error("spec.allowedUses is empty: it names Workload, Tunnel or LoadBalancer"));
        }
        let allowed_uses: BTreeSet<_> = spec.allowed_uses.into_iter().collect();
        let layer2 = spec.layer2.map(|layer2| read_interfaces(layer2.interfaces));
        let layer2 = layer2.transpose().map_err(wrong)?;
        if layer2.is_some() && !allowed_uses.contains(&AllowedUse::LoadBalancer) {
            return Err(subject.error(
                "spec.layer2 is for addresses of Services: add LoadBalancer to spec.allowedUses",
            ));
        }
        Ok(Self {
            layer2,
            block_size: read_block_size(spec.block_size, &cidr).map_err(wrong)?,
            non_masquerade_cidrs: read_exceptions(&spec.non_masquerade_cidrs, &cidr)
                .map_err(wrong)?,
            cidr,
            encapsulation: spec.encapsulation,
            nat_outgoing: spec.nat_outgoing,
            node_selector: selector,
            allowed_uses,
            disabled: spec.disabled,
            name: subject.name().to_owned(),
        })
    }
}

fn read_cidr(text: &str) -> Result<IpNet, String> {
    let cidr: IpNet = text
        .parse()
        .map_err(|_| format!("spec.cidr: {text:?} is no CIDR"))?;
    match reserved_for_others(&cidr) {
        Some(reserved) => Err(format!("spec.cidr: {cidr} holds {reserved} addresses")),
        None => Ok(cidr.trunc()),
    }
}

fn read_exceptions(written: &[String], cidr: &IpNet) -> Result<BTreeSet<IpNet>, String> {
    if written.len() > MOST_EXCEPTIONS {
        return Err(format!(
            "spec.nonMasqueradeCIDRs has more than {MOST_EXCEPTIONS} entries"
        ));
    }
    let read = |text: &String| {
        let exception: IpNet = text
            .parse()
            .map_err(|_| format!("spec.nonMasqueradeCIDRs: {text:?} is no CIDR"))?;
        if exception.addr().is_ipv4() != cidr.addr().is_ipv4() {
            return Err(format!(
                "spec.nonMasqueradeCIDRs: {exception} is not of the family of {cidr}: write it into a pool of its family"
            ));
        }
        Ok(exception.trunc())
    };
    written.iter().map(read).collect()
}

fn read_interfaces(written: Vec<String>) -> Result<BTreeSet<String>, String> {
    const MOST: usize = 16;
    if written.len() > MOST {
        return Err(format!(
            "spec.layer2.interfaces has more than {MOST} entries"
        ));
    }
    // As dev_valid_name() of the kernel.
    let is_name = |name: &String| {
        let is_strange = |octet: u8| octet == b'/' || octet == b':' || !octet.is_ascii_graphic();
        (1..16).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.bytes().any(is_strange)
    };
    match written.iter().find(|name| !is_name(name)) {
        Some(name) => Err(format!(
            "spec.layer2.interfaces: {name:?} is no interface's name"
        )),
        None => Ok(written.into_iter().collect()),
    }
}

fn read_block_size(written: Option<u8>, cidr: &IpNet) -> Result<u8, String> {
    let (usual, shortest, longest) = match cidr.addr() {
        IpAddr::V4(_) => (26, 20, 32),
        IpAddr::V6(_) => (122, 116, 128),
    };
    let size = written.unwrap_or(usual);
    if !(shortest..=longest).contains(&size) {
        return Err(format!(
            "spec.blockSize: {size} is not from {shortest} to {longest}"
        ));
    }
    if size < cidr.prefix_len() {
        return Err(format!(
            "spec.blockSize: a block of /{size} is larger than {cidr}: set it to {} or more",
            cidr.prefix_len().max(shortest)
        ));
    }
    Ok(size)
}
