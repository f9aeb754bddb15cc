//! The batches of one stream, on their way into the secondary's group.
//!
//! Several are proposed before the first is applied, each as if all before it were applied whole.
//! One whose work is too much for one entry is applied in part, and those behind it are turned
//! away as a gap. Its rest is proposed then, and they are again; no more are taken in meanwhile.
//!
//! Laws: a batch is answered once it is applied whole, in the order in which they came; the first
//! that is refused ends the stream.

use std::collections::VecDeque;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt as _, stream};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{Answer, IN_FLIGHT, PEER, Receiver, WITHIN, not_now};
use crate::consensus::error::GroupError;
use crate::consensus::proposer::Done;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::ship_request::Message;
use crate::queue::authority::RegionEpoch;
use crate::queue::authority::command::{RegionReply, RegionVerb, ShippedBatch};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::error::Rejection;
use crate::queue::ids::{LogTime, Position};
use crate::queue::outcome::Reply;
use crate::storage::codec;

/// What a proposal comes to.
type Proposed = BoxFuture<'static, Result<Done, GroupError>>;

/// A batch as it came, and what was proposed of it.
struct Arrival {
    batch: pb::Batch,
    epoch: RegionEpoch,
    through: Position,
    proposed: Proposed,
}

struct Arrivals {
    receiver: Receiver,
    inbound: Streaming<pb::ShipRequest>,
    /// How the stream ended, once it has; what waits is answered before.
    end: Option<Result<(), Status>>,
    waiting: VecDeque<Arrival>,
    /// What waits was proposed behind a batch of which only a part was applied.
    is_behind_a_part: bool,
}

impl Receiver {
    /// Proposes what comes; the answers, in order.
    pub(super) fn take_in(
        self,
        inbound: Streaming<pb::ShipRequest>,
    ) -> impl Stream<Item = Answer> + Send + 'static {
        let (receiver, end, waiting, is_behind_a_part) = (self, None, VecDeque::new(), false);
        let arrivals = Arrivals { receiver, inbound, end, waiting, is_behind_a_part };
        stream::unfold(Some(arrivals), |arrivals| async {
            let mut arrivals = arrivals?;
            let answer = arrivals.next().await?;
            let goes_on = answer.is_ok().then_some(arrivals);
            Some((answer, goes_on))
        })
    }

    /// Proposes a batch, or what of it is behind a position.
    fn submit(
        &self,
        mut batch: ShippedBatch,
        behind: Option<Position>,
    ) -> Result<Proposed, Status> {
        if let Some(behind) = behind {
            batch.after = Some(behind);
            batch.entries.retain(|shipped| shipped.entry.position.index > behind.index);
        }
        let envelope = self.region(RegionVerb::ApplyShipped(batch), PEER.to_owned());
        let proposed = self.group.submit(envelope, Instant::now() + WITHIN);
        proposed.map(FutureExt::boxed).map_err(|error| not_now(&error))
    }
}

impl Arrivals {
    async fn next(&mut self) -> Option<Answer> {
        loop {
            self.is_behind_a_part &= !self.waiting.is_empty();
            let takes_in =
                self.end.is_none() && self.waiting.len() < IN_FLIGHT && !self.is_behind_a_part;
            let Some(first) = self.waiting.front_mut() else {
                if let Some(end) = self.end.take() {
                    return end.err().map(Err);
                }
                let message = self.inbound.next().await;
                self.take(message);
                continue;
            };
            tokio::select! {
                done = &mut first.proposed => {
                    let arrival = self.waiting.pop_front()?;
                    return Some(self.whole(arrival, done).await);
                }
                message = self.inbound.next(), if takes_in => self.take(message),
            }
        }
    }

    fn take(&mut self, message: Option<Result<pb::ShipRequest, Status>>) {
        match message.map(|message| message.and_then(|it| self.arrive(it))) {
            Some(Ok(arrival)) => self.waiting.push_back(arrival),
            Some(Err(status)) => self.end = Some(Err(status)),
            None => self.end = Some(Ok(())),
        }
    }

    fn arrive(&self, message: pb::ShipRequest) -> Result<Arrival, Status> {
        let Some(Message::Batch(batch)) = message.message else {
            return Err(Status::invalid_argument("after the hello come batches"));
        };
        let opened = wire::opened(batch.clone()).map_err(|status| *status)?;
        let (epoch, through) = (opened.line.epoch.clone(), opened.through);
        let proposed = self.receiver.submit(opened, None)?;
        Ok(Arrival { batch, epoch, through, proposed })
    }

    /// Sees a batch applied to its end, and answers it.
    async fn whole(&mut self, arrival: Arrival, done: Result<Done, GroupError>) -> Answer {
        let (mut done, mut behind, mut again) = (done, None, self.is_behind_a_part);
        loop {
            let applied = done.map_err(|error| not_now(&error))?;
            match applied.outcome {
                Ok(Reply::Region(RegionReply::Shipped { through, promoted })) => {
                    if through.index >= arrival.through.index {
                        let log_time = applied.log_time;
                        return Ok(self.answer(&arrival, through, log_time, promoted));
                    }
                    if behind.is_some_and(|behind| through <= behind) {
                        return Err(Status::internal("a batch is applied no further"));
                    }
                    self.is_behind_a_part = true;
                    behind = Some(through);
                }
                Err(Rejection::Region(RegionRefusal::Gap { .. })) if again => again = false,
                Ok(other) => {
                    return Err(Status::internal(format!("a batch was answered by {other:?}")));
                }
                Err(Rejection::Region(refusal)) => return Err(wire::status(&refusal)),
                Err(other) => return Err(Status::aborted(other.to_string())),
            }
            let opened = wire::opened(arrival.batch.clone()).map_err(|status| *status)?;
            done = self.receiver.submit(opened, behind)?.await;
        }
    }

    fn answer(
        &self,
        arrival: &Arrival,
        through: Position,
        log_time: LogTime,
        promoted: bool,
    ) -> pb::ShipResponse {
        self.receiver.pair.note_arrival(arrival.batch.content.len() as u64);
        pb::ShipResponse {
            epoch: Some(codec::epoch_to(&arrival.epoch)),
            through: Some(wire::position(through)),
            log_time_us: log_time.0,
            promoted,
            seeding: false,
            must_seed: false,
            next_message: self.receiver.next_message(),
        }
    }
}
