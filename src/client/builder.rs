//! How a client is made, and what its clones share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::call::{Plan, Safety};
use super::endpoints::Pool;
use super::error::ClientError;
use super::limits::{CONNECTIONS, LONGEST_RETRY, LONGEST_TIMEOUT};
use super::send_stream::Lane;
use super::session::SharedSession;

/// Receives that keep their session for the next one; more at once make new sessions.
const KEPT_SESSIONS: usize = 256;

/// A client of one account. Cheap to clone; clones share connections and sessions.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) account: String,
    pub(super) deadline: Duration,
    pub(super) attempt: Duration,
    pub(super) sessions: bool,
    writes: SharedSession,
    receives: Mutex<Vec<SharedSession>>,
    lanes: Vec<Mutex<Option<Lane>>>,
    turn: AtomicUsize,
}

/// Options of a client.
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    account: String,
    deadline: Duration,
    attempt: Duration,
    connect: Duration,
    connections: usize,
    sessions: bool,
    tls_ca: Option<Vec<u8>>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            endpoints: Vec::new(),
            account: "default".to_owned(),
            deadline: Duration::from_secs(10),
            attempt: Duration::from_secs(2),
            connect: Duration::from_millis(300),
            connections: 1,
            sessions: true,
            tls_ca: None,
        }
    }
}

impl Builder {
    /// The nodes, as `http://HOST:PORT`; the first is asked first.
    #[must_use]
    pub fn endpoints<I>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The account; `default` when not given.
    #[must_use]
    pub fn account(mut self, account: impl Into<String>) -> Builder {
        self.account = account.into();
        self
    }

    /// The longest that a call may take, retries included; a receive may also wait. 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// How long one node may be silent before the next is asked. 2 s.
    #[must_use]
    pub fn attempt_timeout(mut self, attempt: Duration) -> Builder {
        self.attempt = attempt;
        self
    }

    /// How long a connection may take to be made. 300 ms.
    #[must_use]
    pub fn connect_timeout(mut self, connect: Duration) -> Builder {
        self.connect = connect;
        self
    }

    /// Connections to the node in use, shared by all calls; 1 to 64.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections;
        self
    }

    /// Without sessions a write whose fate is not known is not tried again. On by default.
    #[must_use]
    pub fn sessions(mut self, on: bool) -> Builder {
        self.sessions = on;
        self
    }

    /// The certificate authority that signed the nodes' certificates, as PEM; turns TLS on.
    #[must_use]
    pub fn tls_ca(mut self, pem: impl Into<Vec<u8>>) -> Builder {
        self.tls_ca = Some(pem.into());
        self
    }

    /// Checks the options. Nothing is connected before the first call, which must be made
    /// inside a tokio runtime.
    pub fn build(self) -> Result<Client, ClientError> {
        if self.account.is_empty() {
            return Err(ClientError::Invalid("account is empty".to_owned()));
        }
        if !CONNECTIONS.contains(&self.connections) {
            return Err(ClientError::Invalid(format!(
                "connections is {}; allowed: {} to {}",
                self.connections,
                CONNECTIONS.start(),
                CONNECTIONS.end()
            )));
        }
        let spans =
            [("deadline", self.deadline), ("attempt", self.attempt), ("connect", self.connect)];
        for (name, span) in spans {
            if span.is_zero() || span > LONGEST_TIMEOUT {
                return Err(ClientError::Invalid(format!(
                    "the {name} time-out is {span:?}; allowed: more than 0, at most 1 day"
                )));
            }
        }
        let ca = self.tls_ca.as_deref();
        let pool = Pool::new(&self.endpoints, ca, self.connect, self.connections)?;
        let shared = Shared {
            pool: Arc::new(pool),
            account: self.account,
            deadline: self.deadline,
            attempt: self.attempt,
            sessions: self.sessions,
            writes: SharedSession::new(),
            receives: Mutex::new(Vec::new()),
            lanes: (0..self.connections).map(|_| Mutex::new(None)).collect(),
            turn: AtomicUsize::new(0),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

impl Client {
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The account of every call.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.shared.account
    }

    pub(super) fn plan(&self, safety: Safety) -> Plan {
        let within = match safety {
            Safety::Session(_) => self.shared.write_deadline(),
            // A read; or a write that is not tried again once it may have been applied.
            Safety::Always | Safety::OnlyIfNotApplied | Safety::Repeatable => self.shared.deadline,
        };
        Plan {
            deadline: Instant::now() + within,
            attempt: self.shared.attempt,
            safety,
            backoff: Backoff::default(),
        }
    }

    pub(super) fn read_plan(&self) -> Plan {
        self.plan(Safety::Always)
    }

    pub(super) fn write_plan(&self) -> Plan {
        self.plan(if self.shared.sessions {
            Safety::Session(self.shared.writes.clone())
        } else {
            Safety::OnlyIfNotApplied
        })
    }
}

impl Shared {
    /// How long a write under a session may be tried.
    pub(super) fn write_deadline(&self) -> Duration {
        self.deadline.min(LONGEST_RETRY)
    }

    /// The stream whose turn it is, started when it is first needed.
    pub(super) fn lane(&self) -> Lane {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len().max(1);
        let start = || Lane::start(self.pool.clone(), turn, self.sessions, self.attempt);
        let Some(slot) = self.lanes.get(turn) else { return start() };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(lane) if !lane.is_closed() => lane.clone(),
            _ => slot.insert(start()).clone(),
        }
    }

    /// A session for one receive alone: a long poll would hold up the window of other writes.
    pub(super) fn take_receive_session(&self) -> SharedSession {
        let mut kept = self.receives.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop().unwrap_or_else(SharedSession::new)
    }

    pub(super) fn keep_receive_session(&self, session: SharedSession) {
        let mut kept = self.receives.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_SESSIONS {
            kept.push(session);
        }
    }
}
