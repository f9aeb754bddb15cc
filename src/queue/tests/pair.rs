//! Two clusters in two regions, each with its own log, and what travels between them.

use super::stage::{Stage, plain};
use crate::queue::authority::command::{
    Actor, Attach, RegionCommand, RegionReply, RegionVerb, ShippedBatch,
};
use crate::queue::authority::plan::{CopyEnd, Part, Parted};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{Head, Role};
use crate::queue::command::{Command, Entry, Envelope};
use crate::queue::error::Rejection;
use crate::queue::ids::{Digest, Epoch, LogTime, Position};
use crate::queue::outcome::{Applied, Outcome, Reply};

pub const LINEAGE: u128 = 7;
pub const ATTACHMENT: u128 = 70;

/// A cluster: its state with a table, and its log.
pub struct Side {
    pub region: &'static str,
    pub stage: Stage,
    /// `None` = an entry without commands, such as a new leader writes.
    pub log: Vec<(Position, Option<Entry>)>,
    /// The digest after each entry.
    pub digests: Vec<Digest>,
    pub term: u64,
}

impl Side {
    pub fn new(region: &'static str) -> Side {
        let (log, digests) = (Vec::new(), Vec::new());
        let mut side = Side { region, stage: Stage::new(), log, digests, term: 0 };
        side.elect();
        side
    }

    fn next(&self) -> Position {
        Position { term: self.term, node: self.term % 3 + 1, index: self.log.len() as u64 }
    }

    /// Another leader begins its term.
    pub fn elect(&mut self) {
        self.term += 1;
        self.log.push((self.next(), None));
        self.digests.push(self.stage.state.digest());
    }

    pub fn commit_at(&mut self, epoch: Epoch, stamp: LogTime, commands: Vec<Envelope>) -> Applied {
        let entry = Entry { position: self.next(), stamp, epoch, commands };
        let applied = self.stage.apply_entry(&entry);
        self.log.push((entry.position, Some(entry)));
        self.digests.push(self.stage.state.digest());
        applied
    }

    pub fn commit(&mut self, stamp: LogTime, commands: Vec<Envelope>) -> Applied {
        self.commit_at(self.stage.state.epoch(), stamp, commands)
    }

    /// A command about regions, alone in its entry.
    pub fn region(&mut self, verb: RegionVerb) -> Result<RegionReply, RegionRefusal> {
        let outcome = self.commit(LogTime(0), vec![region(verb)]).outcomes.remove(0);
        answer(outcome)
    }

    pub fn role(&self) -> Role {
        self.stage.state.authority().map_or(Role::Standalone, |it| it.role.clone())
    }

    pub fn copy_end(&self) -> CopyEnd {
        let authority = self.stage.state.authority().expect("it is in a pair");
        CopyEnd { epoch: authority.epoch.clone(), through: authority.end() }
    }

    /// What is to be shipped to a copy that ends there, at most `most` positions; `None` =
    /// nothing now.
    pub fn batch(&self, copy: &CopyEnd, most: usize) -> Result<Option<ShippedBatch>, Parted> {
        let authority = self.stage.state.authority().expect("it is in a pair");
        let part: Part = authority.plan(copy)?;
        let from = part.after.map_or(0, |at| at.index + 1) as usize;
        let end = part.last.map_or(self.log.len(), |at| at.index as usize + 1);
        let Some(range) = self.log.get(from..end.min(from + most)) else { return Ok(None) };
        let Some((through, _)) = range.last() else { return Ok(None) };
        let entries = range
            .iter()
            .filter_map(|(at, entry)| entry.clone().filter(|_| !authority.rested(at.index)));
        let (head, log_time) = (self.log.last(), self.stage.state.log_time());
        let head = Head { position: head.map(|(at, _)| *at).unwrap_or_default(), log_time };
        Ok(Some(ShippedBatch {
            attachment: authority.attachment.as_ref().map_or(0, |it| it.id),
            line: part.line,
            after: part.after,
            through: *through,
            release: part.release.filter(|_| Some(*through) == part.last),
            head,
            entries: entries.map(Into::into).collect(),
        }))
    }

    pub fn apply_batch(&mut self, batch: ShippedBatch) -> Result<RegionReply, RegionRefusal> {
        self.region(RegionVerb::ApplyShipped(batch))
    }
}

pub fn region(verb: RegionVerb) -> Envelope {
    let by = Actor { who: "anna".to_owned(), at_us: 5 };
    plain(Command::Region(Box::new(RegionCommand { by, verb })))
}

pub fn answer(outcome: Outcome) -> Result<RegionReply, RegionRefusal> {
    match outcome {
        Ok(Reply::Region(reply)) => Ok(reply),
        Err(Rejection::Region(refusal)) => Err(refusal),
        other => panic!("no answer about regions: {other:?}"),
    }
}

/// East protects itself by west.
pub fn protected() -> (Side, Side) {
    let (mut east, mut west) = (Side::new("east"), Side::new("west"));
    protect(&mut east, &mut west);
    (east, west)
}

pub fn protect(east: &mut Side, west: &mut Side) {
    let (region, peer) = (east.region.to_owned(), west.region.to_owned());
    east.region(RegionVerb::Protect { region, lineage: LINEAGE, attachment: ATTACHMENT, peer })
        .expect("protected");
    let authority = east.stage.state.authority().expect("just made").clone();
    west.region(RegionVerb::Attach(Attach {
        region: west.region.to_owned(),
        lineage: authority.lineage,
        attachment: ATTACHMENT,
        ledger: authority.ledger,
        ..Attach::default()
    }))
    .expect("attached");
}
