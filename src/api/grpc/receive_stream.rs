//! `ReceiveStream`: credit and deletes in, messages and results out.
//!
//! Laws: the first frame opens, exactly once; never more messages leave than there is credit
//! for; a receive waits in the group, woken when something is applied or becomes visible, and
//! costs nothing meanwhile; deletes are answered as they end. When leadership moves the stream
//! ends with a status that says to try again: leases granted on it run on.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::convert;
use super::error::Refusal;
use super::queue::QueueFace;
use super::requests;
use crate::api::admission::Permit;
use crate::api::limits::{STREAM_CREDIT, STREAM_DELETES, STREAM_ITEM};
use crate::consensus::error::GroupError;
use crate::consensus::proposer::Done;
use crate::proto::queue::v1 as pb;
use crate::queue::command::Receive;
use pb::receive_stream_deleted::Result as Deleted;
use pb::receive_stream_request::Request;

/// How long one wait for messages lasts before it begins again.
const WAIT: Duration = Duration::from_secs(60);

type Received = Result<Option<Done>, GroupError>;
type DeleteEnded = (u64, Result<Done, GroupError>);

struct Session {
    face: QueueFace,
    incoming: Streaming<pb::ReceiveStreamRequest>,
    account: String,
    receive: Receive,
    credit: u32,
    receiving: Option<BoxFuture<'static, Received>>,
    deletes: FuturesUnordered<BoxFuture<'static, DeleteEnded>>,
    /// Refused before they were submitted.
    refused: VecDeque<pb::ReceiveStreamDeleted>,
    /// The client sends no more: deletes are finished, nothing more is received.
    ended: bool,
}

enum Event {
    Frame(Result<Option<pb::ReceiveStreamRequest>, Status>),
    Received(Received),
    Deleted(DeleteEnded),
}

/// The answers of one stream; the first frame is read when the answers are.
pub(super) fn open(
    face: QueueFace,
    incoming: Streaming<pb::ReceiveStreamRequest>,
) -> BoxStream<'static, Result<pb::ReceiveStreamResponse, Status>> {
    let opening = Box::pin(Session::open(face, incoming));
    futures::stream::once(opening)
        .flat_map(|opened| match opened {
            Ok(session) => session.answers(),
            Err(status) => futures::stream::iter([Err(status)]).boxed(),
        })
        .boxed()
}

impl Session {
    async fn open(
        face: QueueFace,
        mut incoming: Streaming<pb::ReceiveStreamRequest>,
    ) -> Result<Box<Session>, Status> {
        let first = incoming.message().await?.and_then(|frame| frame.request);
        let Some(Request::Open(open)) = first else {
            let allowed = "open, first on every stream, exactly once";
            return Err(Refusal::invalid("request", "does not open the stream", allowed).into());
        };
        let (account, receive) = requests::open_stream(open)?;
        Ok(Box::new(Session {
            face,
            incoming,
            account,
            receive,
            credit: 0,
            receiving: None,
            deletes: FuturesUnordered::new(),
            refused: VecDeque::new(),
            ended: false,
        }))
    }

    fn answers(self: Box<Self>) -> BoxStream<'static, Result<pb::ReceiveStreamResponse, Status>> {
        futures::stream::unfold(Some(self), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
        .boxed()
    }

    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Result<Option<pb::ReceiveStreamResponse>, Status> {
        loop {
            if let Some(deleted) = self.refused.pop_front() {
                let deleted = vec![deleted];
                return Ok(Some(pb::ReceiveStreamResponse { deleted, ..Default::default() }));
            }
            if self.ended && self.deletes.is_empty() {
                return Ok(None);
            }
            if self.receiving.is_none() && self.credit > 0 && !self.ended {
                self.receiving = Some(self.begin_receive());
            }
            let answer = match self.event().await {
                Event::Frame(frame) => {
                    self.take(frame?)?;
                    continue;
                }
                Event::Deleted(first) => self.deleted(first),
                Event::Received(received) => match self.received(received)? {
                    Some(answer) => answer,
                    None => continue,
                },
            };
            return Ok(Some(answer));
        }
    }

    async fn event(&mut self) -> Event {
        let receiving = async {
            match self.receiving.as_mut() {
                Some(receiving) => receiving.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(ended) = self.deletes.next(), if !self.deletes.is_empty() => Event::Deleted(ended),
            received = receiving => {
                self.receiving = None;
                Event::Received(received)
            }
            frame = self.incoming.message(), if !self.ended && self.deletes.len() < STREAM_DELETES => {
                Event::Frame(frame)
            }
        }
    }

    fn begin_receive(&self) -> BoxFuture<'static, Received> {
        let (group, account) = (self.face.group.clone(), self.account.clone());
        let max_messages = self.receive.max_messages.min(self.credit);
        let receive = Receive { max_messages, ..self.receive.clone() };
        async move {
            let deadline = Instant::now() + WAIT + STREAM_ITEM;
            group.receive(&account, &receive, None, WAIT, deadline).await
        }
        .boxed()
    }

    fn take(&mut self, frame: Option<pb::ReceiveStreamRequest>) -> Result<(), Status> {
        let Some(frame) = frame else {
            // What is being received has nowhere to go; a grant on its way will come back when
            // its lease ends.
            self.receiving = None;
            self.ended = true;
            return Ok(());
        };
        match frame.request {
            Some(Request::Credit(credit)) => {
                self.credit = more(self.credit, credit.messages)?;
            }
            Some(Request::Delete(delete)) => self.delete(delete),
            Some(Request::Open(_)) => {
                let allowed = "open, first on every stream, exactly once";
                return Err(Refusal::invalid("open", "came again", allowed).into());
            }
            None => {
                let allowed = "credit or delete";
                return Err(Refusal::invalid("request", "is missing", allowed).into());
            }
        }
        Ok(())
    }

    fn delete(&mut self, delete: pb::ReceiveStreamDelete) {
        let tag = delete.tag;
        match self.begin_delete(delete) {
            Ok(ending) => self.deletes.push(ending),
            Err(refusal) => {
                let result = Some(Deleted::Error(refusal.item()));
                self.refused.push_back(pb::ReceiveStreamDeleted { tag, result });
            }
        }
    }

    fn begin_delete(
        &self,
        delete: pb::ReceiveStreamDelete,
    ) -> Result<BoxFuture<'static, DeleteEnded>, Refusal> {
        let (account, queue) = (self.account.clone(), self.receive.queue.clone());
        let envelope = convert::delete(account, queue, &delete.items, delete.session)?;
        let permit: Permit = self.face.admission.admit(delete.items.len() * 64)?;
        let ending = self.face.group.submit(envelope, Instant::now() + STREAM_ITEM)?;
        let tag = delete.tag;
        let ended = async move {
            let _permit = permit;
            (tag, ending.await)
        };
        Ok(ended.boxed())
    }

    /// Every delete that has ended by now, in one answer.
    fn deleted(&mut self, first: DeleteEnded) -> pb::ReceiveStreamResponse {
        let mut ended = vec![first];
        while let Some(Some(next)) = self.deletes.next().now_or_never() {
            ended.push(next);
        }
        let outcome = |(tag, done): DeleteEnded| {
            let answer = done.map_err(Refusal::from).and_then(|done| self.face.deleted(done));
            let result = Some(match answer {
                Ok(deleted) => Deleted::Deleted(deleted),
                Err(refusal) => Deleted::Error(refusal.item()),
            });
            pb::ReceiveStreamDeleted { tag, result }
        };
        let deleted = ended.into_iter().map(outcome).collect();
        pb::ReceiveStreamResponse { deleted, ..Default::default() }
    }

    fn received(
        &mut self,
        received: Received,
    ) -> Result<Option<pb::ReceiveStreamResponse>, Status> {
        let Some(done) = received.map_err(Refusal::from)? else { return Ok(None) };
        let messages = self.face.received(done)?.messages;
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_sub(count);
        let answer = pb::ReceiveStreamResponse { messages, ..Default::default() };
        Ok((count > 0).then_some(answer))
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("credit", &self.credit).finish_non_exhaustive()
    }
}

/// The credit after more was given.
fn more(credit: u32, given: u32) -> Result<u32, Refusal> {
    let sum = credit.saturating_add(given);
    if sum > STREAM_CREDIT {
        let problem = format!("would come to {sum} messages");
        let allowed = format!("at most {STREAM_CREDIT} outstanding");
        return Err(Refusal::invalid("credit", problem, allowed));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_given_up_to_ten_thousand_messages() {
        assert_eq!(more(0, STREAM_CREDIT).ok(), Some(STREAM_CREDIT));
        assert_eq!(more(STREAM_CREDIT - 1, 1).ok(), Some(STREAM_CREDIT));
        for (credit, given) in [(0, STREAM_CREDIT + 1), (STREAM_CREDIT, 1), (1, u32::MAX)] {
            let refused = Status::from(more(credit, given).expect_err("refused"));
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            let text = refused.message();
            assert!(text.contains("credit would come to") && text.contains("10000"), "{text}");
        }
    }
}
