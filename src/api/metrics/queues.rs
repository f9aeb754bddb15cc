//! What all queues hold together, and the largest of them by name.
//!
//! Laws: the queues are walked a page at a time, and others come between two pages; so many are
//! named as the configuration says, those that hold most, and no more.

use super::page::Page;
use crate::consensus::group::Group;
use crate::queue::outcome::Counts;
use crate::queue::{State, Surveyed};

const MESSAGES: &str = "zoneq_queue_messages";
const MESSAGES_HELP: &str = "Messages by their state.";
const NAMED: &str = "zoneq_queue_named_messages";
const NAMED_HELP: &str = "Messages by their state, of the queues that hold most.";
const NAMED_AGE: &str = "zoneq_queue_named_oldest_age_seconds";

/// What is summed over all queues.
#[derive(Default)]
struct Sums {
    counts: Counts,
    dead_letters: u64,
    refused: u64,
    oldest_us: u64,
}

/// A queue that may be named.
struct Named {
    account: String,
    name: String,
    counts: Counts,
    oldest_us: u64,
}

pub(super) async fn fill(page: &mut Page, group: &Group, most: usize) {
    let (mut sums, mut largest) = (Sums::default(), Vec::new());
    let mut after = None;
    loop {
        after = {
            let store = group.store().read();
            let state: &State = store.state();
            state.survey(after, &mut |queue| {
                sums.take(&queue);
                keep(&mut largest, &queue, most);
            })
        };
        if after.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    shorten(&mut largest, most);
    let (queues, _, bytes) = group.store().read().state().totals();
    page.gauge("zoneq_queue_queues", "Queues.", queues as f64);
    let help = "Bytes of the bodies and headers of all messages.";
    page.gauge("zoneq_queue_messages_bytes", help, bytes as f64);
    by_state(page, (MESSAGES, MESSAGES_HELP), &[], &sums.counts);
    let help = "Messages in queues that take the dead letters of others.";
    page.gauge("zoneq_queue_dead_letters", help, sums.dead_letters as f64);
    let help = "Queues of which a spent message was refused by their dead-letter queue.";
    page.gauge("zoneq_queue_dead_letters_refused_queues", help, sums.refused as f64);
    let help = "How old the oldest message is, at the time of the state; 0 where there is none.";
    page.gauge("zoneq_queue_oldest_age_seconds", help, sums.oldest_us as f64 / 1e6);
    for queue in &largest {
        let labels = [("account", queue.account.as_str()), ("queue", queue.name.as_str())];
        by_state(page, (NAMED, NAMED_HELP), &labels, &queue.counts);
        let help = "How old the oldest message is, of the queues that hold most.";
        page.gauge_of(NAMED_AGE, help, &labels, queue.oldest_us as f64 / 1e6);
    }
}

fn by_state(
    page: &mut Page,
    (name, help): (&'static str, &str),
    labels: &[(&str, &str)],
    counts: &Counts,
) {
    for (state, count) in [
        ("visible", counts.visible),
        ("leased", counts.leased),
        ("delayed", counts.delayed),
        ("blocked", counts.blocked),
        ("due", counts.due),
    ] {
        let labels = [labels, &[("state", state)]].concat();
        page.gauge_of(name, help, &labels, count as f64);
    }
}

impl Sums {
    fn take(&mut self, queue: &Surveyed<'_>) {
        let (sum, counts) = (&mut self.counts, &queue.counts);
        sum.visible += counts.visible;
        sum.leased += counts.leased;
        sum.delayed += counts.delayed;
        sum.blocked += counts.blocked;
        sum.due += counts.due;
        sum.total += counts.total;
        if queue.takes_dead_letters {
            self.dead_letters += counts.total;
        }
        self.refused += u64::from(queue.dead_letters_refused);
        self.oldest_us = self.oldest_us.max(queue.oldest_age.map_or(0, |age| age.0));
    }
}

/// Keeps the largest; twice as many as wanted at times.
fn keep(largest: &mut Vec<Named>, queue: &Surveyed<'_>, most: usize) {
    if most == 0 {
        return;
    }
    largest.push(Named {
        account: queue.account.to_owned(),
        name: queue.name.to_owned(),
        counts: queue.counts,
        oldest_us: queue.oldest_age.map_or(0, |age| age.0),
    });
    if largest.len() > most.saturating_mul(2) {
        shorten(largest, most);
    }
}

fn shorten(largest: &mut Vec<Named>, most: usize) {
    // By name where they hold the same, so that it is always the same ones.
    largest.sort_by(|a, b| {
        let by_size = b.counts.total.cmp(&a.counts.total);
        by_size.then_with(|| (&a.account, &a.name).cmp(&(&b.account, &b.name)))
    });
    largest.truncate(most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::QueueId;

    #[test]
    fn the_largest_are_kept_and_no_more_than_asked_for() {
        let mut largest = Vec::new();
        for number in 0..100_u64 {
            let name = format!("q{number:02}");
            // 7 and 53 are coprime: every size once, in no order.
            let counts = Counts { total: number * 7 % 53, ..Counts::default() };
            let queue = Surveyed {
                id: QueueId(number),
                account: "a",
                name: &name,
                counts,
                oldest_age: None,
                takes_dead_letters: false,
                dead_letters_refused: false,
            };
            keep(&mut largest, &queue, 3);
            assert!(largest.len() <= 6);
        }
        shorten(&mut largest, 3);
        let kept: Vec<(u64, &str)> =
            largest.iter().map(|it| (it.counts.total, it.name.as_str())).collect();
        assert_eq!(kept, [(52, "q15"), (52, "q68"), (51, "q30")]);
        let mut none = Vec::new();
        shorten(&mut none, 0);
        assert!(none.is_empty());
    }
}
