//! The form in which calls and their answers are written down, one line of JSON each: by a drill
//! that is asked for its history, by chaos and by the simulator. The checker of `tests/checker`
//! reads the same types, so that there is one form.
//!
//! Laws: an operation is *ok*, *definitely failed* or *unknown*; one that never returned is
//! unknown. A history begins with the version of its form and ends with its ending: without that
//! it is not whole. Times are microseconds since the run began; times of the log are microseconds
//! since 1970. Names and fields of a version never change: what changes gets another version.

mod answer;
mod call;
pub mod epoch;
mod pair;

use serde::{Deserialize, Serialize};

pub use answer::{
    Answer, Dead, Deleted, Job, Looked, Progress, Redriven, Released, SentMessage, Shown, Tenant,
};
pub use call::{After, Asked, Call, Item, New, Standing};
pub use pair::{
    Act, Alive, Emptied, EpochId, Gone, Join, Listed, Look, Part, Place, Replay, Sight, Taken,
    Told, Verb,
};

/// The version of the form that is written. The first said nothing of its version.
pub const FORM: u32 = 2;

/// Microseconds since the start of the run: simulated ones, or real ones.
pub type Micros = u64;
/// T: the replicated log time, in microseconds since the Unix epoch.
pub type LogTime = u64;
/// The names of the regions, as their nodes are configured.
pub const REGIONS: [&str; 2] = ["east", "west"];
/// The time of what never came.
pub const NEVER: Micros = Micros::MAX;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The version of the form: the first line.
    Form(u32),
    Op(Box<Op>),
    /// A call on a pair of which no site is known, but the number of the epoch under which it was
    /// acknowledged; `None` = it was not.
    OpIn(Option<u32>, Box<Op>),
    /// A fault, a phase.
    Event(Micros, String),
    /// In that cluster and term that node said that it leads.
    Leads(Cluster, u64, u64),
    /// A node stopped, and nobody had hurt it so.
    Stopped(String),
    Digest(Applied),
    /// What the sightings behind it are of, up to the next one.
    Part(Box<Part>),
    Sighted(Sight),
    Told(Told),
    Look(Box<Look>),
    Act(Act),
    Listed(Box<Listed>),
    Replay(Replay),
    /// The last line.
    Ending(Ending),
    /// Of the first version: it is of two regions, of which so many states were seen.
    Pair(usize),
}

/// Where a write stands in the log, and the T of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    pub index: u64,
    pub term: u64,
    pub node: u64,
    pub at: LogTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Ok(Answer),
    /// It had no effect, and never will.
    Failed(String),
    Unknown(String),
}

/// What makes a retry of a write safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub client: u64,
    pub sequence: u64,
    /// What is below is over: it never runs from then on.
    pub lowest: u64,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    pub client: u32,
    pub session: Option<Session>,
    /// How often it was tried; the answer of a later try may be that of an earlier one.
    pub attempts: u32,
    /// A try of unknown fate went to another region than the one that answered last.
    pub elsewhere: bool,
    pub invoked: Micros,
    pub returned: Micros,
    pub call: Call,
    pub outcome: Outcome,
    /// Whose node answered last.
    pub site: Cluster,
}

impl Op {
    /// Whether the answer may be that of an earlier try, with a later mark. A receive under a
    /// session is tried again by the node that passed it on, too.
    pub fn may_be_repeated(&self) -> bool {
        self.attempts != 1 || (self.session.is_some() && matches!(self.call, Call::Receive { .. }))
    }
}

/// A region between two replacements of all its disks: one Raft group with one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cluster {
    pub region: usize,
    pub generation: u32,
}

/// A node's state at one applied position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub cluster: Cluster,
    pub node: u64,
    pub index: u64,
    pub term: u64,
    pub leader: u64,
    pub digest: u128,
}

/// How the run ended, once all faults were healed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// All nodes follow one leader and have applied the same position.
    pub converged: bool,
    /// A send was acknowledged.
    pub served: bool,
    /// Everything was received and deleted, and every queue is empty.
    pub drained: bool,
    /// What the nodes said when one of these did not come true.
    pub words: String,
    /// Left alone after that, they went on following the same leader.
    pub steady: bool,
    /// Of two regions: both hold the same, one as the primary and the other as its live copy.
    pub paired: bool,
    /// T of the last empty look at the queues.
    pub at: LogTime,
}
