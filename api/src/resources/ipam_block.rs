//! IPAMBlock: which node gives out the addresses of one block of a pool.

use ipnet::IpNet;

use crate::ParseError;
use crate::crd::{IPAMBlock, IpamBlockSpec};
use crate::metadata::{Subject, is_dns_subdomain};

/// An IPAMBlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamBlock {
    /// The block, host bits cleared.
    pub cidr: IpNet,
    /// The node that has claimed it.
    pub node: String,
}

impl IpamBlock {
    /// The object's name. It follows from the CIDR alone (another CIDR has another one) and is a DNS-1123 label:
    /// `10-1-2-0-26`, `fd00--40-122`.
    pub fn name(&self) -> String {
        Self::name_of(&self.cidr)
    }

    /// The name of a block's object.
    pub fn name_of(cidr: &IpNet) -> String {
        let name = cidr.to_string().replace(['.', ':', '/'], "-");
        // A label begins with no dash, and no address is written with a zero before `::`.
        match name.strip_prefix('-') {
            Some(_) => format!("0{name}"),
            None => name,
        }
    }

    /// As it is written.
    pub fn manifest(&self) -> IPAMBlock {
        let spec = IpamBlockSpec {
            cidr: self.cidr.to_string(),
            node: self.node.clone(),
        };
        IPAMBlock::new(&self.name(), spec)
    }
}

impl TryFrom<IPAMBlock> for IpamBlock {
    type Error = ParseError;

    fn try_from(block: IPAMBlock) -> Result<Self, ParseError> {
        let subject = Subject::cluster("IPAMBlock", &block.metadata)?;
        let spec = block.spec;
        let cidr = spec.cidr.parse::<IpNet>().ok();
        let Some(cidr) = cidr.filter(|cidr| *cidr == cidr.trunc()) else {
            return Err(subject.error(format!("spec.cidr: {:?} is no block", spec.cidr)));
        };
        let name = Self::name_of(&cidr);
        if subject.name() != name {
            return Err(subject.error(format!("the block {cidr} is called {name}")));
        }
        if !is_dns_subdomain(&spec.node) {
            return Err(subject.error(format!("spec.node: {:?} is no node's name", spec.node)));
        }
        Ok(Self {
            cidr,
            node: spec.node,
        })
    }
}
