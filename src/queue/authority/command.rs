//! The commands that change a cluster's authority. They are no data: they move no log time, are
//! in no session, and each is alone in its entry.

use bytes::Bytes;

use super::lease::Leasing;
use super::loss::KeptLoss;
use super::replay::{Replayed, TailOutcome};
use super::{Head, LedgerLine, RegionEpoch, RegionSettings, TailFate};
use crate::queue::command::{Content, Entry, Envelope};
use crate::queue::ids::{ContentId, Digest, Epoch, Number, Position, Span};
use crate::queue::rows::{Row, RowKey};

/// Who asked, for the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// At most 256 bytes.
    pub who: String,
    /// The stamp of the node that proposes, microseconds since 1970; set when it is proposed.
    pub at_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionCommand {
    pub by: Actor,
    pub verb: RegionVerb,
}

/// A change of settings, made from those that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconfigure {
    pub before: RegionSettings,
    pub after: RegionSettings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionVerb {
    /// Makes a cluster that stands alone the primary of a pair.
    Protect {
        region: String,
        lineage: u128,
        attachment: u128,
        peer: String,
    },
    /// A primary stands alone again.
    Unprotect,
    /// Makes an empty cluster, or a kept copy of the same lineage, the secondary of a primary; or
    /// lets a fenced side, or a copy that cannot go on, wait for a whole state.
    Attach(Attach),
    /// A secondary keeps its copy and follows nobody.
    Detach,
    Configure(RegionSettings),
    /// The same, where they are still what they were when they were read.
    Reconfigure(Box<Reconfigure>),
    /// Begins a planned failover: writes are refused from here on.
    Seal,
    /// Takes a seal back, before its release only.
    Unseal,
    /// Hands over; `seal` is the entry that was sealed at. The other region's group has said that
    /// it has applied all through `acknowledged`, which must not be before the seal: only so is
    /// nothing lost.
    Release {
        to: RegionEpoch,
        seal: Position,
        acknowledged: Position,
    },
    /// On the secondary: a release to this number never promotes.
    Decline {
        number: Epoch,
    },
    /// On the primary: the other side has committed that decline.
    Declined {
        number: Epoch,
    },
    /// On the secondary: whether region leases are granted. That they are not is answered with
    /// the entry since which it is so.
    SetGranting {
        on: bool,
    },
    /// On the secondary: it will grant region leases of this length; `None` = none any more.
    AcceptLease {
        attachment: u128,
        epoch: Epoch,
        lease: Option<Span>,
    },
    /// On the primary, once the other side has committed that: nothing is acknowledged without a
    /// grant from here on; `None` = it is, without.
    RelyOnLease {
        attachment: u128,
        lease: Option<Span>,
    },
    /// A secondary becomes the primary by force. One that never had all that its primary had is
    /// refused unless that is `accepted`. Where leases were granted, that was `stopped` at this
    /// entry, and they have run out since.
    Promote {
        number: Epoch,
        accepted: bool,
        stopped: Option<Position>,
        /// What it is known to lose; `None` = who proposes it does not keep that.
        loss: Option<KeptLoss>,
    },
    /// A primary that had handed over becomes one again by force.
    TakeBack {
        number: Epoch,
    },
    /// A kept copy becomes a cluster that stands alone, of a new lineage.
    Renew {
        lineage: u128,
    },
    /// A kept copy is deleted: the cluster is as if it had never been written to.
    Wipe,
    /// Another epoch of the same lineage was seen: the last line of that ledger.
    Fence {
        lineage: u128,
        ledger: Vec<LedgerLine>,
    },
    /// Decides a conflict.
    Resolve {
        keep: String,
        number: Epoch,
    },
    /// What the other region's group has applied; rides at the end of an entry.
    RecordShipped {
        attachment: u128,
        epoch: Epoch,
        position: Position,
    },
    ApplyShipped(ShippedBatch),
    /// Begins to give an empty secondary a whole state: that of its primary at `position`.
    SeedBegin {
        attachment: u128,
        id: u128,
        position: Position,
        /// As of then, as is what is known of tails.
        ledger: Vec<LedgerLine>,
        replayed: Vec<Replayed>,
        /// The digest of the state that the chunks are to be laid over; `None` = they are all.
        base: Option<Digest>,
        /// Goes on with this seed, which is under way.
        resumes: Option<u128>,
    },
    SeedChunk(SeedChunk),
    /// All chunks are there: the state is built, checked and taken.
    SeedCommit {
        attachment: u128,
        id: u128,
        chunks: u64,
        digest: Digest,
    },
    /// Frees the last chunk of a seed that is given up.
    SeedDrop {
        attachment: u128,
    },
    /// Frees what is left of a seed that nobody waits for any more, as much as one entry may.
    SeedFree,
    /// A line of the audit about what is no command: a change of the members.
    Note {
        /// At most 512 bytes.
        what: String,
    },
    /// On a fenced side: what became of the tail of that epoch.
    SettleTail {
        epoch: RegionEpoch,
        fate: TailFate,
    },
}

/// A part of a state, in the order of the keys of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedChunk {
    pub attachment: u128,
    pub id: u128,
    pub number: u64,
    pub rows: Vec<Row>,
    pub contents: Vec<(ContentId, Content)>,
    /// Rows that are no more, where the chunks are laid over a state.
    pub removed: Vec<RowKey>,
}

/// What a new secondary must know of its primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// The secondary's own region.
    pub region: String,
    pub lineage: u128,
    pub attachment: u128,
    /// The primary's ledger; its last line is the epoch in force.
    pub ledger: Vec<LedgerLine>,
    /// What a fenced side or a kept copy has is to be replaced by a whole state.
    pub reseed: bool,
    /// The tail of a fenced side is given up.
    pub discard_tail: bool,
    /// The longest region lease that the primary relied on in its epoch: a grant for so long may be
    /// out, whoever was attached when it was given.
    pub lease: Option<Span>,
}

impl Attach {
    /// What the side that is attached has agreed to about leases from then on.
    #[must_use]
    pub fn leasing(&self) -> Leasing {
        Leasing { longest: self.lease, ..Leasing::default() }
    }
}

/// A part of the primary's log: all its positions in (after, through], and those of its entries
/// that were applied there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippedBatch {
    pub attachment: u128,
    /// Of the epoch that all positions and entries here belong to.
    pub line: LedgerLine,
    pub after: Option<Position>,
    pub through: Position,
    /// The primary has handed over to this epoch at `through`.
    pub release: Option<RegionEpoch>,
    /// How far the primary was when it sent this.
    pub head: Head,
    /// In order; each at its position and with its stamp.
    pub entries: Vec<ShippedEntry>,
}

/// An entry of the primary, with the bytes that it came in: what a secondary's leader writes into
/// its own log is what the primary's leader wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippedEntry {
    pub entry: Entry,
    /// Empty = it was made here, and has not been encoded.
    pub encoded: Bytes,
}

impl From<Entry> for ShippedEntry {
    fn from(entry: Entry) -> ShippedEntry {
        ShippedEntry { entry, encoded: Bytes::new() }
    }
}

/// What became of a command about regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionReply {
    /// It is so now, or was so already.
    Done,
    /// Sealed, or handed over, at this entry.
    At(Position),
    /// The copy covers the primary's log through here, which may be before the batch's end where
    /// its work was too much for one entry; with `promoted` this cluster is the primary now.
    Shipped { through: Position, promoted: bool },
    /// The seed has its chunks before this number.
    Seeded { next: u64 },
    /// The tail is dealt with through this number; an outcome for each message of the part, or
    /// none where the part was dealt with before.
    Replayed { through: Number, results: Vec<TailOutcome> },
}

impl RegionVerb {
    /// What a command does, as the audit and refusals say it.
    #[must_use]
    pub fn said(&self) -> String {
        match self {
            RegionVerb::Protect { peer, .. } => format!("protect itself by region {peer:?}"),
            RegionVerb::Unprotect => "give up its second region".to_owned(),
            RegionVerb::Attach(attach) => {
                format!("become the secondary region {:?}", attach.region)
            }
            RegionVerb::Detach => "keep its copy and follow nobody".to_owned(),
            RegionVerb::Configure(settings) => {
                format!("set the pair: {}", settings_said(settings))
            }
            RegionVerb::Reconfigure(change) => {
                format!("set the pair: {}", settings_said(&change.after))
            }
            RegionVerb::Seal => "seal itself for a failover".to_owned(),
            RegionVerb::Unseal => "take its seal back".to_owned(),
            RegionVerb::Release { to, .. } => format!("hand over to region {:?}", to.region),
            RegionVerb::Decline { number } => format!("decline epoch {}", number.0),
            RegionVerb::Declined { number } => {
                format!("learn that epoch {} was declined", number.0)
            }
            RegionVerb::SetGranting { on: true } => "grant region leases".to_owned(),
            RegionVerb::SetGranting { on: false } => "stop granting region leases".to_owned(),
            RegionVerb::AcceptLease { lease, .. } => match lease {
                Some(lease) => format!("agree to grant region leases of {}", milliseconds(*lease)),
                None => "agree to grant no region leases".to_owned(),
            },
            RegionVerb::RelyOnLease { lease, .. } => match lease {
                Some(lease) => format!("rely on a region lease of {}", milliseconds(*lease)),
                None => "rely on no region lease".to_owned(),
            },
            RegionVerb::Promote { number, accepted: false, .. } => {
                format!("promote itself by force to epoch {}", number.0)
            }
            RegionVerb::Promote { number, accepted: true, .. } => {
                format!("promote itself by force to epoch {}, be the copy whole or not", number.0)
            }
            RegionVerb::TakeBack { number } => format!("take itself back to epoch {}", number.0),
            RegionVerb::Renew { .. } => "become a cluster of its own".to_owned(),
            RegionVerb::Wipe => "wipe its copy".to_owned(),
            RegionVerb::Fence { ledger, .. } => match ledger.last() {
                Some(LedgerLine { epoch, .. }) => {
                    format!("be fenced by epoch {} of region {:?}", epoch.number.0, epoch.region)
                }
                None => "be fenced by no epoch".to_owned(),
            },
            RegionVerb::Resolve { keep, .. } => format!("resolve a conflict for region {keep:?}"),
            RegionVerb::RecordShipped { .. } => "record what was shipped".to_owned(),
            RegionVerb::ApplyShipped(_) => "apply shipped entries".to_owned(),
            RegionVerb::SeedBegin { .. } => "begin to take a whole state".to_owned(),
            RegionVerb::SeedChunk(_) => "take a part of a state".to_owned(),
            RegionVerb::SeedCommit { .. } => "take a whole state".to_owned(),
            RegionVerb::SeedDrop { .. } => "give a state up that is under way".to_owned(),
            RegionVerb::SeedFree => "free what is left of a state that was given up".to_owned(),
            RegionVerb::Note { what } => what.clone(),
            RegionVerb::SettleTail { epoch, fate } => {
                format!("note that the tail of epoch {} is {}", epoch.number.0, fate.name())
            }
        }
    }
}

impl RegionCommand {
    /// What it does, for people.
    #[must_use]
    pub fn said(&self) -> String {
        self.verb.said()
    }

    /// About how many bytes it takes in an entry.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.verb {
            RegionVerb::ApplyShipped(batch) => batch.entries.iter().map(entry_size).sum(),
            RegionVerb::Attach(Attach { ledger, .. })
            | RegionVerb::Fence { ledger, .. }
            | RegionVerb::SeedBegin { ledger, .. } => ledger.len() * LINE,
            RegionVerb::Configure(settings) => settings_size(settings),
            RegionVerb::Reconfigure(change) => {
                settings_size(&change.before) + settings_size(&change.after)
            }
            RegionVerb::SeedChunk(chunk) => {
                let bodies: usize = chunk.contents.iter().map(|(_, it)| it.size()).sum();
                bodies + (chunk.rows.len() + chunk.removed.len()) * ROW
            }
            RegionVerb::Note { what } => what.len(),
            _ => self.by.who.len(),
        }
    }
}

fn settings_size(settings: &RegionSettings) -> usize {
    (settings.shape.outages.len() + settings.shape.trace.len()) * LINE
}

fn settings_said(settings: &RegionSettings) -> String {
    let reads = if settings.read_access { "reads on" } else { "reads off" };
    let line = if settings.shape.is_shaped() { "the line shaped" } else { "the line as it is" };
    let lag = settings.max_lag.map(|lag| format!("at most {}", milliseconds(lag)));
    let bytes = settings.max_unshipped_bytes.map(|bytes| format!("at most {bytes} bytes"));
    let limit = [lag, bytes].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let limit = match (limit.as_str(), settings.throttle) {
        ("", _) => "no limit of the lag".to_owned(),
        (limit, true) => format!("{limit} behind, or writes wait"),
        (limit, false) => format!("{limit} behind, or an alert"),
    };
    let lease = settings.lease.map_or("no region lease".to_owned(), |lease| {
        format!("a region lease of {}", milliseconds(lease))
    });
    format!("{reads}, {line}, {limit}, {lease}")
}

fn milliseconds(lease: Span) -> String {
    format!("{} ms", lease.0 / 1_000)
}

/// About how many bytes a stored row takes.
const ROW: usize = 256;
/// About how many bytes a line of the ledger takes.
const LINE: usize = 96;

fn entry_size(shipped: &ShippedEntry) -> usize {
    shipped.entry.commands.iter().map(|envelope: &Envelope| envelope.command.size()).sum()
}
