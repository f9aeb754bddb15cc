//! Why a command was refused. The same on every replica, and the client's to read.

use super::authority::refusal::RegionRefusal;

/// A refusal by `apply` or by the checks before it: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("{field} {problem}; allowed: {allowed}")]
    InvalidArgument { field: String, problem: String, allowed: String },
    #[error("queue {0:?} does not exist")]
    QueueNotFound(String),
    #[error("queue {0:?} exists with other settings or metadata")]
    QueueExists(String),
    #[error(
        "queue {queue:?} is the dead-letter queue of {of:?}: change the settings of that one first"
    )]
    QueueInUse { queue: String, of: String },
    #[error("queue {queue:?} has a redrive running already: {id}")]
    RedriveRunning { queue: String, id: String },
    #[error("queue {queue:?} knows no redrive {id}")]
    RedriveNotFound { queue: String, id: String },
    #[error("message {id} is not in queue {queue:?}")]
    MessageNotFound { queue: String, id: String },
    #[error(
        "the pop receipt of message {id} is no longer valid: it was received, updated or deleted since"
    )]
    ReceiptMismatch { id: String },
    #[error("{what} has reached its limit of {limit}")]
    LimitReached { what: String, limit: u64 },
    #[error("{what} has reached its limit of {limit}; there is room again when some are gone")]
    Full { what: String, limit: u64 },
    #[error(
        "the session of this client has ended, so it is not known whether the write was applied"
    )]
    SessionEnded,
    #[error("the write is of epoch {seen}, and this cluster is at epoch {current}")]
    WrongEpoch { seen: u32, current: u32 },
    #[error("rules version {asked} is not known to this node; it knows up to {known}")]
    UnknownRules { asked: u32, known: u32 },
    #[error(transparent)]
    Region(#[from] RegionRefusal),
}
