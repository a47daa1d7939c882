//! Carries out what the election says, and tells whether this replica may write.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube_client::api::PostParams;
use kube_client::{Api, Client};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Settings;
use super::election::{Election, Step};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);

pub(super) struct Holder {
    api: Api<Lease>,
    name: String,
    election: Election,
    was_leader: bool,
}

impl Holder {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            name: settings.lease.clone(),
            election: Election::new(&settings.namespace, &settings.lease, &settings.identity),
            was_leader: false,
        }
    }

    /// Whether this replica may write now.
    pub(super) fn is_leader(&self) -> bool {
        self.election.is_leader(Instant::now())
    }

    /// Takes, keeps or waits for the Lease: one look.
    pub(super) async fn look(&mut self) {
        if let Err(why) = self.try_look().await {
            // Those who serve need no leader.
            debug!("the Lease {}: {why}", self.name);
        }
        let is_leader = self.is_leader();
        if is_leader != self.was_leader {
            self.was_leader = is_leader;
            info!(is_leader, "Lease {}", self.name);
        }
    }

    async fn try_look(&mut self) -> Result<(), String> {
        let asked = Instant::now();
        let present = within(self.api.get_opt(&self.name)).await?;
        let step = self
            .election
            .handle_read(present, Instant::now(), Timestamp::now());
        let to = PostParams::default();
        let written = match &step {
            Step::Wait => return Ok(()),
            Step::Create(lease) => within(self.api.create(&to, lease)).await,
            Step::Replace(lease) => within(self.api.replace(&self.name, &to, lease)).await,
        };
        match written {
            Ok(_) => {
                self.election.handle_taken(asked);
                Ok(())
            }
            Err(why) => {
                self.election.handle_refused();
                Err(why)
            }
        }
    }

    /// Gives it back, if it is ours.
    pub(super) async fn release(&mut self) {
        if !self.was_leader {
            return;
        }
        let given = async {
            let present = within(self.api.get(&self.name)).await?;
            match self.election.release(present) {
                Some(free) => {
                    let to = PostParams::default();
                    within(self.api.replace(&self.name, &to, &free))
                        .await
                        .map(drop)
                }
                None => Ok(()),
            }
        };
        if let Err(why) = given.await {
            warn!(
                "the Lease {} is not given back, and ends by itself: {why}",
                self.name
            );
        }
    }
}

async fn within<T>(request: impl Future<Output = kube_client::Result<T>>) -> Result<T, String> {
    match timeout(REQUEST, request).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {REQUEST:?}")),
    }
}
