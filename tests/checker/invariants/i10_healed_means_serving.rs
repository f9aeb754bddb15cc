//! I10: after all faults have healed the cluster converges, serves, drains and then stays as it
//! is, without an operator; and no node stops by itself unless its disk failed it.

use crate::story::Story;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let ending = &story.history.ending;
    let mut wrong: Vec<String> = story.history.unexpected_stops.clone();
    for (reached, what) in [
        (ending.converged, "converge on one leader and one applied position"),
        (ending.served, "acknowledge a send"),
        (ending.drained, "drain"),
        (ending.steady, "stay with its leader while it is idle"),
        (ending.paired || story.history.pair.sighted.is_empty(), "hold the same in both regions"),
    ] {
        if !reached {
            let words = &ending.words;
            wrong.push(format!("all faults have healed and the cluster does not {what}: {words}"));
            return wrong;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::invariants::sample::Sample;

    fn broken(history: &History) -> usize {
        check(&Story::of(history)).len()
    }

    #[test]
    fn a_run_that_converged_served_and_drained_is_right() {
        assert_eq!(broken(&Sample::default().ended()), 0);
    }

    #[test]
    fn each_thing_that_did_not_come_is_told() {
        assert_eq!(broken(&History::default()), 1);
        let mut history = Sample::default().ended();
        history.ending.drained = false;
        assert_eq!(broken(&history), 1);
        let mut history = Sample::default().ended();
        history.ending.steady = false;
        assert_eq!(broken(&history), 1);
        let mut history = Sample::default().ended();
        history.unexpected_stops.push("node 2 stopped".to_owned());
        assert_eq!(broken(&history), 1);
    }
}
