//! `SendStream`: many sends in flight on one stream, each answered by its own tag as it ends.
//!
//! Laws: no task and no channel for a message: the answers' stream itself reads frames, submits
//! their items and collects what has ended; everything that has ended leaves in one frame. What
//! is in flight is bounded: beyond it no frame is read, and the client feels it. When leadership
//! moves, what was taken in is answered and the stream ends with a status that says to try
//! again.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};

use super::convert;
use super::error::Refusal;
use super::queue::{QueueFace, other_write};
use super::requests;
use super::sizes::Filling;
use crate::api::admission::Permit;
use crate::api::limits::{STREAM_ITEM, STREAM_SENDS};
use crate::consensus::error::GroupError;
use crate::consensus::group::Leadership;
use crate::consensus::proposer::Done;
use crate::proto::queue::v1 as pb;
use crate::queue::outcome::Reply;
use pb::send_stream_result::Result as Sent;

/// Results in one frame.
const FRAME: usize = 1_024;

/// The answers of one stream.
pub(super) struct SendAnswers {
    face: QueueFace,
    incoming: Streaming<pb::SendStreamRequest>,
    flights: FuturesUnordered<Flight>,
    /// Refused before they were submitted.
    refused: Vec<pb::SendStreamResult>,
    leadership: WatchStream<Leadership>,
    /// No more frames are read; why, unless the client ended the stream.
    closed: Option<Option<Status>>,
}

type Ended = (u64, Result<Done, GroupError>);

/// One item on its way.
struct Flight {
    tag: u64,
    answer: Pin<Box<dyn Future<Output = Result<Done, GroupError>> + Send>>,
    _permit: Permit,
}

impl Future for Flight {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let tag = self.tag;
        self.answer.as_mut().poll(cx).map(|done| (tag, done))
    }
}

impl SendAnswers {
    pub(super) fn new(face: QueueFace, incoming: Streaming<pb::SendStreamRequest>) -> SendAnswers {
        let leadership = WatchStream::from_changes(face.group.leadership());
        SendAnswers {
            face,
            incoming,
            flights: FuturesUnordered::new(),
            refused: Vec::new(),
            leadership,
            closed: None,
        }
    }

    /// Submits what has come in, while there is room.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        while self.closed.is_none() && self.flights.len() + self.refused.len() < STREAM_SENDS {
            match Pin::new(&mut self.incoming).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.closed = Some(None),
                Poll::Ready(Some(Err(status))) => self.closed = Some(Some(status)),
                Poll::Ready(Some(Ok(frame))) => {
                    let deadline = Instant::now() + STREAM_ITEM;
                    for item in frame.items {
                        self.submit(item, deadline);
                    }
                }
            }
        }
    }

    fn submit(&mut self, item: pb::SendStreamItem, deadline: Instant) {
        let tag = item.tag;
        match self.flight(item, deadline) {
            Ok(flight) => self.flights.push(flight),
            Err(refusal) => {
                let result = Some(Sent::Error(refusal.item()));
                self.refused.push(pb::SendStreamResult { tag, result });
            }
        }
    }

    fn flight(&self, item: pb::SendStreamItem, deadline: Instant) -> Result<Flight, Refusal> {
        let tag = item.tag;
        let (envelope, bytes) = requests::stream_item(item)?;
        let permit = self.face.admission.admit(bytes)?;
        let answer = self.face.group.submit(envelope, deadline)?;
        Ok(Flight { tag, answer: Box::pin(answer), _permit: permit })
    }

    /// Everything that has ended, up to a frame.
    fn take_out(&mut self, cx: &mut Context<'_>) -> Vec<pb::SendStreamResult> {
        let rest = self.refused.split_off(self.refused.len().min(FRAME));
        let mut results = std::mem::replace(&mut self.refused, rest);
        let mut filling = Filling::new();
        for refused in &results {
            filling.takes(refused);
        }
        let mut held: Option<pb::Durability> = None;
        while results.len() < FRAME && filling.has_room() {
            let Poll::Ready(Some((tag, done))) = Pin::new(&mut self.flights).poll_next(cx) else {
                break;
            };
            let result = Some(self.result(done, &mut held));
            let result = pb::SendStreamResult { tag, result };
            filling.takes(&result);
            results.push(result);
        }
        results
    }

    /// `held` is the receipt of the item before: those of one entry are the same.
    fn result(&self, done: Result<Done, GroupError>, held: &mut Option<pb::Durability>) -> Sent {
        let done = match done {
            Ok(done) => done,
            Err(error) => return Sent::Error(Refusal::from(error).item()),
        };
        let position = Some(convert::position_out(done.position));
        let known = held.as_ref().filter(|receipt| receipt.position == position);
        let durability = known.cloned().unwrap_or_else(|| self.face.durability(&done));
        *held = Some(durability.clone());
        match done.outcome {
            Ok(Reply::Sent(sent)) => Sent::Sent(pb::SendResponse {
                messages: sent.iter().map(convert::sent_out).collect(),
                durability: Some(durability),
            }),
            Ok(_) => Sent::Error(other_write().item()),
            Err(rejection) => Sent::Error(Refusal::from(rejection).item()),
        }
    }

    fn watch_leadership(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(news) = Pin::new(&mut self.leadership).poll_next(cx) {
            if news.is_some_and(|news| news.is_me) {
                continue;
            }
            if self.closed.is_none() {
                let moved = Refusal::not_now("leadership moved to another node");
                self.closed = Some(Some(moved.into()));
            }
            if news.is_none() {
                return;
            }
        }
    }
}

impl Stream for SendAnswers {
    type Item = Result<pb::SendStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.watch_leadership(cx);
        self.take_in(cx);
        let results = self.take_out(cx);
        if !results.is_empty() {
            return Poll::Ready(Some(Ok(pb::SendStreamResponse { results })));
        }
        if !self.flights.is_empty() || !self.refused.is_empty() {
            return Poll::Pending;
        }
        match &mut self.closed {
            Some(why) => Poll::Ready(why.take().map(Err)),
            None => Poll::Pending,
        }
    }
}
