//! CNI GC: detaches all that the runtime does not name.

use std::collections::BTreeSet;

use cni_spec::socket::Request;
use cni_spec::{CniError, ErrorCode};
use ipam::Holder;
use tokio::sync::oneshot;

use super::server::Server;
use crate::message::Message;

impl Server {
    /// Detaches all that the runtime does not name.
    pub(super) async fn collect(&self, request: &Request) -> Result<(), CniError> {
        let Some(valid) = &request.config.valid_attachments else {
            return Err(CniError::new(
                ErrorCode::InvalidConfig,
                "GC without a list of valid attachments",
            )
            .details("cni.dev/valid-attachments is absent; an empty list would delete all"));
        };
        let keep: BTreeSet<Holder> = valid
            .iter()
            .map(|one| Holder {
                container_id: one.container_id.clone(),
                interface: one.ifname.clone(),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        let mut failures = Vec::new();
        for endpoint in self.ask(Message::Endpoints(reply), answer).await? {
            if keep.contains(&endpoint.holder) {
                continue;
            }
            let _entered = self.in_flight.enter(&endpoint.holder).await;
            if let Err(error) = self.delete(&endpoint.holder).await {
                failures.push(error.to_string());
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(CniError::new(ErrorCode::Failed, "not all was collected").details(failures.join("; ")))
    }
}
