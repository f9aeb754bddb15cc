//! One call: attempts, time-outs, back-off and rotation, and when trying again is safe.
//!
//! Laws: a read may be tried again after any failure; a write after one that certainly did not
//! apply it, and after an unknown one only under its session. Every call ends at its deadline,
//! and then says `Unknown` when any of its attempts may have been applied.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::backoff::Backoff;
use super::endpoints::{Choice, Pick, Pool};
use super::epochs::Line;
use super::error::{ClientError, Failure, Verdict};
use super::session::{SharedSession, Ticket};
use crate::proto::queue::v1 as pb;

/// Bytes of the largest request: a cluster takes 4 MiB, of which the tag of the session has some.
pub(super) const MOST_BYTES: usize = (4 << 20) - 64;

tokio::task_local! {
    /// How often the calls in here were tried.
    static TRIES: Cell<u32>;
}

/// Makes a call, and says how often it was tried. The call runs in this task alone.
pub async fn counted<T>(call: impl Future<Output = T>) -> (T, u32) {
    let tried = async {
        let answer = call.await;
        (answer, TRIES.with(Cell::get))
    };
    TRIES.scope(Cell::new(0), tried).await
}

/// Refuses what no node would take, before anything of it is sent.
pub(super) fn check_size(request: &impl prost::Message) -> Result<(), ClientError> {
    let bytes = request.encoded_len();
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let text = format!("the request has {bytes} bytes; allowed: 0 to {MOST_BYTES}");
    Err(ClientError::Invalid(text))
}

/// What makes trying again safe.
#[derive(Clone, Debug)]
pub(super) enum Safety {
    /// A read.
    Always,
    /// A write under a session.
    Session(SharedSession),
    /// A write without a session.
    OnlyIfNotApplied,
    /// A write that names what it follows, and is answered again where it was made.
    Repeatable,
}

/// A call's limits.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) deadline: Instant,
    /// A silent node is given up after this long.
    pub(super) attempt: Duration,
    pub(super) safety: Safety,
    pub(super) backoff: Backoff,
}

/// What one attempt works with.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) line: Line,
    pub(super) session: Option<pb::Session>,
    pub(super) timeout: Duration,
}

impl Attempt {
    /// The request with its time limit on the wire.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// The course of one call's attempts.
struct Course {
    /// Attempts since the last rest.
    tried: usize,
    /// Nodes that refused since the last rest because of the region that they are of. One that was
    /// not reached has not said so: its region may be the primary.
    misplaced: BTreeSet<usize>,
    rests: u32,
    /// An attempt may have been applied; why its fate is not known.
    doubt: Option<String>,
    last: Option<String>,
}

impl Course {
    /// The error at the deadline.
    fn end(self, retry_after: Option<Duration>) -> ClientError {
        let last = self.last.unwrap_or_else(|| "the deadline passed".to_owned());
        match self.doubt {
            Some(doubt) => ClientError::unknown(doubt),
            None => ClientError::NotNow { message: last, retry_after },
        }
    }
}

/// Makes attempts until one is final or the deadline passes.
pub(super) async fn run<R, F, Fut>(
    pool: &Pool,
    plan: &Plan,
    mut attempt: F,
) -> Result<R, ClientError>
where
    F: FnMut(Attempt) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    let mut course =
        Course { tried: 0, misplaced: BTreeSet::new(), rests: 0, doubt: None, last: None };
    let mut ticket = match &plan.safety {
        Safety::Session(session) => {
            let begun = tokio::time::timeout_at(plan.deadline, session.begin()).await;
            Some(begun.map_err(|_| {
                ClientError::not_now("too many writes of this client are unanswered")
            })?)
        }
        _ => None,
    };
    loop {
        let Some(mut pick) = next_node(pool, plan.deadline).await else {
            return Err(course.end(None));
        };
        let left = plan.deadline.saturating_duration_since(Instant::now());
        let timeout = left.min(plan.attempt);
        let session = ticket.as_ref().map(Ticket::tag);
        let one = Attempt { line: pick.line.clone(), session, timeout };
        // Few ask for it.
        let _ = TRIES.try_with(|tries| tries.set(tries.get().saturating_add(1)));
        let failure = match tokio::time::timeout(timeout, attempt(one)).await {
            Ok(Ok(response)) => {
                pick.answered();
                return Ok(response.into_inner());
            }
            Ok(Err(status)) => Failure::of_status(&status),
            Err(_) => Failure::silent(timeout),
        };
        course.tried += 1;
        report(&mut pick, &failure);
        let address = pick.address();
        if matches!(failure.verdict, Verdict::OtherRegion(_)) {
            course.misplaced.insert(pick.index());
        }
        drop(pick);
        let asked = match failure.verdict {
            Verdict::Final(error) => return Err(error),
            // Every node says so, one after the other: there is no region that takes it. Who asked
            // one before that did not answer does not know what that one did.
            Verdict::OtherRegion(error) if course.misplaced.len() >= pool.len() => {
                return Err(course.doubt.map_or(error, ClientError::unknown));
            }
            Verdict::OtherRegion(error) => {
                course.last = Some(format!("{address} said: {error}"));
                None
            }
            Verdict::NotApplied { message, retry_after } => {
                course.last = Some(format!("{address} said: {message}"));
                retry_after
            }
            Verdict::Unknown { message } => {
                if matches!(plan.safety, Safety::OnlyIfNotApplied) {
                    return Err(ClientError::unknown(message));
                }
                if !matches!(plan.safety, Safety::Always) {
                    course.doubt = Some(format!("{address} said: {message}"));
                }
                course.last = Some(format!("{address} said: {message}"));
                None
            }
            Verdict::SessionEnded { message } => {
                if course.doubt.is_some() || ticket.is_none() {
                    return Err(ClientError::unknown(message));
                }
                course.last = Some(message);
                ticket = renew(ticket, plan.deadline).await;
                None
            }
        };
        if !rest(pool, plan, &mut course, asked).await {
            return Err(course.end(asked));
        }
    }
}

/// Tells the pool what the failure says about the node.
pub(super) fn report(pick: &mut Pick<'_>, failure: &Failure) {
    if !failure.alive {
        pick.failed();
        return;
    }
    pick.answered();
    if failure.elsewhere {
        pick.leave();
    }
}

async fn renew(ticket: Option<Ticket>, deadline: Instant) -> Option<Ticket> {
    tokio::time::timeout_at(deadline, ticket?.renew()).await.ok()
}

/// A node whose circuit is closed, waiting for one as long as the deadline allows.
pub(super) async fn next_node(pool: &Pool, deadline: Instant) -> Option<Pick<'_>> {
    loop {
        if Instant::now() >= deadline {
            return None;
        }
        match pool.pick(None) {
            Choice::Node(pick) => return Some(pick),
            Choice::Wait(until) => tokio::time::sleep_until(until.min(deadline)).await,
        }
    }
}

/// Goes once round all nodes without a pause, then rests with jitter. False at the deadline.
async fn rest(pool: &Pool, plan: &Plan, course: &mut Course, asked: Option<Duration>) -> bool {
    if course.tried < pool.len() {
        return Instant::now() < plan.deadline;
    }
    course.tried = 0;
    course.misplaced.clear();
    let until = Instant::now() + plan.backoff.wait(course.rests, asked);
    course.rests = course.rests.saturating_add(1);
    if until >= plan.deadline {
        // Nobody else can be asked in time: say so now rather than sleep until then.
        return false;
    }
    tokio::time::sleep_until(until).await;
    true
}
