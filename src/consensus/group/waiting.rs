//! Who waits for messages: a line for each queue, first come first served.
//!
//! Laws: a receive is proposed only for messages that no other proposed receive is about to
//! take, be they there or in a send that is being proposed, so a thousand waiters do not all
//! propose for one message; a turn that nobody takes
//! goes to the next in line; leaving the line costs the same wherever one stands. Looked at are
//! only lines with news: their queue was changed by an entry, somebody came or gave a claim up,
//! or a time has come. So an entry costs the lines of the queues that it changed, however many
//! there are beside, and nothing where nobody waits; all lines share one timer.
//!
//! Bounded by the calls that the floors above admit: each waits at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::queue::ids::{LogTime, QueueId};
use crate::queue::rows::RowKey;

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
    /// Some line has news.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    queues: BTreeMap<QueueId, Line>,
    next_place: u64,
    /// Lines to look at, whatever the time.
    news: BTreeSet<QueueId>,
    /// When a line is to be looked at by time alone.
    times: BTreeSet<(LogTime, QueueId)>,
}

#[derive(Debug, Default)]
struct Line {
    /// Messages that proposed receives are about to take.
    claimed: u64,
    /// Its entry among the times.
    time: Option<LogTime>,
    places: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    most: u64,
    turn: oneshot::Sender<Turn>,
}

/// To be told when the lock is free again.
type Turns = Vec<(oneshot::Sender<Turn>, Turn)>;

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
    queue: QueueId,
    count: u64,
}

/// A place in a line, until dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    inner: Arc<Inner>,
    queue: QueueId,
    place: u64,
    turn: oneshot::Receiver<Turn>,
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Lets those in front claim so many messages.
    fn give_turns(
        &mut self,
        inner: &Arc<Inner>,
        queue: QueueId,
        mut messages: u64,
        turns: &mut Turns,
    ) {
        while messages > 0 {
            let Some((_, place)) = self.places.pop_first() else { break };
            let count = place.most.min(messages);
            messages -= count;
            self.claimed += count;
            let claim = Claim { inner: Arc::clone(inner), queue, count };
            turns.push((place.turn, Turn::Take(claim)));
        }
    }
}

impl Lines {
    /// Changes a line, and forgets it when nobody is in it and nothing is claimed.
    fn change(&mut self, queue: QueueId, change: impl FnOnce(&mut Line)) -> bool {
        let Some(line) = self.queues.get_mut(&queue) else { return false };
        change(line);
        let waits = !line.places.is_empty();
        self.forget_if_empty(queue);
        waits
    }

    fn forget_if_empty(&mut self, queue: QueueId) {
        let Some(line) = self.queues.get_mut(&queue) else { return };
        if line.places.is_empty()
            && let Some(time) = line.time.take()
        {
            self.times.remove(&(time, queue));
        }
        if line.places.is_empty() && line.claimed == 0 {
            self.queues.remove(&queue);
        }
    }

    /// Takes the lines with news.
    fn take_news(&mut self, now: LogTime) -> BTreeSet<QueueId> {
        let mut lines = std::mem::take(&mut self.news);
        while let Some((time, queue)) = self.times.first().copied()
            && time <= now
        {
            self.times.remove(&(time, queue));
            if let Some(line) = self.queues.get_mut(&queue) {
                line.time = None;
            }
            lines.insert(queue);
        }
        lines.retain(|queue| self.queues.contains_key(queue));
        lines
    }

    /// Gives the turns of one line; `news` is asked what is visible there, and when the next is.
    fn serve(
        &mut self,
        inner: &Arc<Inner>,
        queue: QueueId,
        news: impl FnOnce() -> Option<(u64, Option<LogTime>)>,
        turns: &mut Turns,
    ) {
        let Some(line) = self.queues.get_mut(&queue).filter(|line| !line.places.is_empty()) else {
            return;
        };
        let Some((visible, next)) = news() else {
            let all = std::mem::take(&mut line.places);
            turns.extend(all.into_values().map(|place| (place.turn, Turn::Look)));
            return;
        };
        line.give_turns(inner, queue, visible.saturating_sub(line.claimed), turns);
        if let Some(before) = std::mem::replace(&mut line.time, next) {
            self.times.remove(&(before, queue));
        }
        self.times.extend(next.map(|time| (time, queue)));
    }
}

impl Waiting {
    /// Speaks for up to `most` of the `visible` messages at once, if nobody waits for them.
    pub(super) fn claim(&self, queue: QueueId, most: u64, visible: u64) -> Option<Claim> {
        let mut lines = self.inner.lines();
        let line = lines.queues.get(&queue);
        let (claimed, waits) = line.map_or((0, false), |l| (l.claimed, !l.places.is_empty()));
        let count = most.min(visible.saturating_sub(claimed));
        if waits || count == 0 {
            return None;
        }
        lines.queues.entry(queue).or_default().claimed += count;
        drop(lines);
        Some(Claim { inner: Arc::clone(&self.inner), queue, count })
    }

    /// Joins the end of a queue's line.
    pub(super) fn join(&self, queue: QueueId, most: u64) -> Ticket {
        let (turn, told) = oneshot::channel();
        let mut lines = self.inner.lines();
        let place = lines.next_place;
        lines.next_place += 1;
        let line = lines.queues.entry(queue).or_default();
        line.places.insert(place, Place { most, turn });
        lines.news.insert(queue);
        self.inner.standing.fetch_add(1, Ordering::SeqCst);
        drop(lines);
        self.inner.changed.notify_one();
        Ticket { inner: Arc::clone(&self.inner), queue, place, turn: told }
    }

    /// How many stand in all lines.
    pub(super) fn count(&self) -> usize {
        self.inner.standing.load(Ordering::SeqCst)
    }

    /// Waits until [`serve`](Self::serve) has something to look at, whatever the time.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// An entry was applied that changed these rows. Whoever joins a line after this found that
    /// nobody stands in one looks at the changed state by itself.
    pub(in crate::consensus) fn applied(&self, rows: &[RowKey]) {
        if self.count() == 0 {
            return;
        }
        let mut lines = self.inner.lines();
        let (mut last, mut news) = (None, false);
        for queue in rows.iter().filter_map(RowKey::queue) {
            if last.replace(queue) != Some(queue) && lines.queues.contains_key(&queue) {
                lines.news.insert(queue);
                news = true;
            }
        }
        drop(lines);
        if news {
            self.inner.changed.notify_one();
        }
    }

    /// So many messages are about to be proposed: those in front get their turns for them.
    pub(super) fn coming(&self, queue: QueueId, count: u64) {
        let mut turns = Vec::new();
        let mut lines = self.inner.lines();
        let Some(line) = lines.queues.get_mut(&queue) else { return };
        line.give_turns(&self.inner, queue, count, &mut turns);
        self.inner.standing.fetch_sub(turns.len(), Ordering::SeqCst);
        drop(lines);
        tell(turns);
    }

    /// The whole state was replaced, or another term began.
    pub(in crate::consensus) fn all_changed(&self) {
        let mut lines = self.inner.lines();
        let all: Vec<QueueId> = lines.queues.keys().copied().collect();
        lines.news.extend(all);
        drop(lines);
        self.inner.changed.notify_one();
    }

    /// Gives turns to those in front of the lines with news, for the messages that nobody has
    /// claimed. `look` says of a queue how many are visible, and when by time alone another may
    /// be; `None` = it is gone. Answers when the first line is to be looked at by time alone.
    pub(super) fn serve(
        &self,
        now: LogTime,
        look: impl Fn(QueueId) -> Option<(u64, Option<LogTime>)>,
    ) -> Option<LogTime> {
        let mut turns = Vec::new();
        let first = {
            let mut lines = self.inner.lines();
            for queue in lines.take_news(now) {
                lines.serve(&self.inner, queue, || look(queue), &mut turns);
                lines.forget_if_empty(queue);
            }
            self.inner.standing.fetch_sub(turns.len(), Ordering::SeqCst);
            lines.times.first().map(|(time, _)| *time)
        };
        tell(turns);
        first
    }
}

/// Not under the lock: whoever has left gives the claim back, which is another look.
fn tell(turns: Turns) {
    for (turn, what) in turns {
        let _ = turn.send(what);
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
        let mut left = 0;
        let mut lines = self.inner.lines();
        lines.change(self.queue, |line| left = usize::from(line.places.remove(&place).is_some()));
        self.inner.standing.fetch_sub(left, Ordering::SeqCst);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let count = self.count;
        let mut lines = self.inner.lines();
        let waits = lines.change(self.queue, |line| {
            line.claimed = line.claimed.saturating_sub(count);
        });
        if waits {
            lines.news.insert(self.queue);
        }
        drop(lines);
        if waits {
            self.inner.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: QueueId = QueueId(7);

    fn join(waiting: &Waiting, most: u64) -> Ticket {
        waiting.join(ORDERS, most)
    }

    /// An entry has touched the queue, and so many are visible there.
    fn serve(waiting: &Waiting, visible: Option<u64>) {
        waiting.applied(&[RowKey::Queue(ORDERS)]);
        waiting.serve(LogTime(1), |_| visible.map(|visible| (visible, None)));
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
        serve(&waiting, Some(1));
        let claim = claimed(&mut first).expect("it is first");
        assert!(claimed(&mut second).is_none());
        serve(&waiting, Some(1));
        assert!(claimed(&mut second).is_none(), "the message is spoken for");
        drop(claim);
        serve(&waiting, Some(1));
        assert!(claimed(&mut second).is_some(), "the first did not take it");
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let waiting = Waiting::default();
        assert!(waiting.claim(ORDERS, 10, 0).is_none());
        let all = waiting.claim(ORDERS, 10, 3).expect("nobody waits");
        assert!(waiting.claim(ORDERS, 10, 3).is_none(), "all three are claimed");
        drop(all);
        let _first = join(&waiting, 1);
        assert!(waiting.claim(ORDERS, 10, 3).is_none(), "somebody waits");
    }

    #[test]
    fn a_turn_that_nobody_takes_goes_to_the_next() {
        let waiting = Waiting::default();
        let (first, mut second) = (join(&waiting, 1), join(&waiting, 1));
        serve(&waiting, Some(1));
        drop(first);
        // Nothing is applied: the claim that was given up is news by itself.
        waiting.serve(LogTime(1), |_| Some((1, None)));
        assert!(claimed(&mut second).is_some());
    }

    #[test]
    fn a_queue_that_is_gone_sends_all_to_look_and_nothing_is_left_behind() {
        let waiting = Waiting::default();
        let (mut one, left) = (join(&waiting, 1), join(&waiting, 1));
        drop(left);
        serve(&waiting, None);
        assert!(matches!(one.turn.try_recv(), Ok(Turn::Look)));
        drop(one);
        let lines = waiting.inner.lines();
        assert!(lines.queues.is_empty() && lines.times.is_empty());
    }

    #[test]
    fn ten_thousand_waiters_are_looked_at_when_there_is_news_and_share_one_timer() {
        let waiting = Waiting::default();
        let looks = std::cell::Cell::new(0);
        let serve = |touched: &[u64], now: u64| {
            let touched: Vec<RowKey> =
                touched.iter().map(|id| RowKey::Queue(QueueId(*id))).collect();
            waiting.applied(&touched);
            looks.set(0);
            // Nothing is visible anywhere; something is at 100 in queue 5, at 200 in queue 6.
            let first = waiting.serve(LogTime(now), |queue| {
                looks.set(looks.get() + 1);
                let next = [(5, 100), (6, 200)].iter().find(|(id, _)| QueueId(*id) == queue);
                Some((0, next.map(|(_, at)| LogTime(*at)).filter(|at| at.0 > now)))
            });
            (looks.get(), first.map(|at| at.0))
        };
        let mut tickets: Vec<Ticket> = (0..10_000).map(|id| waiting.join(QueueId(id), 1)).collect();
        assert_eq!(serve(&[], 1), (10_000, Some(100)), "each once, for it has just come");
        assert_eq!(serve(&[], 2), (0, Some(100)), "no news, no look");
        assert_eq!(serve(&[3, 77_777], 3), (1, Some(100)), "only the queue that was changed");
        assert_eq!(serve(&[], 100), (1, Some(200)), "only the queue whose time has come");
        tickets.clear();
        assert_eq!(serve(&[3, 6], 300), (0, None), "nobody is left, nor a timer");
        assert_eq!(waiting.count(), 0);
    }
}
