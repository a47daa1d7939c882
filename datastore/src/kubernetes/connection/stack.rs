//! What a request goes through, made anew when a file has changed that says how.

use std::sync::Arc;

use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use kube::client::{Body, ConfigExt as _};
use tokio::sync::Mutex;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

use super::access::{Access, Place};
use super::identity::{Disbelieved, Token};
use super::line::Line;
use crate::kubernetes::failure::reason_of;

/// How this program calls itself in the server's logs.
const USER: &str = "portolan-agent";

/// The newest stack; clones share it.
#[derive(Clone)]
pub(super) struct Stacks(Arc<Inner>);

struct Inner {
    place: Place,
    newest: Mutex<Newest>,
    token: Token,
}

struct Newest {
    stack: Arc<Stack>,
    /// Why there is no newer one, if there should be.
    trouble: Option<String>,
}

/// A connection, and what makes a request one of ours.
struct Stack {
    access: Access,
    service: BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>,
}

impl Stacks {
    /// Reads how to reach the server. Nothing is sent.
    pub(super) async fn open(place: Place) -> Result<Self, String> {
        let stack = Arc::new(Stack::new(place.read().await?)?);
        let trouble = None;
        Ok(Self(Arc::new(Inner {
            place,
            newest: Mutex::new(Newest { stack, trouble }),
            token: Token::default(),
        })))
    }

    /// Sends a request by what the files say now.
    pub(super) async fn send(
        self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, BoxError> {
        let stack = self.newest().await;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(USER));
        if let Some(path) = &stack.access.token {
            let token = self.0.token.read(path);
            let token = token.ok_or_else(|| format!("there is no token in {}", path.display()))?;
            headers.insert(AUTHORIZATION, token);
        }
        let sent = stack.service.clone().oneshot(request).await;
        let mut answer = sent.map_err(|error| stack.access.explained(&*error))?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let why = Disbelieved::new(&stack.access);
            answer.extensions_mut().insert(why);
        }
        Ok(answer)
    }

    /// The stack by which requests go now. What runs on an older one stays on it until it ends.
    async fn newest(&self) -> Arc<Stack> {
        let mut newest = self.0.newest.lock().await;
        if newest.stack.access.is_stale() {
            let read = self.0.place.read().await;
            match read.and_then(Stack::new) {
                Ok(stack) => {
                    tracing::info!("the files that say how the API server is reached have changed");
                    *newest = Newest {
                        stack: Arc::new(stack),
                        trouble: None,
                    };
                }
                // Half written, perhaps. What was good is used on.
                Err(why) => newest.note(why),
            }
        }
        Arc::clone(&newest.stack)
    }
}

impl Newest {
    fn note(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(%why, "what the files say now about how the API server is reached cannot be used");
            self.trouble = Some(why);
        }
    }
}

impl Stack {
    fn new(access: Access) -> Result<Self, String> {
        let config = &access.config;
        let wrong =
            |error: kube::Error| format!("cannot speak to the cluster: {}", reason_of(&error));
        if config.proxy_url.is_some() {
            return Err("cannot speak to the cluster through a proxy: name the API server's own address, and unset HTTPS_PROXY".to_owned());
        }
        let line = Arc::new(Line::new(config).map_err(wrong)?);
        let send = tower::service_fn(move |request| Arc::clone(&line).send(request));
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(wrong)?)
            .layer(config.extra_headers_layer().map_err(wrong)?)
            .map_err(BoxError::from)
            .service(send);
        Ok(Self {
            service: BoxCloneSyncService::new(service),
            access,
        })
    }
}

impl Access {
    /// What a person needs to know where a request did not reach the server.
    fn explained(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let why = reason_of(error);
        // As rustls words it, whatever is wrong with it.
        if why.contains("invalid peer certificate") {
            let file = self.authorities.display();
            return format!("{why}; the authorities that are believed are those in {file}");
        }
        why
    }
}
