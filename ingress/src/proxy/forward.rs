//! A request to an endpoint, and its response back: who is asked, how often, and what is answered when nobody is there.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, request};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Sleep, sleep_until};

use super::answer::{Why, redirect};
use super::body::{Body, Leased, Progress, RequestBody};
use super::connection::Client;
use super::log::Entry;
use super::pool::Connection;
use super::request::Target;
use super::worker::Local;
use super::{h2c, headers, upgrade};
use crate::table::{BackendProtocol, Route};

/// A request and all that is known of it.
pub(super) struct Exchange<'a> {
    pub(super) local: &'a Rc<Local>,
    pub(super) client: &'a Rc<Client>,
    pub(super) parts: &'a request::Parts,
    pub(super) target: &'a Target<'a>,
    pub(super) route: &'a Arc<Route>,
    pub(super) id: &'a HeaderValue,
    pub(super) progress: Option<Rc<Progress>>,
}

/// Answers a request: never an error, for then the connection would end without a word.
pub(super) async fn answer(
    local: Rc<Local>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let id = local.request_id();
    let mut entry = Entry::new(&local, &client, id.clone(), &parts);
    let asked = Asked {
        upgrade: upgrade::wanted(&mut parts),
        parts,
        body,
    };
    let outcome = route(&local, &client, asked, &id, &mut entry).await;
    let mut response = outcome.unwrap_or_else(|why| {
        entry.why = Some(why);
        why.response(&id)
    });
    entry.status = response.status();
    entry.head_after = entry.began.elapsed();
    // A tunnel's entry is with the tunnel.
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        // A connection that is closed later, at the very moment of a request, would cost that request (RFC 9112 §9.6).
        if entry.version < Version::HTTP_2 && local.shared.is_leaving.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response.body_mut().entry = Some(entry);
    }
    Ok(response)
}

/// A request in parts.
struct Asked {
    parts: request::Parts,
    body: Incoming,
    upgrade: Option<upgrade::Wanted>,
}

async fn route(
    local: &Rc<Local>,
    client: &Rc<Client>,
    asked: Asked,
    id: &HeaderValue,
    entry: &mut Box<Entry>,
) -> Result<Response<Body>, Why> {
    let Asked {
        parts,
        body,
        upgrade,
    } = asked;
    let parts = &parts;
    let target = Target::read(parts)?;
    entry.host.clone_from(&target.authority);
    let snapshot = Rc::clone(&local.snapshot.borrow());
    let route = snapshot
        .0
        .table
        .find(&target.host, &target.path)
        .ok_or(Why::NoRoute)?;
    entry.route = Some(route.clone());
    if route.ssl_redirect && !client.is_tls {
        entry.why = Some(Why::Redirect);
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        return Ok(redirect(&target.host, path, id));
    }
    let most = local.shared.limits.body_size;
    let announced = http_body::Body::size_hint(&body).lower();
    if most.is_some_and(|most| announced > most) {
        return Err(Why::TooLarge);
    }
    let (body, progress) = RequestBody::new(body, most);
    let exchange = Exchange {
        local,
        client,
        parts,
        target: &target,
        route,
        id,
        progress,
    };
    match (route.backend.protocol, upgrade) {
        (BackendProtocol::Http1, Some(wanted)) => upgrade::ask(&exchange, wanted, entry).await,
        (BackendProtocol::Http1, None) => exchange.ask(body, entry).await,
        (BackendProtocol::H2c, _) => h2c::ask(&exchange, body, entry).await,
    }
}

/// What became of a request that was given to a connection.
enum Sent {
    /// The head of the response.
    Response(Box<Response<Incoming>>),
    /// Nothing of it was sent.
    Not(Option<Box<Request<RequestBody>>>),
    /// It was sent, in part or whole, and no answer will come.
    Lost,
    /// The time for an answer is over.
    Late(Why),
}

impl Exchange<'_> {
    async fn ask(&self, body: RequestBody, entry: &mut Entry) -> Result<Response<Body>, Why> {
        let pool = &self.local.pool;
        let can_repeat = self.can_repeat();
        let candidates = self.candidates()?;
        let mut candidates = candidates.into_iter().peekable();
        let mut body = Some(body);
        let mut is_new = false;
        let mut why = Why::Connect;
        while let Some(endpoint) = candidates.peek().copied() {
            let mut connection = match pool.http1(endpoint, is_new).await {
                Ok(connection) => connection,
                Err(failed) => {
                    why = failed;
                    is_new = false;
                    candidates.next();
                    self.local.numbers.repeated();
                    continue;
                }
            };
            entry.endpoint = Some(endpoint);
            let request = self.request(body.take().unwrap_or(RequestBody::empty()));
            match self.send(&mut connection, request).await {
                Sent::Response(response) => {
                    let leased = Leased {
                        connection,
                        pool: pool.clone(),
                    };
                    return Ok(respond(*response, |incoming| Body::http1(incoming, leased)));
                }
                // It was closed while it waited: the next one, or a new one.
                Sent::Not(Some(request)) => {
                    body = Some(request.into_body());
                    is_new = !connection.is_reused;
                    if is_new {
                        candidates.next();
                    }
                }
                // RFC 9110 §9.2.2: only what may be done twice is asked for twice.
                Sent::Not(None) | Sent::Lost if can_repeat => {
                    body = None;
                    if !connection.is_reused {
                        candidates.next();
                    }
                    is_new = true;
                }
                Sent::Not(None) | Sent::Lost => return Err(self.fault(Why::Reset)),
                Sent::Late(late) => return Err(self.fault(late)),
            }
            why = Why::Reset;
            self.local.numbers.repeated();
        }
        Err(self.fault(why))
    }

    /// Whether the request may be sent twice, and can be.
    fn can_repeat(&self) -> bool {
        let is_idempotent = matches!(
            self.parts.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        is_idempotent && self.progress.is_none()
    }

    /// The endpoints to try, in order: those that failed a moment ago only where there are no others.
    pub(super) fn candidates(&self) -> Result<SmallVec<[SocketAddr; 4]>, Why> {
        let backend = &self.route.backend;
        if backend.endpoints.is_empty() {
            return Err(Why::NoEndpoint);
        }
        let tries = self.local.shared.limits.tries.max(1);
        if let [endpoint] = backend.endpoints.as_slice() {
            return Ok(SmallVec::from_slice(&[*endpoint]));
        }
        let mut found: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut failed: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        for endpoint in backend.turn() {
            match self.local.pool.has_failed(endpoint) {
                false => found.push(endpoint),
                true if failed.len() < tries => failed.push(endpoint),
                true => {}
            }
            if found.len() == tries {
                break;
            }
        }
        failed.truncate(tries - found.len());
        found.extend(failed);
        Ok(found)
    }

    /// What is sent: the method, the path as it came, and headers made anew.
    fn request(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = origin_form(&self.parts.uri);
        *request.headers_mut() = self.headers();
        request
    }

    /// The headers that an endpoint gets.
    pub(super) fn headers(&self) -> HeaderMap {
        headers::of_request(&self.parts.headers, self.target, self.client, self.id)
    }

    /// Sends a request, and moves its connection along until the head of the response is there.
    async fn send(&self, connection: &mut Connection, request: Request<RequestBody>) -> Sent {
        let mut answered = pin!(connection.sender.try_send_request(request));
        let mut timer = match connection.timer.take() {
            Some(mut timer) => {
                timer.as_mut().reset(self.late().into());
                timer
            }
            None => Box::pin(sleep_until(self.late().into())),
        };
        let exchanged = poll_fn(|cx| {
            connection.drive(cx);
            answered.as_mut().poll(cx)
        });
        let exchanged = self.by(timer.as_mut(), exchanged).await;
        connection.timer = Some(timer);
        match exchanged {
            Ok(Ok(response)) => Sent::Response(Box::new(response)),
            Ok(Err(mut failed)) => match failed.take_message() {
                Some(request) => Sent::Not(Some(Box::new(request))),
                None => Sent::Lost,
            },
            Err(why) => Sent::Late(why),
        }
    }

    /// Waits as long as the body goes on, and then as long as an endpoint may take.
    pub(super) async fn in_time<T>(&self, answered: impl Future<Output = T>) -> Result<T, Why> {
        let timer = pin!(sleep_until(self.late().into()));
        self.by(timer, answered).await
    }

    /// When an endpoint that is asked now is late.
    fn late(&self) -> Instant {
        Instant::now() + self.local.shared.limits.response
    }

    async fn by<T>(
        &self,
        mut timer: Pin<&mut Sleep>,
        answered: impl Future<Output = T>,
    ) -> Result<T, Why> {
        let limit = self.local.shared.limits.response;
        let mut answered = pin!(answered);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answered.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.waits_for(limit) {
                Err(why) => Poll::Ready(Err(why)),
                Ok(until) => {
                    timer.as_mut().reset(until.into());
                    let _ = timer.as_mut().poll(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Until when, if the body has gone on since; else whose fault the silence is.
    fn waits_for(&self, limit: Duration) -> Result<Instant, Why> {
        let Some(progress) = &self.progress else {
            return Err(Why::Timeout);
        };
        let until = progress.last.get() + limit;
        match until > Instant::now() {
            true => Ok(until),
            false if progress.is_whole.get() => Err(Why::Timeout),
            false => Err(Why::SlowBody),
        }
    }

    /// What went wrong, unless it was the body.
    pub(super) fn fault(&self, why: Why) -> Why {
        match &self.progress {
            Some(progress) if progress.is_too_large.get() => Why::TooLarge,
            _ => why,
        }
    }
}

/// The path and query alone (RFC 9112 §3.2.1).
fn origin_form(uri: &Uri) -> Uri {
    match uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    }
}

/// An endpoint's response for the client.
pub(super) fn respond(
    response: Response<Incoming>,
    body: impl FnOnce(Incoming) -> Body,
) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    headers::of_response(&mut parts.headers);
    // The client's own connection says which version is spoken there.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, body(incoming))
}
