//! What goes on in a fleet: pods come and go, kubelets say that they are well, and Leases are renewed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ::tests::netns::Netns;
use ::tests::wait::pause;
use anyhow::{Context as _, Result, ensure};
use kube_client::client::Body;
use kube_client::config::{KubeConfigOptions, Kubeconfig};
use kube_client::{Client, Config};
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::objects::{self, Size};

/// Pods that come, and as many that go.
pub(super) const PER_SECOND: usize = 50;
/// One of so many is a peer of a policy of ours.
const SELECTED: usize = 5;
/// So long a pod lives.
const LIFE: Duration = Duration::from_secs(8);
/// Kubelets say so often how they are.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// And so often renew their Lease.
const RENEWAL: Duration = Duration::from_secs(10);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Pods made, given an address, and deleted.
    pub(super) pods: usize,
    pub(super) heartbeats: usize,
    pub(super) renewals: usize,
}

/// A pod that our node's policies select has an address.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) address: Ipv4Addr,
    /// When that was asked of the API server.
    pub(super) since: Instant,
    /// Whether it has been deleted.
    pub(super) is_gone: Arc<AtomicBool>,
}

/// Who changes the fleet: through the API server, but for Leases.
#[derive(Debug)]
pub(super) struct Changer<'a> {
    pub(super) outside: &'a Netns,
    pub(super) kubeconfig: &'a Path,
    pub(super) etcd: SocketAddr,
    pub(super) size: Size,
    /// Numbers of pods that were used up.
    pub(super) used: &'a AtomicUsize,
}

impl Changer<'_> {
    /// Goes on for so long, and until the last pod is gone. Tells of those that are selected.
    pub(super) fn run(&self, lasts: Duration, tell: &mpsc::Sender<Selected>) -> Result<Done> {
        let is_over = AtomicBool::new(false);
        self.outside.inside(|| {
            std::thread::scope(|scope| {
                let renewals = scope.spawn(|| self.renew(&is_over));
                let done = self.churn(lasts, tell);
                is_over.store(true, Ordering::Relaxed);
                let renewals = renewals
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(Done { renewals, ..done? })
            })
        })?
    }

    /// Makes one pod that is selected, and leaves it.
    pub(super) fn make_selected(&self) -> Result<Ipv4Addr> {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        let (tell, _told) = mpsc::channel();
        self.outside.inside(|| {
            runtime()?.block_on(async {
                let api = Api::open(self.kubeconfig).await?;
                let pod = Pod::new(number, true, self.size);
                pod.make(&api, &tell).await?;
                Ok(pod.address)
            })
        })?
    }

    fn churn(&self, lasts: Duration, tell: &mpsc::Sender<Selected>) -> Result<Done> {
        runtime()?.block_on(async {
            let api = Arc::new(Api::open(self.kubeconfig).await?);
            let beats = beat(&api, self.size, lasts);
            let pods = self.pods(&api, lasts, tell);
            let (heartbeats, pods) = tokio::try_join!(beats, pods)?;
            Ok(Done {
                pods,
                heartbeats,
                renewals: 0,
            })
        })
    }

    async fn pods(
        &self,
        api: &Arc<Api>,
        lasts: Duration,
        tell: &mpsc::Sender<Selected>,
    ) -> Result<usize> {
        let mut lives = tokio::task::JoinSet::new();
        let mut due = tokio::time::interval(Duration::from_secs(1) / PER_SECOND as u32);
        for turn in 0..lasts.as_secs() as usize * PER_SECOND {
            due.tick().await;
            let number = self.used.fetch_add(1, Ordering::Relaxed);
            let pod = Pod::new(number, turn % SELECTED == 0, self.size);
            let (api, tell) = (Arc::clone(api), tell.clone());
            lives.spawn(async move {
                pod.make(&api, &tell).await?;
                tokio::time::sleep(LIFE).await;
                pod.delete(&api).await
            });
        }
        let mut pods = 0;
        while let Some(life) = lives.join_next().await {
            life??;
            pods += 1;
        }
        Ok(pods)
    }

    /// Leases go into etcd as they are: that they cost the API server a write is no news, and readers see only that they change.
    fn renew(&self, is_over: &AtomicBool) -> Result<usize> {
        let mut etcd = Etcd::connect(self.etcd)?;
        let step = Duration::from_millis(200);
        let part = (self.size.nodes as f64 * step.as_secs_f64() / RENEWAL.as_secs_f64()) as usize;
        let (mut next, mut count) = (0, 0);
        while !is_over.load(Ordering::Relaxed) {
            let now = format!("2026-11-22T00:00:00.{count:06}Z");
            let nodes = (next..next + part.max(1)).map(|number| 1 + number % self.size.nodes);
            count += etcd.put(nodes.map(|number| objects::lease(number, &now)))?;
            next += part.max(1);
            pause(step)?;
        }
        Ok(count)
    }
}

/// Kubelets in turn, each in its five minutes.
async fn beat(api: &Arc<Api>, size: Size, lasts: Duration) -> Result<usize> {
    let mut due = tokio::time::interval(HEARTBEAT / size.nodes as u32);
    let end = Instant::now() + lasts;
    let mut count = 0;
    while Instant::now() < end {
        due.tick().await;
        count += 1;
        let name = objects::node_name(2 + count % (size.nodes - 1));
        let now = format!("2026-11-22T00:{:02}:{:02}Z", count / 60 % 60, count % 60);
        let status = json!({"status": {"conditions": objects::node_conditions(&now)}});
        let path = format!("/api/v1/nodes/{name}/status");
        api.send(http::Method::PATCH, &path, &status).await?;
    }
    Ok(count)
}

/// A pod that comes and goes.
struct Pod {
    namespace: String,
    name: String,
    node: usize,
    is_selected: bool,
    address: Ipv4Addr,
    addresses: [String; 2],
    is_gone: Arc<AtomicBool>,
}

impl Pod {
    fn new(number: usize, is_selected: bool, size: Size) -> Self {
        let node = 2 + number % (size.nodes - 1);
        let addresses = objects::spare_addresses(node, number / (size.nodes - 1));
        Self {
            namespace: objects::namespace_name(number),
            name: format!("churn-5d4f7c9b8-{number:05x}"),
            node,
            is_selected,
            is_gone: Arc::default(),
            address: addresses.0,
            addresses: [addresses.0.to_string(), addresses.1.to_string()],
        }
    }

    async fn make(&self, api: &Api, tell: &mpsc::Sender<Selected>) -> Result<()> {
        let word = if self.is_selected { "selected" } else { "not" };
        let labels = json!({"app": "churn", "tier": "batch", "pod-template-hash": "5d4f7c9b8", "churn": word});
        let node = objects::node_name(self.node);
        let object = objects::pod_object(&self.namespace, &self.name, &labels, &node);
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        api.send(http::Method::POST, &path, &object).await?;
        let address = objects::node_address(self.node).to_string();
        let status = json!({"status": objects::pod_status(&self.name, &address, &self.addresses)});
        if self.is_selected {
            // Who isn't asked for when nobody listens.
            let _ = tell.send(Selected {
                address: self.address,
                since: Instant::now(),
                is_gone: Arc::clone(&self.is_gone),
            });
        }
        let path = format!("{path}/{}/status", self.name);
        api.send(http::Method::PATCH, &path, &status).await
    }

    async fn delete(&self, api: &Api) -> Result<()> {
        self.is_gone.store(true, Ordering::Relaxed);
        let path = format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name);
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        api.send(http::Method::DELETE, &path, &options).await
    }
}

/// The API server as an administrator speaks to it.
struct Api(Client);

impl Api {
    async fn open(kubeconfig: &Path) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self(Client::try_from(config)?))
    }

    async fn send(&self, method: http::Method, path: &str, body: &Value) -> Result<()> {
        let kind = match method {
            http::Method::PATCH => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        // Names are new: what is there already was made by a try whose answer was lost.
        let is_made = |status: http::StatusCode| {
            method == http::Method::POST && status == http::StatusCode::CONFLICT
        };
        let request = http::Request::builder()
            .method(&method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(Body::from(body.to_string().into_bytes()))?;
        let answer = self
            .0
            .send(request)
            .await
            .with_context(|| path.to_owned())?;
        let status = answer.status();
        let text = answer.into_body().collect_bytes().await?;
        ensure!(
            status.is_success() || is_made(status),
            "{path}: {status}: {}",
            String::from_utf8_lossy(&text)
        );
        Ok(())
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}
