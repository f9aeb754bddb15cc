//! What clients ask for.

use serde::{Deserialize, Serialize};

use super::{LogTime, Mark, Session};

/// A message as a client sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct New {
    /// Whose body it has; no two messages are sent with the same.
    pub tag: u64,
    /// Microseconds, `None` = for ever.
    pub ttl: Option<u64>,
    pub delay: u64,
    pub priority: u8,
    pub key: Option<u64>,
    pub group: Option<u64>,
}

/// When a released message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    Now,
    Delay(u64),
    BackOff,
}

/// How a message stands, as a peek asks and a get answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Visible,
    Leased,
    Delayed,
    Blocked,
    /// Came here as a dead letter, whatever else; only to be asked for.
    Dead,
}

/// Which dead letters a redrive sends back, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// `None` = each to where it came from.
    pub target: Option<String>,
    /// Messages a second.
    pub rate: Option<u32>,
    pub source: Option<String>,
    pub group: Option<u64>,
    /// Empty = any.
    pub ids: Vec<String>,
    pub dead_before: Option<LogTime>,
}

/// An id and a receipt.
pub type Item = (String, String);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Create {
        queue: String,
    },
    DeleteQueue {
        queue: String,
    },
    Pause {
        queue: String,
        paused: bool,
    },
    /// Replaces the metadata by one number.
    SetMetadata {
        queue: String,
        value: u64,
    },
    /// Replaces the settings by the queue's own, with this lease for those who name none.
    SetSettings {
        queue: String,
        value: u64,
    },
    Send {
        queue: String,
        messages: Vec<New>,
    },
    Receive {
        queue: String,
        max: u32,
        visibility: u64,
    },
    /// `visibility`: `None` keeps the lease; `tag`: the new body, if any.
    Update {
        queue: String,
        id: String,
        receipt: String,
        visibility: Option<u64>,
        tag: Option<u64>,
    },
    Delete {
        queue: String,
        items: Vec<Item>,
    },
    Release {
        queue: String,
        items: Vec<Item>,
        after: After,
    },
    /// Deletes, each with its queue, and sends.
    Transact {
        deletes: Vec<(String, Item)>,
        sends: Vec<(String, Vec<New>)>,
    },
    Peek {
        queue: String,
        standing: Standing,
        stale: bool,
    },
    Get {
        queue: String,
        id: String,
        stale: bool,
    },
    /// Settings, metadata and counts of a queue.
    Look {
        queue: String,
        stale: bool,
    },
    /// The names of an account's queues, or of its deleted ones.
    List {
        account: String,
        deleted: bool,
        stale: bool,
    },
    Clear {
        queue: String,
    },
    /// Brings back what was deleted last under this name.
    Undelete {
        queue: String,
    },
    Redrive {
        queue: String,
        asked: Asked,
    },
    /// Counts what a redrive would take.
    DryRun {
        queue: String,
        asked: Asked,
    },
    CancelRedrive {
        queue: String,
        id: String,
    },
    Redrives {
        queue: String,
        stale: bool,
    },
    /// How many messages an account may hold.
    SetQuota {
        account: String,
        messages: Option<u64>,
    },
    LookAtAccount {
        account: String,
        stale: bool,
    },
    ListAccounts {
        stale: bool,
    },
    /// Whether an acknowledged write stands where it was said to.
    Durability {
        position: Mark,
    },
}

impl Call {
    /// The queue that it names; none where it names many or none.
    pub fn queue(&self) -> Option<&str> {
        match self {
            Call::Create { queue }
            | Call::DeleteQueue { queue }
            | Call::Pause { queue, .. }
            | Call::SetMetadata { queue, .. }
            | Call::SetSettings { queue, .. }
            | Call::Send { queue, .. }
            | Call::Receive { queue, .. }
            | Call::Update { queue, .. }
            | Call::Delete { queue, .. }
            | Call::Release { queue, .. }
            | Call::Peek { queue, .. }
            | Call::Get { queue, .. }
            | Call::Look { queue, .. }
            | Call::Clear { queue }
            | Call::Undelete { queue }
            | Call::Redrive { queue, .. }
            | Call::DryRun { queue, .. }
            | Call::CancelRedrive { queue, .. }
            | Call::Redrives { queue, .. } => Some(queue),
            Call::Transact { .. }
            | Call::List { .. }
            | Call::SetQuota { .. }
            | Call::LookAtAccount { .. }
            | Call::ListAccounts { .. }
            | Call::Durability { .. } => None,
        }
    }

    /// The verb of the API that it is; what streams take goes under no session.
    pub fn verb(&self, session: Option<Session>) -> &'static str {
        match self {
            Call::Create { .. } => "CreateQueue",
            Call::DeleteQueue { .. } => "DeleteQueue",
            Call::Pause { paused: true, .. } => "PauseQueue",
            Call::Pause { paused: false, .. } => "ResumeQueue",
            Call::SetMetadata { .. } => "SetQueueMetadata",
            Call::SetSettings { .. } => "SetQueueSettings",
            Call::Send { .. } => "Send",
            Call::Receive { .. } if session.is_none() => "ReceiveStream",
            Call::Receive { .. } => "Receive",
            Call::Update { .. } => "Update",
            Call::Delete { .. } => "Delete",
            Call::Release { .. } => "Release",
            Call::Transact { .. } => "Transact",
            Call::Peek { .. } => "Peek",
            Call::Get { .. } => "GetMessage",
            Call::Look { .. } => "GetQueue",
            Call::List { .. } => "ListQueues",
            Call::Clear { .. } => "Clear",
            Call::Undelete { .. } => "UndeleteQueue",
            Call::Redrive { .. } | Call::DryRun { .. } => "StartRedrive",
            Call::CancelRedrive { .. } => "CancelRedrive",
            Call::Redrives { .. } => "ListRedrives",
            Call::SetQuota { .. } => "SetAccountQuota",
            Call::LookAtAccount { .. } => "GetAccount",
            Call::ListAccounts { .. } => "ListAccounts",
            Call::Durability { .. } => "GetDurability",
        }
    }

    /// Whether any node may answer, from a state that is not the newest.
    pub fn is_stale(&self) -> bool {
        match self {
            Call::Peek { stale, .. }
            | Call::Get { stale, .. }
            | Call::Look { stale, .. }
            | Call::List { stale, .. }
            | Call::Redrives { stale, .. }
            | Call::LookAtAccount { stale, .. }
            | Call::ListAccounts { stale } => *stale,
            _ => false,
        }
    }

    /// Makes a read one that any node may answer.
    pub fn becomes_stale(&mut self) {
        if let Call::Peek { stale, .. }
        | Call::Get { stale, .. }
        | Call::Look { stale, .. }
        | Call::List { stale, .. }
        | Call::Redrives { stale, .. }
        | Call::LookAtAccount { stale, .. }
        | Call::ListAccounts { stale } = self
        {
            *stale = true;
        }
    }

    /// The messages that it sends, each with its queue.
    pub fn sends(&self) -> impl Iterator<Item = (&str, &New)> {
        let one = match self {
            Call::Send { queue, messages } => Some((queue, messages)),
            _ => None,
        };
        let many = match self {
            Call::Transact { sends, .. } => sends.as_slice(),
            _ => &[],
        };
        let all = one.into_iter().chain(many.iter().map(|(queue, messages)| (queue, messages)));
        all.flat_map(|(queue, new)| new.iter().map(|new| (queue.as_str(), new)))
    }
}
