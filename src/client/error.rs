//! Why a call failed, in classes that say what may be done about it.
//!
//! Laws: a failed call is never reported as better known than it is. `NotNow` is only said when
//! the write certainly did not happen; where that cannot be shown the error is `Unknown`. The
//! classes are read from `google.rpc.ErrorInfo`, never from the text of a message.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::types;
use crate::proto::queue::v1 as pb;

/// What a refusal names; the same names as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    InvalidArgument,
    QueueNotFound,
    QueueExists,
    QueueInUse,
    MessageNotFound,
    ReceiptMismatch,
    RedriveNotFound,
    RedriveRunning,
    LimitReached,
    /// Refused because something is full that may have room again: write again, later.
    Full,
    /// The cluster is the secondary of its pair, or a kept copy: the primary takes writes.
    ReadOnly,
    /// The cluster was deposed by another region, or is in conflict with it.
    Fenced,
    /// A reason that this version of the library does not know.
    Other(String),
}

impl Reason {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Reason::InvalidArgument => "INVALID_ARGUMENT",
            Reason::QueueNotFound => "QUEUE_NOT_FOUND",
            Reason::QueueExists => "QUEUE_EXISTS",
            Reason::QueueInUse => "QUEUE_IN_USE",
            Reason::MessageNotFound => "MESSAGE_NOT_FOUND",
            Reason::ReceiptMismatch => "RECEIPT_MISMATCH",
            Reason::RedriveNotFound => "REDRIVE_NOT_FOUND",
            Reason::RedriveRunning => "REDRIVE_RUNNING",
            Reason::LimitReached => "LIMIT_REACHED",
            Reason::Full => "FULL",
            Reason::ReadOnly => "READ_ONLY",
            Reason::Fenced => "FENCED",
            Reason::Other(name) => name,
        }
    }

    fn from_wire(name: &str) -> Reason {
        match name {
            "INVALID_ARGUMENT" => Reason::InvalidArgument,
            "QUEUE_NOT_FOUND" => Reason::QueueNotFound,
            "QUEUE_EXISTS" => Reason::QueueExists,
            "QUEUE_IN_USE" => Reason::QueueInUse,
            "MESSAGE_NOT_FOUND" => Reason::MessageNotFound,
            "RECEIPT_MISMATCH" => Reason::ReceiptMismatch,
            "REDRIVE_NOT_FOUND" => Reason::RedriveNotFound,
            "REDRIVE_RUNNING" => Reason::RedriveRunning,
            "LIMIT_REACHED" => Reason::LimitReached,
            "FULL" => Reason::Full,
            "READ_ONLY" => Reason::ReadOnly,
            "FENCED" => Reason::Fenced,
            other => Reason::Other(other.to_owned()),
        }
    }
}

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Refused before anything was sent: an option or address makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The cluster looked at the call and refused it; nothing was changed.
    #[error("{message}")]
    Rejected {
        reason: Reason,
        message: String,
        /// A new write may be taken after this: what is full has room again.
        retry_after: Option<Duration>,
    },
    /// No node could take the call in time. Certainly not applied: try again later.
    #[error("not now: {message}")]
    NotNow { message: String, retry_after: Option<Duration> },
    /// The write may or may not have been applied.
    #[error("it is not known whether the write was applied: {message}")]
    Unknown { message: String },
    /// The server failed, or speaks another protocol.
    #[error("the server failed: {message}")]
    Fatal { message: String },
}

impl ClientError {
    /// The reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            ClientError::Rejected { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// When another try may help, where the cluster said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Rejected { retry_after, .. } | ClientError::NotNow { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// True when the call certainly changed nothing.
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        !matches!(self, ClientError::Unknown { .. } | ClientError::Fatal { .. })
    }

    pub(super) fn rejected(reason: Reason, message: impl Into<String>) -> ClientError {
        ClientError::Rejected { reason, message: message.into(), retry_after: None }
    }

    pub(super) fn not_now(message: impl Into<String>) -> ClientError {
        ClientError::NotNow { message: message.into(), retry_after: None }
    }

    pub(super) fn unknown(message: impl Into<String>) -> ClientError {
        ClientError::Unknown { message: message.into() }
    }
}

/// What one attempt says about the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Final: the same answer would come again.
    Final(ClientError),
    /// Certainly not applied; another attempt is safe.
    NotApplied { message: String, retry_after: Option<Duration> },
    /// Refused because of the region that was asked: another region may take it, and where all
    /// say so it is final.
    OtherRegion(ClientError),
    /// May have been applied.
    Unknown { message: String },
    /// The server keeps no row of the write's session any more, and did not run the write.
    SessionEnded { message: String },
}

/// One attempt's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) verdict: Verdict,
    /// The node answered by itself: the failure is no evidence against the connection.
    pub(super) alive: bool,
    /// Another node may do better.
    pub(super) elsewhere: bool,
}

impl Failure {
    /// Nothing came back in the time of one attempt.
    pub(super) fn silent(after: Duration) -> Failure {
        let message = format!("no answer within {} ms", after.as_millis());
        Failure { verdict: Verdict::Unknown { message }, alive: false, elsewhere: true }
    }

    /// An answer that the protocol does not allow.
    pub(super) fn nonsense(message: &str) -> Failure {
        let verdict = Verdict::Final(ClientError::Fatal { message: message.to_owned() });
        Failure { verdict, alive: true, elsewhere: false }
    }

    /// For a stream that failed: whether what was written may have arrived, and why it failed.
    pub(super) fn sent(&self, opened: bool) -> (bool, String) {
        match &self.verdict {
            Verdict::NotApplied { message, .. } => (opened, message.clone()),
            Verdict::Unknown { message } | Verdict::SessionEnded { message } => {
                (true, message.clone())
            }
            Verdict::Final(error) | Verdict::OtherRegion(error) => (opened, error.to_string()),
        }
    }

    pub(super) fn of_status(status: &Status) -> Failure {
        let details = status.get_error_details();
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        match details.error_info() {
            Some(info) if info.domain == "zoneq" => {
                let outcome = info.metadata.get("outcome").map(String::as_str);
                let text = status.message();
                let verdict = judge(status.code(), &info.reason, outcome, text, retry_after);
                Failure::answered(verdict, &info.reason)
            }
            _ => of_bare_status(status, retry_after),
        }
    }

    pub(super) fn of_item(error: &pb::ItemError) -> Failure {
        let retry_after = error.retry_after.and_then(types::span);
        let code = Code::from_i32(error.code);
        let verdict = judge(code, &error.reason, None, &error.message, retry_after);
        Failure::answered(verdict, &error.reason)
    }

    /// A node said so itself. Where one is overloaded the others are no better: they all pass
    /// writes on to the same leader.
    fn answered(verdict: Verdict, reason: &str) -> Failure {
        let elsewhere = reason != "OVERLOADED"
            && matches!(
                verdict,
                Verdict::NotApplied { .. } | Verdict::Unknown { .. } | Verdict::OtherRegion(_)
            );
        Failure { verdict, alive: true, elsewhere }
    }
}

/// Reads the reason, and lets an explicit `outcome` overrule what the reason implies.
fn judge(
    code: Code,
    reason: &str,
    outcome: Option<&str>,
    text: &str,
    retry_after: Option<Duration>,
) -> Verdict {
    let message = unprefixed(text).to_owned();
    let refusal = Reason::from_wire(reason);
    match (reason, outcome) {
        _ if matches!(refusal, Reason::ReadOnly | Reason::Fenced) => {
            Verdict::OtherRegion(ClientError::Rejected { reason: refusal, message, retry_after })
        }
        _ if !matches!(refusal, Reason::Other(_)) => {
            Verdict::Final(ClientError::Rejected { reason: refusal, message, retry_after })
        }
        ("SESSION_ENDED", _) => Verdict::SessionEnded { message },
        // The cluster is not as the call needs it: asking again gives the same answer.
        _ if code == Code::FailedPrecondition => {
            Verdict::Final(ClientError::Rejected { reason: refusal, message, retry_after })
        }
        // It is dead for longer than a call lasts: whoever asked is told which, and waits himself.
        ("NODE_SILENT", Some("not_applied")) => {
            Verdict::Final(ClientError::NotNow { message, retry_after })
        }
        (_, Some("not_applied")) => Verdict::NotApplied { message, retry_after },
        (_, Some("unknown")) | ("FATAL" | "OUTCOME_UNKNOWN" | "DEADLINE_EXCEEDED", _) => {
            Verdict::Unknown { message }
        }
        ("NOT_NOW" | "OVERLOADED", _) => Verdict::NotApplied { message, retry_after },
        ("", _) => judge_code(code, message, retry_after),
        _ => Verdict::Final(ClientError::Rejected { reason: refusal, message, retry_after }),
    }
}

/// What the class says already is not said again.
fn unprefixed(text: &str) -> &str {
    let prefixes = ["not now: ", "it is not known whether this was applied: "];
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text)
}

/// A status without our details: from the transport, from a proxy, or from tonic itself.
fn of_bare_status(status: &Status, retry_after: Option<Duration>) -> Failure {
    let message = chain(status);
    if is_connect_error(status) {
        let verdict = Verdict::NotApplied { message, retry_after };
        return Failure { verdict, alive: false, elsewhere: true };
    }
    // A status with a source was made on this side, by a connection that broke.
    let made_here = std::error::Error::source(status).is_some();
    let alive = !made_here
        && !matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        );
    let verdict = judge_code(status.code(), message, retry_after);
    Failure { verdict, alive, elsewhere: !alive }
}

fn judge_code(code: Code, message: String, retry_after: Option<Duration>) -> Verdict {
    let rejected = |reason| Verdict::Final(ClientError::rejected(reason, message.clone()));
    match code {
        Code::InvalidArgument => rejected(Reason::InvalidArgument),
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => rejected(Reason::Other(format!("{code:?}"))),
        Code::ResourceExhausted => Verdict::NotApplied { message, retry_after },
        Code::Unimplemented | Code::OutOfRange | Code::DataLoss => {
            Verdict::Final(ClientError::Fatal { message })
        }
        _ => Verdict::Unknown { message },
    }
}

/// The connection was never made, so nothing was sent.
fn is_connect_error(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The message and its causes in one line.
fn chain(status: &Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
