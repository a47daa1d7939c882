//! One watch a kind. What a list no longer has is gone; what cannot be understood stays as it was.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube_client::api::{ApiResource, DynamicObject};
use kube_client::{Api, Client};
use kube_runtime::WatchStreamExt as _;
use kube_runtime::watcher::{Config, Event, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::publish::{Publish, addresses_of};
use super::seen::Note;
use super::{Settings, Told, is};
use crate::objects::{Change, Key, parse};

/// Seconds after which a watch ends and goes on anew: a server that is away without a word is noticed by then.
const WATCH: u32 = 60;

/// Of Secrets those with a certificate alone leave the server.
const CERTIFICATES: &str = "type=kubernetes.io/tls";

/// Starts a watch of each kind, and what gathers them.
pub(super) fn start(
    client: &Client,
    settings: &Settings,
    told: &mpsc::Sender<Told>,
    notes: &mpsc::Sender<Note>,
) -> JoinSet<()> {
    let kinds = [
        (ApiResource::erase::<IngressClass>(&()), None),
        (ApiResource::erase::<Ingress>(&()), None),
        (ApiResource::erase::<Service>(&()), None),
        (ApiResource::erase::<EndpointSlice>(&()), None),
        (ApiResource::erase::<Secret>(&()), Some(CERTIFICATES)),
    ];
    let (listed_to, mut listed) = mpsc::channel(kinds.len());
    let mut tasks = JoinSet::new();
    let count = kinds.len();
    for (resource, fields) in kinds {
        let kind = Kind {
            resource: resource.clone(),
            manager: settings.lease.clone(),
            publish: settings.publish.clone(),
            known: BTreeSet::new(),
            listing: None,
            told: told.clone(),
            notes: notes.clone(),
            listed: Some(listed_to.clone()),
        };
        let mut config = Config::default().timeout(WATCH);
        config.field_selector = fields.map(str::to_owned);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        tasks.spawn(kind.follow(watcher(api, config).default_backoff()));
    }
    let told = told.clone();
    tasks.spawn(async move {
        for _ in 0..count {
            if listed.recv().await.is_none() {
                return;
            }
        }
        let _ = told.send(Told::InSync).await;
    });
    tasks
}

/// What is known of one kind.
struct Kind {
    resource: ApiResource,
    manager: String,
    publish: Publish,
    known: BTreeSet<Key>,
    /// While all is listed: what has come of it, by name and as changes.
    listing: Option<(BTreeSet<Key>, Vec<Change>)>,
    told: mpsc::Sender<Told>,
    notes: mpsc::Sender<Note>,
    /// Told once, when all has been listed.
    listed: Option<mpsc::Sender<()>>,
}

impl Kind {
    async fn follow(
        mut self,
        events: impl Stream<Item = kube_runtime::watcher::Result<Event<DynamicObject>>> + Send,
    ) {
        let mut events = pin!(events);
        let mut is_away = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if is_away {
                        debug!("{} are watched again", self.resource.plural);
                    }
                    is_away = false;
                    if self.handle(event).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    // Once: it tries again for as long as it takes, and what is known serves on.
                    if !is_away {
                        warn!("{} cannot be watched: {error}", self.resource.plural);
                    }
                    is_away = true;
                }
            }
        }
    }

    /// `None` when nobody listens any more.
    async fn handle(&mut self, event: Event<DynamicObject>) -> Option<()> {
        match event {
            Event::Init => self.listing = Some(Default::default()),
            Event::InitApply(raw) => {
                let change = self.read(raw).await;
                let listing = self.listing.get_or_insert_default();
                match change {
                    Ok(change) => {
                        let Change::Is(object) = &change else {
                            return Some(());
                        };
                        listing.0.insert(object.key());
                        listing.1.push(change);
                    }
                    // It is there, whatever it holds: what it was before counts.
                    Err(Some(key)) => _ = listing.0.insert(key),
                    Err(None) => {}
                }
            }
            Event::InitDone => {
                let (present, mut changes) = self.listing.take().unwrap_or_default();
                for gone in self.known.difference(&present) {
                    changes.push(Change::Gone(gone.clone()));
                }
                self.known = present;
                self.send(changes).await?;
                if let Some(listed) = self.listed.take() {
                    let _ = listed.send(()).await;
                }
            }
            Event::Apply(raw) => {
                if let Ok(change) = self.read(raw).await {
                    if let Change::Is(object) = &change {
                        self.known.insert(object.key());
                    }
                    self.send(vec![change]).await?;
                }
            }
            Event::Delete(raw) => {
                if let Some(key) = self.key(&raw) {
                    self.known.remove(&key);
                    self.send(vec![Change::Gone(key)]).await?;
                }
            }
        }
        Some(())
    }

    async fn send(&self, changes: Vec<Change>) -> Option<()> {
        for change in &changes {
            if let Change::Gone(key) = change {
                let note = Note::of_gone(key);
                if let Some(note) = note {
                    let _ = self.notes.send(note).await;
                }
                if let (Key::Service(name), Publish::Service(own)) = (key, &self.publish)
                    && name == own
                {
                    let _ = self.notes.send(Note::Published(Vec::new())).await;
                }
            }
        }
        self.told.send(Told::Changes(changes)).await.ok()
    }

    /// What an object is now; or its name, if it cannot be understood.
    async fn read(&self, raw: DynamicObject) -> Result<Change, Option<Key>> {
        let key = self.key(&raw);
        let value = serde_json::to_value(&raw).map_err(|_| key.clone())?;
        if let Publish::Service(own) = &self.publish
            && self.resource.kind == "Service"
            && is(
                own,
                raw.metadata.namespace.as_deref(),
                raw.metadata.name.as_deref(),
            )
        {
            let _ = self.notes.send(Note::Published(addresses_of(&value))).await;
        }
        match parse(&self.resource.kind, &self.resource.api_version, value) {
            Ok(Some(object)) => {
                if let Some(note) = Note::of(&object, &raw, &self.manager) {
                    let _ = self.notes.send(note).await;
                }
                Ok(Change::Is(object))
            }
            Ok(None) => Err(key),
            Err(error) => {
                warn!("{error}; what was known of it before counts");
                Err(key)
            }
        }
    }

    fn key(&self, raw: &DynamicObject) -> Option<Key> {
        let name = raw.metadata.name.clone()?;
        let namespaced = || {
            let namespace = raw.metadata.namespace.as_deref()?;
            Some(api::NamespacedName::new(namespace, &name))
        };
        Some(match self.resource.kind.as_str() {
            "IngressClass" => Key::IngressClass(name),
            "Ingress" => Key::Ingress(namespaced()?),
            "Service" => Key::Service(namespaced()?),
            "EndpointSlice" => Key::EndpointSlice(namespaced()?),
            "Secret" => Key::Secret(namespaced()?),
            _ => return None,
        })
    }
}
