//! What a promotion by force was known to lose, when it was asked for.
//!
//! Laws: it is kept beside the line of the epoch that the promotion began, until the next one by
//! force; it is as of the primary's last word, and what was not known is kept as not known. At most
//! [`LOST_QUEUES`] queues are named, the others only counted.

use std::sync::Arc;

use super::ahead::Ahead;
use super::command::RegionVerb;
use super::refusal::RegionRefusal;
use super::{Authority, RegionEpoch};
use crate::queue::ids::Span;
use crate::queue::limits::LOST_QUEUES;

/// The longest name of an account or a queue that is kept, in bytes.
const NAME: usize = 63;

/// Messages of one queue that were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostQueue {
    pub account: String,
    pub queue: String,
    pub messages: u64,
}

/// Messages that were lost, by queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostMessages {
    /// Those with the most first; at most [`LOST_QUEUES`].
    pub queues: Vec<LostQueue>,
    /// Queues that are not named, and the messages in them.
    pub more_queues: u64,
    pub more_messages: u64,
}

/// What a promotion by force was known to lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForcedLoss {
    /// The one that the promotion began; set when it is applied.
    pub epoch: RegionEpoch,
    /// Of the primary's log, bookkeeping included; `None` = not known, here and below.
    pub entries: Option<u64>,
    /// How much later the primary's time was.
    pub time: Option<Span>,
    /// How long ago the primary had said so.
    pub age: Option<Span>,
    pub messages: Option<LostMessages>,
    pub bytes_at_most: Option<u64>,
    /// The copy had had all that its primary had, at one time at least.
    pub is_complete: bool,
}

/// As it is kept: not copied with every look at the authority.
pub type KeptLoss = Arc<ForcedLoss>;

impl LostMessages {
    /// Of what a copy lacks, those with the most first, and of queues that are only counted.
    #[must_use]
    pub fn of(lacking: &[Ahead], (more_queues, more_messages): (u64, u64)) -> LostMessages {
        let mut lost = LostMessages { queues: Vec::new(), more_queues, more_messages };
        for queue in lacking.iter().filter(|queue| queue.messages > 0) {
            let is_named = queue.account.len() <= NAME && queue.queue.len() <= NAME;
            if is_named && lost.queues.len() < LOST_QUEUES {
                let Ahead { account, queue, messages, .. } = queue.clone();
                lost.queues.push(LostQueue { account, queue, messages });
            } else {
                lost.more_queues = lost.more_queues.saturating_add(1);
                lost.more_messages = lost.more_messages.saturating_add(queue.messages);
            }
        }
        lost
    }

    /// Of all queues.
    #[must_use]
    pub fn total(&self) -> u64 {
        let named = self.queues.iter().map(|queue| queue.messages);
        named.fold(self.more_messages, u64::saturating_add)
    }
}

/// Keeps what the promotion lost that has just begun the epoch in force.
pub(super) fn keep(next: &mut Authority, loss: Option<&ForcedLoss>) {
    let epoch = next.epoch.clone();
    next.loss = loss.map(|loss| Arc::new(ForcedLoss { epoch, ..loss.clone() }));
}

/// Whether what a promotion says that it loses is within its bounds.
pub(super) fn check(verb: &RegionVerb) -> Result<(), RegionRefusal> {
    let RegionVerb::Promote { loss: Some(loss), .. } = verb else { return Ok(()) };
    let Some(messages) = &loss.messages else { return Ok(()) };
    let is_long = |it: &LostQueue| it.account.len() > NAME || it.queue.len() > NAME;
    if messages.queues.len() > LOST_QUEUES || messages.queues.iter().any(is_long) {
        let problem = "names more than 1,000 queues, or one by more than 63 bytes".to_owned();
        return Err(RegionRefusal::BadField { field: "loss".to_owned(), problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::Epoch;

    #[test]
    fn a_thousand_queues_are_named_and_the_others_are_counted() {
        let queue = |at: usize, messages| Ahead {
            account: "default".to_owned(),
            queue: format!("queue-{at}"),
            messages,
            numbers: vec![9],
        };
        let mut lacking: Vec<Ahead> = (0..1_002).map(|at| queue(at, 3)).collect();
        lacking.push(queue(2_000, 0));
        lacking.insert(0, Ahead { queue: "x".repeat(64), ..queue(0, 50) });
        let lost = LostMessages::of(&lacking, (7, 40));
        assert_eq!(lost.queues.len(), LOST_QUEUES);
        assert_eq!((lost.more_queues, lost.more_messages), (7 + 1 + 2, 40 + 50 + 6));
        assert_eq!(lost.total(), 1_002 * 3 + 50 + 40);
        let promote = |messages: LostMessages| {
            let loss = ForcedLoss { messages: Some(messages), ..ForcedLoss::default() };
            let (number, accepted, stopped) = (Epoch(2), false, None);
            RegionVerb::Promote { number, accepted, stopped, loss: Some(Arc::new(loss)) }
        };
        assert_eq!(check(&promote(lost.clone())), Ok(()));
        let mut too_many = lost;
        too_many.queues.push(LostQueue::default());
        assert!(check(&promote(too_many)).is_err());
    }
}
