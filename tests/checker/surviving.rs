//! What promises are judged by when two regions took turns: the history that went on, as if what
//! was left behind had never been answered. What was sent again of a tail may be in it (`tails.rs`).
//!
//! Laws: what a deposed primary acknowledged and never shipped is judged by G4 to G6, and had no
//! effect here; where its T does not say so for sure, or another region was asked before without
//! an answer, its outcome is unknown. What a deposed
//! primary could not know when it answered is left out; what it was told is not.

use crate::history::{Answer, Call, History, LogTime, Micros, Op, Outcome};
use crate::lineage::{Line, Lineage};
use crate::tails::Tails;
use crate::times::when;

/// The history that went on; `None` where there was one region only.
pub fn of(history: &History) -> Option<History> {
    if history.pair.sighted.is_empty() {
        return None;
    }
    let lineage = Lineage::of(history);
    let mut rest = history.clone();
    for op in &mut rest.ops {
        if let Some(outcome) = judged(&lineage, op) {
            let was = std::mem::replace(&mut op.outcome, outcome);
            if matches!(op.outcome, Outcome::Unknown(_)) {
                rest.first_receipts.extend(first_receipts(&was));
            }
        }
        // A secondary says how old its answer is, and no more.
        if lineage.is_copy(op.site, op.invoked) || lineage.is_copy(op.site, op.returned) {
            op.call.becomes_stale();
        }
    }
    Tails::of(history, &lineage).retell(&mut rest);
    Some(rest)
}

/// What a send that was answered told of its messages: who has it uses it, whatever became of the
/// region.
fn first_receipts(outcome: &Outcome) -> Vec<(String, String)> {
    let Outcome::Ok(Answer::Sent { messages, .. }) = outcome else { return Vec::new() };
    let sent = messages.iter().filter(|message| !message.duplicate);
    sent.map(|message| (message.id.clone(), message.receipt.clone())).collect()
}

/// What an operation came to in the history that went on, where that is not what was answered.
fn judged(lineage: &Lineage, op: &Op) -> Option<Outcome> {
    let left = || {
        Some(if op.elsewhere {
            Outcome::Unknown("a try of it went to the other region".to_owned())
        } else {
            Outcome::Failed("it was left behind".to_owned())
        })
    };
    let answer = match &op.outcome {
        Outcome::Ok(answer) => answer,
        Outcome::Unknown(why) => {
            // A deposed primary that has not heard of it need not know a session of the other side.
            let parted = lineage.parted(op.site, op.returned);
            let parted = parted.filter(|_| why.contains("SESSION_ENDED"))?;
            let words =
                || Outcome::Unknown("a deposed primary did not know its session".to_owned());
            return is_of_tail(op, None, parted).then(words);
        }
        // Why it was refused may be found in the tail alone.
        Outcome::Failed(_) => {
            let parted = lineage.parted(op.site, op.returned)?;
            return if is_of_tail(op, None, parted) { left() } else { None };
        }
    };
    if matches!(op.call, Call::Durability { .. }) {
        // A position is of one cluster's log.
        return Some(Outcome::Failed("it says nothing of another cluster".to_owned()));
    }
    if let Some(mark) = answer.mark() {
        if lineage.holds(op.site, mark) {
            return None;
        }
        let before = lineage.left_behind(op.site, mark).map_or(0, |line| line.fork_time);
        return if may_be_before(op, answer, before) {
            Some(Outcome::Unknown("a try of it may not have been left behind".to_owned()))
        } else {
            left()
        };
    }
    if let Some(at) = granted_at(op, answer) {
        return match lineage.holds_at(op.site, at, op.returned) {
            Some(true) => None,
            Some(false) => left(),
            None => Some(Outcome::Unknown("it may have been left behind".to_owned())),
        };
    }
    let is_old = |at| op.call.is_stale() && lineage.may_be_of_tail(op.site, at, op.returned);
    if answer.read_at().is_some_and(is_old) {
        return left();
    }
    let parted = lineage.parted(op.site, op.returned)?;
    if is_of_tail(op, answer.read_at(), parted) { left() } else { None }
}

/// When messages were given out by a stream, which says nothing of its place in the log.
fn granted_at(op: &Op, answer: &Answer) -> Option<LogTime> {
    match (answer, &op.call) {
        (Answer::Received { mark: None, messages, .. }, Call::Receive { visibility, .. }) => {
            Some(messages.first()?.visible_at.saturating_sub(*visibility))
        }
        _ => None,
    }
}

/// Whether an earlier try may have taken effect in what both have.
fn may_be_before(op: &Op, answer: &Answer, fork: LogTime) -> bool {
    op.may_be_repeated() && when(op, answer, 0).after < fork
}

/// Whether a read was answered from a state that did not go on, or after another went on.
fn is_of_tail(op: &Op, at: Option<LogTime>, (next, since): (&Line, Micros)) -> bool {
    let in_tail = match at {
        Some(at) => at >= next.fork_time,
        None => op.returned >= since,
    };
    in_tail || op.returned >= next.began
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    #[allow(dead_code, reason = "the simulator itself runs without a harness")]
    fn outcomes(sample: &PairSample) -> Vec<bool> {
        let rest = of(&sample.history).expect("two regions");
        rest.ops.iter().map(|op| matches!(op.outcome, Outcome::Ok(_))).collect()
    }

    #[test]
    fn what_came_before_a_promotion_by_force_stays_and_what_came_after_had_no_effect() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.promoted(5);
        sample.write(6, 60);
        sample.read(60);
        assert_eq!(outcomes(&sample), [true, false, false]);
    }

    #[test]
    fn an_old_answer_may_be_of_a_tail_that_its_region_has_given_up_since() {
        let reads = |is_stale: bool, at: u64| {
            let mut sample = PairSample::protected();
            sample.seen(5, 50);
            sample.promoted(5);
            sample.seen(7, 70);
            sample.handed_back(120);
            if is_stale {
                sample.read_old(at)
            } else {
                sample.read(at)
            };
            outcomes(&sample)
        };
        assert_eq!(
            (reads(true, 60), reads(true, 40), reads(true, 90)),
            (vec![false], vec![true], vec![true])
        );
        assert_eq!(reads(false, 60), [true], "and no other");
    }

    #[test]
    fn that_a_session_has_ended_counts_only_where_it_is_said_by_who_was_not_deposed() {
        let ended = |is_deposed: bool| {
            let mut sample = PairSample::protected();
            if is_deposed {
                sample.promoted(5);
            }
            sample.write(6, 60);
            sample.history.ops[0].outcome = Outcome::Unknown("SESSION_ENDED".to_owned());
            let rest = of(&sample.history).expect("two regions");
            matches!(&rest.ops[0].outcome, Outcome::Unknown(why) if why.contains("SESSION_ENDED"))
        };
        assert_eq!((ended(false), ended(true)), (true, false));
    }

    #[test]
    fn what_a_side_says_that_has_handed_over_is_judged() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.released(7);
        sample.promoted(7);
        sample.read(50);
        assert_eq!(outcomes(&sample), [true, true]);
    }

    #[test]
    fn an_epoch_that_the_old_primary_took_back_from_had_no_effect() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.handed_to(7);
        sample.write_of_the_other(101, 80);
        sample.taken_back(8);
        sample.write(9, 90);
        assert_eq!(outcomes(&sample), [true, false, true]);
    }

    #[test]
    fn a_call_that_was_left_behind_may_have_acted_where_it_was_tried_before() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.write(6, 60);
        sample.tried_elsewhere();
        let rest = of(&sample.history).expect("two regions");
        assert!(matches!(rest.ops[0].outcome, Outcome::Unknown(_)), "{:?}", rest.ops[0]);
    }

    #[test]
    fn the_receipt_of_a_send_that_may_have_acted_is_known_though_its_region_was_lost() {
        let first_receipts = |is_tried: bool| {
            let mut sample = PairSample::protected();
            sample.promoted(5);
            sample.send("m", 6);
            if is_tried {
                sample.tried_elsewhere();
            }
            of(&sample.history).expect("two regions").first_receipts
        };
        assert_eq!(first_receipts(true).get("m").map(String::as_str), Some("r6"));
        assert!(first_receipts(false).is_empty(), "it never came to what went on");
    }

    #[test]
    fn what_a_stream_gave_out_before_the_fork_stays_though_it_was_told_behind_it() {
        let given_at = |at: u64, previous: u64| {
            let mut sample = PairSample::protected();
            sample.seen(5, 50);
            sample.seen(7, 70);
            sample.promoted(previous);
            sample.given_by_stream("m", at);
            let rest = of(&sample.history).expect("two regions");
            rest.ops.into_iter().next().expect("a receive").outcome
        };
        assert!(matches!(given_at(50, 5), Outcome::Ok(_)));
        assert!(matches!(given_at(70, 5), Outcome::Failed(_)));
        assert!(matches!(given_at(80, 5), Outcome::Failed(_)));
        assert!(matches!(given_at(60, 6), Outcome::Unknown(_)), "at 6 or 7");
    }
}
