//! The one door by which commands, wall time and randomness enter the log.

use tokio::sync::oneshot;

use super::error::GroupError;
use crate::queue::command::Content;
use crate::queue::ids::{Epoch, LogTime, Position};
use crate::queue::outcome::Outcome;

/// What became of one command.
#[derive(Clone, Debug)]
pub struct Done {
    pub outcome: Outcome,
    pub position: Position,
    pub epoch: Epoch,
    pub log_time: LogTime,
    /// For a receive: the contents of the messages, in their order.
    pub contents: Vec<Content>,
}

/// Who waits for a command. Dropped without an answer, the fate is unknown.
pub type Reply = oneshot::Sender<Result<Done, GroupError>>;
