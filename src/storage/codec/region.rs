//! The commands and rows about regions: `region.proto`. Entries inside a shipped batch are bytes
//! of their own, read as any entry is.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::{decode_entry, encode_inner};
use super::shapes::{shape_from, shape_to};
use super::{CodecError, big, big_bytes, need, position_from, position_to};
use super::{losses, replay, seeds};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::region_command::Verb as Wire;
use crate::queue::authority::command::{
    Actor, Attach, Reconfigure, RegionCommand, RegionVerb, ShippedBatch, ShippedEntry,
};
use crate::queue::authority::lease::Leasing;
use crate::queue::authority::shape::Shape;
use crate::queue::authority::{
    Attachment, AuditRow, Authority, Fork, Head, LedgerLine, RegionEpoch, RegionSettings, Rest,
    Role, TailFate,
};
use crate::queue::ids::{Epoch, LogTime, Position, Span};

const COMMAND: &str = "a command about regions";
const AUTHORITY: &str = "the authority row";

pub(super) fn command_to(command: &RegionCommand) -> pb::RegionCommand {
    pb::RegionCommand {
        who: command.by.who.clone(),
        at_us: command.by.at_us,
        verb: Some(verb_to(&command.verb)),
    }
}

pub(super) fn command_from(command: pb::RegionCommand) -> Result<RegionCommand, CodecError> {
    let by = Actor { who: command.who, at_us: command.at_us };
    Ok(RegionCommand { by, verb: verb_from(need(command.verb, COMMAND, "verb")?)? })
}

pub(super) fn verb_to(verb: &RegionVerb) -> Wire {
    match verb {
        RegionVerb::Protect { region, lineage, attachment, peer } => {
            Wire::Protect(pb::RegionProtect {
                region: region.clone(),
                lineage: big_bytes(*lineage),
                attachment: big_bytes(*attachment),
                peer: peer.clone(),
            })
        }
        RegionVerb::Unprotect => Wire::Unprotect(pb::RegionUnprotect {}),
        RegionVerb::Attach(it) => Wire::Attach(pb::RegionAttach {
            region: it.region.clone(),
            lineage: big_bytes(it.lineage),
            attachment: big_bytes(it.attachment),
            ledger: it.ledger.iter().map(line_to).collect(),
            reseed: it.reseed,
            discard_tail: it.discard_tail,
            lease_us: it.lease.map(|lease| lease.0),
        }),
        RegionVerb::Detach => Wire::Detach(pb::RegionDetach {}),
        RegionVerb::Configure(settings) => Wire::Configure(settings_to(settings)),
        RegionVerb::Reconfigure(change) => Wire::Reconfigure(reconfigure_to(change)),
        RegionVerb::Seal => Wire::Seal(pb::RegionSeal {}),
        RegionVerb::Unseal => Wire::Unseal(pb::RegionUnseal {}),
        RegionVerb::Release { to, seal, acknowledged } => Wire::Release(pb::RegionRelease {
            to: Some(epoch_to(to)),
            seal: Some(position_to(*seal)),
            acknowledged: Some(position_to(*acknowledged)),
        }),
        RegionVerb::Decline { number } => Wire::Decline(pb::RegionDecline { number: number.0 }),
        RegionVerb::Declined { number } => Wire::Declined(pb::RegionDeclined { number: number.0 }),
        RegionVerb::SetGranting { on } => Wire::SetGranting(pb::RegionSetGranting { on: *on }),
        RegionVerb::AcceptLease { attachment, epoch, lease } => {
            Wire::AcceptLease(accept_lease_to(*attachment, *epoch, *lease))
        }
        RegionVerb::RelyOnLease { attachment, lease } => Wire::RelyOnLease(pb::RegionRelyOnLease {
            attachment: big_bytes(*attachment),
            lease_us: lease.map(|span| span.0),
        }),
        RegionVerb::Promote { number, accepted, stopped, loss } => {
            Wire::Promote(losses::promote_to(*number, *accepted, *stopped, loss.as_ref()))
        }
        RegionVerb::TakeBack { number } => Wire::TakeBack(pb::RegionTakeBack { number: number.0 }),
        RegionVerb::Wipe => Wire::Wipe(pb::RegionWipe {}),
        RegionVerb::Renew { lineage } => {
            Wire::Renew(pb::RegionRenew { lineage: big_bytes(*lineage) })
        }
        RegionVerb::Fence { lineage, ledger } => Wire::Fence(pb::RegionFence {
            lineage: big_bytes(*lineage),
            ledger: ledger.iter().map(line_to).collect(),
        }),
        RegionVerb::Resolve { keep, number } => Wire::Resolve(resolve_to(keep, *number)),
        RegionVerb::RecordShipped { attachment, epoch, position } => {
            Wire::RecordShipped(record_shipped_to(*attachment, *epoch, *position))
        }
        RegionVerb::ApplyShipped(batch) => Wire::ApplyShipped(batch_to(batch)),
        RegionVerb::Note { what } => Wire::Note(pb::RegionNote { what: what.clone() }),
        RegionVerb::SettleTail { epoch, fate } => {
            let (epoch, fate) = (Some(epoch_to(epoch)), tail_fate_to(*fate).into());
            Wire::SettleTail(pb::SettleTail { epoch, fate })
        }
        RegionVerb::SeedBegin { .. }
        | RegionVerb::SeedChunk(_)
        | RegionVerb::SeedCommit { .. }
        | RegionVerb::SeedDrop { .. }
        | RegionVerb::SeedFree => seeds::verb_to(verb),
    }
}

fn resolve_to(keep: &str, number: Epoch) -> pb::RegionResolve {
    pb::RegionResolve { keep: keep.to_owned(), number: number.0 }
}

fn accept_lease_to(attachment: u128, epoch: Epoch, lease: Option<Span>) -> pb::RegionAcceptLease {
    pb::RegionAcceptLease {
        attachment: big_bytes(attachment),
        epoch: epoch.0,
        lease_us: lease.map(|span| span.0),
    }
}

fn record_shipped_to(attachment: u128, epoch: Epoch, position: Position) -> pb::RecordShipped {
    let (attachment, position) = (big_bytes(attachment), Some(position_to(position)));
    pb::RecordShipped { attachment, epoch: epoch.0, position }
}

fn verb_from(verb: Wire) -> Result<RegionVerb, CodecError> {
    let wide = |bytes: &[u8], field| big(bytes, COMMAND, field);
    Ok(match verb {
        Wire::Protect(it) => RegionVerb::Protect {
            region: it.region,
            lineage: wide(&it.lineage, "lineage")?,
            attachment: wide(&it.attachment, "attachment")?,
            peer: it.peer,
        },
        Wire::Unprotect(_) => RegionVerb::Unprotect,
        Wire::Attach(it) => RegionVerb::Attach(Attach {
            region: it.region,
            lineage: wide(&it.lineage, "lineage")?,
            attachment: wide(&it.attachment, "attachment")?,
            ledger: it.ledger.into_iter().map(line_from).collect::<Result<_, _>>()?,
            reseed: it.reseed,
            discard_tail: it.discard_tail,
            lease: it.lease_us.map(Span),
        }),
        Wire::Detach(_) => RegionVerb::Detach,
        Wire::Configure(it) => RegionVerb::Configure(settings_from(it)),
        Wire::Reconfigure(it) => RegionVerb::Reconfigure(Box::new(reconfigure_from(it)?)),
        Wire::Seal(_) => RegionVerb::Seal,
        Wire::Unseal(_) => RegionVerb::Unseal,
        Wire::Release(it) => RegionVerb::Release {
            to: epoch_from(need(it.to, COMMAND, "epoch")?),
            seal: position_from(need(it.seal, COMMAND, "seal")?),
            acknowledged: position_from(need(it.acknowledged, COMMAND, "acknowledged")?),
        },
        Wire::Decline(it) => RegionVerb::Decline { number: Epoch(it.number) },
        Wire::Declined(it) => RegionVerb::Declined { number: Epoch(it.number) },
        Wire::SetGranting(it) => RegionVerb::SetGranting { on: it.on },
        Wire::AcceptLease(it) => RegionVerb::AcceptLease {
            attachment: wide(&it.attachment, "attachment")?,
            epoch: Epoch(it.epoch),
            lease: it.lease_us.map(Span),
        },
        Wire::RelyOnLease(it) => RegionVerb::RelyOnLease {
            attachment: wide(&it.attachment, "attachment")?,
            lease: it.lease_us.map(Span),
        },
        Wire::Promote(it) => losses::promote_from(it),
        Wire::TakeBack(it) => RegionVerb::TakeBack { number: Epoch(it.number) },
        Wire::Wipe(_) => RegionVerb::Wipe,
        Wire::Renew(it) => RegionVerb::Renew { lineage: wide(&it.lineage, "lineage")? },
        Wire::Fence(it) => RegionVerb::Fence {
            lineage: wide(&it.lineage, "lineage")?,
            ledger: it.ledger.into_iter().map(line_from).collect::<Result<_, _>>()?,
        },
        Wire::Resolve(it) => RegionVerb::Resolve { keep: it.keep, number: Epoch(it.number) },
        Wire::RecordShipped(it) => RegionVerb::RecordShipped {
            attachment: wide(&it.attachment, "attachment")?,
            epoch: Epoch(it.epoch),
            position: position_from(need(it.position, COMMAND, "position")?),
        },
        Wire::SettleTail(it) => RegionVerb::SettleTail {
            fate: need(tail_fate_from(it.fate()), COMMAND, "fate of a tail")?,
            epoch: epoch_from(need(it.epoch, COMMAND, "epoch")?),
        },
        Wire::ApplyShipped(it) => RegionVerb::ApplyShipped(batch_from(it)?),
        Wire::Note(it) => RegionVerb::Note { what: it.what },
        Wire::SeedBegin(_)
        | Wire::SeedChunk(_)
        | Wire::SeedCommit(_)
        | Wire::SeedDrop(_)
        | Wire::SeedFree(_) => seeds::verb_from(verb)?,
    })
}

/// A batch as it travels and as it is kept.
#[must_use]
pub fn batch_to(batch: &ShippedBatch) -> pb::ApplyShipped {
    let encoded = |it: &ShippedEntry| match it.encoded.is_empty() {
        true => Bytes::from(encode_inner(&it.entry)),
        false => it.encoded.clone(),
    };
    let entry = |it: &ShippedEntry| pb::ShippedEntry {
        position: Some(position_to(it.entry.position)),
        entry: encoded(it),
    };
    pb::ApplyShipped {
        attachment: big_bytes(batch.attachment),
        line: Some(line_to(&batch.line)),
        after: batch.after.map(position_to),
        through: Some(position_to(batch.through)),
        release: batch.release.as_ref().map(epoch_to),
        entries: batch.entries.iter().map(entry).collect(),
        head: Some(head_to(batch.head)),
    }
}

/// Reads what `batch_to` wrote.
pub fn batch_from(it: pb::ApplyShipped) -> Result<ShippedBatch, CodecError> {
    let entry = |it: pb::ShippedEntry| {
        let at = position_from(need(it.position, COMMAND, "position")?);
        let entry = decode_entry(at, it.entry.clone())?;
        Ok(ShippedEntry { entry, encoded: it.entry })
    };
    Ok(ShippedBatch {
        attachment: big(&it.attachment, COMMAND, "attachment")?,
        line: line_from(need(it.line, COMMAND, "ledger line")?)?,
        after: it.after.map(position_from),
        through: position_from(need(it.through, COMMAND, "end")?),
        release: it.release.map(epoch_from),
        head: head_from(need(it.head, COMMAND, "head")?)?,
        entries: it.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
    })
}

#[must_use]
pub fn epoch_to(epoch: &RegionEpoch) -> pb::RegionEpoch {
    pb::RegionEpoch { number: epoch.number.0, region: epoch.region.clone() }
}

#[must_use]
pub fn epoch_from(epoch: pb::RegionEpoch) -> RegionEpoch {
    RegionEpoch { number: Epoch(epoch.number), region: epoch.region }
}

#[must_use]
pub fn line_to(line: &LedgerLine) -> pb::LedgerLine {
    pb::LedgerLine {
        epoch: Some(epoch_to(&line.epoch)),
        previous: line.previous.map(position_to),
        first: line.first.map(position_to),
        next_number: line.next_number,
    }
}

/// Reads what [`line_to`] wrote.
pub fn line_from(line: pb::LedgerLine) -> Result<LedgerLine, CodecError> {
    Ok(LedgerLine {
        epoch: epoch_from(need(line.epoch, "a ledger line", "epoch")?),
        previous: line.previous.map(position_from),
        first: line.first.map(position_from),
        next_number: line.next_number,
    })
}

#[must_use]
pub fn head_to(head: Head) -> pb::Head {
    pb::Head { position: Some(position_to(head.position)), log_time_us: head.log_time.0 }
}

fn head_from(head: pb::Head) -> Result<Head, CodecError> {
    let position = position_from(need(head.position, "a head", "position")?);
    Ok(Head { position, log_time: LogTime(head.log_time_us) })
}

fn fork_to(fork: Fork) -> pb::Fork {
    pb::Fork { after: fork.after.map(position_to), next_number: fork.next_number }
}

fn fork_from(fork: pb::Fork) -> Fork {
    Fork { after: fork.after.map(position_from), next_number: fork.next_number }
}

fn settings_to(settings: &RegionSettings) -> pb::RegionSettings {
    let shape = &settings.shape;
    pb::RegionSettings {
        read_access: settings.read_access,
        shape: (*shape != Shape::default()).then(|| shape_to(shape)),
        max_lag_us: settings.max_lag.map(|span| span.0),
        max_unshipped_bytes: settings.max_unshipped_bytes,
        throttle: settings.throttle,
        lease_us: settings.lease.map(|span| span.0),
    }
}

fn settings_from(settings: pb::RegionSettings) -> RegionSettings {
    RegionSettings {
        read_access: settings.read_access,
        shape: settings.shape.map(shape_from).unwrap_or_default(),
        max_lag: settings.max_lag_us.map(Span),
        max_unshipped_bytes: settings.max_unshipped_bytes,
        throttle: settings.throttle,
        lease: settings.lease_us.map(Span),
    }
}

fn reconfigure_to(change: &Reconfigure) -> pb::RegionReconfigure {
    let Reconfigure { before, after } = change;
    pb::RegionReconfigure { before: Some(settings_to(before)), after: Some(settings_to(after)) }
}

fn reconfigure_from(change: pb::RegionReconfigure) -> Result<Reconfigure, CodecError> {
    Ok(Reconfigure {
        before: settings_from(need(change.before, COMMAND, "settings before")?),
        after: settings_from(need(change.after, COMMAND, "settings after")?),
    })
}

fn leasing_to(leasing: Leasing) -> pb::Leasing {
    pb::Leasing {
        in_force_us: leasing.in_force.map(|span| span.0),
        longest_us: leasing.longest.map(|span| span.0),
        stopped: leasing.stopped.map(position_to),
    }
}

/// A row of before leases were granted says only whether that was stopped.
fn leasing_from(leasing: pb::Leasing, has_stopped: bool) -> Leasing {
    Leasing {
        in_force: leasing.in_force_us.map(Span),
        longest: leasing.longest_us.map(Span),
        stopped: has_stopped.then(|| leasing.stopped.map(position_from).unwrap_or_default()),
    }
}

pub(super) fn authority_to(row: &Authority) -> pb::AuthorityRow {
    use pb::RegionRole as R;
    let conflict = |with: &String| RegionEpoch { number: row.epoch.number, region: with.clone() };
    let fork = match &row.role {
        Role::Fenced { fork, .. } | Role::Conflict { fork, .. } => *fork,
        _ => None,
    };
    let (role, at, other) = match &row.role {
        Role::Standalone => (R::Standalone, None, None),
        Role::Primary => (R::Primary, None, None),
        Role::Sealed { at } => (R::Sealed, Some(*at), None),
        Role::Released { to, at } => (R::Released, Some(*at), Some(to.clone())),
        Role::Secondary => (R::Secondary, None, None),
        Role::Fenced { by, at, .. } => (R::Fenced, Some(*at), Some(by.clone())),
        Role::Conflict { with, at, .. } => (R::Conflict, Some(*at), Some(conflict(with))),
        Role::Detached => (R::Detached, None, None),
    };
    let attachment = row.attachment.as_ref();
    pb::AuthorityRow {
        revision: row.revision,
        lineage: big_bytes(row.lineage),
        region: row.region.clone(),
        role: role.into(),
        at: at.map(position_to),
        other: other.as_ref().map(epoch_to),
        epoch: Some(epoch_to(&row.epoch)),
        seen: Some(epoch_to(&row.seen)),
        declined: row.declined.0,
        ledger: row.ledger.iter().map(line_to).collect(),
        attachment: attachment.map(|it| big_bytes(it.id)).unwrap_or_default(),
        peer: attachment.map(|it| it.peer.clone()).unwrap_or_default(),
        applied_through: row.applied_through.map(position_to),
        shipped: row.shipped.map(position_to),
        stopped_granting: row.leasing.stopped.is_some(),
        leasing: Some(leasing_to(row.leasing)),
        rests: row.rests.iter().map(|it| pb::Rest { after: it.after, until: it.until }).collect(),
        settings: Some(settings_to(&row.settings)),
        next_audit: row.next_audit,
        fork: fork.map(fork_to),
        head: row.head.map(head_to),
        is_complete: row.is_complete,
        seeding: row.seeding.as_ref().map(seeds::seeding_to),
        replayed: row.replayed.iter().map(replay::replayed_to).collect(),
        tail: row.tail.map_or(pb::TailFate::Unspecified, tail_fate_to).into(),
        high_contents: row.high_contents,
        loss: row.loss.as_deref().map(losses::loss_to),
    }
}

fn tail_fate_to(fate: TailFate) -> pb::TailFate {
    match fate {
        TailFate::Replayed => pb::TailFate::Replayed,
        TailFate::Exported => pb::TailFate::Exported,
        TailFate::Discarded => pb::TailFate::Discarded,
    }
}

fn tail_fate_from(fate: pb::TailFate) -> Option<TailFate> {
    match fate {
        pb::TailFate::Replayed => Some(TailFate::Replayed),
        pb::TailFate::Exported => Some(TailFate::Exported),
        pb::TailFate::Discarded => Some(TailFate::Discarded),
        pb::TailFate::Unspecified => None,
    }
}

pub(super) fn authority_from(row: pb::AuthorityRow) -> Result<Authority, CodecError> {
    let role = role_from(&row)?;
    let tail = tail_fate_from(row.tail());
    let attachment = match row.attachment.is_empty() {
        true => None,
        false => {
            let id = big(&row.attachment, AUTHORITY, "attachment")?;
            Some(Attachment { id, peer: row.peer })
        }
    };
    Ok(Authority {
        revision: row.revision,
        lineage: big(&row.lineage, AUTHORITY, "lineage")?,
        region: row.region,
        role,
        epoch: epoch_from(need(row.epoch, AUTHORITY, "epoch")?),
        seen: epoch_from(need(row.seen, AUTHORITY, "seen epoch")?),
        declined: Epoch(row.declined),
        ledger: row.ledger.into_iter().map(line_from).collect::<Result<_, _>>()?,
        attachment,
        applied_through: row.applied_through.map(position_from),
        shipped: row.shipped.map(position_from),
        leasing: leasing_from(row.leasing.unwrap_or_default(), row.stopped_granting),
        rests: row.rests.iter().map(|it| Rest { after: it.after, until: it.until }).collect(),
        settings: settings_from(need(row.settings, AUTHORITY, "settings")?),
        next_audit: row.next_audit,
        head: row.head.map(head_from).transpose()?,
        is_complete: row.is_complete,
        seeding: row.seeding.map(seeds::seeding_from).transpose()?,
        replayed: row.replayed.into_iter().map(replay::replayed_from).collect::<Result<_, _>>()?,
        tail,
        loss: row.loss.map(losses::loss_from).map(Arc::new),
        high_contents: row.high_contents,
    })
}

/// A role that is not known may be one that must not write: it is refused, not guessed.
fn role_from(row: &pb::AuthorityRow) -> Result<Role, CodecError> {
    use pb::RegionRole as R;
    let at = || Ok(position_from(need(row.at, AUTHORITY, "position of its role")?));
    let fork = || row.fork.map(fork_from);
    let other = || Ok(epoch_from(need(row.other.clone(), AUTHORITY, "other epoch")?));
    Ok(match row.role() {
        R::Standalone => Role::Standalone,
        R::Primary => Role::Primary,
        R::Sealed => Role::Sealed { at: at()? },
        R::Released => Role::Released { to: other()?, at: at()? },
        R::Secondary => Role::Secondary,
        R::Fenced => Role::Fenced { by: other()?, fork: fork(), at: at()? },
        R::Conflict => Role::Conflict { with: other()?.region, fork: fork(), at: at()? },
        R::Detached => Role::Detached,
        R::Unspecified => return Err(CodecError::Wrong { what: AUTHORITY, field: "role" }),
    })
}

pub(super) fn audit_to(row: &AuditRow) -> pb::AuditRow {
    pb::AuditRow {
        number: row.number,
        at_us: row.at_us,
        log_time_us: row.log_time.0,
        who: row.who.clone(),
        what: row.what.clone(),
        epoch: Some(epoch_to(&row.epoch)),
    }
}

pub(super) fn audit_from(row: pb::AuditRow) -> Result<AuditRow, CodecError> {
    Ok(AuditRow {
        number: row.number,
        at_us: row.at_us,
        log_time: LogTime(row.log_time_us),
        who: row.who,
        what: row.what,
        epoch: epoch_from(need(row.epoch, "an audit row", "epoch")?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::testing::region_entry;

    proptest! {
        /// A secondary's leader writes the bytes that came, whatever they were.
        #[test]
        fn what_was_shipped_keeps_its_bytes(entry in region_entry(), tail in 0..3_usize) {
            let inner = Bytes::from(encode_inner(&entry));
            // An unknown field at the end, as a newer primary may write it.
            let newer = [&inner[..], &[0xf8, 0x07, 1].repeat(tail)].concat();
            let at = position_to(entry.position);
            let shipped = pb::ShippedEntry { position: Some(at), entry: newer.clone().into() };
            let head = Some(pb::Head { position: Some(at), log_time_us: 1 });
            let line = Some(line_to(&LedgerLine::default()));
            let attachment = big_bytes(1);
            let entries = vec![shipped];
            let batch = pb::ApplyShipped {
                attachment, line, through: Some(at), head, entries, ..pb::ApplyShipped::default()
            };
            let read = batch_from(batch.clone()).unwrap();
            prop_assert_eq!(batch_to(&read), batch);
        }
    }
}
