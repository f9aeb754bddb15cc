//! I9, the part that one look can show: no stale leader answers. A linearizable read that began
//! after a write was acknowledged answers from a state that holds the write, so its T is not
//! before the write's.

use crate::history::{Answer, Call, LogTime, Micros, Op, Outcome, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut writes: Vec<(Micros, LogTime)> = story.history.ops.iter().filter_map(written).collect();
    writes.sort_unstable();
    // The highest T that was acknowledged by then.
    let mut highest = 0;
    for (_, at) in &mut writes {
        highest = highest.max(*at);
        *at = highest;
    }
    let mut stale = Vec::new();
    for op in &story.history.ops {
        let Some(at) = read(op) else { continue };
        let before = writes.partition_point(|(returned, _)| *returned <= op.invoked);
        let Some((_, written)) = before.checked_sub(1).and_then(|last| writes.get(last)) else {
            continue;
        };
        if at < *written {
            stale.push(format!(
                "{:?}, begun at {} us, answered from T {at}, though a write of T {written} had \
                 been acknowledged",
                op.call, op.invoked
            ));
        }
    }
    stale
}

/// When an acknowledged write returned, and its T.
fn written(op: &Op) -> Option<(Micros, LogTime)> {
    let mark = match &op.outcome {
        Outcome::Ok(
            Answer::Sent { mark, .. }
            | Answer::Received { mark: Some(mark), .. }
            | Answer::Updated { mark, .. }
            | Answer::Deleted { mark, .. }
            | Answer::Cleared { mark, .. },
        ) => mark,
        _ => return None,
    };
    Some((op.returned, mark.at))
}

/// The T of a linearizable read.
fn read(op: &Op) -> Option<LogTime> {
    match (&op.call, &op.outcome) {
        (
            Call::Peek { stale: false, .. } | Call::Get { stale: false, .. },
            Outcome::Ok(Answer::Seen { at, .. }),
        ) => Some(*at),
        _ => None,
    }
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
}
