//! Who waits for messages: a line for each queue, first come first served.
//!
//! Laws: a receive is proposed only for messages that no other proposed receive is about to
//! take, so a thousand waiters do not all propose for one message; a turn that nobody takes
//! goes to the next in line; leaving the line costs the same wherever one stands.
//!
//! A line is looked at only for a reason: an applied entry changed its queue, somebody joined it
//! or gave a claim up, or the time has come at which one of its messages stops waiting. So an
//! entry costs the lines of the queues that it names, however many there are beside, and all
//! lines share one timer.
//!
//! Bounded by the calls that the floors above admit: each waits at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::queue::Outlook;
use crate::queue::ids::{LogTime, QueueId};
use crate::queue::rows::RowKey;

/// Account and queue.
type Key = Arc<(String, String)>;

/// All lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::consensus) struct Waiting {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Mutex<Lines>,
    /// How many stand in all lines; changed under the lock, read without it.
    standing: AtomicUsize,
    /// There is a reason to look.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    queues: BTreeMap<Key, Line>,
    /// Those with a reason to be looked at.
    stirred: BTreeSet<Key>,
    /// When time alone is the reason.
    alarms: BTreeSet<(LogTime, Key)>,
    /// Which line waits for a queue.
    by_id: BTreeMap<QueueId, Key>,
    next_place: u64,
}

#[derive(Debug, Default)]
struct Line {
    /// Messages that proposed receives are about to take.
    claimed: u64,
    places: BTreeMap<u64, Place>,
    /// As it was when the line was looked at last; nothing of a line in which nobody stands.
    seen: Option<(QueueId, Option<LogTime>)>,
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

fn key(account: &str, queue: &str) -> Key {
    Arc::new((account.to_owned(), queue.to_owned()))
}

/// The queue that a row belongs to, if a change of it may be news for those who wait.
fn queue_of(row: &RowKey) -> Option<QueueId> {
    match *row {
        RowKey::Queue(queue) | RowKey::Chunk { queue, .. } | RowKey::Message { queue, .. } => {
            Some(queue)
        }
        _ => None,
    }
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Notes how a queue looked when its line was looked at.
    fn see(&mut self, key: &Key, now: Option<(QueueId, Option<LogTime>)>) {
        let Some(line) = self.queues.get_mut(key) else { return };
        let before = std::mem::replace(&mut line.seen, now);
        if before == now {
            return;
        }
        if let Some((id, alarm)) = before {
            // The queue may have another name by now, and a line that waits under it.
            if self.by_id.get(&id) == Some(key) {
                self.by_id.remove(&id);
            }
            alarm.map(|at| self.alarms.remove(&(at, Arc::clone(key))));
        }
        if let Some((id, alarm)) = now {
            self.by_id.insert(id, Arc::clone(key));
            self.alarms.extend(alarm.map(|at| (at, Arc::clone(key))));
        }
    }

    /// Forgets what is of no use when nobody stands in a line, and the line itself when nothing
    /// is claimed either.
    fn tidy(&mut self, key: &Key) {
        let Some(line) = self.queues.get(key) else { return };
        if !line.places.is_empty() {
            return;
        }
        let idle = line.claimed == 0;
        self.see(key, None);
        self.stirred.remove(key);
        if idle {
            self.queues.remove(key);
        }
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
        let key = key(account, queue);
        let mut lines = self.inner.lines();
        let line = lines.queues.get(&key);
        let (claimed, waits) = line.map_or((0, false), |l| (l.claimed, !l.places.is_empty()));
        let count = most.min(visible.saturating_sub(claimed));
        if waits || count == 0 {
            return None;
        }
        lines.queues.entry(Arc::clone(&key)).or_default().claimed += count;
        drop(lines);
        Some(Claim { inner: Arc::clone(&self.inner), key, count })
    }

    /// Joins the end of a queue's line.
    pub(super) fn join(&self, account: &str, queue: &str, most: u64) -> Ticket {
        let key = key(account, queue);
        let (turn, told) = oneshot::channel();
        let mut lines = self.inner.lines();
        let place = lines.next_place;
        lines.next_place += 1;
        let line = lines.queues.entry(Arc::clone(&key)).or_default();
        line.places.insert(place, Place { most, turn });
        lines.stirred.insert(Arc::clone(&key));
        self.inner.standing.fetch_add(1, Ordering::SeqCst);
        drop(lines);
        self.inner.changed.notify_one();
        Ticket { inner: Arc::clone(&self.inner), key, place, turn: told }
    }

    /// How many stand in all lines.
    pub(super) fn count(&self) -> usize {
        self.inner.standing.load(Ordering::SeqCst)
    }

    /// Waits until [`serve`](Self::serve) has a reason to look beside the time.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// An entry was applied that changed these rows. Whoever joins a line after this asked
    /// whether anybody stands in one looks at the changed state by itself.
    pub(in crate::consensus) fn applied(&self, rows: &[RowKey]) {
        if self.count() == 0 {
            return;
        }
        let mut lines = self.inner.lines();
        let (mut last, mut news) = (None, false);
        for id in rows.iter().filter_map(queue_of) {
            // The rows of a queue mostly stand together.
            if last.replace(id) == Some(id) {
                continue;
            }
            if let Some(key) = lines.by_id.get(&id).cloned() {
                lines.stirred.insert(key);
                news = true;
            }
        }
        drop(lines);
        if news {
            self.inner.changed.notify_one();
        }
    }

    /// All may have changed: the state is another, or somebody else leads.
    pub(in crate::consensus) fn all_changed(&self) {
        let mut lines = self.inner.lines();
        let all: Vec<Key> = lines.queues.keys().cloned().collect();
        lines.stirred.extend(all);
        drop(lines);
        self.inner.changed.notify_one();
    }

    /// Gives turns to those in front of the lines that there is a reason to look at, for the
    /// messages that `look` sees and nobody has claimed; `None` says that the queue refuses
    /// receives. Answers when time alone is the next reason.
    pub(super) fn serve(
        &self,
        now: LogTime,
        mut look: impl FnMut(&str, &str) -> Option<Outlook>,
    ) -> Option<LogTime> {
        let mut turns = Vec::new();
        let mut lines = self.inner.lines();
        while let Some((at, key)) = lines.alarms.first().cloned()
            && at <= now
        {
            lines.alarms.remove(&(at, Arc::clone(&key)));
            lines.stirred.insert(key);
        }
        for key in std::mem::take(&mut lines.stirred) {
            let Some(line) = lines.queues.get_mut(&key) else { continue };
            if line.places.is_empty() {
                continue;
            }
            let seen = look(&key.0, &key.1);
            let before = line.places.len();
            match seen {
                None => {
                    let all = std::mem::take(&mut line.places);
                    turns.extend(all.into_values().map(|place| (place.turn, Turn::Look)));
                }
                Some(seen) => turns.extend(line.turns(&self.inner, &key, seen.visible)),
            }
            let served = before - line.places.len();
            self.inner.standing.fetch_sub(served, Ordering::SeqCst);
            lines.see(&key, seen.map(|seen| (seen.queue, seen.next)));
            lines.tidy(&key);
        }
        let next = lines.alarms.first().map(|(at, _)| *at);
        drop(lines);
        for (turn, what) in turns {
            // Whoever has left gives the claim back, which is another look.
            let _ = turn.send(what);
        }
        next
    }
}

impl Line {
    /// Takes those in front out of the line, as far as there are messages for them.
    fn turns(
        &mut self,
        inner: &Arc<Inner>,
        key: &Key,
        visible: u64,
    ) -> Vec<(oneshot::Sender<Turn>, Turn)> {
        let mut turns = Vec::new();
        while visible > self.claimed {
            let Some((_, place)) = self.places.pop_first() else { break };
            let count = place.most.min(visible - self.claimed);
            self.claimed += count;
            let claim = Claim { inner: Arc::clone(inner), key: Arc::clone(key), count };
            turns.push((place.turn, Turn::Take(claim)));
        }
        turns
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
        let mut lines = self.inner.lines();
        let Some(line) = lines.queues.get_mut(&self.key) else { return };
        if line.places.remove(&self.place).is_some() {
            self.inner.standing.fetch_sub(1, Ordering::SeqCst);
            lines.tidy(&self.key);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut lines = self.inner.lines();
        let Some(line) = lines.queues.get_mut(&self.key) else { return };
        line.claimed = line.claimed.saturating_sub(self.count);
        let waits = !line.places.is_empty();
        if waits {
            lines.stirred.insert(Arc::clone(&self.key));
        }
        lines.tidy(&self.key);
        drop(lines);
        if waits {
            self.inner.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::Number;

    const NOW: LogTime = LogTime(100);

    fn join(waiting: &Waiting, most: u64) -> Ticket {
        waiting.join("default", "orders", most)
    }

    fn claimed(ticket: &mut Ticket) -> Option<Claim> {
        match ticket.turn.try_recv() {
            Ok(Turn::Take(claim)) => Some(claim),
            _ => None,
        }
    }

    fn outlook(visible: u64) -> Outlook {
        Outlook { queue: QueueId(7), visible, next: None }
    }

    /// Serves with so many messages in every queue; answers how many lines were looked at.
    fn serve(waiting: &Waiting, visible: u64) -> usize {
        let mut looks = 0;
        waiting.serve(NOW, |_, _| {
            looks += 1;
            Some(outlook(visible))
        });
        looks
    }

    fn message(queue: u64) -> RowKey {
        RowKey::Message { queue: QueueId(queue), number: Number(1) }
    }

    #[test]
    fn one_message_is_one_turn_for_the_first_in_line() {
        let waiting = Waiting::default();
        let (mut first, mut second) = (join(&waiting, 10), join(&waiting, 10));
        serve(&waiting, 1);
        let claim = claimed(&mut first).expect("it is first");
        assert!(claimed(&mut second).is_none());
        waiting.applied(&[message(7)]);
        serve(&waiting, 1);
        assert!(claimed(&mut second).is_none(), "the message is spoken for");
        drop(claim);
        serve(&waiting, 1);
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
        serve(&waiting, 1);
        drop(first);
        serve(&waiting, 1);
        assert!(claimed(&mut second).is_some());
    }

    #[test]
    fn a_queue_that_refuses_sends_all_to_look_and_nothing_is_left_behind() {
        let waiting = Waiting::default();
        let (mut one, left) = (join(&waiting, 1), join(&waiting, 1));
        drop(left);
        serve(&waiting, 0);
        waiting.applied(&[RowKey::Queue(QueueId(7))]);
        waiting.serve(NOW, |_, _| None);
        assert!(matches!(one.turn.try_recv(), Ok(Turn::Look)));
        drop(one);
        assert_eq!(waiting.count(), 0);
        let lines = waiting.inner.lines();
        assert!(lines.queues.is_empty() && lines.by_id.is_empty() && lines.alarms.is_empty());
    }

    #[test]
    fn an_entry_costs_the_lines_of_the_queues_it_changes_and_no_other() {
        let waiting = Waiting::default();
        let all: Vec<Ticket> =
            (0..10_000).map(|n| waiting.join("default", &format!("queue-{n}"), 1)).collect();
        let number = |queue: &str| queue[6..].parse().expect("a number");
        let mut looks = Vec::new();
        let look = |visible: u64, looks: &mut Vec<u64>| {
            waiting.serve(NOW, |_, queue| {
                looks.push(number(queue));
                Some(Outlook { queue: QueueId(number(queue)), visible, next: None })
            });
        };
        look(0, &mut looks);
        assert_eq!(std::mem::take(&mut looks).len(), 10_000, "each once, when it was joined");
        waiting.applied(&[RowKey::Counters, RowKey::Session(1), message(10_001)]);
        look(0, &mut looks);
        assert!(looks.is_empty(), "{looks:?}");
        waiting.applied(&[message(7), message(7), message(70)]);
        look(1, &mut looks);
        assert_eq!(looks, [7, 70]);
        drop(all);
        assert_eq!(waiting.count(), 0);
    }

    #[test]
    fn time_alone_is_a_reason_for_the_line_whose_time_has_come() {
        let waiting = Waiting::default();
        let mut soon = waiting.join("default", "soon", 1);
        let mut late = waiting.join("default", "late", 1);
        let at = |queue: &str| if queue == "soon" { LogTime(200) } else { LogTime(300) };
        let look = |now: LogTime| {
            let mut looks = 0;
            let next = waiting.serve(now, |_, queue| {
                looks += 1;
                let (id, come) = (QueueId(at(queue).0), at(queue) <= now);
                let next = Some(at(queue)).filter(|_| !come);
                Some(Outlook { queue: id, visible: u64::from(come), next })
            });
            (looks, next)
        };
        assert_eq!(look(NOW), (2, Some(LogTime(200))));
        assert_eq!(look(LogTime(199)), (0, Some(LogTime(200))));
        assert_eq!(look(LogTime(200)), (1, Some(LogTime(300))));
        assert!(claimed(&mut soon).is_some() && claimed(&mut late).is_none());
        assert_eq!(look(LogTime(300)), (1, None));
        assert!(claimed(&mut late).is_some());
    }

    #[test]
    fn a_queue_that_has_another_name_by_now_is_news_for_who_waits_under_that() {
        let waiting = Waiting::default();
        let mut before = waiting.join("default", "zebra", 1);
        serve(&waiting, 0);
        let mut after = waiting.join("default", "apple", 1);
        waiting.applied(&[RowKey::Queue(QueueId(7))]);
        waiting.serve(NOW, |_, queue| (queue == "apple").then(|| outlook(0)));
        assert!(matches!(before.turn.try_recv(), Ok(Turn::Look)));
        waiting.applied(&[message(7)]);
        assert_eq!(serve(&waiting, 1), 1);
        assert!(claimed(&mut after).is_some());
    }
}
