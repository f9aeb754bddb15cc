//! How a side is given a whole state of its primary, through its own group: an empty secondary, one
//! whose copy ends where no log goes on from, or a side whose history went another way.
//!
//! Laws: chunks come in order and are kept as rows of their own until all are there, so a restart
//! or another leader has them; applying the commit builds the state, checks its digest and
//! switches, in one entry. Until then what was there is whole, and stays what it was: an empty
//! secondary, which nothing can promote, an old copy, which can be promoted, a side that has handed
//! over, a fenced one with its tail, or a kept copy. A seed that is given up is freed a chunk an
//! entry; what a side that is promoted, or taken back, was given is left where it is, counts for
//! nothing, and is freed by entries of their own, each as much as one entry may. No copy goes back
//! by a seed.
//!
//! Whoever begins to lead the primary may go on with a seed of the same history: the seed becomes
//! one of a later view, what is there stays, and later chunks are laid over it, rows and keys of
//! rows that are no more, so that only what differs is given. A content is what it is for ever,
//! under its id; one that no row names any more in the end is not taken.
//!
//! A seed may be a patch: rows that are laid over what is there, and keys of rows that are no more.
//! It counts only over the very state that it was made for, and what comes of it must have the
//! digest too.
//!
//! Contents are put beside those in use, under the same ids in the other half of the space of ids:
//! two histories give the same numbers. The commit changes the halves, which is one bit.
//!
//! That one entry names every row of both states is the price of a switch that is all or nothing;
//! nobody writes to a side that waits for a state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::{RegionReply, RegionVerb, SeedChunk};
use super::lease::Leasing;
use super::refusal::RegionRefusal;
use super::replay::Replayed;
use super::transition::{is_empty, keep, mismatch};
use super::{Authority, LedgerLine, RegionEpoch, Role};
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Digest, Position};
use crate::queue::limits::WORK_PER_ENTRY;
use crate::queue::outcome::{Changes, ContentEvent};
use crate::queue::rows::{CountersRow, Row, RowKey};
use crate::queue::state::State;

/// A seed that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seeding {
    pub id: u128,
    /// The last entry of the primary's log that the seed holds.
    pub position: Position,
    /// The primary's ledger as of then.
    pub ledger: Vec<LedgerLine>,
    /// Tails that the primary had taken by then.
    pub replayed: Vec<Replayed>,
    /// The state that the chunks are laid over; `None` = they are all.
    pub base: Option<Digest>,
    /// The number of the next chunk.
    pub next: u64,
}

/// A chunk as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedRow {
    pub number: u64,
    pub rows: Arc<Vec<Row>>,
    pub contents: Arc<Vec<ContentId>>,
    pub removed: Arc<Vec<RowKey>>,
}

type Answer = Result<RegionReply, RegionRefusal>;

pub fn apply(state: &mut State, verb: &RegionVerb, changes: &mut Changes) -> Answer {
    let attachment = match verb {
        RegionVerb::SeedBegin { attachment, .. }
        | RegionVerb::SeedCommit { attachment, .. }
        | RegionVerb::SeedDrop { attachment } => *attachment,
        RegionVerb::SeedChunk(chunk) => chunk.attachment,
        _ => return Err(RegionRefusal::NotAlone),
    };
    let Some(authority) = &state.authority else {
        return Err(super::transition::wrong_role(&Role::Standalone, verb));
    };
    let mut next = (**authority).clone();
    if !is_given_states(&next.role) {
        return Err(super::transition::wrong_role(&next.role, verb));
    }
    if next.attachment.as_ref().is_none_or(|it| it.id != attachment) {
        return Err(RegionRefusal::Mismatch { what: "the attachment".to_owned() });
    }
    let reply = match verb {
        RegionVerb::SeedBegin { id, position, ledger, replayed, base, resumes, .. } => {
            let (ledger, replayed) = (ledger.clone(), replayed.clone());
            let (id, position, base) = (*id, *position, *base);
            let wanted = Seeding { id, position, ledger, replayed, base, next: 0 };
            begin(state, &mut next, wanted, *resumes)?
        }
        RegionVerb::SeedChunk(chunk) => take(state, &mut next, chunk, changes)?,
        RegionVerb::SeedDrop { .. } => drop_last(state, &mut next, changes),
        RegionVerb::SeedCommit { id, chunks, digest, .. } => {
            return commit(state, next, (*id, *chunks, *digest), changes);
        }
        _ => return Err(RegionRefusal::NotAlone),
    };
    if state.authority.as_deref() != Some(&next) {
        keep(state, next, changes);
    }
    Ok(reply)
}

/// Whether a side in this role may be given a state in the place of what it has.
pub fn is_given_states(role: &Role) -> bool {
    matches!(role, Role::Secondary | Role::Released { .. } | Role::Fenced { .. } | Role::Detached)
}

fn begin(state: &State, next: &mut Authority, wanted: Seeding, resumes: Option<u128>) -> Answer {
    match &next.seeding {
        Some(known) if known.id == wanted.id => {}
        Some(known) if resumes == Some(known.id) => {
            // Of another epoch it may be of another history, which gave the same numbers.
            if known.ledger != wanted.ledger {
                return Err(mismatch("the ledger of the state under way"));
            }
            if known.base != wanted.base {
                return Err(mismatch("the state that the one under way is laid over"));
            }
            check_fits(state, next, &wanted)?;
            next.seeding = Some(Seeding { next: known.next, ..wanted });
        }
        Some(_) => return Err(RegionRefusal::OtherSeed),
        None if resumes.is_some() => return Err(RegionRefusal::OtherSeed),
        // What is left of one must be gone first.
        None if !state.seed.is_empty() => return Err(RegionRefusal::OtherSeed),
        None => {
            check_fits(state, next, &wanted)?;
            next.seeding = Some(wanted);
        }
    }
    Ok(RegionReply::Seeded { next: next.seeding.as_ref().map_or(0, |it| it.next) })
}

/// Whether a state may take the place of what is here.
fn check_fits(state: &State, next: &Authority, wanted: &Seeding) -> Result<(), RegionRefusal> {
    let Some(line) = wanted.ledger.last() else { return Err(mismatch("the ledger")) };
    if wanted.base.is_some_and(|base| base != state.digest()) {
        return Err(mismatch("the state to be patched"));
    }
    match (&next.role, next.applied_through) {
        (Role::Secondary, None) if !is_empty(&state.counters) => Err(RegionRefusal::NotEmpty),
        (Role::Secondary, Some(_)) if line.epoch.number < next.epoch.number => {
            let (asked, current) = (line.epoch.clone(), next.epoch.clone());
            Err(RegionRefusal::StaleEpoch { asked, current })
        }
        (Role::Secondary, Some(through))
            if line.epoch == next.epoch && wanted.position.index < through.index =>
        {
            Err(mismatch("the position, which is before the copy's end,"))
        }
        // Only its heir has all that it had.
        (Role::Released { to, at }, _) if !begins_at(&wanted.ledger, to, *at) => {
            Err(mismatch("the epoch"))
        }
        _ => Ok(()),
    }
}

/// Whether an epoch is in this ledger, and goes on from there.
pub fn begins_at(ledger: &[LedgerLine], epoch: &RegionEpoch, previous: Position) -> bool {
    ledger.iter().any(|line| line.epoch == *epoch && line.previous == Some(previous))
}

/// Frees chunks of a seed that nobody waits for any more: one, and more as long as they are small.
pub fn free(state: &mut State, changes: &mut Changes) -> RegionReply {
    let mut budget = WORK_PER_ENTRY;
    while budget > 0
        && state.has_abandoned_seed()
        && let Some(last) = free_last(state, changes)
    {
        let rows = last.rows.len() + last.removed.len();
        budget = budget.saturating_sub(1 + rows + last.contents.len());
    }
    RegionReply::Seeded { next: state.seed.len() as u64 }
}

pub(super) fn free_last(state: &mut State, changes: &mut Changes) -> Option<SeedRow> {
    let last = state.seed.pop()?;
    changes.row(RowKey::Seed(last.number));
    changes.contents.extend(last.contents.iter().map(|id| ContentEvent::DropBeside(*id)));
    Some(last)
}

fn seeding(next: &mut Authority, id: u128) -> Result<&mut Seeding, RegionRefusal> {
    next.seeding.as_mut().filter(|it| it.id == id).ok_or(RegionRefusal::OtherSeed)
}

fn take(
    state: &mut State,
    next: &mut Authority,
    chunk: &SeedChunk,
    changes: &mut Changes,
) -> Answer {
    let seeding = seeding(next, chunk.id)?;
    if chunk.number < seeding.next {
        // It came twice.
        return Ok(RegionReply::Seeded { next: seeding.next });
    }
    if chunk.number > seeding.next {
        return Err(RegionRefusal::SeedGap { expected: seeding.next });
    }
    seeding.next += 1;
    let put = |(id, content): &(ContentId, Content)| ContentEvent::PutBeside(*id, content.clone());
    changes.contents.extend(chunk.contents.iter().map(put));
    changes.row(RowKey::Seed(chunk.number));
    state.seed.push(SeedRow {
        number: chunk.number,
        rows: Arc::new(chunk.rows.clone()),
        contents: Arc::new(chunk.contents.iter().map(|(id, _)| *id).collect()),
        removed: Arc::new(chunk.removed.clone()),
    });
    Ok(RegionReply::Seeded { next: seeding.next })
}

fn drop_last(state: &mut State, next: &mut Authority, changes: &mut Changes) -> RegionReply {
    free_last(state, changes);
    let left = state.seed.len() as u64;
    match &mut next.seeding {
        Some(seeding) if left > 0 => seeding.next = left,
        _ => next.seeding = None,
    }
    RegionReply::Seeded { next: left }
}

fn commit(
    state: &mut State,
    mut next: Authority,
    (id, chunks, digest): (u128, u64, Digest),
    changes: &mut Changes,
) -> Answer {
    let seeding = seeding(&mut next, id)?.clone();
    if seeding.next != chunks {
        return Err(RegionRefusal::SeedGap { expected: seeding.next });
    }
    let broken = |why: String| RegionRefusal::SeedBroken { why };
    // The chunks are shared, not copied.
    let (chunks_there, is_patch) = (state.seed.clone(), seeding.base.is_some());
    let patch = Patch::of(&chunks_there);
    let built = match is_patch {
        true => State::load(patch.over(state).map(without_authority)),
        false => State::load(patch.rows.values().map(|row| without_authority((*row).clone()))),
    };
    let mut built = built.map_err(|error| broken(error.to_string()))?;
    if built.digest() != digest {
        return Err(broken(format!("its digest is {} and should be {digest}", built.digest())));
    }
    if !is_patch && let Some(id) = patch.lacks(&built) {
        return Err(broken(format!("the content {} was not given", id.0)));
    }
    let line = seeding.ledger.last().cloned().unwrap_or_default();
    if is_patch {
        changes.contents.extend(patch.unnamed().map(|id| ContentEvent::DropBeside(*id)));
        patch.change(state, changes);
    } else {
        // What goes: the chunks, and all of what was there.
        changes.rows.extend(state.row_keys());
        changes.rows.extend(state.grave_keys());
        changes.contents.push(ContentEvent::Switch);
        changes.contents.extend(patch.unnamed().map(|id| ContentEvent::Drop(*id)));
        next.high_contents = !next.high_contents;
    }
    changes.rows.extend(state.seed.iter().map(|chunk| RowKey::Seed(chunk.number)));
    built.counters.epoch = line.epoch.number;
    built.authority = state.authority.take();
    built.audit = std::mem::take(&mut state.audit);
    *state = built;
    if !is_patch {
        changes.rows.extend(state.row_keys());
    }
    let leasing = match next.role {
        // What was granted in an epoch ends with it, and not before.
        Role::Secondary if next.epoch != line.epoch => Leasing::default(),
        Role::Secondary => next.leasing,
        // It grants from now on; of what was granted before its primary told.
        _ => Leasing { longest: next.leasing.longest, ..Leasing::default() },
    };
    next.see(&line.epoch);
    next.epoch = line.epoch;
    next.ledger = seeding.ledger;
    next.replayed = seeding.replayed;
    next.applied_through = Some(seeding.position);
    next.seeding = None;
    follow(&mut next);
    next.leasing = leasing;
    keep(state, next, changes);
    Ok(RegionReply::Seeded { next: chunks })
}

/// As one that was just attached; but what had all once, and is given more, has had it still.
fn follow(next: &mut Authority) {
    let had_all = match next.role {
        Role::Secondary => next.is_complete,
        Role::Released { .. } => true,
        _ => false,
    };
    next.role = Role::Secondary;
    next.rests.clear();
    next.tail = None;
    next.shipped = None;
    next.head = None;
    next.is_complete = had_all;
}

/// What a cluster is in its pair is no part of what both hold.
fn without_authority(row: Row) -> Row {
    match row {
        Row::Counters(row) => Row::Counters(CountersRow { authority: 0, ..row }),
        other => other,
    }
}

/// What the chunks of a seed amount to: rows, alone or to be laid over a state.
struct Patch<'a> {
    rows: BTreeMap<RowKey, &'a Row>,
    removed: BTreeSet<RowKey>,
    given: BTreeSet<ContentId>,
    /// Contents of the messages in those rows.
    named: BTreeSet<ContentId>,
}

impl<'a> Patch<'a> {
    fn of(seed: &'a [SeedRow]) -> Patch<'a> {
        let (mut rows, mut removed) = (BTreeMap::new(), BTreeSet::new());
        // The later chunk counts.
        for chunk in seed {
            for key in chunk.removed.iter() {
                rows.remove(key);
                removed.insert(*key);
            }
            for row in chunk.rows.iter() {
                removed.remove(&row.key());
                rows.insert(row.key(), row);
            }
        }
        let given = seed.iter().flat_map(|chunk| chunk.contents.iter().copied()).collect();
        let named = rows.values().flat_map(|row| contents_of(row)).collect();
        Patch { rows, removed, given, named }
    }

    /// The rows that come of it over a state, in the order of their keys.
    fn over<'b>(&'b self, state: &'b State) -> impl Iterator<Item = Row> + 'b {
        let shared =
            |key: &RowKey| !matches!(key, RowKey::Authority | RowKey::Audit(_) | RowKey::Seed(_));
        let mut keys: Vec<RowKey> = state.row_keys().into_iter().filter(shared).collect();
        keys.extend(self.rows.keys().copied());
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter(move |key| !self.removed.contains(key)).filter_map(move |key| {
            self.rows.get(&key).map(|row| (*row).clone()).or_else(|| state.row(&key))
        })
    }

    /// Contents that were given for a message that is no more.
    fn unnamed(&self) -> impl Iterator<Item = &ContentId> {
        self.given.difference(&self.named)
    }

    /// A content of the state that comes of the rows alone which is not among those given. What
    /// waits to be freed may have none any more.
    fn lacks(&self, built: &State) -> Option<ContentId> {
        if self.named.is_subset(&self.given) {
            return None;
        }
        let rows = built.row_keys().into_iter().filter_map(|key| built.row(&key));
        let mut contents = rows.flat_map(|row| contents_of(&row));
        contents.find(|id| !self.given.contains(id))
    }

    /// What changes by it: contents of messages that are no more, or are of another history, go.
    fn change(&self, state: &mut State, changes: &mut Changes) {
        // What waits to be freed may have ids that are alive again.
        let freed = state.reclaim(usize::MAX);
        changes.rows.extend(freed.rows);
        changes.contents.extend(freed.contents);
        let touched = || self.rows.keys().chain(&self.removed);
        let before = touched().filter_map(|key| state.row(key));
        let before: BTreeSet<ContentId> = before.flat_map(|row| contents_of(&row)).collect();
        let gone = before.iter().filter(|id| !self.named.contains(id) || self.given.contains(id));
        changes.contents.extend(gone.map(|id| ContentEvent::Drop(*id)));
        let taken = self.given.intersection(&self.named);
        changes.contents.extend(taken.map(|id| ContentEvent::TakeBeside(*id)));
        changes.rows.extend(touched().copied());
    }
}

impl State {
    /// Looks at the rows that a seed under way amounts to, in the order of their keys; answers what
    /// it is, and the contents that were given with it.
    pub fn seed_under_way(&self, mut look: impl FnMut(&Row)) -> Option<(Seeding, Vec<ContentId>)> {
        let seeding = self.authority()?.seeding.clone()?;
        let patch = Patch::of(&self.seed);
        match seeding.base {
            Some(_) => patch.over(self).for_each(|row| look(&row)),
            None => patch.rows.values().for_each(|row| look(row)),
        }
        Some((seeding, patch.given.iter().copied().collect()))
    }
}

/// Contents of the messages in a row.
#[must_use]
pub fn contents_of(row: &Row) -> Vec<ContentId> {
    match row {
        Row::Chunk(row) => row.messages.iter().map(|it| ContentId(it.number.0)).collect(),
        Row::Message(row) => vec![row.content],
        _ => Vec::new(),
    }
}
