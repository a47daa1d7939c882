//! An attachment's link as it is to be now: with the MTU in force.

use std::net::IpAddr;

use routes::{PodLink, PodLinkState};
use tracing::warn;

use super::identity::pod_link;
use super::server::Server;
use crate::core::Endpoint;

impl Server {
    /// The link of an attachment that is being made.
    pub(super) fn new_link(&self, endpoint: &Endpoint) -> PodLink {
        PodLink {
            mtu: self.mtus.borrow().of_new(has_v6(endpoint)),
            ..pod_link(endpoint)
        }
    }

    /// The link of an attachment that is there.
    pub(super) fn running_link(&self, endpoint: &Endpoint) -> PodLink {
        let mtus = self.mtus.borrow();
        PodLink {
            mtu: mtus.of_running(&endpoint.interface, has_v6(endpoint)),
            ..pod_link(endpoint)
        }
    }

    /// Changes a link whose MTU has changed while it was being made: until it is up, those who follow pass it by.
    pub(super) async fn with_mtu_of_now(
        &self,
        endpoint: &Endpoint,
        made: PodLinkState,
    ) -> PodLinkState {
        let wanted = self.mtus.borrow().of_new(has_v6(endpoint));
        let Some(mtu) = wanted.filter(|mtu| *mtu != made.mtu) else {
            return made;
        };
        let outcomes = routes::set_pod_mtus(mtu).await;
        let own = outcomes.map(|all| {
            let mut own = all.into_iter();
            own.find(|one| one.host_interface == endpoint.interface)
        });
        match own {
            Ok(Some(one)) if one.outcome.is_err() => {
                warn!(interface = endpoint.interface, why = ?one.outcome, "the MTU changed meanwhile; this pod keeps the earlier");
                made
            }
            Err(error) => {
                warn!(interface = endpoint.interface, %error, "the MTU changed meanwhile; this pod keeps the earlier");
                made
            }
            Ok(_) => PodLinkState { mtu, ..made },
        }
    }
}

fn has_v6(endpoint: &Endpoint) -> bool {
    endpoint.addresses.iter().any(IpAddr::is_ipv6)
}
