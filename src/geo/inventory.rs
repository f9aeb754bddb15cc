//! What a side that waits for a state has, or has been given of one, in sums: so that only what
//! differs need be given to it.
//!
//! Laws: sums are of rows as they are stored, and of the rows that count: what waits to be freed is
//! not there. Equal sums are taken for equal rows; whether they were is seen in the end, by the
//! digest. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::State;
use crate::queue::authority::seed::contents_of;
use crate::queue::ids::{ContentId, Number, QueueId};
use crate::queue::rows::{Row, RowKey};
use crate::storage::{codec, keys};

/// Only compared with one of the same build or a newer one, in one conversation.
const SEED: u64 = 0x696e_7665;

/// The beginning of a row's key that it shares with its group: about 256 messages, and a part of
/// the sessions and deduplication keys, which come in no order.
#[must_use]
pub fn group_of(key: &[u8]) -> &[u8] {
    let len = match key.first() {
        Some(&keys::SESSION_TAG) => 2,
        Some(&keys::KEY_TAG) => 10,
        Some(&keys::MESSAGE_TAG) => 16,
        _ => key.len(),
    };
    key.get(..len).unwrap_or(key)
}

#[must_use]
pub fn row_sum(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(key, SEED))
}

/// Which rows count, asked of rows in the order of their keys.
#[derive(Debug, Default)]
pub struct Counting {
    cleared_below: BTreeMap<QueueId, Number>,
}

impl Counting {
    /// Whether a row is of the state that both regions share, and does not only wait to be freed.
    pub fn counts(&mut self, row: &Row) -> bool {
        let below = |queue: &QueueId| self.cleared_below.get(queue);
        match row {
            Row::Queue(row) => {
                if !row.deleted {
                    self.cleared_below.insert(row.id, row.cleared_below);
                }
                !row.deleted
            }
            Row::Chunk(row) => below(&row.queue).is_some_and(|below| row.first >= *below),
            Row::Message(row) => below(&row.queue).is_some_and(|below| row.arrived() >= *below),
            Row::Key(row) => below(&row.queue).is_some(),
            Row::Redrive(row) => below(&row.queue).is_some(),
            Row::Counters(_) | Row::Session(_) | Row::Account(_) => true,
            Row::Authority(_) | Row::Audit(_) | Row::Seed(_) => false,
        }
    }
}

/// Takes a state in: its groups, or the rows of these groups.
#[must_use]
pub fn of(state: &State, groups: &[Bytes]) -> pb::InventoryResponse {
    let mut taken = Taken::of(groups);
    for key in state.row_keys() {
        if taken.wants(&key)
            && let Some(row) = state.row(&key)
        {
            taken.row(&row);
        }
    }
    taken.response(state)
}

/// The same of what a seed under way amounts to; its contents are those of the state below it.
#[must_use]
pub fn of_seed(state: &State, groups: &[Bytes]) -> pb::InventoryResponse {
    let mut taken = Taken::of(groups);
    let under_way = state.seed_under_way(|row| {
        if taken.wants(&row.key()) {
            taken.row(row);
        }
    });
    let Some((seeding, given)) = under_way else { return pb::InventoryResponse::default() };
    let (is_whole, wanted) = (groups.is_empty(), seeding.base.is_some());
    taken.contents.clear();
    if is_whole && wanted {
        let rows = state.row_keys().into_iter().filter_map(|key| state.row(&key));
        taken.contents.extend(rows.flat_map(|row| contents_of(&row)));
    }
    let seed = pb::InventorySeed {
        id: wire::wide(seeding.id),
        ledger: wire::ledger_to(&seeding.ledger),
        base: seeding.base.map(|base| wire::wide(base.0)).unwrap_or_default(),
        chunks: seeding.next,
        runs: if is_whole { runs_to(&given) } else { Vec::new() },
    };
    pb::InventoryResponse { seed: Some(seed), ..taken.response(state) }
}

/// An inventory that is being taken.
struct Taken<'a> {
    /// Groups whose rows are asked for; none = sums of all groups.
    wanted: BTreeSet<&'a [u8]>,
    sums: BTreeMap<Vec<u8>, u64>,
    contents: Vec<ContentId>,
}

impl<'a> Taken<'a> {
    fn of(groups: &'a [Bytes]) -> Taken<'a> {
        let wanted = groups.iter().map(|group| group.as_ref()).collect();
        Taken { wanted, sums: BTreeMap::new(), contents: Vec::new() }
    }

    fn wants(&self, key: &RowKey) -> bool {
        // What each side is in its pair is its own.
        let shared = !matches!(key, RowKey::Authority | RowKey::Audit(_) | RowKey::Seed(_));
        shared && (self.wanted.is_empty() || self.wanted.contains(group_of(&keys::row(key))))
    }

    fn row(&mut self, row: &Row) {
        let bytes = keys::row(&row.key());
        let all = self.wanted.is_empty();
        let named = if all { group_of(&bytes) } else { bytes.as_slice() };
        let sum = self.sums.entry(named.to_vec()).or_default();
        *sum = sum.wrapping_add(row_sum(&bytes, &codec::encode_row(row)));
        if all {
            self.contents.extend(contents_of(row));
        }
    }

    fn response(mut self, state: &State) -> pb::InventoryResponse {
        self.contents.sort_unstable();
        let sum = |(key, sum): (Vec<u8>, u64)| pb::InventorySum { key: key.into(), sum };
        pb::InventoryResponse {
            digest: wire::wide(state.digest().0),
            sums: self.sums.into_iter().map(sum).collect(),
            runs: runs_to(&self.contents),
            seed: None,
        }
    }
}

/// Ascending ids as gaps and lengths in turn.
fn runs_to(ids: &[ContentId]) -> Vec<u64> {
    let (mut runs, mut next, mut len) = (Vec::new(), 0, 0);
    let mut gap = 0;
    for id in ids.iter().map(|id| id.0) {
        if id == next && len > 0 {
            len += 1;
        } else {
            if len > 0 {
                runs.extend([gap, len]);
            }
            (gap, len) = (id.saturating_sub(next), 1);
        }
        next = id.saturating_add(1);
    }
    if len > 0 {
        runs.extend([gap, len]);
    }
    runs
}

/// Ids that are there, as runs.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Reads gaps and lengths.
    #[must_use]
    pub fn from(runs: &[u64]) -> Runs {
        let (pairs, _) = runs.as_chunks::<2>();
        let mut next = 0_u64;
        let runs = pairs.iter().map(|[gap, len]| {
            let first = next.saturating_add(*gap);
            next = first.saturating_add(*len);
            (first, next)
        });
        Runs(runs.collect())
    }

    #[must_use]
    pub fn has(&self, id: ContentId) -> bool {
        self.0.range(..=id.0).next_back().is_some_and(|(_, end)| id.0 < *end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_name_just_the_ids(ids in prop::collection::btree_set(0..200_u64, 0..60)) {
            let all: Vec<ContentId> = ids.iter().map(|id| ContentId(*id)).collect();
            let runs = Runs::from(&runs_to(&all));
            for id in 0..210 {
                prop_assert_eq!(runs.has(ContentId(id)), ids.contains(&id));
            }
        }
    }
}
