//! CNI CHECK: whether an attachment still is as it was made.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use cni_spec::socket::Request;
use cni_spec::{CniError, ErrorCode};
use tokio::sync::oneshot;

use super::identity::{holder, pair};
use super::server::Server;
use crate::message::Message;

impl Server {
    pub(super) async fn check(
        &self,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), CniError> {
        let (_netns, netlink) = pair(descriptors)?;
        let wrong = |text: String| {
            CniError::new(
                ErrorCode::CheckFailed,
                "the attachment is not as it was made",
            )
            .details(text)
        };
        let (reply, answer) = oneshot::channel();
        let message = Message::Lookup {
            holder: holder(request),
            reply,
        };
        let Some(endpoint) = self.ask(message, answer).await? else {
            return Err(
                CniError::new(ErrorCode::UnknownContainer, "no such attachment")
                    .details(request.container_id.clone()),
            );
        };
        if let Some(previous) = request.config.previous_result()? {
            let held: BTreeSet<IpAddr> = endpoint.addresses.iter().copied().collect();
            // Of the chain's other plugins are other interfaces, and what they add to ours has no index of ours.
            let mut ours = previous.addresses_of(&endpoint.holder.interface);
            if let Some(other) = ours.find(|ip| !held.contains(ip)) {
                return Err(wrong(format!(
                    "prevResult has {other}, which this pod does not hold"
                )));
            }
        }
        let link = self.running_link(&endpoint);
        let problems = routes::check_pod_link(&link, netlink)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(wrong(problems.join("; ")))
        }
    }
}
