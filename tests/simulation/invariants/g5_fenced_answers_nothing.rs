//! G5: a primary that has seen a higher epoch acknowledges nothing any more, and answers nothing
//! as if it still led: no write, and no linearizable read.
//!
//! There is no region lease yet: what a primary acknowledges before it hears of a promotion is its
//! tail.

use std::collections::BTreeMap;

use zoneq::queue::authority::Role;

use crate::history::{Call, Cluster, Micros, Op, Outcome};
use crate::lineage::PairStory;

/// From where in its log, and from when, a cluster was fenced.
type Fenced = BTreeMap<Cluster, (u64, Micros)>;

pub fn check(pair: &PairStory<'_>) -> Vec<String> {
    let fenced = fenced(pair);
    let mut wrong = Vec::new();
    for (op, mark) in pair.writes() {
        if let Some((end, _)) = fenced.get(&op.site)
            && mark.index > *end
        {
            let (site, call) = (op.site, &op.call);
            wrong.push(format!(
                "{site:?} was fenced at {end}, and {call:?} was acknowledged at {mark:?}"
            ));
        }
    }
    for op in pair.history.ops.iter().filter(|op| is_read(op)) {
        let is_copy = |at| pair.lineage.is_copy(op.site, at);
        if let Some((_, since)) = fenced.get(&op.site)
            && op.invoked > *since
            && !(is_copy(op.invoked) || is_copy(op.returned))
        {
            let (site, call, at) = (op.site, &op.call, op.invoked);
            wrong.push(format!(
                "{site:?} was fenced at {since} us, and answered {call:?} of {at} us as if it led"
            ));
        }
    }
    wrong
}

/// Clusters that were fenced and never took another part.
fn fenced(pair: &PairStory<'_>) -> Fenced {
    let mut fenced = Fenced::new();
    for seen in &pair.history.pair.sighted {
        // A restart goes back to what its tables held: once is enough.
        if let Role::Fenced { at, .. } = &seen.authority.role {
            fenced.entry(seen.cluster).or_insert((at.index, seen.at));
        }
    }
    let again = |cluster: &Cluster, end: u64| {
        pair.lineage
            .lines
            .iter()
            .any(|line| line.cluster == Some(*cluster) && line.first > Some(end))
    };
    fenced.retain(|cluster, (end, _)| !again(cluster, *end));
    fenced
}

/// An answer that must be the newest.
fn is_read(op: &Op) -> bool {
    let Outcome::Ok(answer) = &op.outcome else { return false };
    answer.mark().is_none() && !op.call.is_stale() && !matches!(op.call, Call::Durability { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(sample: &PairSample) -> usize {
        check(&PairStory::of(&sample.history)).len()
    }

    #[test]
    fn what_came_before_the_fence_is_the_tail() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.write(6, 60);
        sample.fenced(7);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_write_after_the_fence_is_found() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.write(8, 80);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn a_read_after_the_fence_is_found() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.read(80);
        assert_eq!(broken(&sample), 1);
    }
}
