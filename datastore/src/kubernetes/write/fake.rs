//! For tests: an API server in memory with as much of its behaviour as writers meet, faults on order, and a log of all
//! that it was asked. In virtual time it answers at once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Key, NamespacedName};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube_client::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::kubernetes::{Connection, Facts, ObjectFacts};
use crate::refresh::{self, Refresher};

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) how: String,
    pub(crate) body: Value,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Refused with a status; with `Retry-After` of so many seconds if not 0.
    Refused(u16, u64),
    /// Never answered.
    Hang,
    /// Carried out, but the answer is lost.
    AnswerLost,
    /// Carried out so much later; who asked may have given up by then.
    Late(Duration),
    /// Before it is carried out someone else does this.
    Meanwhile(String, Value),
}

type When = Box<dyn Fn(&Asked) -> bool + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    faults: VecDeque<(When, Fault)>,
    away: bool,
    /// How long a read of all takes.
    reads_take: Duration,
    asked: Vec<Asked>,
    watchers: Vec<Watcher>,
    /// Paths of objects that are gone.
    gone: Vec<String>,
    /// Every state of two Services with one address.
    doubles: Vec<String>,
}

/// Someone who is told of changes, but not of those whose paths contain one of these texts.
struct Watcher {
    facts: Facts,
    lags_on: Vec<String>,
}

/// The server; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's connection, and its facts, told of every change from now on.
    pub(crate) fn connect(&self, node: &str) -> (Connection, Facts) {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().serve(request));
        let connection = Connection {
            client: kube_client::Client::new(service, "default"),
            node: node.to_owned(),
            namespace: "portolan".to_owned(),
        };
        let facts = Facts::new(node);
        let mut state = self.state();
        for (path, object) in &state.objects {
            tell(&facts, path, Some(object));
        }
        facts.set_whole();
        state.watchers.push(Watcher {
            facts: facts.clone(),
            lags_on: Vec::new(),
        });
        (connection, facts)
    }

    /// What asks for a read of all now, by whoever connected as the how manieth; and how often it was asked.
    pub(crate) fn refresher(&self, watcher: usize) -> (Refresher, Arc<AtomicUsize>) {
        let (refresher, mut requests) = refresh::channel_of_a_watch();
        let count = Arc::new(AtomicUsize::new(0));
        let (server, counter) = (self.clone(), count.clone());
        tokio::spawn(async move {
            while let Some(reply) = requests.recv().await {
                let takes = server.state().reads_take;
                tokio::time::sleep(takes).await;
                server.catch_up(watcher);
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(());
            }
        });
        (refresher, count)
    }

    /// From now on a watcher is not told of objects whose paths contain this.
    pub(crate) fn lag(&self, watcher: usize, part: &str) {
        let lags_on = &mut self.state().watchers[watcher].lags_on;
        lags_on.push(part.to_owned());
    }

    /// A watcher is told all that it was not told, and goes on as any other.
    pub(crate) fn catch_up(&self, watcher: usize) {
        let mut state = self.state();
        state.watchers[watcher].lags_on.clear();
        let facts = state.watchers[watcher].facts.clone();
        for path in &state.gone {
            if !state.objects.contains_key(path) {
                tell(&facts, path, None);
            }
        }
        for (path, object) in &state.objects {
            tell(&facts, path, Some(object));
        }
    }

    /// Every state in which two Services had one address.
    pub(crate) fn doubles(&self) -> Vec<String> {
        self.state().doubles.clone()
    }

    /// Puts an object at a path, whoever does it.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state().put(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state().remove(path);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// The next request of which `when` is true meets the fault.
    pub(crate) fn fail(&self, when: impl Fn(&Asked) -> bool + Send + 'static, fault: Fault) {
        self.state().faults.push_back((Box::new(when), fault));
    }

    /// Whether every connection is refused.
    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// How long a read of all takes from now on.
    pub(crate) fn set_reads_take(&self, takes: Duration) {
        self.state().reads_take = takes;
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The requests of a method to paths that contain a text.
    pub(crate) fn asked_of(&self, method: &Method, part: &str) -> Vec<Asked> {
        let asked = self.asked().into_iter();
        asked
            .filter(|asked| asked.method == *method && asked.path.contains(part))
            .collect()
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let how = head.headers.get(http::header::CONTENT_TYPE);
        let asked = Asked {
            at: Instant::now(),
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            how: how.map_or_else(String::new, |how| how.to_str().unwrap().to_owned()),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let (away, fault) = {
            let mut state = self.state();
            state.asked.push(asked.clone());
            let place = state.faults.iter().position(|(when, _)| when(&asked));
            let fault = place.and_then(|place| state.faults.remove(place));
            (state.away, fault.map(|(_, fault)| fault))
        };
        if away {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        match fault {
            Some(Fault::Refused(code, seconds)) => return Ok(refused(code, seconds)),
            Some(Fault::Hang) => tokio::time::sleep(Duration::from_secs(86_400)).await,
            Some(Fault::AnswerLost) => {
                let _ = self.state().answer(&asked);
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            Some(Fault::Late(by)) => {
                let (server, asked) = (self.clone(), asked.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    let _ = server.state().answer(&asked);
                });
                std::future::pending().await
            }
            Some(Fault::Meanwhile(path, object)) => self.state().put(&path, object),
            None => {}
        }
        let (code, body) = match self.state().answer(&asked) {
            Ok(object) => (200, object),
            Err((code, reason)) => (code, status(code, reason)),
        };
        Ok(answer(code, &body, None))
    }
}

fn refused(code: u16, seconds: u64) -> Response<Body> {
    // Of its own limit the server says so in plain words.
    let text = json!("Too many requests, please try again later.");
    answer(code, &text, (seconds > 0).then_some(seconds))
}

fn answer(code: u16, body: &Value, retry_after: Option<u64>) -> Response<Body> {
    let mut response = Response::builder().status(code);
    if let Some(seconds) = retry_after {
        response = response.header(http::header::RETRY_AFTER, seconds);
    }
    let body = Body::from(body.to_string().into_bytes());
    response.body(body).expect("a response")
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

type Answer = Result<Value, (u16, &'static str)>;

impl State {
    fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let before = self.objects.get(path);
        let old = |field: &str| before.and_then(|before| before["metadata"].get(field).cloned());
        let uid = old("uid").unwrap_or_else(|| json!(format!("uid-{}", self.version)));
        let generation = old("generation").and_then(|old| old.as_i64()).unwrap_or(0);
        let is_newer = before.is_none_or(|before| before.get("spec") != object.get("spec"));
        object["metadata"]["uid"] = uid;
        object["metadata"]["generation"] = json!(generation + i64::from(is_newer));
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        for watcher in &self.watchers {
            watcher.tell(path, Some(&object));
        }
        self.objects.insert(path.to_owned(), object);
        self.look_for_doubles();
    }

    fn look_for_doubles(&mut self) {
        let mut holders: BTreeMap<String, &str> = BTreeMap::new();
        for (path, object) in &self.objects {
            let points = object.pointer("/status/loadBalancer/ingress");
            for point in points.and_then(Value::as_array).into_iter().flatten() {
                let address = point["ip"].as_str().unwrap_or_default().to_owned();
                if let Some(other) = holders.insert(address.clone(), path) {
                    self.doubles.push(format!("{address}: {other} and {path}"));
                }
            }
        }
    }

    fn remove(&mut self, path: &str) {
        if self.objects.remove(path).is_some() {
            for watcher in &self.watchers {
                watcher.tell(path, None);
            }
            self.gone.push(path.to_owned());
        }
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let missing = (404, "NotFound");
        match asked.method {
            Method::GET => match self.objects.get(&asked.path) {
                Some(object) => Ok(object.clone()),
                None if asked.query.contains("fieldSelector") => Ok(self.list(asked)),
                None => Err(missing),
            },
            Method::POST => {
                let name = asked.body["metadata"]["name"].as_str().expect("a name");
                let mut path = asked.path.clone();
                write!(path, "/{name}").expect("a text");
                if self.objects.contains_key(&path) {
                    return Err((409, "AlreadyExists"));
                }
                self.put(&path, asked.body.clone());
                Ok(self.objects[&path].clone())
            }
            Method::PUT | Method::DELETE => {
                let present = self.objects.get(&asked.path).ok_or(missing)?;
                let wanted = match asked.method == Method::PUT {
                    true => &asked.body["metadata"],
                    false => &asked.body["preconditions"],
                };
                if wanted["resourceVersion"] != present["metadata"]["resourceVersion"] {
                    return Err((409, "Conflict"));
                }
                match asked.method == Method::PUT {
                    true => self.put(&asked.path, asked.body.clone()),
                    false => self.remove(&asked.path),
                }
                Ok(json!({}))
            }
            _ => self.patch(asked),
        }
    }

    fn patch(&mut self, asked: &Asked) -> Answer {
        assert!(asked.query.contains("fieldManager=portolan-"));
        assert!(!asked.query.contains("force"));
        let (path, is_status) = match asked.path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (asked.path.as_str(), false),
        };
        let is_apply = asked.how == "application/apply-patch+yaml";
        let Some(mut object) = self.objects.get(path).cloned() else {
            if is_apply && !is_status {
                self.put(path, asked.body.clone());
                return Ok(json!({}));
            }
            return Err((404, "NotFound"));
        };
        let version = &asked.body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return Err((409, "Conflict"));
        }
        match asked.how.as_str() {
            "application/json-patch+json" => json_patch(&mut object, &asked.body)?,
            "application/strategic-merge-patch+json" => {
                merge_conditions(&mut object, &asked.body);
                let balancer = asked.body.pointer("/status/loadBalancer/ingress");
                if let Some(points) = balancer {
                    object["status"]["loadBalancer"] = match points {
                        Value::Null => json!({}),
                        points => json!({"ingress": points}),
                    };
                }
            }
            _ if is_apply && !is_status => {
                object["metadata"]["ownerReferences"] =
                    asked.body["metadata"]["ownerReferences"].clone();
                object["spec"] = asked.body["spec"].clone();
            }
            _ if is_status => object["status"] = asked.body["status"].clone(),
            _ => object["series"] = asked.body["series"].clone(),
        }
        self.put(path, object);
        Ok(json!({}))
    }

    /// Nodes of a name, or Pods of a node.
    fn list(&self, asked: &Asked) -> Value {
        let (_, selector) = asked.query.split_once("fieldSelector=").expect("one");
        let selector = selector.split('&').next().expect("a part");
        let (field, wanted) = selector.split_once("%3D").expect("a value");
        let pointer = format!("/{}", field.replace('.', "/"));
        let (_, plural) = asked.path.rsplit_once('/').expect("a path");
        let is_of_kind = |path: &str| path.contains(&format!("/{plural}/"));
        let found = self.objects.iter().filter(|(path, object)| {
            let value = object.pointer(&pointer).and_then(Value::as_str);
            is_of_kind(path) && value == Some(wanted)
        });
        json!({"items": found.map(|(_, object)| object).collect::<Vec<_>>()})
    }
}

fn json_patch(object: &mut Value, patch: &Value) -> Result<(), (u16, &'static str)> {
    for operation in patch.as_array().expect("a list") {
        let path = operation["path"].as_str().expect("a pointer");
        match operation["op"].as_str().expect("an operation") {
            "test" if object.pointer(path) == Some(&operation["value"]) => {}
            "test" => return Err((422, "Invalid")),
            "remove" => {
                let (list, index) = path.rsplit_once('/').expect("an item of a list");
                let list = object.pointer_mut(list).and_then(Value::as_array_mut);
                list.expect("a list")
                    .remove(index.parse().expect("an index"));
            }
            other => panic!("{other} is not used"),
        }
    }
    Ok(())
}

fn merge_conditions(object: &mut Value, patch: &Value) {
    for new in patch["status"]["conditions"].as_array().expect("a list") {
        if object["status"]["conditions"].is_null() {
            object["status"]["conditions"] = json!([]);
        }
        let present = object["status"]["conditions"].as_array_mut().expect("one");
        if new["$patch"] == "delete" {
            present.retain(|old| old["type"] != new["type"]);
            continue;
        }
        let old = present.iter_mut().find(|old| old["type"] == new["type"]);
        let Some(old) = old else {
            present.push(new.clone());
            continue;
        };
        for (key, value) in new.as_object().expect("a condition") {
            old[key] = value.clone();
        }
    }
}

impl Watcher {
    fn tell(&self, path: &str, object: Option<&Value>) {
        if !self.lags_on.iter().any(|part| path.contains(part)) {
            tell(&self.facts, path, object);
        }
    }
}

/// As a watch would.
fn tell(facts: &Facts, path: &str, object: Option<&Value>) {
    let (collection, name) = path.rsplit_once('/').expect("a path");
    let (_, plural) = collection.rsplit_once('/').expect("a collection");
    let name = name.to_owned();
    let (key, kind) = match plural {
        "nodes" => (Key::Node(name), "Node"),
        "bgppeers" => (Key::BgpPeer(name), "BGPPeer"),
        "ipamblocks" => (Key::IpamBlock(name), "IPAMBlock"),
        "services" => {
            let (_, namespace) = collection
                .trim_end_matches("/services")
                .rsplit_once('/')
                .expect("one");
            (
                Key::Service(NamespacedName::new(namespace, name)),
                "Service",
            )
        }
        _ => return,
    };
    let read = |object: &Value| {
        let mut facts = ObjectFacts::read(kind, object.to_string().as_bytes());
        if let (Key::Service(_), Ok(Some((_, read)))) =
            (&key, api::parse(kind, "v1", object.clone()))
        {
            facts.set_read(&read);
        }
        facts
    };
    let told = object.map(read);
    facts.set(key, told);
}
