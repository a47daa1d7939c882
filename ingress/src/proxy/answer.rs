//! Answers of our own: what went wrong, and the request's id, by which the log is searched.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::body::Body;

/// The header with a request's id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request was not answered by an endpoint, as the log and the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It cannot be understood without a doubt.
    BadRequest,
    /// A method that a proxy for servers has no business with.
    Method,
    /// The body is larger than allowed.
    TooLarge,
    /// The client sent no more of the body.
    SlowBody,
    /// No rule is for it.
    NoRoute,
    /// The rule's backend has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected to.
    Connect,
    /// None within the time for that.
    ConnectTimeout,
    /// The endpoint ended the connection, or answered nonsense.
    Reset,
    /// The endpoint did not answer in time.
    Timeout,
    /// Plain text where HTTPS is asked for.
    Redirect,
}

impl Why {
    /// One word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Method => "method",
            Self::TooLarge => "too_large",
            Self::SlowBody => "slow_body",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Redirect => "redirect",
        }
    }

    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect | Self::Reset => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Redirect => StatusCode::PERMANENT_REDIRECT,
        }
    }

    /// For people.
    const fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "400: this request cannot be understood\n",
            Self::Method => "405: this method is not for a proxy of servers\n",
            Self::TooLarge => "413: the body is larger than allowed\n",
            Self::SlowBody => "408: the body did not come\n",
            Self::NoRoute => "404: no Ingress has a rule for this host and path\n",
            Self::NoEndpoint => "503: nobody is ready to serve this\n",
            Self::Connect => "502: nobody could be connected to\n",
            Self::Reset => "502: who was asked hung up\n",
            Self::ConnectTimeout => "504: nobody could be connected to in time\n",
            Self::Timeout => "504: who was asked did not answer in time\n",
            Self::Redirect => "",
        }
    }

    /// The answer.
    pub(super) fn response(self, id: &HeaderValue) -> Response<Body> {
        let mut response = Response::new(Body::text(Bytes::from_static(self.text().as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id.clone());
        if self != Self::Redirect {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}

/// 308: the method and the body stay the same (RFC 9110 §15.4.9).
pub(super) fn redirect(host: &str, path_and_query: &str, id: &HeaderValue) -> Response<Body> {
    let Ok(to) = HeaderValue::try_from(format!("https://{host}{path_and_query}")) else {
        return Why::BadRequest.response(id);
    };
    let mut response = Why::Redirect.response(id);
    response.headers_mut().insert(LOCATION, to);
    response
}
