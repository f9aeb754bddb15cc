//! What a primary has and its copy lacks, in messages: how many, and in which queues.
//!
//! Law: numbers only grow in a history, so a message that is alive here is missing to a copy of
//! it if, and only if, its number is not below the copy's next one. Receipts draw from the same
//! counter: the difference of two next numbers says nothing of messages.

use crate::queue::ids::Number;
use crate::queue::state::State;

/// Queues that are named at most.
const QUEUES: usize = 1_000;
/// Numbers of messages that are named at most, over all queues; more are only counted.
const NUMBERS: usize = 10_000;

/// Messages of one queue that a copy lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    pub account: String,
    pub queue: String,
    /// Those that are alive, expired ones too that are not removed yet.
    pub messages: u64,
    /// The number of each; empty where they are too many to be named.
    pub numbers: Vec<u64>,
}

impl State {
    /// Messages alive that a copy lacks whose next number is `from`, by queue; and how many queues
    /// there are beyond those that are named, with how many such messages in them.
    #[must_use]
    pub fn ahead(&self, from: Number) -> (Vec<Ahead>, (u64, u64)) {
        let (mut found, mut more): (Vec<Ahead>, (u64, u64)) = (Vec::new(), (0, 0));
        let mut room = NUMBERS;
        for queue in self.catalog.all().filter(|queue| queue.row.kept.is_none()) {
            let messages = queue.lineup.count_from(from);
            if messages == 0 {
                continue;
            }
            if found.len() == QUEUES {
                more = (more.0.saturating_add(1), more.1.saturating_add(messages));
                continue;
            }
            let numbers: Vec<u64> = match usize::try_from(messages) {
                Ok(count) if count <= room => {
                    let named = queue.lineup.numbered_from(from, count);
                    named.into_iter().map(|message| message.number.0).collect()
                }
                _ => Vec::new(),
            };
            room -= numbers.len();
            let (account, queue) = (queue.row.account.clone(), queue.row.name.clone());
            found.push(Ahead { account, queue, messages, numbers });
        }
        (found, more)
    }

    /// How many messages alive a copy lacks whose next number is `from`.
    #[must_use]
    pub fn count_ahead(&self, from: Number) -> u64 {
        let queues = self.catalog.all().filter(|queue| queue.row.kept.is_none());
        queues.map(|queue| queue.lineup.count_from(from)).sum()
    }
}
