//! A gateway lost or found: groups that hold it are replaced at once, without a look at the routes that use them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::RouteTable;
use super::plan::{Plan, several};
use crate::intern::Id;
use crate::wire::Encoded;
use crate::{Gateway, Target};

/// What became of the routes when a gateway went down or came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repointed {
    /// Groups replaced in the kernel: their routes go by the other gateways already.
    pub groups: usize,
    /// Routes that hold their gateways themselves and wait for the next apply.
    pub waiting: usize,
}

impl RouteTable {
    /// Takes a gateway (behind one link, or wherever it is) out of every route that has another.
    ///
    /// Groups change at once; where there are none, the routes are dirty and an apply must follow.
    /// A route of this gateway alone stays until someone says otherwise, and so do routes all of
    /// whose gateways are down. The gateway counts as down until [`Self::handle_gateway_up`], or
    /// until no target names it any more.
    pub async fn handle_gateway_down(&mut self, gateway: IpAddr, link: Option<u32>) -> Repointed {
        self.down.insert((gateway, link));
        self.repoint(gateway).await
    }

    /// Lets a gateway serve again where it is desired.
    pub async fn handle_gateway_up(&mut self, gateway: IpAddr, link: Option<u32>) -> Repointed {
        self.down.remove(&(gateway, link));
        self.repoint(gateway).await
    }

    async fn repoint(&mut self, gateway: IpAddr) -> Repointed {
        let names = |target: &Target| {
            let gateways = several(target);
            gateways.len() > 1 && gateways.iter().any(|g| g.address == gateway)
        };
        let concerned: Vec<(Id, Vec<Gateway>)> = (self.targets.iter())
            .filter(|(_, target, state)| names(target) && matches!(state.plan, Plan::Shape(_)))
            .map(|(id, target, _)| (id, several(target).to_vec()))
            .collect();
        let (mut writes, mut changed) = (Vec::new(), BTreeSet::new());
        for (id, gateways) in concerned {
            let Ok(shape) = self.shape_of(id, &gateways, &mut writes) else {
                continue;
            };
            let shape = self.shapes.acquire(shape, Encoded::new);
            let before = self.targets.extra(id).and_then(|state| state.shape());
            if before == Some(shape) {
                self.shapes.release(shape);
                continue;
            }
            self.forget_plan(id);
            if let Some(state) = self.targets.extra_mut(id) {
                state.plan = Plan::Shape(shape);
            }
            changed.insert(id);
        }
        let is_group =
            |write: &&crate::nexthops::Write| matches!(write, crate::nexthops::Write::Group(..));
        let groups = writes.iter().filter(is_group).count();
        // Dropped at the await, or refused: the next apply reads first.
        let before = std::mem::replace(&mut self.uncertain, true);
        let refused = match self.write_nexthops(writes).await {
            Ok(refused) => refused.len(),
            Err(error) => {
                tracing::warn!(%error, gateway = %gateway, "groups can't be re-pointed");
                groups.max(1)
            }
        };
        self.uncertain = before || refused > 0;
        Repointed {
            groups: groups.saturating_sub(refused),
            waiting: self.mark_targets(&changed),
        }
    }

    fn mark_targets(&mut self, targets: &BTreeSet<Id>) -> usize {
        if targets.is_empty() {
            return 0;
        }
        let mut count = 0;
        for (prefix, entry) in &mut self.entries {
            if entry.desired.is_some_and(|id| targets.contains(&id)) {
                count += 1;
                if !std::mem::replace(&mut entry.dirty, true) {
                    self.dirty.push(*prefix);
                }
            }
        }
        count
    }
}
