//! Whose dead letters go where, and how many levels of queues stand above each dead-letter queue.
//!
//! Laws: nothing of this is stored; it follows from the queues that have a name, in whatever
//! order they come. A queue sends to one other and there are no cycles, so a change of levels
//! goes down one line. Levels are counted to one more than a chain may have, and no further:
//! then, and where nothing changes, the line ends. So a change costs a bounded number of steps,
//! however many queues send to one.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::QueueId;
use super::limits::DEAD_LETTER_CHAIN;
use super::rows::QueueRow;

/// More levels than a chain may have are counted as this many.
const MOST: usize = DEAD_LETTER_CHAIN + 1;

type Name = (String, String);

#[derive(Clone, Debug, Default)]
pub struct Feeds {
    /// Account and name of each dead-letter queue, with whose it is.
    all: BTreeSet<(String, String, QueueId)>,
    /// Of each dead-letter queue, by account and name: how many of those that send to it have so
    /// many levels above themselves.
    senders: BTreeMap<Name, [usize; MOST + 1]>,
}

impl Feeds {
    /// The queue whose dead letters go to the one of this name, with the lowest id.
    pub fn first(&self, account: &str, name: &str) -> Option<QueueId> {
        let from = (account.to_owned(), name.to_owned(), QueueId(0));
        let (of, to, id) = self.all.range(from..).next()?;
        (of == account && to == name).then_some(*id)
    }

    /// How many queues, one behind the other, send their dead letters on to the one of this name;
    /// more than a chain may have are not told apart.
    pub fn above(&self, account: &str, name: &str) -> usize {
        let Some(senders) = self.senders.get(&(account.to_owned(), name.to_owned())) else {
            return 0;
        };
        senders.iter().rposition(|count| *count > 0).map_or(0, |most| MOST.min(most + 1))
    }

    /// A queue sends its dead letters somewhere. `next` answers where a queue of a name sends its
    /// own.
    pub fn add(&mut self, row: &QueueRow, next: &dyn Fn(&str) -> Option<String>) {
        let Some(target) = target(row) else { return };
        if self.all.insert((row.account.clone(), target.clone(), row.id)) {
            let level = self.above(&row.account, &row.name);
            self.recount(&row.account, target, (None, Some(level)), next);
        }
    }

    /// A queue sends its dead letters there no more.
    pub fn remove(&mut self, row: &QueueRow, next: &dyn Fn(&str) -> Option<String>) {
        let Some(target) = target(row) else { return };
        if self.all.remove(&(row.account.clone(), target.clone(), row.id)) {
            let level = self.above(&row.account, &row.name);
            self.recount(&row.account, target, (Some(level), None), next);
        }
    }

    /// One that sends to `name` was of one level and is of another, and so on down the line.
    fn recount(
        &mut self,
        account: &str,
        mut name: String,
        (mut was, mut is): (Option<usize>, Option<usize>),
        next: &dyn Fn(&str) -> Option<String>,
    ) {
        loop {
            let before = self.above(account, &name);
            let key = (account.to_owned(), name);
            let senders = self.senders.entry(key.clone()).or_default();
            if let Some(count) = was.and_then(|was| senders.get_mut(was)) {
                *count = count.saturating_sub(1);
            }
            if let Some(count) = is.and_then(|is| senders.get_mut(is)) {
                *count += 1;
            }
            if senders.iter().all(|count| *count == 0) {
                self.senders.remove(&key);
            }
            let now = self.above(account, &key.1);
            let Some(below) = next(&key.1).filter(|_| now != before) else { return };
            (was, is, name) = (Some(before), Some(now), below);
        }
    }
}

/// Where the dead letters of a queue go.
fn target(row: &QueueRow) -> Option<String> {
    row.settings.dead_letters.as_ref().map(|target| target.queue.clone())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::queue::command::{DeadLetters, Settings, StringMap};
    use crate::queue::ids::{LogTime, Number};

    /// A queue whose dead letters go to the one of this number.
    fn row(n: usize, to: usize) -> QueueRow {
        let dead_letters = Some(DeadLetters { queue: to.to_string(), max_deliveries: 1 });
        QueueRow {
            id: QueueId(n as u64),
            account: "a".to_owned(),
            name: n.to_string(),
            metadata: StringMap::new(),
            settings: Settings { dead_letters, ..Settings::default() },
            created_at: LogTime(0),
            cleared_below: Number(0),
            deleted: false,
            paused: false,
            dead_letter_refused: None,
            kept: None,
        }
    }

    /// Of a line of queues those that send do so to the next.
    fn along(sends: impl Fn(usize) -> bool) -> impl Fn(&str) -> Option<String> {
        move |name| name.parse().ok().filter(|n| sends(*n)).map(|n: usize| (n + 1).to_string())
    }

    #[test]
    fn levels_are_counted_to_one_more_than_a_chain_may_have_and_down_again() {
        let (last, mut feeds) = (3 * MOST, Feeds::default());
        for n in 0..last {
            feeds.add(&row(n, n + 1), &along(|it| it < n));
        }
        let levels = |feeds: &Feeds| -> Vec<usize> {
            (0..=last).map(|n| feeds.above("a", &n.to_string())).collect()
        };
        let capped: Vec<usize> = (0..=last).map(|n| n.min(MOST)).collect();
        assert_eq!(levels(&feeds), capped);
        let mut backwards = Feeds::default();
        for n in (0..last).rev() {
            backwards.add(&row(n, n + 1), &along(|it| n < it && it < last));
        }
        assert_eq!(levels(&backwards), capped, "whatever the order");
        feeds.remove(&row(MOST, MOST + 1), &along(|it| it < last && it != MOST));
        let cut = |n: usize| if n <= MOST { n } else { MOST.min(n - MOST - 1) };
        assert_eq!(levels(&feeds), (0..=last).map(cut).collect::<Vec<_>>());
        for n in (0..last).filter(|n| *n != MOST) {
            feeds.remove(&row(n, n + 1), &along(|it| n < it && it < last && it != MOST));
        }
        assert_eq!(levels(&feeds), vec![0; last + 1]);
        assert!(feeds.senders.is_empty() && feeds.all.is_empty(), "nothing stays behind");
    }

    #[test]
    fn a_change_takes_a_bounded_number_of_steps_however_many_send() {
        let (last, mut feeds, steps) = (3 * MOST, Feeds::default(), Cell::new(0));
        for n in 0..last {
            feeds.add(&row(n, n + 1), &along(|it| it < n));
        }
        let next = |name: &str| {
            steps.set(steps.get() + 1);
            along(|it| it < last)(name)
        };
        for n in 1_000..101_000 {
            feeds.add(&row(n, 1), &next);
        }
        for change in [Feeds::remove, Feeds::add] {
            for n in [0, 1] {
                steps.set(0);
                change(&mut feeds, &row(n, n + 1), &next);
                assert!((1..=MOST + 1).contains(&steps.get()), "{} steps", steps.get());
            }
        }
        assert_eq!((feeds.above("a", "1"), feeds.above("a", "3")), (1, 3));
    }
}
