//! Redrive and undelete over gRPC.
//!
//! Laws: as in `queue.rs`. A dry run is a read: page after page, so that no look at the state is
//! long, and bounded in all.

use std::time::Duration;

use prost::Message as _;

use super::call::Call;
use super::convert;
use super::error::Refusal;
use super::questions::OneQueue;
use super::queue::{Answer, QueueFace, other_write};
use super::requests;
use crate::proto::queue::v1 as pb;
use crate::queue::command::{Command, Redrive, RedriveFilter};
use crate::queue::ids::{LogTime, MessageId, Number};
use crate::queue::note::DeadReason;
use crate::queue::outcome::Reply;
use crate::queue::redrive::{self, Progress};
use crate::queue::rows::RedriveRow;

/// Messages that a dry run looks at in one read, and reads.
const PREVIEW_PAGE: usize = 10_000;
const PREVIEW_PAGES: usize = 100;
/// This node has applied what it looks at, so any state of its own is fresh enough.
const OWN: Option<Duration> = Some(Duration::from_secs(60));

impl QueueFace {
    pub(super) async fn undelete_here(
        &self,
        call: &Call,
        request: pb::UndeleteQueueRequest,
    ) -> Answer<pb::UndeleteQueueResponse> {
        let envelope = requests::undelete_queue(request)?;
        let (Reply::QueueUndeleted, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(pb::UndeleteQueueResponse { durability: Some(durability) })
    }

    pub(super) async fn start_redrive_here(
        &self,
        call: &Call,
        request: pb::StartRedriveRequest,
    ) -> Answer<pb::StartRedriveResponse> {
        let bytes = request.encoded_len();
        let (account, session) = (request.account.clone(), request.session.clone());
        let dry_run = request.dry_run;
        let asked = asked(request)?;
        redrive::check(&asked)?;
        if dry_run {
            let account = convert::account(account)?;
            let preview = Some(self.preview(call, &account, &asked).await?);
            return Ok(pb::StartRedriveResponse { preview, ..Default::default() });
        }
        let queue = asked.queue.clone();
        let command = Command::StartRedrive(Box::new(asked));
        let envelope = convert::envelope(account, session, command)?;
        let account = envelope.account.clone();
        let (reply, durability) = self.write(call, envelope, bytes).await?;
        let Reply::RedriveStarted { id, started } = reply else { return Err(other_write()) };
        // Unless the queue is gone again, or ten others have ended since.
        let found = self.look(call, OWN, |store| store.state().redrives(&account, &queue)).await;
        let redrives = found.ok().and_then(|(found, _)| found.ok()).unwrap_or_default();
        let redrive = redrives.into_iter().find(|job| job.id() == id).map(redrive_out);
        let named = || pb::Redrive { id: id.to_string(), queue, ..Default::default() };
        Ok(pb::StartRedriveResponse {
            redrive: redrive.or_else(|| Some(named())),
            started,
            preview: None,
            durability: Some(durability),
        })
    }

    async fn preview(
        &self,
        call: &Call,
        account: &str,
        asked: &Redrive,
    ) -> Answer<pb::RedrivePreview> {
        let mut total = pb::RedrivePreview::default();
        let (mut after, mut staleness) = (Number(0), None);
        for _ in 0..PREVIEW_PAGES {
            let page = self.look(call, staleness, |store| {
                store.state().preview_redrive(account, asked, after, PREVIEW_PAGE)
            });
            let seen = page.await?.0?;
            total.matching += seen.matching;
            total.held += seen.held;
            match seen.next {
                Some(next) => (after, staleness) = (next, OWN),
                None => return Ok(total),
            }
        }
        total.more = true;
        Ok(total)
    }

    pub(super) async fn cancel_redrive_here(
        &self,
        call: &Call,
        request: pb::CancelRedriveRequest,
    ) -> Answer<pb::CancelRedriveResponse> {
        let envelope = requests::cancel_redrive(request)?;
        let (reply, durability) = self.write(call, envelope, 0).await?;
        let Reply::RedriveCancelled { cancelled } = reply else { return Err(other_write()) };
        Ok(pb::CancelRedriveResponse { cancelled, durability: Some(durability) })
    }

    pub(super) async fn list_redrives_here(
        &self,
        call: &Call,
        request: pb::ListRedrivesRequest,
    ) -> Answer<pb::ListRedrivesResponse> {
        let asked = OneQueue::of(request.account, request.queue, request.max_staleness)?;
        let OneQueue { staleness, account, name: queue } = asked;
        let (found, at) =
            self.look(call, staleness, |store| store.state().redrives(&account, &queue)).await?;
        let redrives = found?.into_iter().map(redrive_out).collect();
        Ok(pb::ListRedrivesResponse { redrives, log_time: Some(convert::timestamp(at)) })
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A wish as the state knows it; its own check looks at names and ranges.
pub(super) fn asked(request: pb::StartRedriveRequest) -> Result<Redrive, Refusal> {
    let given = request.filter.unwrap_or_default();
    let reason = match pb::DeadLetterReason::try_from(given.reason) {
        Ok(pb::DeadLetterReason::Unspecified) => None,
        Ok(pb::DeadLetterReason::MaxDeliveries) => Some(DeadReason::MaxDeliveries),
        Err(_) => {
            let problem = format!("is {}", given.reason);
            return Err(Refusal::invalid("filter.reason", problem, "max_deliveries, or none"));
        }
    };
    let ids = given.ids.iter().map(|id| convert::message_id(id));
    let filter = RedriveFilter {
        source: some(given.source),
        reason,
        dead_since: log_time("filter.dead_since", given.dead_since)?,
        dead_before: log_time("filter.dead_before", given.dead_before)?,
        group: some(given.group),
        ids: ids.collect::<Result<std::collections::BTreeSet<MessageId>, Refusal>>()?,
    };
    let rate = Some(request.max_messages_per_second).filter(|rate| *rate > 0);
    Ok(Redrive { queue: request.queue, target: some(request.target), rate, filter })
}

fn log_time(
    field: &str,
    given: Option<prost_types::Timestamp>,
) -> Result<Option<LogTime>, Refusal> {
    let Some(given) = given else { return Ok(None) };
    let wrong = || Refusal::invalid(field, "is no time since 1970", "a time as an answer gives it");
    let seconds = u64::try_from(given.seconds).map_err(|_| wrong())?;
    let nanos = u64::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let whole = seconds.checked_mul(1_000_000).zip(nanos);
    let micros = whole.and_then(|(secs, nanos)| secs.checked_add(nanos / 1_000));
    micros.map(|at| Some(LogTime(at))).ok_or_else(wrong)
}

fn redrive_out(job: RedriveRow) -> pb::Redrive {
    let state = match job.progress {
        Progress::Running => pb::RedriveState::Running,
        Progress::Done => pb::RedriveState::Done,
        Progress::Cancelled => pb::RedriveState::Cancelled,
    };
    let (id, Redrive { queue, target, rate, filter }) = (job.id(), job.asked);
    let reason = match filter.reason {
        None => pb::DeadLetterReason::Unspecified,
        Some(DeadReason::MaxDeliveries) => pb::DeadLetterReason::MaxDeliveries,
    };
    pb::Redrive {
        id: id.to_string(),
        queue,
        target: target.unwrap_or_default(),
        max_messages_per_second: rate.unwrap_or(0),
        filter: Some(pb::RedriveFilter {
            source: filter.source.unwrap_or_default(),
            reason: reason.into(),
            dead_since: filter.dead_since.map(convert::timestamp),
            dead_before: filter.dead_before.map(convert::timestamp),
            group: filter.group.unwrap_or_default(),
            ids: filter.ids.iter().map(ToString::to_string).collect(),
        }),
        state: state.into(),
        started_at: Some(convert::timestamp(job.started_at)),
        ended_at: job.ended_at.map(convert::timestamp),
        moved: job.tally.moved,
        held: job.tally.held,
        refused: job.tally.refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::{Epoch, QueueId};
    use crate::queue::redrive::Tally;

    #[test]
    fn a_wish_survives_the_wire() {
        let id = MessageId { epoch: Epoch(1), number: Number(7) };
        let filter = RedriveFilter {
            source: Some("orders".into()),
            reason: Some(DeadReason::MaxDeliveries),
            dead_since: Some(LogTime(1_000_001)),
            dead_before: Some(LogTime(2_000_000)),
            group: Some("g".into()),
            ids: [id].into(),
        };
        let all =
            Redrive { queue: "dead".into(), target: Some("to".into()), rate: Some(5), filter };
        let usual = RedriveFilter::default();
        let plain = Redrive { queue: "dead".into(), target: None, rate: None, filter: usual };
        for wish in [all, plain] {
            let job = RedriveRow {
                queue: QueueId(1),
                number: Number(9),
                epoch: Epoch(1),
                asked: wish.clone(),
                started_at: LogTime(3),
                progress: Progress::Running,
                ended_at: None,
                looked_through: Number(0),
                next_step: LogTime(4),
                tally: Tally { moved: 1, held: 2, refused: 3 },
            };
            let out = redrive_out(job);
            assert_eq!((out.moved, out.held, out.refused), (1, 2, 3));
            let request = pb::StartRedriveRequest {
                queue: out.queue,
                target: out.target,
                max_messages_per_second: out.max_messages_per_second,
                filter: out.filter,
                ..Default::default()
            };
            assert_eq!(asked(request).ok(), Some(wish));
        }
    }

    #[test]
    fn a_time_before_1970_or_after_all_is_refused_by_name() {
        for (seconds, nanos) in [(-1, 0), (i64::MAX, 0), (18_446_744_073_709, 999_999_999)] {
            let given = Some(prost_types::Timestamp { seconds, nanos });
            let refused = log_time("filter.dead_since", given).expect_err("it is no log time");
            let said = tonic::Status::from(refused);
            let head = "filter.dead_since is no time since 1970";
            assert!(said.message().starts_with(head), "{said}");
        }
    }
}
