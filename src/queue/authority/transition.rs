//! What each command about regions does.
//!
//! Laws: a command is checked whole, on a copy of the authority, before anything counts, so a
//! refusal leaves no trace. What is asked twice is answered again, so that a failover may be
//! begun anew by anybody at any step. What was done is in the audit; what was not, is not. Of a
//! change of the members, which is no command of this room, it says that it began and how it ended.

use super::attach::{attach_to, detach};
use super::command::{Actor, RegionCommand, RegionReply, RegionVerb};
use super::lease::{self, Leasing};
use super::refusal::RegionRefusal;
use super::{
    Attachment, AuditRow, Authority, LedgerLine, RegionEpoch, Role, TailFate, loss, seed, shipped,
    wipe,
};
use crate::queue::command::Entry;
use crate::queue::error::Rejection;
use crate::queue::ids::{Epoch, LogTime, Position};
use crate::queue::limits::{ACTOR, AUDIT_NOTE, AUDIT_ROWS, LEDGER_LINES, REGION_NAME, RESTS};
use crate::queue::outcome::{Applied, Changes, Reply};
use crate::queue::rows::{CountersRow, RowKey};
use crate::queue::state::State;

type Answer = Result<RegionReply, RegionRefusal>;

/// Applies an entry that is this one command. Log time rests, but for what is shipped in it.
pub fn run(state: &mut State, entry: &Entry, command: &RegionCommand) -> Applied {
    let mut changes = Changes::default();
    let answer = answer(state, entry.position, command, &mut changes);
    Applied {
        outcomes: vec![answer.map(Reply::Region).map_err(Rejection::Region)],
        changes,
        log_time: state.counters.log_time,
    }
}

/// Keeps what the other region has applied; whatever is stale changes nothing.
pub fn record(state: &mut State, verb: &RegionVerb, changes: &mut Changes) -> Answer {
    let RegionVerb::RecordShipped { attachment, epoch, position } = verb else {
        return Err(RegionRefusal::NotAlone);
    };
    let Some(authority) = &mut state.authority else { return Ok(RegionReply::Done) };
    let attached = authority.attachment.as_ref().is_some_and(|it| it.id == *attachment);
    let ships = matches!(
        authority.role,
        Role::Primary | Role::Sealed { .. } | Role::Released { .. } | Role::Fenced { .. }
    );
    let later = authority.shipped.is_none_or(|at| at.index < position.index);
    if attached && ships && later && authority.epoch.number == *epoch {
        authority.shipped = Some(*position);
        authority.rests.retain(|rest| rest.until.is_none_or(|at| at > position.index));
        authority.revision = authority.revision.saturating_add(1);
        changes.row(RowKey::Authority);
        changes.row(RowKey::Counters);
    }
    Ok(RegionReply::Done)
}

fn answer(
    state: &mut State,
    at: Position,
    command: &RegionCommand,
    changes: &mut Changes,
) -> Answer {
    check(command)?;
    match &command.verb {
        RegionVerb::RecordShipped { .. } => return record(state, &command.verb, changes),
        RegionVerb::ApplyShipped(batch) => {
            return shipped::apply(state, at, command.by.at_us, batch, changes);
        }
        RegionVerb::SeedFree => return Ok(seed::free(state, changes)),
        RegionVerb::Wipe => {
            if wipe::run(state, changes)? {
                note(state, &command.by, command.verb.said(), changes);
            }
            return Ok(RegionReply::Done);
        }
        RegionVerb::Note { what } => {
            if let Some(authority) = &state.authority {
                keep(state, (**authority).clone(), changes);
            }
            note(state, &command.by, what.clone(), changes);
            return Ok(RegionReply::Done);
        }
        RegionVerb::SeedBegin { .. }
        | RegionVerb::SeedChunk(_)
        | RegionVerb::SeedCommit { .. }
        | RegionVerb::SeedDrop { .. } => {
            let reply = seed::apply(state, &command.verb, changes)?;
            if matches!(command.verb, RegionVerb::SeedCommit { .. }) {
                note(state, &command.by, command.verb.said(), changes);
            }
            return Ok(reply);
        }
        _ => {}
    }
    let mut next = match (&state.authority, &command.verb) {
        (Some(authority), _) => (**authority).clone(),
        (None, RegionVerb::Protect { .. } | RegionVerb::Attach(_)) => {
            Authority { next_audit: next_alone(state), ..Authority::default() }
        }
        (None, verb) => return Err(wrong_role(&Role::Standalone, verb)),
    };
    let before = next.clone();
    let reply = change(&mut next, &mut state.counters, at, &command.verb)?;
    if !seed::is_given_states(&next.role) {
        // Its chunks are freed by and by.
        next.seeding = None;
    }
    if next != before || state.authority.is_none() {
        keep(state, next, changes);
        note(state, &command.by, command.verb.said(), changes);
    }
    Ok(reply)
}

/// Puts a changed authority in force.
pub fn keep(state: &mut State, mut next: Authority, changes: &mut Changes) {
    next.revision = next.revision.saturating_add(1);
    state.authority = Some(Box::new(next));
    changes.row(RowKey::Authority);
    changes.row(RowKey::Counters);
}

/// The number of the next row of the audit, where a cluster never was in a pair.
fn next_alone(state: &State) -> u64 {
    state.audit.back().map_or(0, |last| last.number.saturating_add(1))
}

/// Writes into the audit; the oldest row makes way.
pub fn note(state: &mut State, by: &Actor, what: String, changes: &mut Changes) {
    let alone = (next_alone(state), state.counters.epoch);
    let (number, epoch) = match &mut state.authority {
        Some(authority) => {
            let number = authority.next_audit;
            authority.next_audit = number.saturating_add(1);
            (number, authority.epoch.clone())
        }
        None => (alone.0, RegionEpoch { number: alone.1, region: String::new() }),
    };
    state.audit.push_back(AuditRow {
        number,
        at_us: by.at_us,
        log_time: state.counters.log_time,
        who: by.who.clone(),
        what,
        epoch,
    });
    changes.row(RowKey::Audit(number));
    if state.audit.len() > AUDIT_ROWS
        && let Some(oldest) = state.audit.pop_front()
    {
        changes.row(RowKey::Audit(oldest.number));
    }
}

fn check(command: &RegionCommand) -> Result<(), RegionRefusal> {
    let refuse = |field: &str, problem: &str| {
        Err(RegionRefusal::BadField { field: field.to_owned(), problem: problem.to_owned() })
    };
    let named = |name: &String| {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        REGION_NAME.contains(&name.len()) && name.bytes().all(letter)
    };
    if command.by.who.len() > ACTOR {
        return refuse("who", "is longer than 256 bytes");
    }
    if matches!(&command.verb, RegionVerb::Note { what } if what.len() > AUDIT_NOTE) {
        return refuse("what", "is longer than 512 bytes");
    }
    loss::check(&command.verb)?;
    let names: Vec<&String> = match &command.verb {
        RegionVerb::Protect { region, peer, .. } if region == peer => {
            return refuse("peer", "is this region itself");
        }
        RegionVerb::Protect { region, peer, .. } => vec![region, peer],
        RegionVerb::Attach(attach) => match attach.ledger.last() {
            None => return refuse("ledger", "is empty"),
            Some(_) if attach.ledger.len() > LEDGER_LINES => {
                return refuse("ledger", "is too long");
            }
            Some(line) if line.epoch.region == attach.region => {
                return refuse("region", "is that of the primary");
            }
            Some(line) => vec![&attach.region, &line.epoch.region],
        },
        RegionVerb::Fence { ledger, .. } => match ledger.last() {
            None => return refuse("ledger", "is empty"),
            Some(_) if ledger.len() > LEDGER_LINES => return refuse("ledger", "is too long"),
            Some(line) => vec![&line.epoch.region],
        },
        RegionVerb::Release { to: epoch, .. } => vec![&epoch.region],
        RegionVerb::Resolve { keep, .. } => vec![keep],
        _ => Vec::new(),
    };
    match names.into_iter().find(|name| !named(name)) {
        Some(_) => refuse("region", "is no name of 1 to 63 of a-z, 0-9 and -"),
        None => Ok(()),
    }
}

fn change(
    next: &mut Authority,
    counters: &mut CountersRow,
    at: Position,
    verb: &RegionVerb,
) -> Answer {
    match verb {
        RegionVerb::Protect { .. } => return protect(next, counters, verb),
        RegionVerb::Attach(attach) => return attach_to(next, counters, attach),
        RegionVerb::Unprotect => return unprotect(next, verb),
        RegionVerb::Seal | RegionVerb::Unseal => return seal(next, at, verb),
        RegionVerb::Release { .. } => return release(next, at, verb),
        RegionVerb::Fence { lineage, ledger } => return fence(next, at, (*lineage, ledger), verb),
        RegionVerb::Resolve { keep, number } => {
            return resolve(next, counters, at, (keep, *number));
        }
        RegionVerb::Detach => detach(next, verb)?,
        RegionVerb::Configure(settings) => super::bounds::configure(next, None, settings)?,
        RegionVerb::Reconfigure(change) => {
            super::bounds::configure(next, Some(&change.before), &change.after)?;
        }
        RegionVerb::Decline { number } if next.role == Role::Secondary => {
            if *number <= next.epoch.number {
                return Err(used(next, *number));
            }
            next.declined = next.declined.max(*number);
        }
        RegionVerb::Declined { number } => match &next.role {
            Role::Released { to, .. } if to.number == *number => {
                next.become_role(Role::Primary, at.index);
            }
            _ => return Err(wrong_role(&next.role, verb)),
        },
        RegionVerb::SetGranting { .. }
        | RegionVerb::AcceptLease { .. }
        | RegionVerb::RelyOnLease { .. } => return lease::change(next, at, verb),
        RegionVerb::Promote { number, accepted, stopped, loss } if next.role == Role::Secondary => {
            promote(next, counters, at, (*number, *accepted, *stopped))?;
            loss::keep(next, loss.as_deref());
        }
        RegionVerb::TakeBack { number } => match next.role {
            Role::Released { at: end, .. } => go_on(next, counters, at, (*number, end))?,
            _ => return Err(wrong_role(&next.role, verb)),
        },
        RegionVerb::SettleTail { epoch, fate } if matches!(next.role, Role::Fenced { .. }) => {
            settle(next, epoch, *fate)?;
        }
        RegionVerb::Renew { .. } if next.seeding.is_some() => return Err(RegionRefusal::Seeding),
        RegionVerb::Renew { lineage } if next.role == Role::Detached => {
            renew(next, counters, at, *lineage);
        }
        _ => return Err(wrong_role(&next.role, verb)),
    }
    Ok(RegionReply::Done)
}

/// A kept copy goes its own way, under a lineage of its own.
fn renew(next: &mut Authority, counters: &mut CountersRow, at: Position, lineage: u128) {
    next.attachment = None;
    next.lineage = lineage;
    next.ledger.clear();
    next.applied_through = None;
    let line = LedgerLine {
        epoch: own(next, next.next_number()),
        previous: None,
        first: Some(at),
        next_number: counters.next_number,
    };
    counters.epoch = line.epoch.number;
    next.enter(line);
    next.role = Role::Standalone;
}

fn protect(next: &mut Authority, counters: &CountersRow, verb: &RegionVerb) -> Answer {
    let RegionVerb::Protect { region, lineage, attachment, peer } = verb else {
        return Err(wrong_role(&next.role, verb));
    };
    let wanted = Attachment { id: *attachment, peer: peer.clone() };
    if next.role == Role::Primary && next.attachment.as_ref() == Some(&wanted) {
        return Ok(RegionReply::Done);
    }
    if next.role != Role::Standalone {
        return Err(wrong_role(&next.role, verb));
    }
    if next.ledger.is_empty() {
        next.lineage = *lineage;
        next.region.clone_from(region);
        let epoch = own(next, counters.epoch);
        next.enter(LedgerLine { epoch, previous: None, first: None, next_number: 1 });
    }
    if next.region != *region {
        return Err(mismatch("the region"));
    }
    next.attachment = Some(wanted);
    next.leasing = Leasing::default();
    next.shipped = None;
    next.role = Role::Primary;
    Ok(RegionReply::Done)
}

fn settle(next: &mut Authority, epoch: &RegionEpoch, fate: TailFate) -> Result<(), RegionRefusal> {
    if *epoch != next.epoch {
        return Err(mismatch("the epoch of the tail"));
    }
    // What is in the new primary is more than a file.
    if next.tail != Some(TailFate::Replayed) {
        next.tail = Some(fate);
    }
    Ok(())
}

/// Whether no data command was ever applied.
pub fn is_empty(counters: &CountersRow) -> bool {
    counters.log_time == LogTime::default() && counters.next_number == 1 && counters.next_queue == 1
}

fn unprotect(next: &mut Authority, verb: &RegionVerb) -> Answer {
    match next.role {
        Role::Standalone => {}
        Role::Primary => {
            next.check_relies_on_none()?;
            next.role = Role::Standalone;
            next.attachment = None;
            next.leasing = Leasing::default();
            next.shipped = None;
        }
        _ => return Err(wrong_role(&next.role, verb)),
    }
    Ok(RegionReply::Done)
}

fn seal(next: &mut Authority, at: Position, verb: &RegionVerb) -> Answer {
    match (verb, &next.role) {
        (RegionVerb::Seal, Role::Sealed { at }) => return Ok(RegionReply::At(*at)),
        (RegionVerb::Seal, Role::Primary) if next.rests.len() >= RESTS => {
            let what = "the number of seals that are not shipped".to_owned();
            return Err(RegionRefusal::Limit { what, limit: RESTS as u64 });
        }
        (RegionVerb::Seal, Role::Primary) => {
            next.become_role(Role::Sealed { at }, at.index);
            return Ok(RegionReply::At(at));
        }
        (RegionVerb::Unseal, Role::Sealed { .. }) => next.become_role(Role::Primary, at.index),
        (RegionVerb::Unseal, Role::Released { .. })
            if crate::mutants::is_chosen("unseal-after-release") =>
        {
            next.become_role(Role::Primary, at.index);
        }
        (RegionVerb::Unseal, Role::Primary) => {}
        _ => return Err(wrong_role(&next.role, verb)),
    }
    Ok(RegionReply::Done)
}

fn release(next: &mut Authority, at: Position, verb: &RegionVerb) -> Answer {
    let RegionVerb::Release { to, seal, acknowledged } = verb else {
        return Err(wrong_role(&next.role, verb));
    };
    match &next.role {
        Role::Released { to: known, at } if known == to => return Ok(RegionReply::At(*at)),
        Role::Sealed { at } if at == seal => {}
        Role::Sealed { .. } => return Err(mismatch("the seal")),
        role => return Err(wrong_role(role, verb)),
    }
    if next.attachment.as_ref().is_none_or(|it| it.peer != to.region) {
        return Err(mismatch("the other region"));
    }
    if to.number < next.next_number() {
        return Err(used(next, to.number));
    }
    if acknowledged.index < seal.index || (acknowledged.index == seal.index && acknowledged != seal)
    {
        return Err(RegionRefusal::NotAcknowledged);
    }
    next.shipped = Some(*acknowledged);
    next.see(to);
    next.role = Role::Released { to: to.clone(), at };
    Ok(RegionReply::At(at))
}

fn fence(
    next: &mut Authority,
    at: Position,
    (lineage, ledger): (u128, &[LedgerLine]),
    verb: &RegionVerb,
) -> Answer {
    let Some(line) = ledger.last() else { return Err(mismatch("the ledger")) };
    let by = &line.epoch;
    if lineage != next.lineage {
        return Err(mismatch("the lineage"));
    }
    if by.number < next.epoch.number {
        return Err(RegionRefusal::StaleEpoch { asked: by.clone(), current: next.epoch.clone() });
    }
    if *by == next.epoch || crate::mutants::is_chosen("no-fencing") {
        return Ok(RegionReply::Done);
    }
    let fork = next.fork(ledger);
    if by.number == next.epoch.number {
        let with = by.region.clone();
        match next.role {
            Role::Standalone | Role::Primary | Role::Sealed { .. } | Role::Released { .. } => {
                next.become_role(Role::Conflict { with, fork, at }, at.index);
            }
            Role::Conflict { .. } | Role::Fenced { .. } => {}
            _ => return Err(wrong_role(&next.role, verb)),
        }
        return Ok(RegionReply::Done);
    }
    next.see(by);
    let end = match &next.role {
        // Who was handed over to begins where this side ended. The same epoch with another
        // beginning was promoted by force, and never got the release.
        Role::Released { to, at } if by == to && line.previous == Some(*at) => {
            return Ok(RegionReply::Done);
        }
        Role::Fenced { by: known, .. } if by.number <= known.number => {
            return Ok(RegionReply::Done);
        }
        Role::Secondary | Role::Detached => return Ok(RegionReply::Done),
        Role::Released { at, .. } | Role::Fenced { at, .. } | Role::Conflict { at, .. } => *at,
        Role::Standalone | Role::Primary | Role::Sealed { .. } => at,
    };
    // Of several that fence a side the first says where its tail begins.
    let fork = match next.role {
        Role::Fenced { fork: Some(fork), .. } => Some(fork),
        _ => {
            next.tail = None;
            fork
        }
    };
    next.become_role(Role::Fenced { by: by.clone(), fork, at: end }, at.index);
    Ok(RegionReply::Done)
}

fn promote(
    next: &mut Authority,
    counters: &mut CountersRow,
    at: Position,
    (number, accepted, stopped): (Epoch, bool, Option<Position>),
) -> Answer {
    // Who accepts it goes on with nothing: what was given of a state is not whole.
    if next.seeding.is_some() && next.applied_through.is_none() && !accepted {
        return Err(RegionRefusal::Seeding);
    }
    if !(next.is_complete || accepted) {
        return Err(RegionRefusal::Incomplete);
    }
    let has_stopped = next.leasing.stopped.is_some() && next.leasing.stopped == stopped;
    if next.must_stop_granting() && !has_stopped {
        return Err(RegionRefusal::StillGranting);
    }
    if number < next.next_number() {
        return Err(used(next, number));
    }
    let (previous, epoch) = (next.applied_through.take(), own(next, number));
    let next_number = counters.next_number;
    next.enter(LedgerLine { epoch, previous, first: Some(at), next_number });
    counters.epoch = number;
    next.head = None;
    next.is_complete = false;
    // Not geo-redundant until it is protected.
    next.attachment = None;
    next.role = Role::Standalone;
    next.rests.clear();
    Ok(RegionReply::Done)
}

fn resolve(
    next: &mut Authority,
    counters: &mut CountersRow,
    at: Position,
    (keep, number): (&str, Epoch),
) -> Answer {
    let Role::Conflict { with, fork, at: end } = next.role.clone() else {
        return Err(RegionRefusal::WrongRole {
            role: next.role.name().to_owned(),
            verb: "resolve a conflict".to_owned(),
        });
    };
    if keep == next.region {
        go_on(next, counters, at, (number, end))?;
    } else if keep == with {
        let by = RegionEpoch { number, region: with };
        next.see(&by);
        next.tail = None;
        next.become_role(Role::Fenced { by, fork, at: end }, at.index);
    } else {
        return Err(mismatch("the region to keep"));
    }
    Ok(RegionReply::Done)
}

/// This region goes on in a new epoch; the one before it ended at `end`.
fn go_on(
    next: &mut Authority,
    counters: &mut CountersRow,
    at: Position,
    (number, end): (Epoch, Position),
) -> Result<(), RegionRefusal> {
    if number < next.next_number() {
        return Err(used(next, number));
    }
    let epoch = own(next, number);
    let next_number = counters.next_number;
    next.enter(LedgerLine { epoch, previous: Some(end), first: Some(at), next_number });
    next.become_role(Role::Primary, at.index);
    counters.epoch = number;
    Ok(())
}

fn own(next: &Authority, number: Epoch) -> RegionEpoch {
    RegionEpoch { number, region: next.region.clone() }
}

fn used(next: &Authority, asked: Epoch) -> RegionRefusal {
    RegionRefusal::UsedNumber { asked: asked.0, next: next.next_number().0 }
}

pub fn mismatch(what: &str) -> RegionRefusal {
    RegionRefusal::Mismatch { what: what.to_owned() }
}

pub fn wrong_role(role: &Role, verb: &RegionVerb) -> RegionRefusal {
    RegionRefusal::WrongRole { role: role.name().to_owned(), verb: verb.said() }
}
