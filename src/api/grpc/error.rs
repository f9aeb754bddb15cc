//! The one table from what went wrong to what a gRPC client reads: code, sentence, reason,
//! outcome, and when to try again.
//!
//! Laws: the match is exhaustive; the same table makes the status of a call and the error of a
//! stream's item; a failure is never reported as better known than it is.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::api::admission::Overloaded;
use crate::consensus::error::{Fate, GroupError, Reason};
use crate::proto::queue::v1 as pb;
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::error::Rejection;

/// The domain of every reason.
pub const DOMAIN: &str = "zoneq";
/// When nothing better is known, try again after this.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// When a copy may have come nearer.
const BEHIND_RETRY_AFTER: Duration = Duration::from_secs(1);
/// When there may be room again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a call or an item failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Rejected(Rejection),
    /// Too much is in progress.
    Overloaded(String),
    /// A disk is short.
    DiskFull {
        why: String,
        retry_after: Duration,
    },
    /// No leader, draining, failing over.
    NotNow {
        why: String,
        fate: Fate,
        retry_after: Option<Duration>,
    },
    /// The deadline came first.
    Late {
        why: String,
        fate: Fate,
    },
    /// The cluster is not as the call needs it, for this reason; nothing was changed.
    Precondition {
        reason: &'static str,
        why: String,
    },
    /// This node serves no longer.
    Fatal(String),
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    code: Code,
    reason: &'static str,
    fate: Fate,
    retry_after: Option<Duration>,
    message: String,
}

impl Refusal {
    /// Nobody leads, or the one who does is not reached; nothing was sent.
    pub(super) fn not_now(why: impl Into<String>) -> Refusal {
        Refusal::NotNow { why: why.into(), fate: Fate::NotApplied, retry_after: None }
    }

    /// Refuses an argument that does not reach the queue's own checks.
    pub(super) fn invalid(
        field: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Refusal {
        Refusal::Rejected(Rejection::InvalidArgument {
            field: field.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        })
    }

    /// Another try elsewhere, or here a little later, is safe and may help.
    pub(super) fn may_be_tried_again(&self) -> bool {
        matches!(self, Refusal::NotNow { fate: Fate::NotApplied, .. })
    }

    /// Another node of this cluster may have what this one does not.
    pub(super) fn may_be_read_elsewhere(&self) -> bool {
        let too_old = |refusal: &RegionRefusal| matches!(refusal, RegionRefusal::TooOld { .. });
        let is_old = matches!(self, Refusal::Rejected(Rejection::Region(it)) if too_old(it));
        is_old || self.may_be_tried_again()
    }

    /// It may have been applied: only asking again under its session tells.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Refusal::NotNow { fate: Fate::Unknown, .. })
    }

    fn line(&self) -> Line {
        use Rejection as R;
        let (code, reason, fate, retry_after) = match self {
            Refusal::Rejected(rejection) => match rejection {
                R::InvalidArgument { .. } | R::UnknownRules { .. } => {
                    (Code::InvalidArgument, "INVALID_ARGUMENT", Fate::NotApplied, None)
                }
                R::QueueNotFound(_) => (Code::NotFound, "QUEUE_NOT_FOUND", Fate::NotApplied, None),
                R::QueueExists(_) => (Code::AlreadyExists, "QUEUE_EXISTS", Fate::NotApplied, None),
                R::QueueInUse { .. } => {
                    (Code::FailedPrecondition, "QUEUE_IN_USE", Fate::NotApplied, None)
                }
                R::MessageNotFound { .. } => {
                    (Code::NotFound, "MESSAGE_NOT_FOUND", Fate::NotApplied, None)
                }
                R::RedriveNotFound { .. } => {
                    (Code::NotFound, "REDRIVE_NOT_FOUND", Fate::NotApplied, None)
                }
                R::RedriveRunning { .. } => {
                    (Code::FailedPrecondition, "REDRIVE_RUNNING", Fate::NotApplied, None)
                }
                R::ReceiptMismatch { .. } => {
                    (Code::FailedPrecondition, "RECEIPT_MISMATCH", Fate::NotApplied, None)
                }
                R::LimitReached { .. } => {
                    (Code::ResourceExhausted, "LIMIT_REACHED", Fate::NotApplied, None)
                }
                // What is in the way goes by itself: by time, or by consumers.
                R::Full { .. } => {
                    (Code::ResourceExhausted, "FULL", Fate::NotApplied, Some(FULL_RETRY_AFTER))
                }
                R::Region(refusal) => region(refusal),
                R::SessionEnded => (Code::Aborted, "SESSION_ENDED", Fate::Unknown, None),
                // The region's generation moved between stamp and apply: the next try has it.
                R::WrongEpoch { .. } => {
                    (Code::Unavailable, "NOT_NOW", Fate::NotApplied, Some(RETRY_AFTER))
                }
            },
            Refusal::Overloaded(_) => {
                (Code::ResourceExhausted, "OVERLOADED", Fate::NotApplied, Some(RETRY_AFTER))
            }
            Refusal::DiskFull { retry_after, .. } => {
                (Code::ResourceExhausted, "OVERLOADED", Fate::NotApplied, Some(*retry_after))
            }
            Refusal::NotNow { fate: Fate::NotApplied, retry_after, .. } => {
                let retry_after = retry_after.unwrap_or(RETRY_AFTER);
                (Code::Unavailable, "NOT_NOW", Fate::NotApplied, Some(retry_after))
            }
            Refusal::NotNow { fate: Fate::Unknown, retry_after, .. } => {
                let retry_after = retry_after.unwrap_or(RETRY_AFTER);
                (Code::Unavailable, "OUTCOME_UNKNOWN", Fate::Unknown, Some(retry_after))
            }
            Refusal::Late { fate: Fate::NotApplied, .. } => {
                (Code::DeadlineExceeded, "NOT_NOW", Fate::NotApplied, Some(RETRY_AFTER))
            }
            Refusal::Late { fate: Fate::Unknown, .. } => {
                (Code::DeadlineExceeded, "OUTCOME_UNKNOWN", Fate::Unknown, Some(RETRY_AFTER))
            }
            Refusal::Precondition { reason, .. } => {
                (Code::FailedPrecondition, *reason, Fate::NotApplied, None)
            }
            Refusal::Fatal(_) => (Code::Internal, "FATAL", Fate::Unknown, None),
        };
        Line { code, reason, fate, retry_after, message: self.message() }
    }

    fn message(&self) -> String {
        match self {
            Refusal::Rejected(rejection) => rejection.to_string(),
            Refusal::Overloaded(why)
            | Refusal::DiskFull { why, .. }
            | Refusal::Precondition { why, .. } => why.clone(),
            Refusal::NotNow { why, fate: Fate::NotApplied, .. } => format!("not now: {why}"),
            Refusal::Late { why, fate: Fate::NotApplied } => {
                format!("not now, and the deadline has passed: {why}")
            }
            Refusal::NotNow { why, fate: Fate::Unknown, .. }
            | Refusal::Late { why, fate: Fate::Unknown } => {
                format!("it is not known whether this was applied: {why}")
            }
            Refusal::Fatal(why) => format!("this node has stopped serving: {why}"),
        }
    }

    /// The error of one item of a stream.
    pub(super) fn item(&self) -> pb::ItemError {
        let line = self.line();
        pb::ItemError {
            code: line.code as i32,
            message: line.message,
            reason: line.reason.to_owned(),
            retry_after: line.retry_after.and_then(|delay| delay.try_into().ok()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let line = refusal.line();
        let outcome = match line.fate {
            Fate::NotApplied => "not_applied",
            Fate::Unknown => "unknown",
        };
        let metadata = HashMap::from([("outcome".to_owned(), outcome.to_owned())]);
        let mut details = ErrorDetails::with_error_info(line.reason, DOMAIN, metadata);
        if let Some(delay) = line.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Refusal::Rejected(Rejection::InvalidArgument { field, .. }) = &refusal {
            details.add_bad_request_violation(field.clone(), line.message.clone());
        }
        Status::with_error_details(line.code, line.message, details)
    }
}

/// Where the role of a cluster is in the way.
fn region(refusal: &RegionRefusal) -> (Code, &'static str, Fate, Option<Duration>) {
    match refusal {
        RegionRefusal::ReadOnly { .. }
        | RegionRefusal::NoReads { .. }
        | RegionRefusal::NotNewest { .. }
        | RegionRefusal::Detached => {
            (Code::FailedPrecondition, "READ_ONLY", Fate::NotApplied, None)
        }
        RegionRefusal::FailingOver
        | RegionRefusal::HandedOver { .. }
        | RegionRefusal::NothingYet { .. } => {
            (Code::Unavailable, "NOT_NOW", Fate::NotApplied, Some(RETRY_AFTER))
        }
        // A copy that is behind is so for a while.
        RegionRefusal::TooOld { .. } => {
            (Code::Unavailable, "NOT_NOW", Fate::NotApplied, Some(BEHIND_RETRY_AFTER))
        }
        RegionRefusal::Fenced { .. } | RegionRefusal::Conflict { .. } => {
            (Code::FailedPrecondition, "FENCED", Fate::NotApplied, None)
        }
        RegionRefusal::BadField { .. } => {
            (Code::InvalidArgument, "INVALID_ARGUMENT", Fate::NotApplied, None)
        }
        RegionRefusal::WrongRole { .. }
        | RegionRefusal::Mismatch { .. }
        | RegionRefusal::UsedNumber { .. }
        | RegionRefusal::StaleEpoch { .. }
        | RegionRefusal::Gap { .. }
        | RegionRefusal::Diverged { .. }
        | RegionRefusal::StillGranting
        | RegionRefusal::ReliesOnLease
        | RegionRefusal::StoppedGranting
        | RegionRefusal::Incomplete
        | RegionRefusal::NotAcknowledged
        | RegionRefusal::Seeding
        | RegionRefusal::OtherSeed
        | RegionRefusal::SeedGap { .. }
        | RegionRefusal::SeedBroken { .. }
        | RegionRefusal::ReplayGap { .. }
        | RegionRefusal::TailUnsettled { .. }
        | RegionRefusal::UnknownRules { .. }
        | RegionRefusal::NotEmpty
        | RegionRefusal::NotAlone
        | RegionRefusal::Limit { .. } => {
            (Code::FailedPrecondition, "REGION_REFUSED", Fate::NotApplied, None)
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        Refusal::Rejected(rejection)
    }
}

impl From<Overloaded> for Refusal {
    fn from(overloaded: Overloaded) -> Refusal {
        Refusal::Overloaded(overloaded.to_string())
    }
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Refusal {
        match error {
            GroupError::Rejected(rejection) => Refusal::Rejected(rejection),
            GroupError::NotNow { reason, fate, retry_after, .. } => match (reason, fate) {
                (Reason::Deadline, fate) => Refusal::Late { why: reason.to_string(), fate },
                (Reason::Overloaded, Fate::NotApplied) => Refusal::Overloaded(reason.to_string()),
                (Reason::DiskFull { .. }, Fate::NotApplied) => {
                    Refusal::DiskFull { why: reason.to_string(), retry_after }
                }
                _ => Refusal::NotNow {
                    why: reason.to_string(),
                    fate,
                    retry_after: Some(retry_after),
                },
            },
            GroupError::Fatal(why) => Refusal::Fatal(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::RegionEpoch;
    use crate::queue::ids::Span;

    /// Every class once, with what `docs/reference/errors.md` says of it.
    fn table() -> Vec<(Refusal, Code, &'static str, &'static str, bool)> {
        let not_now = |fate| Refusal::NotNow { why: "w".into(), fate, retry_after: None };
        let late = |fate| Refusal::Late { why: "w".into(), fate };
        let text = || "x".to_owned();
        let rejected: Vec<(Rejection, Code, &str, &str, bool)> = vec![
            (
                Rejection::InvalidArgument { field: text(), problem: text(), allowed: text() },
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                "not_applied",
                false,
            ),
            (
                Rejection::UnknownRules { asked: 2, known: 1 },
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                "not_applied",
                false,
            ),
            (
                Rejection::QueueNotFound(text()),
                Code::NotFound,
                "QUEUE_NOT_FOUND",
                "not_applied",
                false,
            ),
            (
                Rejection::QueueExists(text()),
                Code::AlreadyExists,
                "QUEUE_EXISTS",
                "not_applied",
                false,
            ),
            (
                Rejection::QueueInUse { queue: text(), of: text() },
                Code::FailedPrecondition,
                "QUEUE_IN_USE",
                "not_applied",
                false,
            ),
            (
                Rejection::MessageNotFound { queue: text(), id: text() },
                Code::NotFound,
                "MESSAGE_NOT_FOUND",
                "not_applied",
                false,
            ),
            (
                Rejection::ReceiptMismatch { id: text() },
                Code::FailedPrecondition,
                "RECEIPT_MISMATCH",
                "not_applied",
                false,
            ),
            (
                Rejection::RedriveNotFound { queue: text(), id: text() },
                Code::NotFound,
                "REDRIVE_NOT_FOUND",
                "not_applied",
                false,
            ),
            (
                Rejection::RedriveRunning { queue: text(), id: text() },
                Code::FailedPrecondition,
                "REDRIVE_RUNNING",
                "not_applied",
                false,
            ),
            (
                Rejection::LimitReached { what: text(), limit: 1 },
                Code::ResourceExhausted,
                "LIMIT_REACHED",
                "not_applied",
                false,
            ),
            (
                Rejection::Full { what: text(), limit: 1 },
                Code::ResourceExhausted,
                "FULL",
                "not_applied",
                true,
            ),
            (Rejection::SessionEnded, Code::Aborted, "SESSION_ENDED", "unknown", false),
            (
                RegionRefusal::ReadOnly { primary: text() }.into(),
                Code::FailedPrecondition,
                "READ_ONLY",
                "not_applied",
                false,
            ),
            (
                RegionRefusal::NotNewest { primary: text() }.into(),
                Code::FailedPrecondition,
                "READ_ONLY",
                "not_applied",
                false,
            ),
            (too_old().into(), Code::Unavailable, "NOT_NOW", "not_applied", true),
            (RegionRefusal::FailingOver.into(), Code::Unavailable, "NOT_NOW", "not_applied", true),
            (
                RegionRefusal::Fenced { by: RegionEpoch::default() }.into(),
                Code::FailedPrecondition,
                "FENCED",
                "not_applied",
                false,
            ),
            (
                RegionRefusal::NotEmpty.into(),
                Code::FailedPrecondition,
                "REGION_REFUSED",
                "not_applied",
                false,
            ),
            (
                Rejection::WrongEpoch { seen: 1, current: 2 },
                Code::Unavailable,
                "NOT_NOW",
                "not_applied",
                true,
            ),
        ];
        let mut all: Vec<_> = rejected
            .into_iter()
            .map(|(r, code, reason, outcome, retry)| {
                (Refusal::Rejected(r), code, reason, outcome, retry)
            })
            .collect();
        let overloaded = Overloaded { what: "bytes", most: 1 };
        all.extend([
            (overloaded.into(), Code::ResourceExhausted, "OVERLOADED", "not_applied", true),
            (not_now(Fate::NotApplied), Code::Unavailable, "NOT_NOW", "not_applied", true),
            (not_now(Fate::Unknown), Code::Unavailable, "OUTCOME_UNKNOWN", "unknown", true),
            (late(Fate::NotApplied), Code::DeadlineExceeded, "NOT_NOW", "not_applied", true),
            (late(Fate::Unknown), Code::DeadlineExceeded, "OUTCOME_UNKNOWN", "unknown", true),
            (Refusal::Fatal(text()), Code::Internal, "FATAL", "unknown", false),
        ]);
        all
    }

    fn too_old() -> RegionRefusal {
        let (behind, allowed) = (Span(612_034_999), Span::from_secs(5));
        RegionRefusal::TooOld { newer: "east".to_owned(), behind, allowed }
    }

    #[test]
    fn a_copy_that_is_too_old_says_how_old_and_another_node_may_be_asked() {
        let refusal = Refusal::from(Rejection::from(too_old()));
        assert!(refusal.may_be_read_elsewhere());
        let not_newest = RegionRefusal::NotNewest { primary: "east".to_owned() };
        assert!(!Refusal::from(Rejection::from(not_newest)).may_be_read_elsewhere());
        let said = Status::from(refusal).message().to_owned();
        for words in ["612.034 s behind region \"east\"", "allows 5.000 s"] {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn every_class_has_its_code_reason_and_outcome() {
        for (refusal, code, reason, outcome, retry) in table() {
            let item = refusal.item();
            assert_eq!((item.code, item.reason.as_str()), (code as i32, reason), "{refusal:?}");
            assert_eq!(item.retry_after.is_some(), retry, "{refusal:?}");
            let status = Status::from(refusal.clone());
            let details = status.get_error_details();
            let info = details.error_info().expect("an ErrorInfo");
            assert_eq!(status.code(), code, "{refusal:?}");
            assert_eq!((info.domain.as_str(), info.reason.as_str()), (DOMAIN, reason));
            assert_eq!(info.metadata.get("outcome").map(String::as_str), Some(outcome));
            assert_eq!(details.retry_info().is_some(), retry, "{refusal:?}");
            assert!(!status.message().is_empty());
        }
    }

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../../docs/reference/errors.md");
        for (_, _, reason, ..) in table() {
            assert!(page.contains(&format!("`{reason}`")), "{reason} is not in errors.md");
        }
    }
}
