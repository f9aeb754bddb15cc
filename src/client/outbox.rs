//! The unanswered writes of one stream: what is to be written, what waits for its answer, what
//! rests before it is tried again. Pure: the streams around it do the talking.
//!
//! Laws: a write that may have been applied is only written again under the same place of its
//! session; without a session it ends as `Unknown`. Nothing stays beyond its deadline. The
//! window of the session bounds all of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::error::{ClientError, Failure, Verdict};
use super::limits::SESSION_WRITES;
use super::session::{Place, Session};
use crate::proto::queue::v1 as pb;

/// Who waits for the answer.
pub(super) trait Waiter<R> {
    fn give(self, answer: Result<R, ClientError>);
    /// Nobody listens any more.
    fn is_gone(&self) -> bool;
}

struct Pending<Q, W> {
    request: Q,
    waiter: W,
    deadline: Instant,
    place: Option<Place>,
    /// Given to the stream and not answered.
    out: bool,
    tries: u32,
    /// Answers in a row that refused because of the region that was asked.
    misplaced: u32,
    /// Why it may have been applied already.
    doubt: Option<String>,
    last: Option<String>,
}

/// Writes of type `Q` that are answered with `R`.
pub(super) struct Outbox<Q, R, W> {
    session: Option<Session>,
    pending: BTreeMap<u64, Pending<Q, W>>,
    ready: VecDeque<u64>,
    resting: BTreeSet<(Instant, u64)>,
    next_tag: u64,
    nodes: u32,
    backoff: Backoff,
    answer: std::marker::PhantomData<fn() -> R>,
}

/// One write to put on the stream.
pub(super) struct Writing<Q> {
    pub(super) tag: u64,
    pub(super) request: Q,
    pub(super) session: Option<pb::Session>,
}

impl<Q: Clone, R, W: Waiter<R>> Outbox<Q, R, W> {
    /// `nodes` is how many nodes are asked in turn before a pause.
    pub(super) fn new(sessions: bool, nodes: usize) -> Self {
        Outbox {
            session: sessions.then(|| Session::new(Instant::now())),
            pending: BTreeMap::new(),
            ready: VecDeque::new(),
            resting: BTreeSet::new(),
            next_tag: 1,
            nodes: u32::try_from(nodes).unwrap_or(1).max(1),
            backoff: Backoff::default(),
            answer: std::marker::PhantomData,
        }
    }

    /// How many more writes may be taken in.
    pub(super) fn room(&self) -> usize {
        let window = self.session.as_ref().map_or(SESSION_WRITES, Session::room);
        (window as usize).min((SESSION_WRITES as usize).saturating_sub(self.pending.len()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Something is to be written now.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Something was written and is not answered.
    pub(super) fn is_out(&self) -> bool {
        self.pending.len() > self.ready.len() + self.resting.len()
    }

    /// Takes a write in; the caller has looked at `room`.
    pub(super) fn accept(&mut self, request: Q, deadline: Instant, waiter: W) {
        let now = Instant::now();
        if now >= deadline {
            waiter.give(Err(ClientError::not_now("the deadline passed before it was sent")));
            return;
        }
        let place = match &mut self.session {
            None => None,
            Some(session) => match session.begin(now) {
                Some(place) => Some(place),
                None => {
                    let text = "too many writes of this client are unanswered";
                    waiter.give(Err(ClientError::not_now(text)));
                    return;
                }
            },
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        let (doubt, last) = (None, None);
        let pending = Pending {
            request,
            waiter,
            deadline,
            place,
            out: false,
            tries: 0,
            misplaced: 0,
            doubt,
            last,
        };
        self.pending.insert(tag, pending);
        self.ready.push_back(tag);
    }

    /// The next write for the stream.
    pub(super) fn take(&mut self) -> Option<Writing<Q>> {
        while let Some(tag) = self.ready.pop_front() {
            let Some(pending) = self.pending.get_mut(&tag) else { continue };
            if pending.waiter.is_gone() {
                self.remove(tag);
                continue;
            }
            pending.out = true;
            pending.tries = pending.tries.saturating_add(1);
            let session = match (&self.session, &pending.place) {
                (Some(session), Some(place)) => Some(session.tag(place)),
                _ => None,
            };
            return Some(Writing { tag, request: pending.request.clone(), session });
        }
        None
    }

    /// An answer came. True when it is an answer to something that was out.
    pub(super) fn answered(&mut self, tag: u64, answer: Result<R, Failure>) -> bool {
        if !self.pending.get(&tag).is_some_and(|pending| pending.out) {
            return false;
        }
        match answer {
            Ok(answer) => self.end(tag, Ok(answer)),
            Err(failure) => self.failed(tag, failure),
        }
        true
    }

    fn failed(&mut self, tag: u64, failure: Failure) {
        let sessions = self.session.is_some();
        let Some(pending) = self.pending.get_mut(&tag) else { return };
        pending.out = false;
        let misplaced = matches!(failure.verdict, Verdict::OtherRegion(_));
        pending.misplaced = if misplaced { pending.misplaced + 1 } else { 0 };
        let asked = match failure.verdict {
            Verdict::Final(error) => return self.end(tag, Err(error)),
            // Every node says so, one after the other: there is no region that takes it.
            Verdict::OtherRegion(error) if pending.misplaced >= self.nodes => {
                let doubt = pending.doubt.take();
                return self.end(tag, Err(doubt.map_or(error, ClientError::unknown)));
            }
            Verdict::OtherRegion(error) => {
                pending.last = Some(error.to_string());
                None
            }
            Verdict::NotApplied { message, retry_after } => {
                pending.last = Some(message);
                retry_after
            }
            Verdict::Unknown { message } if sessions => {
                pending.doubt = Some(message);
                None
            }
            Verdict::Unknown { message } => {
                return self.end(tag, Err(ClientError::unknown(message)));
            }
            Verdict::SessionEnded { message } => {
                if pending.doubt.is_some() || !self.renew(tag) {
                    return self.end(tag, Err(ClientError::unknown(message)));
                }
                None
            }
        };
        let Some(pending) = self.pending.get(&tag) else { return };
        if pending.tries < self.nodes {
            self.ready.push_back(tag);
        } else {
            let wait = self.backoff.wait(pending.tries - self.nodes, asked);
            self.resting.insert((Instant::now() + wait, tag));
        }
    }

    /// Gives a write that was not run a place in a new session.
    fn renew(&mut self, tag: u64) -> bool {
        let now = Instant::now();
        let Some(pending) = self.pending.get_mut(&tag) else { return false };
        let (Some(session), Some(place)) = (&mut self.session, &pending.place) else {
            return false;
        };
        session.renew(place, now);
        session.finish(place, now);
        match session.begin(now) {
            Some(fresh) => pending.place = Some(fresh),
            None => return false,
        }
        true
    }

    /// The stream is gone. `sent` says whether what was out may have reached a node.
    pub(super) fn broken(&mut self, sent: bool, why: &str) {
        let out: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.out).map(|(tag, _)| *tag).collect();
        for tag in out {
            if sent && self.session.is_none() {
                self.end(tag, Err(ClientError::unknown(why)));
                continue;
            }
            let Some(pending) = self.pending.get_mut(&tag) else { continue };
            pending.out = false;
            if sent {
                pending.doubt = Some(why.to_owned());
            } else {
                pending.last = Some(why.to_owned());
            }
        }
        // What was never written waits for the next node, and knows why this one was none.
        for pending in self.pending.values_mut().filter(|pending| pending.doubt.is_none()) {
            pending.last = Some(why.to_owned());
        }
        // In the order of their first writing, as far as they do not rest.
        let resting: BTreeSet<u64> = self.resting.iter().map(|(_, tag)| *tag).collect();
        self.ready = self.pending.keys().filter(|tag| !resting.contains(tag)).copied().collect();
    }

    /// Ends what is past its deadline or unwanted, wakes what has rested.
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some((due, tag)) = self.resting.first().copied() {
            if due > now {
                break;
            }
            self.resting.remove(&(due, tag));
            self.ready.push_back(tag);
        }
        let over: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= now || pending.waiter.is_gone())
            .map(|(tag, _)| *tag)
            .collect();
        for tag in over {
            let Some(pending) = self.pending.get_mut(&tag) else { continue };
            let late = "no answer came before the deadline".to_owned();
            let error = match pending.doubt.take() {
                Some(doubt) => ClientError::unknown(doubt),
                None if pending.out => ClientError::unknown(late),
                None => ClientError::not_now(pending.last.take().unwrap_or(late)),
            };
            self.end(tag, Err(error));
        }
    }

    /// Ends everything with one error, after `broken`.
    pub(super) fn end_all(&mut self, error: &ClientError) {
        let tags: Vec<u64> = self.pending.keys().copied().collect();
        for tag in tags {
            let doubtful = self.pending.get(&tag).is_some_and(|p| p.doubt.is_some());
            let error =
                if doubtful { ClientError::unknown(error.to_string()) } else { error.clone() };
            self.end(tag, Err(error));
        }
    }

    fn end(&mut self, tag: u64, answer: Result<R, ClientError>) {
        if let Some(waiter) = self.remove(tag) {
            waiter.give(answer);
        }
    }

    fn remove(&mut self, tag: u64) -> Option<W> {
        let pending = self.pending.remove(&tag)?;
        if !pending.out {
            self.ready.retain(|other| *other != tag);
            self.resting.retain(|(_, other)| *other != tag);
        }
        if let (Some(session), Some(place)) = (&mut self.session, &pending.place) {
            session.finish(place, Instant::now());
        }
        Some(pending.waiter)
    }
}

/// When a silent node is left: doubled with each silence, so that a slow cluster is not driven
/// round and round.
#[derive(Debug)]
pub(super) struct Patience {
    usual: Duration,
    now: Duration,
    since: Instant,
}

impl Patience {
    pub(super) fn new(usual: Duration) -> Patience {
        Patience { usual, now: usual, since: Instant::now() }
    }

    /// The node said something, or has nothing to say.
    pub(super) fn heard(&mut self) {
        self.now = self.usual;
        self.since = Instant::now();
    }

    /// Starts to count anew.
    pub(super) fn start(&mut self) {
        self.since = Instant::now();
    }

    /// How long the silence lasted, once it is too long.
    pub(super) fn over(&mut self) -> Option<Duration> {
        let silence = self.since.elapsed();
        if silence < self.now {
            return None;
        }
        self.now = (self.now * 2).min(self.usual * 16);
        Some(silence)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::client::error::Reason;

    type Reply = oneshot::Receiver<Result<u32, ClientError>>;
    type Box3 = Outbox<&'static str, u32, oneshot::Sender<Result<u32, ClientError>>>;

    const LONG: Duration = Duration::from_secs(5);

    fn put(outbox: &mut Box3, request: &'static str) -> Reply {
        let (waiter, reply) = oneshot::channel();
        outbox.accept(request, Instant::now() + LONG, waiter);
        reply
    }

    fn write(outbox: &mut Box3) -> Writing<&'static str> {
        outbox.take().expect("something is ready")
    }

    fn failure(verdict: Verdict) -> Result<u32, Failure> {
        Err(Failure { verdict, alive: true, elsewhere: true })
    }

    fn unknown() -> Verdict {
        Verdict::Unknown { message: "lost".to_owned() }
    }

    fn not_now() -> Verdict {
        Verdict::NotApplied { message: "no leader".to_owned(), retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_is_written_again_in_order_under_the_same_places() {
        let mut outbox = Box3::new(true, 3);
        let _replies = [put(&mut outbox, "a"), put(&mut outbox, "b"), put(&mut outbox, "c")];
        let first: Vec<_> = (0..2).map(|_| write(&mut outbox).session).collect();
        outbox.broken(true, "reset");
        let again: Vec<_> = (0..3).map(|_| write(&mut outbox)).collect();
        assert_eq!(again.iter().map(|w| w.request).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(again.iter().take(2).map(|w| w.session.clone()).collect::<Vec<_>>(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn without_sessions_what_may_have_arrived_is_unknown_and_the_rest_goes_on() {
        let mut outbox = Box3::new(false, 1);
        let mut written = put(&mut outbox, "a");
        let mut waiting = put(&mut outbox, "b");
        assert!(write(&mut outbox).session.is_none());
        outbox.broken(true, "reset");
        assert!(matches!(written.try_recv(), Ok(Err(ClientError::Unknown { .. }))));
        assert!(waiting.try_recv().is_err(), "still waiting");
        assert_eq!(write(&mut outbox).request, "b");
        outbox.broken(false, "refused");
        assert_eq!(write(&mut outbox).request, "b", "nothing was sent, so it is safe");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_tells_not_applied_from_unknown() {
        let mut outbox = Box3::new(true, 1);
        let mut out = put(&mut outbox, "out");
        let mut refused = put(&mut outbox, "refused");
        let mut doubtful = put(&mut outbox, "doubtful");
        let tags: Vec<u64> = (0..3).map(|_| write(&mut outbox).tag).collect();
        outbox.answered(tags[1], failure(not_now()));
        outbox.answered(tags[2], failure(unknown()));
        tokio::time::advance(LONG - Duration::from_millis(1)).await;
        outbox.sweep(Instant::now());
        let tag = write(&mut outbox).tag;
        outbox.answered(tag, failure(not_now()));
        let tag = write(&mut outbox).tag;
        outbox.answered(tag, failure(not_now()));
        tokio::time::advance(LONG).await;
        outbox.sweep(Instant::now());
        assert!(matches!(out.try_recv(), Ok(Err(ClientError::Unknown { .. }))));
        assert!(matches!(refused.try_recv(), Ok(Err(ClientError::NotNow { .. }))));
        assert!(
            matches!(doubtful.try_recv(), Ok(Err(ClientError::Unknown { .. }))),
            "a later refusal does not undo the doubt"
        );
        assert!(outbox.is_empty());
        assert_eq!(outbox.room(), SESSION_WRITES as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn all_nodes_are_asked_before_the_first_rest() {
        let mut outbox = Box3::new(true, 2);
        let _reply = put(&mut outbox, "a");
        let tag = write(&mut outbox).tag;
        outbox.answered(tag, failure(not_now()));
        assert!(outbox.has_ready(), "the second node at once");
        write(&mut outbox);
        outbox.answered(tag, failure(not_now()));
        assert!(!outbox.has_ready() && !outbox.is_out(), "rests");
        tokio::time::advance(Duration::from_secs(1)).await;
        outbox.sweep(Instant::now());
        assert!(outbox.has_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_session_is_renewed_only_for_a_write_without_doubt() {
        let mut outbox = Box3::new(true, 3);
        let mut clean = put(&mut outbox, "clean");
        let mut doubtful = put(&mut outbox, "doubtful");
        let one = write(&mut outbox);
        let two = write(&mut outbox);
        outbox.answered(two.tag, failure(unknown()));
        let ended = || failure(Verdict::SessionEnded { message: "ended".to_owned() });
        let again = write(&mut outbox);
        assert_eq!(again.session, two.session);
        outbox.answered(one.tag, ended());
        outbox.answered(two.tag, ended());
        assert!(matches!(doubtful.try_recv(), Ok(Err(ClientError::Unknown { .. }))));
        let fresh = write(&mut outbox);
        assert_ne!(
            fresh.session.as_ref().map(|s| &s.client_id),
            one.session.as_ref().map(|s| &s.client_id)
        );
        outbox.answered(fresh.tag, Ok(7));
        assert_eq!(clean.try_recv(), Ok(Ok(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_at_once_and_strange_tags_are_ignored() {
        let mut outbox = Box3::new(true, 3);
        let mut reply = put(&mut outbox, "a");
        assert!(!outbox.answered(1, Ok(1)), "was not out");
        let tag = write(&mut outbox).tag;
        assert!(!outbox.answered(tag + 9, Ok(1)));
        let error = ClientError::rejected(Reason::QueueNotFound, "no such queue");
        outbox.answered(tag, failure(Verdict::Final(error.clone())));
        assert_eq!(reply.try_recv(), Ok(Err(error)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_bounds_what_is_taken_in() {
        let mut outbox = Box3::new(true, 1);
        let replies: Vec<Reply> = (0..SESSION_WRITES).map(|_| put(&mut outbox, "x")).collect();
        assert_eq!(outbox.room(), 0);
        let first = write(&mut outbox).tag;
        let second = write(&mut outbox).tag;
        outbox.answered(second, Ok(1));
        assert_eq!(outbox.room(), 0, "the lowest is still unanswered");
        outbox.answered(first, Ok(1));
        assert_eq!(outbox.room(), 2);
        drop(replies);
        outbox.sweep(Instant::now());
        assert!(outbox.is_empty(), "nobody waits for them any more");
    }
}
