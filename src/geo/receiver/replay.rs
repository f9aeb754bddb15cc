//! The new primary's end of a replay: proposes what comes as data of its own.
//!
//! Law: `apply` decides what is sent. All that is looked up here is what it cannot know: whether a
//! sequence that its client has finished ran in this region, which this side's log says as long as
//! it holds the entries.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tonic::Status;

use super::{Receiver, WITHIN, not_now};
use crate::geo::pair::result_to;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{RegionReply, RegionVerb};
use crate::queue::authority::replay::ReplayTail;
use crate::queue::authority::{Authority, RegionEpoch};
use crate::queue::command::{Command, Envelope};
use crate::queue::error::Rejection;
use crate::queue::outcome::Reply;
use crate::storage::codec;
use crate::storage::log::Payload;

/// Bytes of log read at once.
const READ: usize = 1 << 20;

/// A client's sequence.
type Turn = (u128, u64);

impl Receiver {
    pub(super) async fn take_tail(
        &self,
        asked: pb::ReplayTailRequest,
    ) -> Result<pb::ReplayTailResponse, Status> {
        let (epoch, part) = wire::tail_part(asked).map_err(|status| *status)?;
        let Some(mut part) = part else { return Ok(self.replayed(&epoch, Vec::new())) };
        self.look_up(&mut part).await?;
        let command = Command::ReplayTail(Box::new(part));
        let envelope = Envelope { session: None, account: String::new(), command };
        let done = self.group.propose(envelope, Instant::now() + WITHIN).await;
        match done.map_err(|error| not_now(&error))?.outcome {
            Ok(Reply::Region(RegionReply::Replayed { results, .. })) => {
                Ok(self.replayed(&epoch, results.iter().map(result_to).collect()))
            }
            Ok(other) => Err(Status::internal(format!("a tail was answered by {other:?}"))),
            Err(Rejection::Region(refusal)) => Err(wire::status(&refusal)),
            Err(other) => Err(Status::failed_precondition(other.to_string())),
        }
    }

    /// How far that epoch's tail is.
    fn replayed(
        &self,
        epoch: &RegionEpoch,
        results: Vec<pb::TailResult>,
    ) -> pb::ReplayTailResponse {
        let replayed = self.group.standing().map(|it| it.authority.replayed).unwrap_or_default();
        let known = replayed.into_iter().find(|it| it.epoch == *epoch).unwrap_or_default();
        pb::ReplayTailResponse {
            through: known.through.0,
            results,
            done: known.done,
            sent: known.sent,
            skipped: known.skipped,
        }
    }

    /// Finds out of sequences that were forgotten here whether they ran here.
    async fn look_up(&self, part: &mut ReplayTail) -> Result<(), Status> {
        let wanted: BTreeSet<Turn> = {
            let store = self.group.store().read();
            let sessions = part.units.iter().filter_map(|unit| unit.session.as_ref());
            sessions
                .map(|it| (it.client, it.sequence))
                .filter(|(client, sequence)| store.state().is_forgotten(*client, *sequence))
                .collect()
        };
        let Some(standing) = self.group.standing() else { return Ok(()) };
        if wanted.is_empty() {
            return Ok(());
        }
        let (found, is_whole) =
            self.scan(&standing.authority, &part.epoch, standing.applied.index, &wanted).await?;
        for session in part.units.iter_mut().filter_map(|unit| unit.session.as_mut()) {
            let turn = (session.client, session.sequence);
            session.ran = match (wanted.contains(&turn), found.contains(&turn)) {
                (true, true) => Some(true),
                (true, false) if is_whole => Some(false),
                // Its client has an answer: most likely from the side that sent it.
                (true, false) if session.answer.is_empty() => Some(false),
                _ => None,
            };
        }
        Ok(())
    }

    /// Which of these ran here after the fenced epoch, by the log; and whether the log still has
    /// all since then.
    async fn scan(
        &self,
        authority: &Authority,
        fenced: &RegionEpoch,
        through: u64,
        wanted: &BTreeSet<Turn>,
    ) -> Result<(BTreeSet<Turn>, bool), Status> {
        let lost = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let mut lines = authority.ledger.iter().skip_while(|line| line.epoch != *fenced).skip(1);
        let begun = lines.find(|line| line.epoch.region == authority.region);
        let first = begun.and_then(|line| line.first).map(|at| at.index.saturating_add(1));
        let held = self.group.log_first().unwrap_or(u64::MAX);
        let is_whole = first.is_some_and(|first| held <= first);
        let (mut from, mut found) = (first.unwrap_or(0).max(held), BTreeSet::new());
        while from <= through && found.len() < wanted.len() {
            let read = self.group.log_entries(from, through.saturating_add(1), READ);
            let read = read.map_err(|error| lost(&error))?;
            let Some(last) = read.last().map(|entry| entry.position.index) else { break };
            for entry in read {
                let Payload::Commands(bytes) = entry.payload else { continue };
                let entry = codec::decode_entry(entry.position, bytes);
                let entry = entry.map_err(|error| lost(&error))?;
                let commands = entry.commands.iter();
                commands.for_each(|envelope| note(envelope, fenced, wanted, &mut found));
            }
            from = last.saturating_add(1);
            // It is much reading: others get their turn.
            tokio::task::yield_now().await;
        }
        Ok((found, is_whole))
    }
}

/// Notes who ran by a command. A batch of the fenced epoch came when this side had been promoted:
/// it is in the log, and was refused.
fn note(
    envelope: &Envelope,
    fenced: &RegionEpoch,
    wanted: &BTreeSet<Turn>,
    found: &mut BTreeSet<Turn>,
) {
    if let Some(tag) = &envelope.session {
        let turn = (tag.client, tag.sequence);
        if wanted.contains(&turn) {
            found.insert(turn);
        }
    }
    if let Command::Region(asked) = &envelope.command
        && let RegionVerb::ApplyShipped(batch) = &asked.verb
        && batch.line.epoch.number > fenced.number
    {
        let inner = batch.entries.iter().flat_map(|shipped| &shipped.entry.commands);
        inner.for_each(|envelope| note(envelope, fenced, wanted, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::command::{Actor, RegionCommand, ShippedBatch, ShippedEntry};
    use crate::queue::authority::{Head, LedgerLine};
    use crate::queue::command::{Entry, SessionTag};
    use crate::queue::ids::{Epoch, LogTime, Position};

    fn epoch(number: u32) -> RegionEpoch {
        RegionEpoch { number: Epoch(number), region: "east".to_owned() }
    }

    fn sent(client: u128) -> Envelope {
        let tag = SessionTag { client, sequence: 2, lowest_unanswered: 2 };
        let command = Command::Pulse;
        Envelope { session: Some(tag), account: String::new(), command }
    }

    fn shipped(number: u32, client: u128) -> Envelope {
        let (position, stamp) = (Position::default(), LogTime(1));
        let commands = vec![sent(client)];
        let entry = Entry { position, stamp, epoch: Epoch(number), commands };
        let batch = ShippedBatch {
            attachment: 1,
            line: LedgerLine { epoch: epoch(number), ..LedgerLine::default() },
            after: None,
            through: position,
            release: None,
            head: Head::default(),
            entries: vec![ShippedEntry::from(entry)],
        };
        let (by, verb) = (Actor::default(), RegionVerb::ApplyShipped(batch));
        let command = Command::Region(Box::new(RegionCommand { by, verb }));
        Envelope { session: None, account: String::new(), command }
    }

    #[test]
    fn what_came_from_the_deposed_side_after_the_promotion_did_not_run() {
        let (wanted, mut found) = (BTreeSet::from([(1, 2), (4, 2), (5, 2)]), BTreeSet::new());
        for envelope in [sent(1), shipped(3, 4), shipped(4, 5)] {
            note(&envelope, &epoch(3), &wanted, &mut found);
        }
        assert_eq!(found, BTreeSet::from([(1, 2), (5, 2)]), "by a client, and in a later epoch");
    }
}
