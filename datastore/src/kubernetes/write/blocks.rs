//! IPAMBlocks: claimed by making the object, which one node of many can, and given back by deleting just that object.

use api::ParseError;
use api::crd::IPAMBlock;
use api::resources::IpamBlock;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::calls::Calls;
use crate::Claim;
use crate::kubernetes::failure::Failure;

pub(crate) const PATH: &str = "/apis/portolan.io/v1alpha1/ipamblocks";

/// How often it is tried again when the object comes or goes meanwhile.
const TRIES: u32 = 4;

/// What came of giving a block back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is nobody's now.
    Done,
    /// It is another's, or nobody's that can be read: it stays.
    NotOurs(Option<String>),
}

/// Claims a block for a node.
pub(crate) async fn claim(calls: &Calls, node: &str, cidr: &IpNet) -> Result<Claim, Failure> {
    let block = IpamBlock {
        cidr: *cidr,
        node: node.to_owned(),
    };
    let manifest = json!(block.manifest());
    let mut tries = 1;
    loop {
        let made = calls.create::<Value>(PATH, &manifest).await;
        let Err(failure) = made else {
            return Ok(Claim::Ours);
        };
        if !failure.is_conflict() {
            return Err(failure);
        }
        // It may be ours: an earlier run's, or one whose answer was lost.
        match calls.get::<IPAMBlock>(&path_of(cidr)).await {
            Ok(present) => {
                let holder = holder(present);
                return Ok(match holder.as_deref() == Some(node) {
                    true => Claim::Ours,
                    false => Claim::Taken { node: holder },
                });
            }
            Err(failure) if failure.is_not_found() && tries < TRIES => tries += 1,
            Err(failure) => return Err(failure),
        }
    }
}

/// Gives back what a node holds. A block that is nobody's is given back already.
pub(crate) async fn release(calls: &Calls, node: &str, cidr: &IpNet) -> Result<Release, Failure> {
    let path = path_of(cidr);
    let mut tries = 1;
    loop {
        let present: IPAMBlock = match calls.get(&path).await {
            Err(failure) if failure.is_not_found() => return Ok(Release::Done),
            present => present?,
        };
        let metadata = present.metadata.clone();
        let holder = holder(present);
        if holder.as_deref() != Some(node) {
            return Ok(Release::NotOurs(holder));
        }
        let uid = metadata.uid.unwrap_or_default();
        let version = metadata.resource_version.unwrap_or_default();
        match calls.delete(&path, &uid, &version).await {
            Err(failure) if failure.is_not_found() => return Ok(Release::Done),
            Err(failure) if failure.is_conflict() && tries < TRIES => tries += 1,
            outcome => return outcome.map(|()| Release::Done),
        }
    }
}

fn path_of(cidr: &IpNet) -> String {
    format!("{PATH}/{}", IpamBlock::name_of(cidr))
}

/// Whose it is; an object that slipped through without saying it rightly is nobody's.
fn holder(present: IPAMBlock) -> Option<String> {
    let block: Result<IpamBlock, ParseError> = present.try_into();
    block.ok().map(|block| block.node)
}
