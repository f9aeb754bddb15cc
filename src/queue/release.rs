//! Giving messages back: now, after a delay, or by the queue's back-off.
//!
//! Laws: only the newest receipt releases, and the release voids it: nobody holds the message
//! from then on, so it waits as *delayed*, not as leased. A message on its last lease is not
//! kept waiting: it is a dead letter at once.

use super::command::{BackOff, ReleaseAfter};
use super::error::Rejection;
use super::ids::{MessageId, Receipt, Span};
use super::message::Message;
use super::outcome::{Outcome, ReleaseOutcome, Reply};
use super::receipt::{self, Closed};
use super::state::{State, Step};
use super::verbs::draw;

/// How long a message that was given out so often waits.
#[must_use]
pub fn pause(back_off: &BackOff, dequeue_count: u32) -> Span {
    let factor = u64::from(back_off.factor);
    // A factor of 1 never grows, and any other passes every limit in 64 steps.
    let steps = dequeue_count.saturating_sub(1).min(64);
    Span(back_off.first.0.saturating_mul(factor.saturating_pow(steps))).min(back_off.most)
}

pub(super) fn run(
    state: &mut State,
    account: &str,
    queue: &str,
    items: &[(MessageId, Receipt)],
    after: ReleaseAfter,
    step: &mut Step,
) -> Outcome {
    let queue = state.catalog.open(account, queue)?;
    let mut outcomes = Vec::with_capacity(items.len());
    for (id, given) in items {
        let before = match receipt::open(&queue.lineup, *id, *given, step.now) {
            Ok(message) => message,
            Err(Closed::NotFound) => {
                outcomes.push(ReleaseOutcome::MessageNotFound);
                continue;
            }
            Err(Closed::Mismatch) => {
                outcomes.push(ReleaseOutcome::ReceiptMismatch);
                continue;
            }
        };
        let pause = match after {
            _ if before.last => Span::ZERO,
            ReleaseAfter::Now => Span::ZERO,
            ReleaseAfter::Delay(delay) => delay,
            ReleaseAfter::BackOff => pause(&queue.row.settings.back_off, before.dequeue_count),
        };
        let counter = draw(&mut state.counters);
        let kept = crate::mutants::is_chosen("released-receipt-kept");
        let new = Receipt { epoch: state.counters.epoch, counter };
        let receipt = if kept { before.receipt } else { new };
        let message =
            Message { visible_at: step.now.after(pause), receipt, released: true, ..before };
        queue.lineup.unlink(&before, &mut step.changes);
        queue.lineup.put_back(&before, message, &mut step.changes);
        outcomes.push(ReleaseOutcome::Released { visible_at: message.visible_at });
    }
    let id = queue.row.id;
    state.catalog.settle(id);
    Ok(Reply::Released(outcomes))
}

/// Refuses a back-off that makes no sense.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn check(back_off: &BackOff) -> Result<(), Rejection> {
    use super::limits::{BACK_OFF_FACTOR, MAX_DELAY};
    let refuse = |part: &str, problem: String, allowed: String| {
        let field = format!("settings.back_off.{part}");
        Err(Rejection::InvalidArgument { field, problem, allowed })
    };
    if back_off.most > MAX_DELAY {
        let problem = format!("is {} seconds", back_off.most.0.div_ceil(1_000_000));
        return refuse("most", problem, format!("0 to {} seconds", MAX_DELAY.0 / 1_000_000));
    }
    if back_off.first > back_off.most {
        return refuse("first", "is longer than most".to_owned(), "0 to most".to_owned());
    }
    if !BACK_OFF_FACTOR.contains(&back_off.factor) {
        let allowed = format!("{} to {}", BACK_OFF_FACTOR.start(), BACK_OFF_FACTOR.end());
        return refuse("factor", format!("is {}", back_off.factor), allowed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_off_grows_by_its_factor_up_to_its_most() {
        let back_off = BackOff { first: Span::from_secs(2), most: Span::from_secs(60), factor: 3 };
        let waits: Vec<u64> = [0, 1, 2, 3, 4, 5, u32::MAX]
            .iter()
            .map(|n| pause(&back_off, *n).0 / 1_000_000)
            .collect();
        assert_eq!(waits, [2, 2, 6, 18, 54, 60, 60]);
        let steady = BackOff { factor: 1, ..back_off };
        assert_eq!(pause(&steady, u32::MAX), Span::from_secs(2));
    }
}
