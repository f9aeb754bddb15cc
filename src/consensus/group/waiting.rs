//! Who waits for messages: a line for each queue, first come first served.
//!
//! Laws: a receive is proposed only for messages that no other proposed receive is about to
//! take, so a thousand waiters do not all propose for one message; a turn that nobody takes
//! goes to the next in line; leaving the line costs the same wherever one stands.
//!
//! Bounded by the calls that the floors above admit: each waits at most once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Account and queue.
type Key = (String, String);

/// All lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Mutex<Lines>,
    /// Something to look at again: a claim was given up, or somebody joined a line.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    queues: BTreeMap<Key, Line>,
    next_place: u64,
}

#[derive(Debug, Default)]
struct Line {
    /// Messages that proposed receives are about to take.
    claimed: u64,
    places: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    most: u64,
    turn: oneshot::Sender<Turn>,
}

/// What whoever waits is told.
#[derive(Debug)]
pub(super) enum Turn {
    /// Propose a receive; the claim lasts until it is applied.
    Take(Claim),
    /// The queue refuses receives: look again.
    Look,
}

/// Messages that are spoken for, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    inner: Arc<Inner>,
    key: Key,
    count: u64,
}

/// A place in a line, until dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    inner: Arc<Inner>,
    key: Key,
    place: u64,
    turn: oneshot::Receiver<Turn>,
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Changes a line, and forgets it when nobody is in it and nothing is claimed.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Line)) -> bool {
        let Some(line) = self.queues.get_mut(key) else { return false };
        change(line);
        let waits = !line.places.is_empty();
        if !waits && line.claimed == 0 {
            self.queues.remove(key);
        }
        waits
    }
}

impl Waiting {
    /// Speaks for up to `most` of the `visible` messages at once, if nobody waits for them.
    pub(super) fn claim(
        &self,
        account: &str,
        queue: &str,
        most: u64,
        visible: u64,
    ) -> Option<Claim> {
        let key = (account.to_owned(), queue.to_owned());
        let mut lines = self.inner.lines();
        let line = lines.queues.get(&key);
        let (claimed, waits) = line.map_or((0, false), |l| (l.claimed, !l.places.is_empty()));
        let count = most.min(visible.saturating_sub(claimed));
        if waits || count == 0 {
            return None;
        }
        lines.queues.entry(key.clone()).or_default().claimed += count;
        drop(lines);
        Some(Claim { inner: Arc::clone(&self.inner), key, count })
    }

    /// Joins the end of a queue's line.
    pub(super) fn join(&self, account: &str, queue: &str, most: u64) -> Ticket {
        let key = (account.to_owned(), queue.to_owned());
        let (turn, told) = oneshot::channel();
        let mut lines = self.inner.lines();
        let place = lines.next_place;
        lines.next_place += 1;
        let line = lines.queues.entry(key.clone()).or_default();
        line.places.insert(place, Place { most, turn });
        drop(lines);
        self.inner.changed.notify_one();
        Ticket { inner: Arc::clone(&self.inner), key, place, turn: told }
    }

    /// Waits until [`serve`](Self::serve) has something to look at beside newly applied entries.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Gives turns to those in front, for the messages that `visible` counts and nobody has
    /// claimed; `None` says that the queue refuses receives.
    pub(super) fn serve(&self, mut visible: impl FnMut(&str, &str) -> Option<u64>) {
        let mut turns = Vec::new();
        {
            let mut lines = self.inner.lines();
            for (key, line) in &mut lines.queues {
                if line.places.is_empty() {
                    continue;
                }
                let Some(visible) = visible(&key.0, &key.1) else {
                    let all = std::mem::take(&mut line.places);
                    turns.extend(all.into_values().map(|place| (place.turn, Turn::Look)));
                    continue;
                };
                while visible > line.claimed {
                    let Some((_, place)) = line.places.pop_first() else { break };
                    let count = place.most.min(visible - line.claimed);
                    line.claimed += count;
                    let inner = Arc::clone(&self.inner);
                    let claim = Claim { inner, key: key.clone(), count };
                    turns.push((place.turn, Turn::Take(claim)));
                }
            }
            lines.queues.retain(|_, line| line.claimed > 0 || !line.places.is_empty());
        }
        for (turn, what) in turns {
            // Whoever has left gives the claim back, which is another look.
            let _ = turn.send(what);
        }
    }

    /// Calls `look` for each queue that somebody waits for.
    pub(super) fn each_queue(&self, mut look: impl FnMut(&str, &str)) {
        for (key, line) in &self.inner.lines().queues {
            if !line.places.is_empty() {
                look(&key.0, &key.1);
            }
        }
    }
}

impl Ticket {
    /// Waits for the turn; *look* when the line is gone.
    pub(super) async fn turn(&mut self) -> Turn {
        (&mut self.turn).await.unwrap_or(Turn::Look)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let place = self.place;
        self.inner.lines().change(&self.key, |line| {
            line.places.remove(&place);
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let count = self.count;
        let waits = self.inner.lines().change(&self.key, |line| {
            line.claimed = line.claimed.saturating_sub(count);
        });
        if waits {
            self.inner.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(waiting: &Waiting, most: u64) -> Ticket {
        waiting.join("default", "orders", most)
    }

    fn claimed(ticket: &mut Ticket) -> Option<Claim> {
        match ticket.turn.try_recv() {
            Ok(Turn::Take(claim)) => Some(claim),
            _ => None,
        }
    }

    #[test]
    fn one_message_is_one_turn_for_the_first_in_line() {
        let waiting = Waiting::default();
        let (mut first, mut second) = (join(&waiting, 10), join(&waiting, 10));
        waiting.serve(|_, _| Some(1));
        let claim = claimed(&mut first).expect("it is first");
        assert!(claimed(&mut second).is_none());
        waiting.serve(|_, _| Some(1));
        assert!(claimed(&mut second).is_none(), "the message is spoken for");
        drop(claim);
        waiting.serve(|_, _| Some(1));
        assert!(claimed(&mut second).is_some(), "the first did not take it");
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let waiting = Waiting::default();
        assert!(waiting.claim("default", "orders", 10, 0).is_none());
        let all = waiting.claim("default", "orders", 10, 3).expect("nobody waits");
        assert!(waiting.claim("default", "orders", 10, 3).is_none(), "all three are claimed");
        drop(all);
        let _first = join(&waiting, 1);
        assert!(waiting.claim("default", "orders", 10, 3).is_none(), "somebody waits");
    }

    #[test]
    fn a_turn_that_nobody_takes_goes_to_the_next() {
        let waiting = Waiting::default();
        let (first, mut second) = (join(&waiting, 1), join(&waiting, 1));
        waiting.serve(|_, _| Some(1));
        drop(first);
        waiting.serve(|_, _| Some(1));
        assert!(claimed(&mut second).is_some());
    }

    #[test]
    fn a_queue_that_refuses_sends_all_to_look_and_nothing_is_left_behind() {
        let waiting = Waiting::default();
        let (mut one, left) = (join(&waiting, 1), join(&waiting, 1));
        drop(left);
        waiting.serve(|_, _| None);
        assert!(matches!(one.turn.try_recv(), Ok(Turn::Look)));
        drop(one);
        assert!(waiting.inner.lines().queues.is_empty());
    }
}
