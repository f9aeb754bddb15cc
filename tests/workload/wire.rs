//! What goes over the wire, and what is read of it.

use tonic_types::StatusExt as _;
use zoneq::proto::queue::v1 as pb;

use super::Told;
use crate::history::{
    After, Answer, Asked, Dead, Deleted, Item, Job, Looked, Mark, New, Outcome, Progress, Redriven,
    Released, SentMessage, Shown, Standing, Tenant, body, tag_of,
};
use crate::queues::{Plan, USUAL_ACCOUNT, plan};

/// The key of a queue's metadata that holds what it was set to.
const SET_TO: &str = "set-to";
/// The lease of those who name none, where nobody has set another.
const USUAL_LEASE: u64 = 30_000_000;

pub fn span(us: u64) -> prost_types::Duration {
    let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
    prost_types::Duration { seconds: seconds as i64, nanos: rest as i32 * 1_000 }
}

fn micros(span: &prost_types::Duration) -> u64 {
    span.seconds as u64 * 1_000_000 + span.nanos as u64 / 1_000
}

pub fn time(at: Option<&prost_types::Timestamp>) -> Option<u64> {
    at.map(|at| at.seconds as u64 * 1_000_000 + at.nanos as u64 / 1_000)
}

pub fn moment(at: Option<&prost_types::Timestamp>) -> u64 {
    time(at).unwrap_or_default()
}

/// The mark of a write; an answer without one says nothing.
pub fn mark(durability: Option<&pb::Durability>) -> Told<Mark> {
    let lost = || Outcome::Unknown("the answer does not say where it stands".to_owned());
    let durability = durability.ok_or_else(lost)?;
    let position = durability.position.as_ref().ok_or_else(lost)?;
    let at = time(durability.log_time.as_ref()).ok_or_else(lost)?;
    Ok(Mark { index: position.index, term: position.term, node: position.node, at })
}

pub fn done(durability: Option<&pb::Durability>) -> Told<Answer> {
    Ok(Answer::Done { mark: mark(durability)? })
}

/// The account of a queue, as requests name it.
pub fn account(queue: &str) -> String {
    let account = plan(queue).account;
    if account == USUAL_ACCOUNT { String::new() } else { account.to_owned() }
}

fn group(name: &str) -> Option<u64> {
    name.strip_prefix('g')?.parse().ok()
}

pub fn shown(message: &pb::Message, standing: Option<Standing>) -> Shown {
    let dead = message.dead_letter.as_ref().map(|dead| Dead {
        source: dead.source.clone(),
        at: moment(dead.dead_lettered_at.as_ref()),
        deliveries: dead.deliveries,
    });
    Shown {
        id: message.id.clone(),
        tag: tag_of(&message.body),
        receipt: message.pop_receipt.clone(),
        inserted_at: moment(message.inserted_at.as_ref()),
        expires_at: time(message.expires_at.as_ref()),
        visible_at: moment(message.visible_at.as_ref()),
        dequeue_count: message.dequeue_count,
        priority: message.priority as u8,
        group: group(&message.group),
        dead,
        redriven: message
            .redriven
            .as_ref()
            .map(|was| Redriven { id: was.id.clone(), queue: was.queue.clone() }),
        standing,
    }
}

pub fn state(standing: Standing) -> pb::MessageState {
    match standing {
        Standing::Visible => pb::MessageState::Visible,
        Standing::Leased => pb::MessageState::Leased,
        Standing::Delayed => pb::MessageState::Delayed,
        Standing::Blocked => pb::MessageState::Blocked,
        Standing::Dead => pb::MessageState::Dead,
    }
}

pub fn standing(state: pb::MessageState) -> Option<Standing> {
    match state {
        pb::MessageState::Visible => Some(Standing::Visible),
        pb::MessageState::Leased => Some(Standing::Leased),
        pb::MessageState::Delayed => Some(Standing::Delayed),
        pb::MessageState::Blocked => Some(Standing::Blocked),
        // How a message came is no standing of its own.
        pb::MessageState::Dead | pb::MessageState::Unspecified => None,
    }
}

pub fn new_message(new: &New) -> pb::NewMessage {
    pb::NewMessage {
        body: body(new.tag).into(),
        delay: (new.delay > 0).then(|| span(new.delay)),
        ttl: Some(span(new.ttl.unwrap_or(0))),
        priority: Some(new.priority.into()),
        deduplication_key: new.key.map(|key| format!("k{key}")).unwrap_or_default(),
        group: new.group.map(|group| format!("g{group}")).unwrap_or_default(),
        ..Default::default()
    }
}

pub fn sent(message: &pb::SentMessage) -> SentMessage {
    SentMessage {
        id: message.id.clone(),
        receipt: message.pop_receipt.clone(),
        inserted_at: moment(message.inserted_at.as_ref()),
        expires_at: time(message.expires_at.as_ref()),
        visible_at: moment(message.visible_at.as_ref()),
        duplicate: message.duplicate,
    }
}

pub fn all_sent(messages: &[pb::SentMessage], durability: Option<&pb::Durability>) -> Told<Answer> {
    let mark = mark(durability)?;
    Ok(Answer::Sent { mark, messages: messages.iter().map(sent).collect() })
}

pub fn received(answer: &pb::ReceiveResponse) -> Told<Answer> {
    let messages: Vec<Shown> = answer.messages.iter().map(|message| shown(message, None)).collect();
    let mark = match mark(answer.durability.as_ref()) {
        Err(lost) if !messages.is_empty() => return Err(lost),
        told => told.ok(),
    };
    Ok(Answer::Received { mark, messages, more: answer.more })
}

pub fn delete_item(item: &Item) -> pb::DeleteItem {
    pb::DeleteItem { id: item.0.clone(), pop_receipt: item.1.clone() }
}

pub fn deleted(answer: &pb::DeleteResponse) -> Told<Answer> {
    let mark = mark(answer.durability.as_ref())?;
    let outcomes = answer.outcomes().map(|outcome| match outcome {
        pb::DeleteOutcome::Deleted => Deleted::Done,
        pb::DeleteOutcome::ReceiptMismatch => Deleted::Mismatch,
        _ => Deleted::NotFound,
    });
    Ok(Answer::Deleted { mark, outcomes: outcomes.collect() })
}

pub fn released(answer: &pb::ReleaseResponse) -> Told<Answer> {
    let mark = mark(answer.durability.as_ref())?;
    let outcomes = answer.results.iter().map(|result| match result.outcome() {
        pb::ReleaseOutcome::Released => Released::At(moment(result.visible_at.as_ref())),
        pb::ReleaseOutcome::ReceiptMismatch => Released::Mismatch,
        _ => Released::NotFound,
    });
    Ok(Answer::Released { mark, outcomes: outcomes.collect() })
}

pub fn after(after: After) -> Option<pb::release_request::After> {
    match after {
        After::Now => None,
        After::Delay(us) => Some(pb::release_request::After::Delay(span(us))),
        After::BackOff => Some(pb::release_request::After::BackOff(true)),
    }
}

/// The settings of a queue: its own, and this lease.
pub fn settings(plan: &Plan, lease: Option<u64>) -> pb::QueueSettings {
    let (target, most) = plan.dead_letters.unwrap_or(("", 0));
    pb::QueueSettings {
        default_visibility_timeout: Some(span(lease.unwrap_or(USUAL_LEASE))),
        dead_letter_queue: target.to_owned(),
        max_deliveries: most,
        deduplication_window: plan.window.map(span),
        max_messages: plan.quota.unwrap_or(0),
        back_off: Some(pb::BackOff {
            first: Some(span(200_000)),
            most: Some(span(1_500_000)),
            factor: 2,
        }),
        undelete_window: Some(span(plan.undelete_window)),
        ..Default::default()
    }
}

pub fn metadata(value: u64) -> std::collections::BTreeMap<String, String> {
    std::collections::BTreeMap::from([(SET_TO.to_owned(), value.to_string())])
}

pub fn looked(queue: &pb::Queue) -> Looked {
    let counts = queue.counts.unwrap_or_default();
    let lease = queue.settings.as_ref().and_then(|s| s.default_visibility_timeout.as_ref());
    Looked {
        visible: counts.visible,
        leased: counts.leased,
        delayed: counts.delayed,
        blocked: counts.blocked,
        due: counts.due,
        total: counts.total,
        paused: queue.paused,
        metadata: queue.metadata.get(SET_TO).and_then(|value| value.parse().ok()),
        settings: lease.map(micros).filter(|lease| *lease != USUAL_LEASE),
    }
}

fn moment_out(at: u64) -> prost_types::Timestamp {
    let (seconds, rest) = (at / 1_000_000, at % 1_000_000);
    prost_types::Timestamp { seconds: seconds as i64, nanos: rest as i32 * 1_000 }
}

pub fn redrive(queue: &str, asked: &Asked) -> pb::StartRedriveRequest {
    let filter = pb::RedriveFilter {
        source: asked.source.clone().unwrap_or_default(),
        dead_before: asked.dead_before.map(moment_out),
        group: asked.group.map(|group| format!("g{group}")).unwrap_or_default(),
        ids: asked.ids.clone(),
        ..Default::default()
    };
    pb::StartRedriveRequest {
        account: account(queue),
        queue: queue.to_owned(),
        target: asked.target.clone().unwrap_or_default(),
        max_messages_per_second: asked.rate.unwrap_or(0),
        filter: Some(filter),
        ..Default::default()
    }
}

pub fn redriving(answer: &pb::StartRedriveResponse) -> Told<Answer> {
    let mark = mark(answer.durability.as_ref())?;
    let id = answer.redrive.as_ref().map(|job| job.id.clone()).unwrap_or_default();
    Ok(Answer::Redriving { mark, id, started: answer.started })
}

pub fn job(job: &pb::Redrive) -> Job {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let filter = job.filter.clone().unwrap_or_default();
    let mut ids = filter.ids;
    ids.sort_unstable();
    Job {
        id: job.id.clone(),
        asked: Asked {
            target: some(&job.target),
            rate: Some(job.max_messages_per_second).filter(|rate| *rate > 0),
            source: some(&filter.source),
            group: group(&filter.group),
            ids,
            dead_before: time(filter.dead_before.as_ref()),
        },
        progress: match job.state() {
            pb::RedriveState::Done => Progress::Done,
            pb::RedriveState::Cancelled => Progress::Cancelled,
            _ => Progress::Running,
        },
        started_at: moment(job.started_at.as_ref()),
        ended_at: time(job.ended_at.as_ref()),
        moved: job.moved,
        held: job.held,
        refused: job.refused,
    }
}

pub fn tenant(account: &pb::Account) -> Tenant {
    let quota = account.quota.unwrap_or_default().max_messages;
    let quota = Some(quota).filter(|quota| *quota > 0);
    Tenant { quota, queues: account.queues, messages: account.messages }
}

pub fn position(mark: &Mark) -> pb::Position {
    pb::Position { term: mark.term, node: mark.node, index: mark.index }
}

/// Whether a reason leaves it open what became of a call.
fn is_open(reason: &str) -> bool {
    matches!(reason, "OUTCOME_UNKNOWN" | "SESSION_ENDED" | "FATAL")
}

/// What a failed call says of its fate: only the server's own word makes it definite.
pub fn fate(status: &tonic::Status) -> Outcome {
    let info = status.get_details_error_info();
    let not_applied = info.as_ref().is_some_and(|info| {
        info.metadata.get("outcome").is_some_and(|outcome| outcome == "not_applied")
    });
    match info {
        Some(info) if not_applied => Outcome::Failed(info.reason),
        Some(info) => Outcome::Unknown(info.reason),
        None => Outcome::Unknown(format!("{:?}", status.code())),
    }
}

/// The same of one item of a stream.
pub fn fate_of_item(error: &pb::ItemError) -> Outcome {
    let reason = error.reason.clone();
    if is_open(&reason) { Outcome::Unknown(reason) } else { Outcome::Failed(reason) }
}
