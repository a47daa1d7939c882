//! The CNI socket's server: one request a connection, and what a failure takes back.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cni_spec::socket::{PENDING_DELETIONS, Request, Response};
use cni_spec::{CniError, Command, ErrorCode};
use ipam::Holder;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use super::identity::holder;
use super::in_flight::{Entered, InFlight};
use super::pod::Pods;
use super::socket;
use crate::ipam::Reclaimed;
use crate::message::Message;
use crate::mtu::PodMtus;
use crate::{conntrack, firewall, routing};

/// Answers the plugin; cheap to clone, one a connection.
#[derive(Clone)]
pub(crate) struct Server {
    pub(super) core: mpsc::Sender<Message>,
    pub(super) firewall: watch::Receiver<firewall::Applied>,
    pub(super) routing: watch::Receiver<routing::Applied>,
    pub(super) cut: watch::Receiver<conntrack::Cut>,
    pub(super) mtus: watch::Receiver<PodMtus>,
    /// Who is asked for a pod that is not known; none where no API server is.
    pub(super) pods: Option<Pods>,
    pub(super) pending: PathBuf,
    pub(super) in_flight: InFlight,
    /// What was taken back without a runtime's word.
    pub(crate) reclaimed: watch::Sender<Reclaimed>,
}

impl Server {
    /// Makes the server; `state_dir` is where the plugin leaves deletions that no agent was there to take.
    pub(crate) fn new(
        core: mpsc::Sender<Message>,
        firewall: watch::Receiver<firewall::Applied>,
        routing: watch::Receiver<routing::Applied>,
        cut: watch::Receiver<conntrack::Cut>,
        mtus: watch::Receiver<PodMtus>,
        state_dir: &std::path::Path,
    ) -> Self {
        Self {
            core,
            firewall,
            routing,
            cut,
            mtus,
            pods: None,
            pending: state_dir.join(PENDING_DELETIONS),
            in_flight: InFlight::default(),
            reclaimed: watch::Sender::default(),
        }
    }

    /// Reads pods that are not known from here.
    pub(crate) fn with_pods(self, pods: Option<Pods>) -> Self {
        Self { pods, ..self }
    }

    /// Serves one connection.
    pub(crate) async fn serve(self, stream: UnixStream) {
        let (stream, request, descriptors) = match socket::receive(stream).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "a CNI request could not be read");
                return;
            }
        };
        let command = request.command;
        let holder = holder(&request);
        let entered = match command {
            Command::Add | Command::Del | Command::Check => {
                Some(self.in_flight.enter(&holder).await)
            }
            Command::Gc | Command::Status => None,
        };
        if socket::is_left(&stream) {
            // Its runtime was told of a failure and may have gone on: this would hit what came after it.
            debug!(?command, "a CNI request whose plugin is gone");
            return;
        }
        let response = match self.answer(request, descriptors).await {
            Ok(response) => response,
            // The plugin does what it does without an agent: a DEL waits on disk for the next one.
            Err(_) if self.core.is_closed() => return,
            Err(error) => {
                warn!(?command, %error, "CNI");
                Response::Error(error)
            }
        };
        let attached = matches!(response, Response::Result(_));
        if let Err(error) = socket::send(stream, response).await {
            warn!(%error, "a CNI answer could not be sent");
            // A plugin that gave up has told the runtime of a failure: the pod will not be used.
            if attached && let Err(error) = self.delete(&holder).await {
                warn!(%error, "an ADD that nobody waits for could not be rolled back; DEL will");
            }
        }
        drop(entered);
    }

    pub(super) async fn answer(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Response, CniError> {
        match request.command {
            Command::Add => self.add(&request, descriptors).await.map(Response::Result),
            Command::Del => self
                .delete(&holder(&request))
                .await
                .map(|()| Response::Done),
            Command::Check => self
                .check(&request, descriptors)
                .await
                .map(|()| Response::Done),
            Command::Gc => self.collect(&request).await.map(|()| Response::Done),
            Command::Status => self.status(&request).await.map(|()| Response::Done),
        }
    }

    /// Waits until no other request is about an attachment.
    pub(crate) async fn enter(&self, holder: &Holder) -> Entered {
        self.in_flight.enter(holder).await
    }

    /// Whether a request is about an attachment now.
    pub(crate) fn is_busy(&self, holder: &Holder) -> bool {
        self.in_flight.is_busy(holder)
    }

    /// Waits until the sources were in sync and what they said is in force: only then is it known who is there.
    ///
    /// # Errors
    /// If the agent stops.
    pub(crate) async fn wait_in_force(&self) -> Result<(), watch::error::RecvError> {
        let mut firewall = self.firewall.clone();
        firewall.wait_for(|state| state.generation > 0).await?;
        let mut routing = self.routing.clone();
        routing.wait_for(|state| state.generation > 0).await?;
        Ok(())
    }

    pub(crate) async fn ask<T>(
        &self,
        message: Message,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, CniError> {
        let stopping = || CniError::new(ErrorCode::TryAgainLater, "the agent is stopping");
        self.core.send(message).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}
