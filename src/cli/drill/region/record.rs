//! What a drill of regions writes to its history beside the calls: looks, tails and replays.
//!
//! Law: of a tail only what is of the drill's own queue is written: nobody knows what others asked
//! for.

use super::{Stage, cluster};
use crate::cli::drill::history::{Alive, Emptied, Gone, Line, Listed, Micros, Replay};
use crate::cli::drill::looks::{epoch_told, time};
use crate::cli::tail::{Exported, ExportedMessage};
use crate::client::{ClientError, Regions};
use crate::proto::admin::v1 as pb;
use crate::queue::authority::RegionEpoch;

impl Stage<'_> {
    /// Asks a region what it is.
    pub(super) async fn look(
        &self,
        regions: &Regions,
    ) -> Result<pb::GetRegionResponse, ClientError> {
        let invoked = self.clock();
        let status = regions.status().await?;
        if let Some(recorder) = self.load.recorder() {
            recorder.look(invoked, &status);
        }
        Ok(status)
    }

    /// The time of the history; 0 where none is written.
    pub(super) fn clock(&self) -> Micros {
        self.load.recorder().map_or(0, |recorder| recorder.now())
    }

    /// A message of a tail, where it is of the drill's queue.
    pub(super) fn alive(&self, message: &ExportedMessage) -> Option<Alive> {
        let ExportedMessage { id, queue, body, expires_at, .. } = message;
        (queue == self.load.queue()).then(|| Alive {
            id: id.clone(),
            queue: queue.clone(),
            tag: self.load.number(body),
            expires_at: time(*expires_at),
        })
    }

    /// The tail of a region was listed from that moment on.
    pub(super) fn listed(&self, at: Micros, region: &str, tail: &Exported, alive: Vec<Alive>) {
        let Some(recorder) = self.load.recorder() else { return };
        let (queue, head) = (self.load.queue(), &tail.head);
        let gone = tail.deleted.iter().filter(|one| one.queue == queue).map(|one| Gone {
            id: one.id.clone(),
            queue: one.queue.clone(),
            is_shared: one.shared,
        });
        let emptied = tail.removed.iter().filter(|all| all.queue == queue);
        let emptied =
            emptied.map(|all| Emptied { queue: all.queue.clone(), with_queue: all.with_queue });
        recorder.write(&Line::Listed(Box::new(Listed {
            at,
            cluster: cluster(region),
            epoch: epoch_told(head.epoch.as_ref()),
            fenced_by: epoch_told(head.fenced_by.as_ref()),
            is_whole: head.whole,
            first_number: head.first_number,
            alive,
            deleted: gone.collect(),
            removed: emptied.collect(),
        })));
    }
}

/// A replay of the tail of a fenced region.
pub(super) struct Replaying {
    invoked: Micros,
    epoch: RegionEpoch,
    sent: u64,
    skipped: Vec<(String, String)>,
}

impl Replaying {
    /// It is about to be asked for.
    pub(super) async fn begin(
        stage: &Stage<'_>,
        regions: &Regions,
    ) -> Result<Replaying, ClientError> {
        let epoch = epoch_told(stage.look(regions).await?.epoch.as_ref());
        Ok(Replaying { invoked: stage.clock(), epoch, sent: 0, skipped: Vec::new() })
    }

    pub(super) fn part(&mut self, part: &pb::ReplayTailResponse) {
        self.sent += part.sent;
        let why = |one: &pb::SkippedMessage| one.reason().as_str_name().to_owned();
        self.skipped.extend(part.skipped.iter().map(|one| (one.id.clone(), why(one))));
    }

    /// It ended, well or not.
    pub(super) fn end(self, stage: &Stage<'_>, region: &str, outcome: Result<(), String>) {
        let Some(recorder) = stage.load.recorder() else { return };
        let Replaying { invoked, epoch, sent, skipped } = self;
        let (returned, cluster) = (recorder.now(), cluster(region));
        let replay = Replay { invoked, returned, cluster, epoch, sent, skipped, outcome };
        recorder.write(&Line::Replay(replay));
    }
}
