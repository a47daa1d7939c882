//! Requests to endpoints that speak HTTP/2 without TLS: gRPC, with its trailers.

use http::header::{HOST, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};

use super::answer::Why;
use super::body::{Body, RequestBody};
use super::forward::{Exchange, respond};
use super::headers::takes_trailers;
use super::log::Entry;

/// Asks the endpoints of the backend in turn.
pub(super) async fn ask(
    exchange: &Exchange<'_>,
    body: RequestBody,
    entry: &mut Entry,
) -> Result<Response<Body>, Why> {
    let pool = &exchange.local.pool;
    let mut body = Some(body);
    let mut why = Why::Connect;
    for endpoint in exchange.candidates()? {
        // A connection that is closed under us is asked for once more; the second is new.
        for _ in 0..2 {
            let mut sender = match pool.http2(endpoint).await {
                Ok(sender) => sender,
                Err(failed) => {
                    why = failed;
                    break;
                }
            };
            why = Why::Reset;
            if sender.ready().await.is_err() {
                continue;
            }
            entry.endpoint = Some(endpoint);
            let request = request(exchange, body.take().unwrap_or(RequestBody::empty()))?;
            let answered = exchange.in_time(sender.try_send_request(request)).await;
            match answered.map_err(|why| exchange.fault(why))? {
                Ok(response) => return Ok(respond(response, Body::other)),
                Err(mut failed) => match failed.take_message() {
                    Some(request) => body = Some(request.into_body()),
                    None => return Err(exchange.fault(Why::Reset)),
                },
            }
        }
        exchange.local.numbers.repeated();
    }
    Err(exchange.fault(why))
}

/// RFC 9113 §8.3.1: with a scheme and an authority, and without a Host header beside them.
fn request(exchange: &Exchange<'_>, body: RequestBody) -> Result<Request<RequestBody>, Why> {
    let mut headers = exchange.headers();
    let authority = headers.remove(HOST);
    let authority = authority.as_ref().and_then(|value| value.to_str().ok());
    let path = exchange.parts.uri.path_and_query();
    let path = path.map_or("/", PathAndQuery::as_str);
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority.unwrap_or("localhost"))
        .path_and_query(path)
        .build()
        .map_err(|_| Why::BadRequest)?;
    if takes_trailers(&exchange.parts.headers) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = exchange.parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}
