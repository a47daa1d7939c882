//! The verbs: each is the agent's part and, where the configuration names an IPAM plugin, that one's.

use std::os::fd::AsRawFd;
use std::time::Duration;

use cni_spec::socket::{Request, Response};
use cni_spec::{AddResult, CniError, Command, ErrorCode, Invocation, NetworkConfig};
use serde_json::Value;

use crate::agent::{Away, Connection};
use crate::delegate::Delegate;
use crate::netns::{self, Netns};
use crate::{pending, say};

/// How long the agent may take over one request.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the runtime asked for: environment, configuration, and the configuration as it came.
#[derive(Debug)]
pub(crate) struct Call {
    /// The verb and what it is about.
    pub(crate) invocation: Invocation,
    /// What was on standard input.
    pub(crate) config: NetworkConfig,
    /// Its bytes, which an IPAM plugin gets whole.
    pub(crate) bytes: Vec<u8>,
    /// `CNI_PATH`.
    pub(crate) search: String,
}

impl Call {
    /// Does it; what is to be printed, if anything.
    ///
    /// # Errors
    /// What the runtime is to be told.
    pub(crate) fn carry_out(&self) -> Result<Option<Value>, CniError> {
        self.config.check_command(self.invocation.command)?;
        match self.invocation.command {
            Command::Add => return self.add().map(Some),
            Command::Del => self.delete()?,
            Command::Check => self.check()?,
            Command::Gc => self.also_delegated(self.forward().map_err(try_again).and_then(done))?,
            Command::Status => self.status()?,
        }
        Ok(None)
    }

    fn add(&self) -> Result<Value, CniError> {
        let netns = self.netns()?;
        self.config
            .check_previous(&self.invocation.interface, self.netns_path())?;
        let ipam = self.ipam()?;
        // Before anything is touched: with no agent there is nothing to prepare it for.
        let connection = Connection::open(&self.config.socket, PATIENCE).map_err(try_again)?;
        let Some(ipam) = ipam else {
            return self.attach(connection, &netns, None);
        };
        // An address given to a container that has the interface would be another one's, or be given back under it.
        netns.within(|| netns::refuse_interface(&self.invocation.interface))?;
        let given = ipam.add()?;
        self.attach(connection, &netns, Some(given))
            .inspect_err(|_| ipam.give_back())
    }

    fn attach(
        &self,
        mut connection: Connection,
        netns: &Netns,
        delegated: Option<AddResult>,
    ) -> Result<Value, CniError> {
        let netlink = netns.within(|| {
            if !netns.is_own() {
                netns::set_sysctls()?;
            }
            netns::netlink_socket()
        })?;
        let descriptors = [netns.as_raw_fd(), netlink.as_raw_fd()];
        let request = Request {
            delegated,
            ..self.request()
        };
        connection.renew();
        let answer = connection.ask(&request, &descriptors).map_err(try_again)?;
        let mut result = match answer {
            Response::Result(result) => result,
            Response::Error(error) => return Err(error),
            Response::Done => return Err(unexpected()),
        };
        let dns = self.config.dns_over(std::mem::take(&mut result.dns));
        let printed = dns.and_then(|dns| {
            result.dns = dns;
            result.to_json(self.config.cni_version)
        });
        printed.inspect_err(|_| self.detach())
    }

    /// Undoes an ADD of the agent's that cannot be told to the runtime.
    fn detach(&self) {
        let request = Request {
            command: Command::Del,
            ..self.request()
        };
        if let Err(error) = delete_own(request) {
            say(&format!("a failed ADD could not be undone: {error}"));
        }
    }

    /// Our own part first: an address is not given back before it is no longer used.
    fn delete(&self) -> Result<(), CniError> {
        self.also_delegated(delete_own(self.request()))
    }

    fn check(&self) -> Result<(), CniError> {
        let netns = self.netns()?;
        let mut connection = Connection::open(&self.config.socket, PATIENCE).map_err(try_again)?;
        let netlink = netns.within(netns::netlink_socket)?;
        let descriptors = [netns.as_raw_fd(), netlink.as_raw_fd()];
        let answer = connection
            .ask(&self.request(), &descriptors)
            .map_err(try_again);
        self.also_delegated(answer.and_then(done))
    }

    fn status(&self) -> Result<(), CniError> {
        done(self.forward().map_err(unavailable)?)?;
        match self.ipam() {
            Ok(Some(ipam)) => ipam.run(Command::Status),
            Ok(None) => Ok(()),
            // What ADD would say, in STATUS's words.
            Err(error) => {
                Err(CniError::new(ErrorCode::NotAvailable, error.msg).details(error.details))
            }
        }
    }

    /// The IPAM plugin's part of a verb that is to be done as far as it can be; both failures are told.
    fn also_delegated(&self, own: Result<(), CniError>) -> Result<(), CniError> {
        let its = self
            .ipam()
            .and_then(|ipam| ipam.map_or(Ok(()), |ipam| ipam.run(self.invocation.command)));
        match (own, its) {
            (Err(own), Err(its)) => {
                let details = format!("{}; and of the IPAM plugin: {its}", own.details);
                Err(own.details(details.trim_start_matches("; ")))
            }
            (own, its) => own.and(its),
        }
    }

    fn ipam(&self) -> Result<Option<Delegate<'_>>, CniError> {
        Delegate::find(&self.config, &self.bytes, &self.search)
    }

    fn netns(&self) -> Result<Netns, CniError> {
        Netns::open(self.netns_path(), self.invocation.netns_override)
    }

    fn netns_path(&self) -> &str {
        self.invocation.netns.as_deref().unwrap_or_default()
    }

    fn request(&self) -> Request {
        Request::new(self.invocation.clone(), self.config.clone())
    }

    fn forward(&self) -> Result<Response, Away> {
        forward(&self.request())
    }
}

/// A DEL looks at no namespace, which may be gone, and needs no agent: the agent finds it when it is back.
fn delete_own(request: Request) -> Result<(), CniError> {
    let away = match forward(&request) {
        Ok(answer) => return done(answer),
        Err(away) => away,
    };
    say(&format!(
        "{away}; DEL of container {} waits for the agent",
        request.container_id
    ));
    pending::record(request)
}

fn forward(request: &Request) -> Result<Response, Away> {
    Connection::open(&request.config.socket, PATIENCE)?.ask(request, &[])
}

fn done(answer: Response) -> Result<(), CniError> {
    match answer {
        Response::Done => Ok(()),
        Response::Error(error) => Err(error),
        Response::Result(_) => Err(unexpected()),
    }
}

fn try_again(away: Away) -> CniError {
    away.into_error(ErrorCode::TryAgainLater, "try again later")
}

fn unavailable(away: Away) -> CniError {
    away.into_error(
        ErrorCode::NotAvailable,
        "the Portolan agent is not available",
    )
}

fn unexpected() -> CniError {
    CniError::new(
        ErrorCode::Failed,
        "the Portolan agent gave another verb's answer",
    )
    .details("the agent and portolan-cni may be of different releases: run portolan cni install")
}
