//! Every limit of the queue in one file. Those that `apply` reads are part of the rules
//! version: changing one needs a new version. The others bind at the wall only.

use super::ids::Span;

/// Messages in one send, receive or delete.
pub const BATCH: usize = 1_000;
/// Bytes in one request and in one answer of a receive.
pub const REQUEST_BYTES: usize = 4 << 20;
/// A queue's largest settable message size.
pub const MAX_MESSAGE_BYTES: u32 = 1 << 20;
pub const DEFAULT_MESSAGE_BYTES: u32 = 64 << 10;
/// Names and values of a message's headers together.
pub const HEADER_BYTES: usize = 8 << 10;
/// Names and values of a queue's metadata together.
pub const METADATA_BYTES: usize = 8 << 10;
pub const QUEUE_NAME: std::ops::RangeInclusive<usize> = 3..=63;
pub const ACCOUNT_NAME: std::ops::RangeInclusive<usize> = 3..=24;
/// Queues in one account.
pub const QUEUES: usize = 100_000;
/// Priorities of messages; 0 is given out first.
pub const PRIORITIES: std::ops::RangeInclusive<u8> = 0..=9;
pub const DEFAULT_PRIORITY: u8 = 4;
/// How often a message may be given out before it is a dead letter, where a queue has a
/// dead-letter queue.
pub const DELIVERIES: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Dead-letter queues one behind the other.
pub const DEAD_LETTER_CHAIN: usize = 8;
pub const DEFAULT_TTL: Span = Span::from_secs(7 * 24 * 3600);
pub const DEFAULT_VISIBILITY: Span = Span::from_secs(30);
pub const MAX_VISIBILITY: Span = Span::from_secs(7 * 24 * 3600);
pub const MAX_DELAY: Span = Span::from_secs(7 * 24 * 3600);
/// Bytes of a group's name.
pub const GROUP_NAME: std::ops::RangeInclusive<usize> = 1..=128;
/// Deduplication keys that one queue keeps.
pub const DEDUPLICATION_KEYS: usize = 1_000_000;
/// Bytes of a deduplication key.
pub const DEDUPLICATION_KEY: std::ops::RangeInclusive<usize> = 1..=256;
pub const DEFAULT_DEDUPLICATION_WINDOW: Span = Span::from_secs(10 * 60);
pub const DEDUPLICATION_WINDOW: std::ops::RangeInclusive<Span> =
    Span::from_secs(1)..=Span::from_secs(7 * 24 * 3600);
/// First and longest wait of a release by back-off, where a queue says nothing.
pub const DEFAULT_BACK_OFF: (Span, Span) = (Span::from_secs(1), Span::from_secs(15 * 60));
pub const BACK_OFF_FACTOR: std::ops::RangeInclusive<u32> = 1..=10;
/// A receive or stream open may wait this long for its first message.
pub const MAX_WAIT: Span = Span::from_secs(60);
/// Messages that one entry moves, expires or frees because of time.
pub const WORK_PER_ENTRY: usize = 1_000;
/// Outcomes that one session keeps for retries.
pub const SESSION_OUTCOMES: usize = 1_024;
/// Messages named in the outcomes that one session keeps.
pub const SESSION_ITEMS: usize = 16_384;
/// A session ends after this long without a write.
pub const SESSION_IDLE: Span = Span::from_secs(600);
/// Bytes of a region's name.
pub const REGION_NAME: std::ops::RangeInclusive<usize> = 1..=63;
/// Bytes of the name of who changed something.
pub const ACTOR: usize = 256;
/// Bytes of what a line of the audit says of a change that is no command.
pub const AUDIT_NOTE: usize = 512;
/// Epochs that a cluster's ledger remembers.
pub const LEDGER_LINES: usize = 1_024;
/// Fenced epochs whose tails were replayed.
pub const REPLAYED_EPOCHS: usize = 1_024;
/// Rows of the audit.
pub const AUDIT_ROWS: usize = 1_000;
/// Queues that what a promotion by force lost is kept of by name; the others are counted.
pub const LOST_QUEUES: usize = 1_000;
/// How long a region lease may be.
pub const REGION_LEASE: std::ops::RangeInclusive<Span> = Span::from_secs(1)..=Span::from_secs(30);
/// Delay and jitter of a shaped line, at most.
pub const LINE_SPAN: Span = Span::from_secs(24 * 3600);
/// Outages of a shaped line.
pub const LINE_OUTAGES: usize = 32;
/// Steps of the trace of a shaped line.
pub const LINE_TRACE_STEPS: usize = 256;
/// The lag of the second region at which an operator may have an alarm, or writes wait.
pub const MAX_LAG: std::ops::RangeInclusive<Span> =
    Span::from_secs(2)..=Span::from_secs(7 * 24 * 3600);
/// The same in bytes of the log that are not shipped.
pub const MAX_UNSHIPPED: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 40);
/// Seals of a primary that are not shipped yet.
pub const RESTS: usize = 64;
/// Entries of a primary in one entry of its secondary.
pub const SHIPPED_ENTRIES: usize = 1_024;
/// Messages that one redrive may name.
pub const REDRIVE_IDS: usize = 1_000;
/// Messages a second that a redrive may be held to.
pub const REDRIVE_RATE: std::ops::RangeInclusive<u32> = 1..=100_000;
/// Redrives of one queue that are remembered, the running one among them.
pub const REDRIVES_KEPT: usize = 10;
/// How long a queue can come back after it was deleted, where a client names nothing.
pub const DEFAULT_UNDELETE_WINDOW: Span = Span::from_secs(3_600);
pub const MAX_UNDELETE_WINDOW: Span = Span::from_secs(7 * 24 * 3600);
/// Deleted queues of one account that are kept to come back.
pub const DELETED_QUEUES: usize = 1_000;
/// Accounts that have a quota.
pub const ACCOUNT_QUOTAS: usize = 10_000;
/// Queues, accounts or messages on one page of a listing or a peek.
pub const PAGE: usize = 1_000;
/// Messages that one peek looks at; it may show none of them.
pub const PEEK_SCAN: usize = 10_000;
