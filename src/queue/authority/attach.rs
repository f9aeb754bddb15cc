//! How a cluster comes to follow a primary, and is let go.
//!
//! Laws: who is attached is empty, or a kept copy of the same lineage, or waits in its role for a
//! whole state that takes the place of what it has; nobody follows an epoch below one that it knows
//! of the pair. What a side was given of a state goes with its attachment.

use super::command::{Attach, RegionReply, RegionVerb};
use super::lease::Leasing;
use super::refusal::RegionRefusal;
use super::transition::{is_empty, mismatch, wrong_role};
use super::{Attachment, Authority, Role, TailFate, seed};
use crate::queue::rows::CountersRow;

type Answer = Result<RegionReply, RegionRefusal>;

/// Begins to follow a primary, or to wait for the state that it gives.
///
/// # Errors
/// Refused where this cluster has data of its own, and by the ledger.
pub fn attach_to(next: &mut Authority, counters: &mut CountersRow, attach: &Attach) -> Answer {
    let Some(line) = attach.ledger.last() else { return Err(mismatch("the ledger")) };
    let wanted = Attachment { id: attach.attachment, peer: line.epoch.region.clone() };
    match next.role {
        Role::Secondary if next.attachment.as_ref() == Some(&wanted) => {
            return Ok(RegionReply::Done);
        }
        Role::Fenced { .. } | Role::Detached if attach.reseed => {
            return await_state(next, attach, wanted);
        }
        // Its heir, which stood alone meanwhile: what it ships goes on from here.
        Role::Released { ref to, at }
            if next.lineage == attach.lineage
                && next.region == attach.region
                && seed::begins_at(&attach.ledger, to, at) =>
        {
            next.attachment = Some(wanted);
            next.shipped = None;
            next.leasing = attach.leasing();
            return Ok(RegionReply::Done);
        }
        // The ledger's joints say whether the kept copy continues.
        Role::Detached if next.lineage == attach.lineage && next.region == attach.region => {}
        Role::Standalone | Role::Detached if is_empty(counters) => {
            check_newer(next, attach)?;
            next.lineage = attach.lineage;
            next.region.clone_from(&attach.region);
            next.ledger.clone_from(&attach.ledger);
            next.epoch = line.epoch.clone();
            next.see(&line.epoch);
            counters.epoch = line.epoch.number;
        }
        Role::Standalone | Role::Detached => return Err(RegionRefusal::NotEmpty),
        _ => return Err(wrong_role(&next.role, &RegionVerb::Attach(attach.clone()))),
    }
    next.attachment = Some(wanted);
    next.role = Role::Secondary;
    next.rests.clear();
    next.shipped = None;
    next.leasing = attach.leasing();
    next.head = None;
    next.is_complete = false;
    Ok(RegionReply::Done)
}

/// Nobody follows an epoch that is below one that it knows of the same pair.
fn check_newer(next: &Authority, attach: &Attach) -> Result<(), RegionRefusal> {
    let theirs = attach.ledger.last().map(|line| &line.epoch);
    if let Some(asked) = theirs
        && next.lineage == attach.lineage
        && asked.number < next.seen.number.max(next.epoch.number)
    {
        let (asked, current) = (asked.clone(), next.seen.clone());
        return Err(RegionRefusal::StaleEpoch { asked, current });
    }
    Ok(())
}

/// What it has stays as it is, in its role, until a whole state is there.
fn await_state(next: &mut Authority, attach: &Attach, wanted: Attachment) -> Answer {
    if next.lineage != attach.lineage || next.region != attach.region {
        return Err(RegionRefusal::NotEmpty);
    }
    check_newer(next, attach)?;
    if matches!(next.role, Role::Fenced { .. }) && next.tail.is_none() {
        if !attach.discard_tail {
            return Err(RegionRefusal::TailUnsettled { region: next.region.clone() });
        }
        next.tail = Some(TailFate::Discarded);
    }
    next.attachment = Some(wanted);
    next.leasing = attach.leasing();
    Ok(RegionReply::Done)
}

/// Lets a side go that follows, or waits for a whole state: that one is what it was.
///
/// # Errors
/// Refused in any other role.
pub fn detach(next: &mut Authority, verb: &RegionVerb) -> Result<(), RegionRefusal> {
    match next.role {
        Role::Secondary => next.role = Role::Detached,
        Role::Detached | Role::Fenced { .. } => {}
        _ => return Err(wrong_role(&next.role, verb)),
    }
    // What it was given so far is freed by and by: nobody would go on.
    next.seeding = None;
    next.attachment = None;
    next.leasing = Leasing::default();
    Ok(())
}
