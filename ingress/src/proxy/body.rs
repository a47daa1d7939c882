//! Bodies on their way: a client's to an endpoint, an endpoint's to a client.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::log::Entry;
use super::pool::{Connection, Pool};

/// How far a request's body is, for who waits for the response.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) last: Cell<Instant>,
    pub(super) is_whole: Cell<bool>,
    pub(super) is_too_large: Cell<bool>,
    pub(super) is_begun: Cell<bool>,
}

/// Why a body ended before its end.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It is larger than allowed.
    TooLarge,
    /// Whoever sends it went away, or sent nonsense.
    Sender(hyper::Error),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the body is larger than allowed"),
            Self::Sender(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<Infallible> for BodyError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A client's body.
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    left: u64,
    progress: Option<Rc<Progress>>,
}

impl RequestBody {
    /// Of a request that has none, which can be sent again.
    pub(super) const fn empty() -> Self {
        Self {
            incoming: None,
            left: 0,
            progress: None,
        }
    }

    pub(super) fn new(incoming: Incoming, most: Option<u64>) -> (Self, Option<Rc<Progress>>) {
        if http_body::Body::is_end_stream(&incoming) {
            return (Self::empty(), None);
        }
        let progress = Rc::new(Progress {
            last: Cell::new(Instant::now()),
            is_whole: Cell::new(false),
            is_too_large: Cell::new(false),
            is_begun: Cell::new(false),
        });
        let body = Self {
            incoming: Some(incoming),
            left: most.unwrap_or(u64::MAX),
            progress: Some(progress.clone()),
        };
        (body, Some(progress))
    }

    fn note(&mut self, frame: Option<&Frame<Bytes>>) -> Result<(), BodyError> {
        let Some(progress) = &self.progress else {
            return Ok(());
        };
        progress.is_begun.set(true);
        progress.last.set(Instant::now());
        let Some(frame) = frame else {
            progress.is_whole.set(true);
            return Ok(());
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(length) else {
            progress.is_too_large.set(true);
            return Err(BodyError::TooLarge);
        };
        self.left = left;
        if self
            .incoming
            .as_ref()
            .is_some_and(http_body::Body::is_end_stream)
        {
            progress.is_whole.set(true);
        }
        Ok(())
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Sender(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                let noted = self.note(Some(&frame));
                Poll::Ready(Some(noted.map(|()| frame)))
            }
            Poll::Ready(None) => {
                let _ = self.note(None);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let own = self.incoming.as_ref();
        own.map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// What is sent to a client.
pub(super) struct Body {
    kind: Kind,
    /// Logged when the body has been sent, or nobody wants it any more.
    pub(super) entry: Option<Box<Entry>>,
}

enum Kind {
    Empty,
    Text(Bytes),
    /// Over a connection of HTTP/1.1, which this body moves along: no task of its own has to be woken for it.
    Http1(Incoming, Option<Leased>),
    /// Over a connection that somebody else moves along.
    Other(Incoming),
}

/// A connection that goes back when the response has been read.
pub(super) struct Leased {
    pub(super) connection: Box<Connection>,
    pub(super) pool: Rc<Pool>,
}

impl Body {
    pub(super) const fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            entry: None,
        }
    }

    pub(super) const fn text(text: Bytes) -> Self {
        Self {
            kind: Kind::Text(text),
            entry: None,
        }
    }

    pub(super) const fn http1(incoming: Incoming, leased: Leased) -> Self {
        Self {
            kind: Kind::Http1(incoming, Some(leased)),
            entry: None,
        }
    }

    pub(super) const fn other(incoming: Incoming) -> Self {
        Self {
            kind: Kind::Other(incoming),
            entry: None,
        }
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Text(text) => {
                let text = std::mem::take(text);
                self.kind = Kind::Empty;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Kind::Other(incoming) => Pin::new(incoming).poll_frame(cx),
            Kind::Http1(incoming, leased) => match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(ready) => Poll::Ready(ready),
                Poll::Pending => {
                    if let Some(leased) = leased {
                        leased.connection.drive(cx);
                    }
                    Pin::new(incoming).poll_frame(cx)
                }
            },
        };
        polled.map_err(BodyError::Sender)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_inner(cx);
        if let (Some(entry), Poll::Ready(ready)) = (&mut self.entry, &polled) {
            match ready {
                Some(Ok(frame)) => entry.sent(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => entry.is_cut = true,
                None => entry.is_whole = true,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Text(text) => text.is_empty(),
            Kind::Http1(incoming, _) | Kind::Other(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or_default()),
            Kind::Http1(incoming, _) | Kind::Other(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    /// Whoever sends the body stops asking when all announced octets are there, and never asks a body that is empty.
    fn drop(&mut self) {
        let is_whole = http_body::Body::is_end_stream(self);
        if let Some(entry) = &mut self.entry {
            entry.is_whole |= is_whole;
        }
        let is_read = is_whole || self.entry.as_ref().is_some_and(|entry| entry.is_whole);
        if let Kind::Http1(_, leased) = &mut self.kind
            && is_read
            && let Some(mut leased) = leased.take()
        {
            leased
                .connection
                .drive(&mut Context::from_waker(Waker::noop()));
            leased.pool.give_back(leased.connection);
        }
    }
}
