//! A small HTTP server with the collections of a [`Store`]: lists in pages, watches, streamed lists, bookmarks, faults.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::store::{Asked, Fault, Store};

pub(crate) struct Server {
    pub(crate) store: Arc<Store>,
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let store = Arc::new(Store::new());
        let served = Arc::clone(&store);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is what some tests are about.
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        Self { store, port, task }
    }
}

/// One request a connection: the client opens another.
async fn serve(stream: TcpStream, store: Arc<Store>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        if header.trim().is_empty() {
            break;
        }
    }
    let mut stream = stream.into_inner();
    let target = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let asked = parse(&target);
    let collection = asked.collection.clone();
    let (fault, is_away, is_absent) = store.with(|state| {
        state.asked.push(asked.clone());
        let faults = state.faults.get_mut(&collection);
        let fault = faults.and_then(std::collections::VecDeque::pop_front);
        let is_absent = state.absent.contains(&collection);
        (fault, state.is_away, is_absent)
    });
    if is_away || matches!(fault, Some(Fault::Reset)) {
        // Unread or unsent: the kernel answers with RST.
        stream.set_zero_linger()?;
        return Ok(());
    }
    match fault {
        Some(Fault::Status(code, retry_after)) => refuse(&mut stream, code, retry_after).await,
        _ if is_absent => refuse(&mut stream, 404, None).await,
        fault if asked.has("watch") => watch(&mut stream, &store, &asked, fault).await,
        fault => list(&mut stream, &store, &asked, fault).await,
    }
}

fn parse(target: &str) -> Asked {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Asked {
        collection: path.rsplit('/').next().unwrap_or_default().to_owned(),
        query: pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<HashMap<_, _>>(),
        at: std::time::Instant::now(),
    }
}

async fn refuse(stream: &mut TcpStream, code: u16, retry_after: Option<u64>) -> io::Result<()> {
    let reason = match code {
        404 => "NotFound",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let text = json!({"kind": "Status", "code": code, "reason": reason, "message": format!("the test says {code}")})
        .to_string();
    let retry =
        retry_after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {code} X\r\n{retry}Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await
}

async fn begin(stream: &mut TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await
}

async fn chunk(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let text = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(text.as_bytes()).await
}

async fn end(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"0\r\n\r\n").await
}

fn objects(store: &Store, collection: &str) -> (u64, Vec<Value>) {
    store.read(|state| {
        let all = state.objects.iter();
        let of_kind = all.filter(|((kind, _), _)| kind == collection);
        (
            state.version,
            of_kind.map(|(_, object)| object.clone()).collect(),
        )
    })
}

async fn list(
    stream: &mut TcpStream,
    store: &Store,
    asked: &Asked,
    fault: Option<Fault>,
) -> io::Result<()> {
    let (now, objects) = objects(store, &asked.collection);
    let (compacted, bound) = store.read(|state| (state.compacted, state.page_bound));
    // A token says at which version its list began, and what its last object was.
    let token = asked.get("continue").split_once('-');
    let (version, from) = match token {
        Some((version, from)) => (version.parse().unwrap(), from),
        None => (now, ""),
    };
    if version < compacted {
        return refuse(stream, 410, None).await;
    }
    let limit: usize = asked.get("limit").parse().unwrap_or(usize::MAX);
    let mut rest = objects.iter().filter(|object| field(object, "name") > from);
    let page: Vec<&Value> = rest.by_ref().take(limit.min(bound)).collect();
    let next = match (rest.next(), page.last()) {
        (Some(_), Some(last)) => format!("{version}-{}", field(last, "name")),
        _ => String::new(),
    };
    begin(stream).await?;
    let metadata = json!({"resourceVersion": version.to_string(), "continue": next});
    chunk(
        stream,
        &format!("{{\"kind\":\"List\",\"metadata\":{metadata},\"items\":["),
    )
    .await?;
    for (index, object) in page.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let text = format!("{comma}{object}");
        if matches!(fault, Some(Fault::CutAfter(count)) if count == index) {
            chunk(stream, &text[..text.len() / 2]).await?;
            return stream.set_zero_linger();
        }
        chunk(stream, &text).await?;
    }
    chunk(stream, "]}\n").await?;
    end(stream).await
}

fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap()
}

fn event(type_: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": type_, "object": object}))
}

async fn watch(
    stream: &mut TcpStream,
    store: &Store,
    asked: &Asked,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut changes = store.changes();
    let ends = store.read(|state| state.ends);
    let mut at: u64 = asked.get("resourceVersion").parse().unwrap_or(0);
    if asked.has("sendInitialEvents") {
        if !store.read(|state| state.streams_lists) {
            return refuse(stream, 422, None).await;
        }
        begin(stream).await?;
        let (version, objects) = objects(store, &asked.collection);
        for (index, object) in objects.iter().enumerate() {
            let text = event("ADDED", object);
            if matches!(fault, Some(Fault::CutAfter(count)) if count == index) {
                chunk(stream, &text[..text.len() / 2]).await?;
                return stream.set_zero_linger();
            }
            chunk(stream, &text).await?;
        }
        if matches!(fault, Some(Fault::CutAfter(_))) {
            return end(stream).await;
        }
        let mark = json!({"metadata": {"resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
        chunk(stream, &event("BOOKMARK", &mark)).await?;
        at = version;
    } else {
        begin(stream).await?;
    }
    match fault {
        Some(Fault::Garbage) => return chunk(stream, "{\"type\":\"ADDED\",\"obj\n").await,
        Some(Fault::ExpiredInWatch) => at = 0,
        _ => {}
    }
    let began = std::time::Instant::now();
    let is_short = asked.get("timeoutSeconds").parse::<u64>().unwrap_or(0) <= 10;
    loop {
        let (compacted, version, is_over, news) = store.read(|state| {
            let news = state.log.iter().filter(|(version, _, collection, _)| {
                *version > at && *collection == asked.collection
            });
            let news: Vec<String> = news
                .map(|(_, type_, _, object)| event(type_, object))
                .collect();
            let is_over = state.is_away || state.ends != ends;
            (state.compacted, state.version, is_over, news)
        });
        if at < compacted || (at == 0 && matches!(fault, Some(Fault::ExpiredInWatch))) {
            let expired = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            chunk(stream, &event("ERROR", &expired)).await?;
            return end(stream).await;
        }
        for text in &news {
            chunk(stream, text).await?;
        }
        at = version;
        if is_over {
            return end(stream).await;
        }
        if is_short
            && store.read(|state| state.sends_bookmarks)
            && began.elapsed().as_millis() > 200
        {
            let mark = json!({"metadata": {"resourceVersion": version.to_string()}});
            chunk(stream, &event("BOOKMARK", &mark)).await?;
            return end(stream).await;
        }
        let wait = std::time::Duration::from_millis(250);
        // Whichever comes first: a change, or time to look whether the watch is over.
        let _ = tokio::time::timeout(wait, changes.changed()).await;
    }
}
