//! Sessions: each write carries a client id and a sequence, so that a retry is never run twice.
//!
//! Laws: at most `SESSION_WRITES` sequences lie between the lowest unanswered and the newest, because the
//! cluster keeps a bounded number of outcomes; `lowest_unanswered` never passes a write that may
//! still be retried; a session that rested for long gets a new id before the cluster ends it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::SESSION_WRITES;
use crate::proto::queue::v1 as pb;

/// A session that rested this long is replaced; the cluster ends it after twice that.
const REST: Duration = Duration::from_secs(300);

/// The sequences of one client id.
#[derive(Debug)]
pub(super) struct Session {
    client_id: Bytes,
    next: u64,
    open: BTreeSet<u64>,
    last_used: Instant,
    /// When the cluster last recorded a receive; other writes are always recorded.
    recorded: Option<Instant>,
}

/// One write's place in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) client_id: Bytes,
    pub(super) sequence: u64,
    /// As it was when the place was taken; used once the session has moved to a new id.
    lowest: u64,
}

#[allow(
    clippy::disallowed_methods,
    reason = "ids must differ between processes; a seed would repeat them"
)]
fn new_client_id() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}

impl Session {
    pub(super) fn new(now: Instant) -> Session {
        Session {
            client_id: new_client_id(),
            next: 1,
            open: BTreeSet::new(),
            last_used: now,
            recorded: None,
        }
    }

    /// The lowest sequence whose answer has not been seen.
    pub(super) fn lowest_unanswered(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// How many more writes fit into the window.
    pub(super) fn room(&self) -> u64 {
        SESSION_WRITES.saturating_sub(self.next - self.lowest_unanswered())
    }

    /// Takes the next place; `None` when the window is full.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Place> {
        if self.open.is_empty() && now.duration_since(self.last_used) >= REST {
            *self = Session::new(now);
        }
        if self.room() == 0 {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.open.insert(sequence);
        self.last_used = now;
        let lowest = self.lowest_unanswered();
        Some(Place { client_id: self.client_id.clone(), sequence, lowest })
    }

    /// The write was answered, or will not be tried again.
    pub(super) fn finish(&mut self, place: &Place, now: Instant) {
        if place.client_id == self.client_id {
            self.open.remove(&place.sequence);
            self.last_used = now;
        }
    }

    /// The cluster has ended the session of this place: the next write starts a new one.
    pub(super) fn renew(&mut self, ended: &Place, now: Instant) {
        if ended.client_id == self.client_id {
            *self = Session::new(now);
        }
    }

    /// The tag for an attempt of this place.
    pub(super) fn tag(&self, place: &Place) -> pb::Session {
        let lowest = if place.client_id == self.client_id {
            self.lowest_unanswered().min(place.sequence)
        } else {
            place.lowest
        };
        pb::Session {
            client_id: place.client_id.clone(),
            sequence: place.sequence,
            lowest_unanswered: lowest,
        }
    }
}

/// A session that many calls share.
#[derive(Clone, Debug)]
pub(super) struct SharedSession {
    inner: Arc<(Mutex<Session>, Notify)>,
}

impl SharedSession {
    pub(super) fn new() -> SharedSession {
        SharedSession { inner: Arc::new((Mutex::new(Session::new(Instant::now())), Notify::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest write is recorded by the cluster, which keeps the session from then on.
    pub(super) fn recorded(&self) {
        self.lock().recorded = Some(Instant::now());
    }

    /// The cluster answered without a record (an empty receive). A session that it may not know,
    /// or may soon end, must not go on with a higher sequence.
    pub(super) fn not_recorded(&self) {
        let mut session = self.lock();
        match session.recorded {
            Some(then) => session.last_used = then,
            None => *session = Session::new(Instant::now()),
        }
    }

    /// Waits for room in the window and takes a place.
    pub(super) async fn begin(&self) -> Ticket {
        loop {
            let room = self.inner.1.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(place) = self.lock().begin(Instant::now()) {
                return Ticket { session: self.clone(), place };
            }
            room.await;
        }
    }
}

/// A place that is given back when dropped, whatever became of the call.
#[derive(Debug)]
pub(super) struct Ticket {
    session: SharedSession,
    place: Place,
}

impl Ticket {
    pub(super) fn tag(&self) -> pb::Session {
        self.session.lock().tag(&self.place)
    }

    /// Moves to a new session; only for a write that certainly was not run.
    pub(super) async fn renew(self) -> Ticket {
        let session = self.session.clone();
        session.lock().renew(&self.place, Instant::now());
        drop(self);
        session.begin().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.lock().finish(&self.place, Instant::now());
        self.session.inner.1.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(session: &mut Session) -> Place {
        session.begin(Instant::now()).expect("the window has room")
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_unanswered_waits_for_the_slowest() {
        let mut session = Session::new(Instant::now());
        let [one, two, three] = [take(&mut session), take(&mut session), take(&mut session)];
        assert_eq!((one.sequence, two.sequence, three.sequence), (1, 2, 3));
        session.finish(&two, Instant::now());
        assert_eq!(session.tag(&three).lowest_unanswered, 1, "one is still out");
        session.finish(&one, Instant::now());
        assert_eq!(session.tag(&three).lowest_unanswered, 3);
        session.finish(&three, Instant::now());
        let four = take(&mut session);
        assert_eq!(session.tag(&four).lowest_unanswered, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_bounded_by_the_oldest_not_by_the_number() {
        let mut session = Session::new(Instant::now());
        let oldest = take(&mut session);
        for _ in 1..SESSION_WRITES {
            let place = take(&mut session);
            session.finish(&place, Instant::now());
        }
        assert_eq!(session.begin(Instant::now()), None, "1 to 1000 are taken, only 1 is out");
        session.finish(&oldest, Instant::now());
        assert!(session.begin(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rested_session_gets_a_new_id_but_never_with_a_write_out() {
        let mut session = Session::new(Instant::now());
        let one = take(&mut session);
        tokio::time::advance(REST * 2).await;
        let two = take(&mut session);
        assert_eq!(one.client_id, two.client_id);
        session.finish(&one, Instant::now());
        session.finish(&two, Instant::now());
        tokio::time::advance(REST).await;
        let fresh = take(&mut session);
        assert_ne!(fresh.client_id, one.client_id);
        assert_eq!(fresh.sequence, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_session_is_renewed_once_and_old_places_keep_their_claim() {
        let mut session = Session::new(Instant::now());
        let [one, two] = [take(&mut session), take(&mut session)];
        session.renew(&one, Instant::now());
        let fresh = take(&mut session);
        session.renew(&two, Instant::now());
        let next = take(&mut session);
        assert_eq!(fresh.client_id, next.client_id, "the second report renews nothing");
        assert_eq!(session.tag(&two).lowest_unanswered, 1);
        assert_eq!(session.tag(&two).client_id, two.client_id);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_receive_does_not_keep_a_session_alive() {
        let shared = SharedSession::new();
        let id = |ticket: &Ticket| ticket.place.client_id.clone();
        let first = id(&shared.begin().await);
        shared.not_recorded();
        let second = id(&shared.begin().await);
        assert_ne!(first, second, "the cluster may never have heard of it");
        shared.recorded();
        for _ in 0..4 {
            tokio::time::advance(REST / 4).await;
            let third = shared.begin().await;
            drop(third);
            shared.not_recorded();
        }
        assert_ne!(id(&shared.begin().await), second, "empty answers do not count as use");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_window_is_waited_for() {
        let shared = SharedSession::new();
        let mut tickets = Vec::new();
        for _ in 0..SESSION_WRITES {
            tickets.push(shared.begin().await);
        }
        let waiting = tokio::time::timeout(Duration::from_secs(1), shared.begin()).await;
        assert!(waiting.is_err(), "full");
        let next = tokio::spawn({
            let shared = shared.clone();
            async move { shared.begin().await.place.sequence }
        });
        tokio::task::yield_now().await;
        drop(tickets.remove(0));
        assert_eq!(next.await.expect("the task ends"), SESSION_WRITES + 1);
    }
}
