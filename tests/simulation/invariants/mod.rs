//! What must hold of every history, one file for each promise.

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
pub mod sample;

use crate::history::History;
use crate::story::Story;

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

/// Every promise that this history breaks, with a sentence about each case.
pub fn broken(history: &History) -> Vec<(&'static str, String)> {
    let story = Story::of(history);
    let told = |(name, check): &(&'static str, Check)| {
        check(&story).into_iter().map(|case| (*name, case)).collect::<Vec<_>>()
    };
    ALL.iter().flat_map(told).collect()
}
