//! A walk over all queues in bounded steps, for those who sum up what they hold.
//!
//! Law: one step looks at [`PAGE`](super::limits::PAGE) queues at most, so that nobody who writes
//! waits for long. Between two steps the state may move on: what is summed is of several moments.

use super::dead_letters;
use super::ids::{QueueId, Span};
use super::limits::PAGE;
use super::outcome::Counts;
use super::state::State;

/// One queue, as a walk shows it.
#[derive(Clone, Copy, Debug)]
pub struct Surveyed<'a> {
    pub id: QueueId,
    pub account: &'a str,
    pub name: &'a str,
    pub counts: Counts,
    /// How old its oldest message is at the T of the state.
    pub oldest_age: Option<Span>,
    /// Dead letters of another queue come here.
    pub takes_dead_letters: bool,
    /// An alarm: its dead-letter queue refuses a message of it.
    pub dead_letters_refused: bool,
}

impl State {
    /// Shows the next queues behind `after`, by id; answers the last one when there may be more.
    /// Queues that were deleted and are kept are passed over.
    pub fn survey(
        &self,
        after: Option<QueueId>,
        see: &mut dyn FnMut(Surveyed<'_>),
    ) -> Option<QueueId> {
        let (now, mut last) = (self.log_time(), None);
        for (at, queue) in self.catalog.behind(after).take(PAGE).enumerate() {
            last = (at + 1 == PAGE).then_some(queue.row.id);
            if queue.row.kept.is_some() {
                continue;
            }
            let row = &queue.row;
            see(Surveyed {
                id: row.id,
                account: &row.account,
                name: &row.name,
                counts: queue.lineup.counts(now),
                oldest_age: queue.lineup.oldest().map(|at| now.since(at)),
                takes_dead_letters: self.catalog.fed_by(&row.account, &row.name).is_some(),
                dead_letters_refused: dead_letters::refused_since(queue).is_some(),
            });
        }
        last
    }
}
