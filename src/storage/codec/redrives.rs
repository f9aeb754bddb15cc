//! Redrives and account quotas, in commands and in rows.

use super::notes::{reason_from, reason_to};
use super::{CodecError, id_from, id_to, need};
use crate::proto::log::v1 as pb;
use crate::queue::command::{AccountQuota, Redrive, RedriveFilter};
use crate::queue::ids::{Epoch, LogTime, Number, QueueId};
use crate::queue::redrive::{Progress, Tally};
use crate::queue::rows::{AccountName, AccountRow, RedriveRow};

fn text(part: &Option<String>) -> String {
    part.clone().unwrap_or_default()
}

fn some(part: String) -> Option<String> {
    (!part.is_empty()).then_some(part)
}

pub(super) fn asked_to(asked: &Redrive) -> pb::StartRedrive {
    let filter = &asked.filter;
    pb::StartRedrive {
        queue: asked.queue.clone(),
        target: text(&asked.target),
        rate: asked.rate,
        filter: Some(pb::RedriveFilter {
            source: text(&filter.source),
            reason: filter.reason.map_or(pb::DeadReason::Unspecified, reason_to).into(),
            dead_since_us: filter.dead_since.map(|at| at.0),
            dead_before_us: filter.dead_before.map(|at| at.0),
            group: text(&filter.group),
            ids: filter.ids.iter().map(|id| id_to(*id)).collect(),
        }),
    }
}

pub(super) fn asked_from(asked: pb::StartRedrive) -> Result<Redrive, CodecError> {
    let filter = need(asked.filter, "a redrive", "filter")?;
    let reason = match pb::DeadReason::try_from(filter.reason) {
        Ok(pb::DeadReason::Unspecified) => None,
        _ => Some(reason_from(filter.reason)?),
    };
    Ok(Redrive {
        queue: asked.queue,
        target: some(asked.target),
        rate: asked.rate,
        filter: RedriveFilter {
            source: some(filter.source),
            reason,
            dead_since: filter.dead_since_us.map(LogTime),
            dead_before: filter.dead_before_us.map(LogTime),
            group: some(filter.group),
            ids: filter.ids.into_iter().map(id_from).collect(),
        },
    })
}

pub(super) fn redrive_to(row: &RedriveRow) -> pb::RedriveRow {
    let progress = match row.progress {
        Progress::Running => pb::RedriveProgress::Running,
        Progress::Done => pb::RedriveProgress::Done,
        Progress::Cancelled => pb::RedriveProgress::Cancelled,
    };
    pb::RedriveRow {
        queue: row.queue.0,
        number: row.number.0,
        epoch: row.epoch.0,
        asked: Some(asked_to(&row.asked)),
        started_at_us: row.started_at.0,
        progress: progress.into(),
        ended_at_us: row.ended_at.map(|at| at.0),
        looked_through: row.looked_through.0,
        next_step_us: row.next_step.0,
        moved: row.tally.moved,
        held: row.tally.held,
        refused: row.tally.refused,
    }
}

pub(super) fn redrive_from(row: pb::RedriveRow) -> Result<RedriveRow, CodecError> {
    let what = "a redrive row";
    let progress = match pb::RedriveProgress::try_from(row.progress) {
        Ok(pb::RedriveProgress::Running) => Progress::Running,
        Ok(pb::RedriveProgress::Done) => Progress::Done,
        Ok(pb::RedriveProgress::Cancelled) => Progress::Cancelled,
        Ok(pb::RedriveProgress::Unspecified) | Err(_) => {
            return Err(CodecError::Wrong { what, field: "progress" });
        }
    };
    Ok(RedriveRow {
        queue: QueueId(row.queue),
        number: Number(row.number),
        epoch: Epoch(row.epoch),
        asked: asked_from(need(row.asked, what, "wish")?)?,
        started_at: LogTime(row.started_at_us),
        progress,
        ended_at: row.ended_at_us.map(LogTime),
        looked_through: Number(row.looked_through),
        next_step: LogTime(row.next_step_us),
        tally: Tally { moved: row.moved, held: row.held, refused: row.refused },
    })
}

pub(super) fn quota_to(quota: &AccountQuota) -> pb::SetAccountQuota {
    let AccountQuota { messages, bytes, queues } = *quota;
    pb::SetAccountQuota { messages, bytes, queues }
}

pub(super) fn quota_from(quota: pb::SetAccountQuota) -> AccountQuota {
    let pb::SetAccountQuota { messages, bytes, queues } = quota;
    AccountQuota { messages, bytes, queues }
}

pub(super) fn account_to(row: &AccountRow) -> pb::AccountRow {
    let name = row.name.as_str().unwrap_or_default().to_owned();
    pb::AccountRow { name, quota: Some(quota_to(&row.quota)) }
}

pub(super) fn account_from(row: pb::AccountRow) -> Result<AccountRow, CodecError> {
    let what = "an account row";
    let name = AccountName::new(&row.name).ok_or(CodecError::Wrong { what, field: "name" })?;
    Ok(AccountRow { name, quota: quota_from(need(row.quota, what, "quota")?) })
}
