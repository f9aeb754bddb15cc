//! How a secondary applies the entries of its primary.
//!
//! Laws:
//! * A batch (after, through] counts only if it continues the copy: `after` is just where the
//!   copy ends, or the first batch of a new epoch begins where the ledger joins it to that end.
//!   The known part of one that starts earlier is skipped; a later start is a gap; another entry
//!   at a known index is another history.
//! * What the primary's `apply` refused is not run: its shipper leaves out what rested, and an
//!   entry of another epoch is refused here as it was there.
//! * Each entry runs at its original stamp, so T, ids and receipts are those of the primary.
//! * One batch does about as much of what time made due as one entry may: where its entries do
//!   more, the rest is left, and the answer says how far the copy is. A batch that raises the
//!   rules beyond what is known here is refused whole.
//! * A release at the end of a batch promotes, once and in this very entry, unless its number
//!   was declined or used.

use super::command::{Actor, RegionReply, ShippedBatch, ShippedEntry};
use super::refusal::RegionRefusal;
use super::transition::{keep, note, wrong_role};
use super::{Authority, LedgerLine, Role};
use crate::queue::command::{Command, Entry};
use crate::queue::ids::Position;
use crate::queue::limits::{SHIPPED_ENTRIES, WORK_PER_ENTRY};
use crate::queue::outcome::Changes;
use crate::queue::rules;
use crate::queue::state::State;

/// Where a batch meets the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    /// The copy has all of it.
    Known,
    /// Entries after this one are new.
    After(Option<Position>),
}

pub fn apply(
    state: &mut State,
    at: Position,
    at_us: u64,
    batch: &ShippedBatch,
    changes: &mut Changes,
) -> Result<RegionReply, RegionRefusal> {
    let Some(authority) = state.authority.as_deref() else {
        let verb = super::command::RegionVerb::ApplyShipped(batch.clone());
        return Err(wrong_role(&Role::Standalone, &verb));
    };
    check_shape(batch)?;
    check_rules(batch)?;
    let end = match join(authority, batch)? {
        Join::Known => {
            let through = authority.applied_through.unwrap_or(batch.through);
            return Ok(RegionReply::Shipped { through, promoted: false });
        }
        Join::After(end) => end,
    };
    let mut next = authority.clone();
    if next.epoch != batch.line.epoch {
        next.enter(batch.line.clone());
        if next.role != Role::Secondary {
            // Who has handed over has all there was.
            next.is_complete = true;
        }
        next.role = Role::Secondary;
        next.shipped = None;
        next.rests.clear();
        state.counters.epoch = batch.line.epoch.number;
    }
    let through = run_all(state, batch, end, changes);
    // A tail that the primary has taken is taken here.
    if let Some(ran) = &state.authority {
        next.replayed.clone_from(&ran.replayed);
    }
    next.applied_through = Some(through);
    next.head = Some(batch.head);
    next.is_complete |= through.index >= batch.head.position.index;
    let promoted = through == batch.through && promote(&mut next, state, at, batch);
    keep(state, next, changes);
    if promoted {
        let by = Actor { who: "the release of the other region".to_owned(), at_us };
        note(state, &by, "become the primary as it was handed over".to_owned(), changes);
    }
    Ok(RegionReply::Shipped { through, promoted })
}

/// Runs what is new in a batch, as far as its work fits in one entry; answers how far.
fn run_all(
    state: &mut State,
    batch: &ShippedBatch,
    end: Option<Position>,
    changes: &mut Changes,
) -> Position {
    let mut budget = WORK_PER_ENTRY;
    let new = batch.entries.iter().filter(|it| is_after(it.entry.position, end));
    let mut new = new.peekable();
    while let Some(shipped) = new.next() {
        budget = budget.saturating_sub(run(state, &shipped.entry, changes));
        if budget == 0 && new.peek().is_some() {
            return shipped.entry.position;
        }
    }
    batch.through
}

/// Runs one entry; answers how much of what time made due it did.
fn run(state: &mut State, entry: &Entry, changes: &mut Changes) -> usize {
    // The same question as in `State::apply`: such an entry moved no time there.
    let alone =
        matches!(entry.commands.as_slice(), [it] if matches!(it.command, Command::Region(_)));
    if alone || entry.epoch != state.counters.epoch {
        return 0;
    }
    let (applied, work) = state.apply_commands(entry, true);
    changes.rows.extend(applied.changes.rows);
    changes.contents.extend(applied.changes.contents);
    work
}

fn promote(next: &mut Authority, state: &mut State, at: Position, batch: &ShippedBatch) -> bool {
    let Some(to) = &batch.release else { return false };
    if to.region != next.region || to.number < next.next_number() {
        return false;
    }
    next.enter(LedgerLine {
        epoch: to.clone(),
        previous: Some(batch.through),
        first: Some(at),
        next_number: state.counters.next_number,
    });
    next.role = Role::Primary;
    next.applied_through = None;
    next.head = None;
    next.is_complete = false;
    next.shipped = Some(at);
    next.rests.clear();
    state.counters.epoch = to.number;
    true
}

fn is_after(position: Position, end: Option<Position>) -> bool {
    end.is_none_or(|end| position.index > end.index)
}

fn check_shape(batch: &ShippedBatch) -> Result<(), RegionRefusal> {
    let refuse = |problem: &str| {
        let (field, problem) = ("batch".to_owned(), problem.to_owned());
        Err(RegionRefusal::BadField { field, problem })
    };
    if batch.entries.len() > SHIPPED_ENTRIES {
        return refuse("has too many entries");
    }
    if !is_after(batch.through, batch.after) {
        return refuse("ends before it begins");
    }
    let mut last = batch.after;
    for ShippedEntry { entry, .. } in &batch.entries {
        if !is_after(entry.position, last) || entry.position.index > batch.through.index {
            return refuse("has entries out of order");
        }
        if entry.position.index == batch.through.index && entry.position != batch.through {
            return refuse("ends at another entry than it says");
        }
        last = Some(entry.position);
    }
    Ok(())
}

/// What the primary's rules mean is known here, or nothing is applied: a copy that took such an
/// entry for a refused one would differ from then on.
fn check_rules(batch: &ShippedBatch) -> Result<(), RegionRefusal> {
    let commands = batch.entries.iter().flat_map(|shipped| &shipped.entry.commands);
    for envelope in commands {
        if let Command::RaiseRules { version } = envelope.command
            && version > rules::KNOWN
        {
            return Err(RegionRefusal::UnknownRules { asked: version, known: rules::KNOWN });
        }
    }
    Ok(())
}

fn join(authority: &Authority, batch: &ShippedBatch) -> Result<Join, RegionRefusal> {
    let line = &batch.line;
    let stale = |current: &super::RegionEpoch| {
        if crate::mutants::is_chosen("epoch-at-receiver-only") {
            return Ok(Join::After(batch.after));
        }
        Err(RegionRefusal::StaleEpoch { asked: line.epoch.clone(), current: current.clone() })
    };
    if line.epoch.number < authority.epoch.number {
        return stale(&authority.epoch);
    }
    let seen = &authority.seen;
    if seen.number > line.epoch.number && seen.region != line.epoch.region {
        return stale(seen);
    }
    if authority.seeding.is_some() {
        return Err(RegionRefusal::Seeding);
    }
    if authority.attachment.as_ref().is_none_or(|it| it.id != batch.attachment) {
        return Err(RegionRefusal::Mismatch { what: "the attachment".to_owned() });
    }
    match &authority.role {
        Role::Secondary => {}
        Role::Released { to, .. } if *to == line.epoch => {}
        role => {
            let verb = super::command::RegionVerb::ApplyShipped(batch.clone());
            return Err(wrong_role(role, &verb));
        }
    }
    if line.epoch == authority.epoch {
        return within(authority.applied_through, batch);
    }
    if line.epoch.number == authority.epoch.number {
        return Err(RegionRefusal::Mismatch { what: "the epoch".to_owned() });
    }
    let (expected, found) = (authority.end(), line.previous);
    if expected != found {
        return Err(RegionRefusal::Diverged { expected, found });
    }
    if batch.after != line.first {
        return Err(RegionRefusal::Gap { expected: line.first });
    }
    Ok(Join::After(batch.after))
}

/// A batch of the epoch that the copy is in.
fn within(end: Option<Position>, batch: &ShippedBatch) -> Result<Join, RegionRefusal> {
    let index = |position: Option<Position>| position.map(|it| it.index);
    let diverged =
        |found: Position| Err(RegionRefusal::Diverged { expected: end, found: Some(found) });
    let gap = Err(RegionRefusal::Gap { expected: end });
    if batch.after == end {
        // An epoch that began in the middle of its log has a state before it.
        let whole = end.is_some() || batch.line.first.is_none();
        return if whole { Ok(Join::After(end)) } else { gap };
    }
    let Some(known) = end else { return gap };
    match (batch.after, index(batch.after).cmp(&Some(known.index))) {
        (Some(after), std::cmp::Ordering::Equal) => return diverged(after),
        (_, std::cmp::Ordering::Greater) => return gap,
        _ => {}
    }
    if batch.through.index < known.index || batch.through == known {
        return Ok(Join::Known);
    }
    if batch.through.index == known.index {
        return diverged(batch.through);
    }
    // Only an entry that is named proves that both mean the same one.
    let positions = || batch.entries.iter().map(|shipped| shipped.entry.position);
    match positions().find(|position| position.index == known.index) {
        Some(position) if position == known => Ok(Join::After(end)),
        Some(position) => diverged(position),
        None => gap,
    }
}
