//! The blocking HTTP client of a node's admin API: which address, which retry, and when to stop.
//!
//! What it promises: a request whose outcome is unknown is never sent again. A read has no
//! outcome, so it may be; a proposal is sent again only when the node said that it was surely not
//! applied, or when no connection was made in the first place.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::credentials::Credentials;
use crate::hostport::HostPort;
use crate::wait;
use quorate_admin::views::{ApiError, FailureOutcome};

/// A node that accepts the connection and then says nothing must not use up the whole time that
/// another could answer a read in.
const READ_ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// What may take long to answer: the state of all partitions, and what a log tells of one.
const LONG_READS: [&str; 2] = ["/v1/topics", "/v1/partitions"];

/// Answered at once by any node that is alive.
const IS_ALIVE: &str = "/health/live";

/// Small, and answered only by a node that reaches the leader. One that is cut off from it lives, and
/// would use up the time of a long read that another could answer.
const IS_SERVED: &str = "/v1/features";

/// Between two rounds over all addresses. An election takes a second or two.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// How much longer than its time a proposal waits for its answer: a node gives up by itself at about
/// the same time, and then says that nothing was changed, which is worth more than not knowing.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// The remedy where nobody could say what became of a change.
const LOOK_FIRST: &str = "look with 'ls' before you try again";

/// The largest answer taken, in bytes: 10,000 partitions of a topic take about 2 MB as JSON.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why a request did not get the answer it wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// The cluster said no, and will say no again. Nothing was changed.
    #[error("{message} ({error})")]
    Rejected {
        /// The error's name, such as `TOPIC_ALREADY_EXISTS`.
        error: String,
        /// What it means, for people.
        message: String,
    },
    /// Nobody knows whether the change was made. Look before trying again.
    #[error("the outcome is unknown: {message}")]
    Unknown {
        /// What is known about it.
        message: String,
    },
    /// Nothing was changed: until the deadline no node could carry it out.
    #[error(
        "gave up after {timeout:?}: {message}; check that a majority of the nodes runs, or wait \
         longer with --timeout"
    )]
    Unavailable {
        /// How long it was tried.
        timeout: Duration,
        /// What the last attempt met.
        message: String,
    },
    /// What answered is not a node of this version.
    #[error("{addr} answered what is no Quorate answer ({message}); is it an admin address?")]
    Foreign {
        /// Who answered.
        addr: HostPort,
        /// What was wrong with it.
        message: String,
    },
}

/// What one attempt at one address came to.
enum Attempt {
    /// Surely without effect; the next address, or the same one later, may do it.
    TryAgain(String),
    /// No further attempt is allowed, or of any use.
    Over(RequestError),
}

/// What a request does, which decides what may be sent again.
#[derive(Clone, Copy)]
enum Verb<'a> {
    Get,
    Post(&'a serde_json::Value),
    Delete,
}

/// Talks to one cluster through the admin addresses of its nodes.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    addrs: Vec<HostPort>,
    timeout: Duration,
    scheme: &'static str,
    /// For changes: reading needs none, and a secret is not sent where it is not needed.
    authorization: Option<String>,
}

impl Client {
    /// A client that tries `addrs` in this order over plain HTTP, each request for at most
    /// `timeout`.
    pub(crate) fn new(addrs: Vec<HostPort>, timeout: Duration) -> Self {
        Self::with(addrs, timeout, Credentials::default())
    }

    /// The same, with what shows who asks.
    pub(crate) fn with(addrs: Vec<HostPort>, timeout: Duration, credentials: Credentials) -> Self {
        assert!(!addrs.is_empty(), "a client without addresses can ask nobody");
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A pooled connection to a node that was killed fails after the request was written:
            // an outcome that is unknown for no good reason. Connections on one host are cheap.
            .max_idle_connections(0)
            .max_redirects(0)
            .proxy(None);
        if let Some(tls) = credentials.tls() {
            config = config.tls_config(tls.clone());
        }
        let (scheme, authorization) = (credentials.scheme(), credentials.authorization());
        Client { agent: config.build().into(), addrs, timeout, scheme, authorization }
    }

    /// Reads `path`, as JSON, from the first address that can answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        self.request(Verb::Get, path)
    }

    /// Proposes a change by `POST`; an unknown outcome is final.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        let body = serde_json::to_value(body).map_err(|e| RequestError::Rejected {
            error: "INVALID_REQUEST".to_owned(),
            message: format!("the request is no JSON: {e}"),
        })?;
        self.request(Verb::Post(&body), path)
    }

    /// Proposes a removal by `DELETE`; an unknown outcome is final.
    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        self.request(Verb::Delete, path)
    }

    fn request<T: DeserializeOwned>(&self, verb: Verb<'_>, path: &str) -> Result<T, RequestError> {
        let deadline = Instant::now() + self.timeout;
        let mut met;
        loop {
            met = String::new();
            for addr in &self.addrs {
                match self.attempt(verb, addr, path, deadline) {
                    Ok(answer) => return Ok(answer),
                    Err(Attempt::Over(error)) => return Err(error),
                    Err(Attempt::TryAgain(message)) => {
                        met = if met.is_empty() { message } else { format!("{met}, {message}") };
                    }
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RequestError::Unavailable { timeout: self.timeout, message: met });
            }
            wait::pause(ROUND_PAUSE.min(left));
        }
    }

    fn attempt<T: DeserializeOwned>(
        &self,
        verb: Verb<'_>,
        addr: &HostPort,
        path: &str,
        deadline: Instant,
    ) -> Result<T, Attempt> {
        let url = format!("{}://{addr}{path}", self.scheme);
        let authorization = self.authorization.as_deref();
        let left = deadline.saturating_duration_since(Instant::now()).max(wait::PAUSE);
        let for_answer = Some(left + ANSWER_GRACE);
        let sent = match verb {
            Verb::Get => {
                let limit = match LONG_READS.iter().any(|long| path.starts_with(long)) {
                    true => self.time_to_answer(addr, path, deadline)?,
                    false => left.min(READ_ATTEMPT_MAX),
                };
                self.agent.get(&url).config().timeout_global(Some(limit)).build().call()
            }
            Verb::Post(body) => {
                let post = self.agent.post(&url).config().timeout_global(for_answer).build();
                authorized(post, authorization).send_json(body)
            }
            Verb::Delete => {
                let delete = self.agent.delete(&url).config().timeout_global(for_answer).build();
                authorized(delete, authorization).call()
            }
        };
        let mut response = sent.map_err(|error| lost_attempt(verb, addr, &error))?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| lost_attempt(verb, addr, &error))?;
        if status.is_success() {
            return serde_json::from_str(&body)
                .map_err(|e| Attempt::Over(foreign(verb, addr, e.to_string())));
        }
        match serde_json::from_str::<ApiError>(&body) {
            Ok(view) => Err(judge(addr, view)),
            Err(_) => Err(Attempt::Over(foreign(verb, addr, format!("HTTP status {status}")))),
        }
    }

    /// How long a node may take for a long read: all the time there is, if it answers a short one of
    /// the same kind. Where no other could be asked instead, that does not matter.
    fn time_to_answer(
        &self,
        addr: &HostPort,
        path: &str,
        deadline: Instant,
    ) -> Result<Duration, Attempt> {
        let left = || deadline.saturating_duration_since(Instant::now()).max(wait::PAUSE);
        if self.addrs.len() > 1 {
            let is_local = path.contains("local=true");
            let probe = if is_local { IS_ALIVE } else { IS_SERVED };
            let url = format!("{}://{addr}{probe}", self.scheme);
            let limit = Some(left().min(READ_ATTEMPT_MAX));
            let answer = self.agent.get(&url).config().timeout_global(limit).build().call();
            let answer = answer.map_err(|error| lost_attempt(Verb::Get, addr, &error))?;
            // A node reads its own image whatever its health; what it refuses, it refuses below.
            if !is_local && answer.status().is_server_error() {
                let status = answer.status();
                return Err(Attempt::TryAgain(format!("{addr}: cannot read now ({status})")));
            }
        }
        Ok(left())
    }
}

/// The request, with the header that says who asks.
fn authorized<B>(
    request: ureq::RequestBuilder<B>,
    authorization: Option<&str>,
) -> ureq::RequestBuilder<B> {
    match authorization {
        Some(authorization) => request.header("authorization", authorization),
        None => request,
    }
}

/// What follows from a node's own words.
fn judge(addr: &HostPort, view: ApiError) -> Attempt {
    match view.outcome {
        FailureOutcome::Unknown => Attempt::Over(RequestError::Unknown { message: view.message }),
        // Also where time may help: whoever asked is to know at once why not.
        FailureOutcome::Rejected => {
            Attempt::Over(RequestError::Rejected { error: view.error, message: view.message })
        }
        // Surely without effect; where this node cannot do it any more, another one can.
        FailureOutcome::NeverApplied => Attempt::TryAgain(format!("{addr}: {}", view.message)),
    }
}

/// What follows from a connection that gave no answer.
fn lost_attempt(verb: Verb<'_>, addr: &HostPort, error: &ureq::Error) -> Attempt {
    let message = format!("{addr}: {}", Plain(error));
    match verb {
        Verb::Get => Attempt::TryAgain(message),
        Verb::Post(_) | Verb::Delete if never_sent(error) => Attempt::TryAgain(message),
        Verb::Post(_) | Verb::Delete => {
            Attempt::Over(RequestError::Unknown { message: format!("{message}; {LOOK_FIRST}") })
        }
    }
}

/// An answer that cannot be read leaves open what a proposal did.
fn foreign(verb: Verb<'_>, addr: &HostPort, message: String) -> RequestError {
    match verb {
        Verb::Get => RequestError::Foreign { addr: addr.clone(), message },
        Verb::Post(_) | Verb::Delete => {
            let message = format!("{addr} answered {message}; {LOOK_FIRST}");
            RequestError::Unknown { message }
        }
    }
}

/// True when the error came before any byte of the request could have left. What is not listed
/// counts as sent: that costs a retry, and the other mistake could apply a change twice.
fn never_sent(error: &ureq::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        ureq::Error::Io(io) if io.kind() == ErrorKind::InvalidData => {
            io.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(is_of_the_node)
        }
        ureq::Error::Io(io) => matches!(
            io.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::AddrNotAvailable
        ),
        // The certificate of the node was refused, by this end.
        ureq::Error::Tls(_) => true,
        ureq::Error::Rustls(error) => is_of_the_node(error),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::BadUri(_) => true,
        ureq::Error::Timeout(at) => {
            matches!(at, ureq::Timeout::Resolve | ureq::Timeout::Connect)
        }
        _ => false,
    }
}

/// Whether the error is that the node's certificate does not do: found before anything is sent.
fn is_of_the_node(error: &tokio_rustls::rustls::Error) -> bool {
    matches!(error, tokio_rustls::rustls::Error::InvalidCertificate(_))
}

/// An HTTP error in the words of people.
struct Plain<'a>(&'a ureq::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                write!(f, "nobody listens there")
            }
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
                write!(f, "the connection was closed before the answer")
            }
            ureq::Error::Io(io) => write!(f, "{io}"),
            ureq::Error::Timeout(_) => write!(f, "no answer in time"),
            ureq::Error::HostNotFound => write!(f, "no such host"),
            other => write!(f, "{other}"),
        }
    }
}

/// `text` as one segment of a path: names of topics may hold what means something in a URL.
pub(crate) fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests;
