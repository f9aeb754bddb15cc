//! The order of the log agrees with real time: what began after another call was answered has a
//! later T, and a linearizable read is answered from a state that holds all that was answered
//! before it began.

use crate::history::{Answer, LogTime, Op, Outcome};
use crate::story::Story;
use crate::times::When;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut stale = Vec::new();
    for (op, floor) in story.history.ops.iter().zip(&story.floors) {
        let Outcome::Ok(answer) = &op.outcome else { continue };
        if let Some(at) = answer.read_at().filter(|at| at < floor && !op.call.is_stale()) {
            stale.push(format!(
                "{:?}, begun at {} us, answered from T {at}, though T {floor} had been answered",
                op.call, op.invoked
            ));
        }
        if let Some(at) = effect(op, answer, *floor).filter(|at| at <= floor) {
            stale.push(format!(
                "{:?}, begun at {} us, took effect at T {at}, though T {floor} had been answered",
                op.call, op.invoked
            ));
        }
    }
    stale
}

/// The T at which a write took effect, as its answer says.
fn effect(op: &Op, answer: &Answer, floor: LogTime) -> Option<LogTime> {
    let when = crate::times::when(op, answer, floor);
    (when == When::exact(when.by)).then_some(when.by).or(answer.mark().map(|mark| mark.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    #[test]
    fn a_read_from_a_state_that_holds_the_write_is_right() {
        let mut sample = Sample::default();
        sample.send("m", 5);
        sample.peek(shown("m", 5, "", 9, 0), 6, false);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_read_from_before_a_write_that_was_acknowledged_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 5);
        let op = sample.peek(shown("m", 5, "", 9, 0), 4, false);
        (op.invoked, op.returned) = (60, 61);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_read_may_be_older_when_it_says_so_or_began_before_the_write_was_acknowledged() {
        let mut sample = Sample::default();
        sample.send("m", 5);
        let op = sample.peek(shown("m", 5, "", 9, 0), 4, true);
        (op.invoked, op.returned) = (60, 61);
        sample.peek(shown("m", 5, "", 9, 0), 4, false);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_write_from_before_another_that_was_acknowledged_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 5);
        let op = sample.send("other", 4);
        (op.invoked, op.returned) = (60, 61);
        assert_eq!(broken(sample), 1);
    }
}
