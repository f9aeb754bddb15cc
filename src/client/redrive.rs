//! Sending dead letters back.
//!
//! A redrive is a job of the cluster: it goes on without this client, and over a change of the
//! leader.

use std::time::{Duration, SystemTime};

use super::builder::Client;
use super::call::run;
use super::error::ClientError;
use super::types::{self, DeadLetterReason, Durability};
use super::verbs::{call, service};
use crate::proto::queue::v1 as pb;

pub use crate::proto::queue::v1::RedriveState;

/// Which dead letters: those to which all that is given applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveFilter {
    /// They came from this queue.
    pub source: Option<String>,
    pub reason: Option<DeadLetterReason>,
    /// They died at this time or later.
    pub dead_since: Option<SystemTime>,
    /// They died before this time.
    pub dead_before: Option<SystemTime>,
    pub group: Option<String>,
    /// At most 1000; empty = any.
    pub ids: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveOptions {
    /// Where they go; `None` = each to the queue it came from.
    pub target: Option<String>,
    /// 1 to 100,000; `None` = no limit.
    pub max_messages_per_second: Option<u32>,
    pub filter: RedriveFilter,
}

/// A job, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redrive {
    pub id: String,
    pub queue: String,
    pub options: RedriveOptions,
    pub state: RedriveState,
    pub started_at: Option<SystemTime>,
    /// `None` while it runs.
    pub ended_at: Option<SystemTime>,
    /// Messages sent back so far.
    pub moved: u64,
    /// Left alone: held by somebody, or behind such a one in its group.
    pub held: u64,
    /// Left alone: the target is missing, full, or takes smaller messages only.
    pub refused: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartedRedrive {
    pub redrive: Redrive,
    /// False when an equal one was running already.
    pub started: bool,
    pub durability: Durability,
}

/// What a redrive would do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedrivePreview {
    pub matching: u64,
    pub held: u64,
    /// There are more: counting ended after 1,000,000 messages.
    pub more: bool,
}

impl Client {
    /// Begins to send the dead letters of a queue back, as new messages that name those they
    /// were. An equal redrive that runs is answered again; another one that runs is a refusal.
    pub async fn start_redrive(
        &self,
        queue: &str,
        options: RedriveOptions,
    ) -> Result<StartedRedrive, ClientError> {
        let request = self.redrive_request(queue, options, false);
        let answer = call!(self, self.write_plan(), start_redrive, session request)?;
        Ok(StartedRedrive {
            redrive: answer.redrive.map(Redrive::from).unwrap_or_default(),
            started: answer.started,
            durability: types::durability(answer.durability),
        })
    }

    /// Counts what a redrive would send back now, and moves nothing.
    pub async fn preview_redrive(
        &self,
        queue: &str,
        options: RedriveOptions,
    ) -> Result<RedrivePreview, ClientError> {
        let request = self.redrive_request(queue, options, true);
        let answer = call!(self, self.read_plan(), start_redrive, request)?;
        let preview = answer.preview.unwrap_or_default();
        Ok(RedrivePreview { matching: preview.matching, held: preview.held, more: preview.more })
    }

    /// The running redrive of a queue and those that ended last, at most 10, the newest first.
    pub async fn redrives(
        &self,
        queue: &str,
        max_staleness: Option<Duration>,
    ) -> Result<Vec<Redrive>, ClientError> {
        let request = pb::ListRedrivesRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            max_staleness: types::wire_some(max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), list_redrives, request)?;
        Ok(answer.redrives.into_iter().map(Redrive::from).collect())
    }

    /// Ends a redrive where it is. False when it had ended before.
    pub async fn cancel_redrive(
        &self,
        queue: &str,
        id: &str,
    ) -> Result<(bool, Durability), ClientError> {
        let request = pb::CancelRedriveRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            id: id.to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), cancel_redrive, session request)?;
        Ok((answer.cancelled, types::durability(answer.durability)))
    }

    fn redrive_request(
        &self,
        queue: &str,
        options: RedriveOptions,
        dry_run: bool,
    ) -> pb::StartRedriveRequest {
        let filter = options.filter;
        pb::StartRedriveRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            target: options.target.unwrap_or_default(),
            max_messages_per_second: options.max_messages_per_second.unwrap_or(0),
            filter: Some(pb::RedriveFilter {
                source: filter.source.unwrap_or_default(),
                reason: filter.reason.unwrap_or_default().into(),
                dead_since: filter.dead_since.map(prost_types::Timestamp::from),
                dead_before: filter.dead_before.map(prost_types::Timestamp::from),
                group: filter.group.unwrap_or_default(),
                ids: filter.ids,
            }),
            dry_run,
            session: None,
        }
    }
}

impl From<pb::Redrive> for Redrive {
    fn from(redrive: pb::Redrive) -> Redrive {
        let state = redrive.state();
        let filter = redrive.filter.unwrap_or_default();
        let reason = filter.reason();
        Redrive {
            id: redrive.id,
            queue: redrive.queue,
            options: RedriveOptions {
                target: types::token(redrive.target),
                max_messages_per_second: (redrive.max_messages_per_second > 0)
                    .then_some(redrive.max_messages_per_second),
                filter: RedriveFilter {
                    source: types::token(filter.source),
                    reason: (reason != DeadLetterReason::Unspecified).then_some(reason),
                    dead_since: types::time(filter.dead_since),
                    dead_before: types::time(filter.dead_before),
                    group: types::token(filter.group),
                    ids: filter.ids,
                },
            },
            state,
            started_at: types::time(redrive.started_at),
            ended_at: types::time(redrive.ended_at),
            moved: redrive.moved,
            held: redrive.held,
            refused: redrive.refused,
        }
    }
}
