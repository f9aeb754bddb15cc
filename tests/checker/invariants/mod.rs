//! What must hold of every history, one file for each promise: I1 to I11 of what a cluster, or a
//! pair of regions as a whole, answered, and G1 to G6 of the pair itself.

pub mod g1_last_sync_time;
pub mod g2_copy_is_a_prefix;
pub mod g3_planned_loses_nothing;
pub mod g4_forced_loses_a_suffix;
pub mod g5_fenced_answers_nothing;
pub mod g6_tail_is_listed;
#[cfg(test)]
mod growth;
pub mod i10_healed_means_serving;
pub mod i11_replicas_agree;
pub mod i1_acknowledged_is_kept;
pub mod i2_deleted_stays_deleted;
pub mod i3_what_is_returned_was_sent;
pub mod i4_leases_never_overlap;
pub mod i5_only_the_newest_receipt;
pub mod i6_dequeue_count_rises_by_one;
pub mod i7_expiry_and_delay;
pub mod i8_one_effect;
pub mod i9_linearizable;
#[cfg(test)]
pub mod pair_sample;
#[cfg(test)]
pub mod sample;

use std::collections::BTreeSet;

use crate::history::{History, Outcome};
use crate::lineage::PairStory;
use crate::retold;
use crate::retold::pair::Case;
use crate::story::Story;
use crate::surviving;

/// What is said of an order of calls that was neither found nor found not to be.
pub const UNDECIDED: &str = "searched for in vain";

type Check = fn(&Story<'_>) -> Vec<String>;

/// Each promise with its check.
pub const ALL: [(&str, Check); 11] = [
    ("I1", i1_acknowledged_is_kept::check),
    ("I2", i2_deleted_stays_deleted::check),
    ("I3", i3_what_is_returned_was_sent::check),
    ("I4", i4_leases_never_overlap::check),
    ("I5", i5_only_the_newest_receipt::check),
    ("I6", i6_dequeue_count_rises_by_one::check),
    ("I7", i7_expiry_and_delay::check),
    ("I8", i8_one_effect::check),
    ("I9", i9_linearizable::check),
    ("I10", i10_healed_means_serving::check),
    ("I11", i11_replicas_agree::check),
];

type PairCheck = for<'p> fn(&'p PairStory<'_>) -> Vec<Case<'p>>;

/// Each promise about two regions with its check.
pub const OF_PAIRS: [(&str, PairCheck); 6] = [
    ("G1", g1_last_sync_time::check),
    ("G2", g2_copy_is_a_prefix::check),
    ("G3", g3_planned_loses_nothing::check),
    ("G4", g4_forced_loses_a_suffix::check),
    ("G5", g5_fenced_answers_nothing::check),
    ("G6", g6_tail_is_listed::check),
];

/// What of these promises this history does not tell enough of, each as a sentence.
pub fn unjudged(history: &History) -> Vec<String> {
    let positions: BTreeSet<_> = history.applied.iter().map(|it| (it.cluster, it.index)).collect();
    let writes = history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(answer) => Some((op.site, answer.mark()?.index)),
        _ => None,
    });
    let writes: BTreeSet<_> = writes.collect();
    let mut all = Vec::new();
    let seen = writes.intersection(&positions).count();
    if seen < writes.len() {
        let (writes, positions) = (writes.len(), positions.len());
        all.push(format!(
            "I11 at each applied position: of {writes} positions of writes the state at {seen} is \
             told, and of {positions} in all"
        ));
    }
    let copies = history.pair.sighted.iter().filter(|it| it.authority.applied_through.is_some());
    if copies.clone().count() > 0 && copies.clone().all(|it| it.digest.is_none()) {
        all.push("G2: nobody was told the digest of a copy".to_owned());
    }
    all
}

/// Cases of one promise of which the calls are told.
const RETOLD: usize = 5;

/// Every promise that this history breaks, with a sentence about each case, and the calls that the
/// first cases are about; of two regions also what else each rests on.
pub fn broken(history: &History) -> Vec<(&'static str, String)> {
    let rest = surviving::of(history);
    let story = Story::of(rest.as_ref().unwrap_or(history));
    let told = |(name, check): &(&'static str, Check)| {
        let mut cases = check(&story);
        cases.iter_mut().take(RETOLD).for_each(|case| *case = retold::with_calls(&story, case));
        cases.into_iter().map(|case| (*name, case)).collect::<Vec<_>>()
    };
    let mut broken: Vec<_> = ALL.iter().flat_map(told).collect();
    if rest.is_some() {
        let pair = PairStory::of(history);
        for (name, check) in OF_PAIRS {
            broken.extend(check(&pair).into_iter().enumerate().map(|(number, case)| {
                (name, if number < RETOLD { case.told(&pair) } else { case.sentence })
            }));
        }
    }
    broken
}
