//! Connections that become something else: websockets. Once both sides agree, octets pass and nobody reads them.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

use super::answer::Why;
use super::body::{Body, RequestBody};
use super::connection::Client;
use super::forward::{Exchange, respond};
use super::headers::{self, wanted_upgrade};
use super::log::Entry;

/// What a client wants its connection to become, and the connection.
pub(super) struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// Whether a request wants that.
pub(super) fn wanted(parts: &mut request::Parts) -> Option<Wanted> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let protocol = wanted_upgrade(&parts.headers)?;
    let client = parts.extensions.remove::<OnUpgrade>()?;
    Some(Wanted { protocol, client })
}

/// Asks an endpoint to become it too; if that says anything but 101, that is the answer.
pub(super) async fn ask(
    exchange: &Exchange<'_>,
    wanted: Wanted,
    entry: &mut Box<Entry>,
) -> Result<Response<Body>, Why> {
    let mut why = Why::Connect;
    let mut found = None;
    for endpoint in exchange.candidates()? {
        match exchange.local.pool.http1(endpoint, true).await {
            Ok(connection) => {
                entry.endpoint = Some(endpoint);
                found = Some(connection);
                break;
            }
            Err(failed) => why = failed,
        }
    }
    let connection = found.ok_or(why)?;
    let (mut sender, driver) = connection.into_parts();
    let driver = driver.ok_or(Why::Reset)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "an endpoint's connection ended");
        }
    });
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = exchange.parts.method.clone();
    if let Some(path) = exchange.parts.uri.path_and_query() {
        *request.uri_mut() = path.clone().into();
    }
    let mut headers = exchange.headers();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, wanted.protocol.clone());
    *request.headers_mut() = headers;
    let mut response = exchange
        .in_time(sender.send_request(request))
        .await?
        .map_err(|_| Why::Reset)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(respond(response, Body::other));
    }
    let endpoint = hyper::upgrade::on(&mut response);
    let agreed = response.headers().get(UPGRADE).cloned();
    let mut response = respond(response, |_| Body::empty());
    headers::of_response(response.headers_mut());
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, agreed.unwrap_or(wanted.protocol));
    exchange.local.numbers.tunnel();
    let idle = exchange.local.shared.limits.tunnel_idle;
    let mut told = Entry::new(
        exchange.local,
        exchange.client,
        exchange.id.clone(),
        exchange.parts,
    );
    std::mem::swap(&mut told, entry);
    told.status = StatusCode::SWITCHING_PROTOCOLS;
    told.head_after = told.began.elapsed();
    let client = exchange.client.clone();
    tokio::task::spawn_local(tunnel(client, wanted.client, endpoint, idle, told));
    Ok(response)
}

async fn tunnel(
    client: Rc<Client>,
    from: OnUpgrade,
    to: OnUpgrade,
    idle: Duration,
    mut entry: Box<Entry>,
) {
    let (Ok(from), Ok(to)) = tokio::join!(from, to) else {
        return;
    };
    let copied = tokio::select! {
        copied = copy(from, to) => copied,
        () = silence(&client, idle) => Err(io::ErrorKind::TimedOut.into()),
    };
    match copied {
        Ok((_, bytes)) => {
            entry.bytes = bytes;
            entry.is_whole = true;
        }
        Err(error) => tracing::debug!(%error, "a tunnel ended"),
    }
}

async fn copy(from: Upgraded, to: Upgraded) -> io::Result<(u64, u64)> {
    tokio::io::copy_bidirectional(&mut TokioIo::new(from), &mut TokioIo::new(to)).await
}

/// Returns when nothing has passed for so long.
async fn silence(client: &Client, idle: Duration) {
    loop {
        let quiet = client.watched.activity.quiet(Instant::now());
        let Some(left) = idle.checked_sub(quiet).filter(|left| !left.is_zero()) else {
            return;
        };
        sleep(left).await;
    }
}
