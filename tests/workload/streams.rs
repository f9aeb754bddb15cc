//! Streams: many sends in flight on one, and messages that come without being asked for one by
//! one.
//!
//! Laws: a send or a delete that a stream leaves open goes on as a call of its own, under the same
//! session. Of a stream that ends with credit left nobody knows whether more was on its way.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use zoneq::proto::queue::v1 as pb;

use super::held::{delete_request, given};
use super::messages::{read_sent, send_request};
use super::wire::{fate, fate_of_item};
use super::{Client, Held, Pending, Told, WITHIN, Worker, wire};
use crate::history::{Answer, Call, Item, New, Outcome};

/// Frames on their way to a node.
const FRAMES: usize = 8;

/// A stream that ended, or said nothing in time.
fn silent(why: Option<&tonic::Status>) -> Outcome {
    match why.map(fate) {
        // What a stream says at its end is not said of any one call.
        Some(Outcome::Unknown(why) | Outcome::Failed(why)) => Outcome::Unknown(why),
        _ => Outcome::Unknown("the stream said nothing in time".to_owned()),
    }
}

impl Worker {
    pub(super) async fn send_by_stream(&mut self) {
        let queue = self.any(|plan| plan.streams);
        let mut sends: Vec<Vec<New>> = Vec::new();
        for _ in 0..2 + self.dice.below(4) {
            let count = 1 + self.dice.below(2);
            sends.push((0..count).map(|_| self.new_message(&queue)).collect());
        }
        let call =
            |messages: &Vec<New>| Call::Send { queue: queue.clone(), messages: messages.clone() };
        let pending = self.begin_writes(sends.iter().map(call).collect());
        let of = |messages: &Vec<New>| messages.iter().map(wire::new_message).collect();
        let wires: Vec<Vec<pb::NewMessage>> = sends.iter().map(of).collect();
        let items = pending.iter().zip(&wires).map(|(pending, messages)| pb::SendStreamItem {
            tag: pending.session.sequence,
            send: Some(send_request(&queue, messages, pending.session())),
        });
        let mut told = self.stream_sends(items.collect()).await;
        let region = self.asked.get();
        for (mut pending, wire) in pending.into_iter().zip(wires) {
            let of_stream = told.remove(&pending.session.sequence);
            let of_stream = of_stream.unwrap_or_else(|| Err(silent(None)));
            let told = match of_stream {
                Ok(answer) => {
                    *self.history.lock().verbs.entry("SendStream").or_default() += 1;
                    self.asked.set(region);
                    self.settle(pending, false, Ok(answer))
                }
                Err(outcome) => {
                    if matches!(outcome, Outcome::Unknown(_)) {
                        pending.doubts.push(region);
                    }
                    let request = |session| send_request(&queue, &wire, session);
                    let ask = |mut node: Client, r| async move { node.send(r).await };
                    self.finish(pending, false, request, ask, read_sent).await
                }
            };
            self.remember_sent(std::slice::from_ref(&queue), told.as_ref());
        }
    }

    /// What a stream answered of each send, by its tag.
    async fn stream_sends(&self, items: Vec<pb::SendStreamItem>) -> BTreeMap<u64, Told<Answer>> {
        let (mut told, wanted) = (BTreeMap::new(), items.len());
        let Ok(mut node) = self.node() else { return told };
        let (frames, receiver) = mpsc::channel(FRAMES);
        // There is room for the first.
        let _ = frames.try_send(pb::SendStreamRequest { items });
        let talk = async {
            let opened = node.send_stream(ReceiverStream::new(receiver)).await;
            let Ok(mut answers) = opened.map(tonic::Response::into_inner) else { return };
            while told.len() < wanted
                && let Ok(Some(frame)) = answers.message().await
            {
                for result in frame.results {
                    use pb::send_stream_result::Result as Sent;
                    let of_item = match result.result {
                        Some(Sent::Sent(sent)) => read_sent(sent),
                        Some(Sent::Error(error)) => Err(fate_of_item(&error)),
                        None => Err(silent(None)),
                    };
                    told.insert(result.tag, of_item);
                }
            }
        };
        let _ = tokio::time::timeout(WITHIN, talk).await;
        told
    }

    /// Takes messages from a stream, and deletes what came first on the same stream.
    pub(super) async fn receive_by_stream(&mut self) {
        let queue = self.any(|plan| plan.streams);
        let max = 1 + self.dice.below(4) as u32;
        let visibility = 200_000 + self.dice.below(2_500_000);
        let call = || Call::Receive { queue: queue.clone(), max, visibility };
        // What may be given after the first answer is a receive of its own.
        let (first, more) = (self.begin_read(call()), self.begin_read(call()));
        let mut stream = match self.open_stream(&queue, max, visibility).await {
            Ok(stream) => stream,
            Err(outcome) => {
                self.end(first, 1, Err(outcome));
                self.end(more, 1, Err(Outcome::Failed("nothing came".to_owned())));
                return;
            }
        };
        let told = stream.messages().await;
        let count = match &told {
            Ok(Answer::Received { messages, .. }) => messages.len() as u32,
            _ => 0,
        };
        let told = self.end(first, 1, told);
        let open = count > 0 && count < max;
        let outcome = if open {
            Outcome::Unknown("there was credit left".to_owned())
        } else {
            Outcome::Failed("there was no credit for more".to_owned())
        };
        self.end(more, 1, Err(outcome));
        let mut given = given(&queue, told.as_ref());
        if let Some(held) = given.pop() {
            self.hold(given);
            self.delete_by_stream(&mut stream, held).await;
        }
    }

    async fn delete_by_stream(&mut self, stream: &mut Incoming, held: Held) {
        let items: Vec<Item> = vec![held.item()];
        let wires: Vec<pb::DeleteItem> = items.iter().map(wire::delete_item).collect();
        let queue = held.queue.clone();
        let call = Call::Delete { queue: queue.clone(), items };
        let Some(mut pending): Option<Pending> = self.begin_write(call) else { return };
        match stream.delete(wires.clone(), pending.session()).await {
            Ok(answer) => {
                self.settle(pending, false, Ok(answer));
            }
            Err(outcome) => {
                if matches!(outcome, Outcome::Unknown(_)) {
                    pending.doubts.push(self.asked.get());
                }
                let request = |session| delete_request(&queue, &wires, session);
                let ask = |mut node: Client, r| async move { node.delete(r).await };
                let read = |answer: pb::DeleteResponse| wire::deleted(&answer);
                self.finish(pending, false, request, ask, read).await;
            }
        }
    }

    async fn open_stream(&self, queue: &str, max: u32, visibility: u64) -> Told<Incoming> {
        use pb::receive_stream_request::Request;
        let mut node = self.node()?;
        let (frames, receiver) = mpsc::channel(FRAMES);
        let open = pb::ReceiveStreamOpen {
            account: wire::account(queue),
            queue: queue.to_owned(),
            visibility_timeout: Some(wire::span(visibility)),
            max_batch: max,
        };
        let credit = pb::ReceiveStreamCredit { messages: max };
        for request in [Request::Open(open), Request::Credit(credit)] {
            // There is room for the first.
            let _ = frames.try_send(pb::ReceiveStreamRequest { request: Some(request) });
        }
        let opening = node.receive_stream(ReceiverStream::new(receiver));
        match tokio::time::timeout(WITHIN, opening).await {
            Ok(Ok(answers)) => Ok(Incoming { frames, answers: answers.into_inner() }),
            Ok(Err(status)) => Err(silent(Some(&status))),
            Err(_) => Err(silent(None)),
        }
    }
}

/// A stream of messages.
struct Incoming {
    frames: mpsc::Sender<pb::ReceiveStreamRequest>,
    answers: tonic::Streaming<pb::ReceiveStreamResponse>,
}

impl Incoming {
    async fn next(&mut self) -> Told<pb::ReceiveStreamResponse> {
        match tokio::time::timeout(WITHIN, self.answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(status)) => Err(silent(Some(&status))),
            Ok(Ok(None)) | Err(_) => Err(silent(None)),
        }
    }

    /// The first messages that come.
    async fn messages(&mut self) -> Told<Answer> {
        let answer = self.next().await?;
        let messages = answer.messages.iter().map(|message| wire::shown(message, None)).collect();
        Ok(Answer::Received { mark: None, messages, more: true })
    }

    async fn delete(&mut self, items: Vec<pb::DeleteItem>, session: pb::Session) -> Told<Answer> {
        use pb::receive_stream_deleted::Result as Deleted;
        use pb::receive_stream_request::Request;
        let tag = session.sequence;
        let delete = pb::ReceiveStreamDelete { tag, items, session: Some(session) };
        let request = Some(Request::Delete(delete));
        // It has taken two frames at most.
        let _ = self.frames.try_send(pb::ReceiveStreamRequest { request });
        loop {
            // Messages that came meanwhile go back when their leases end.
            let deleted = self.next().await?.deleted.into_iter().find(|deleted| deleted.tag == tag);
            match deleted.map(|deleted| deleted.result) {
                Some(Some(Deleted::Deleted(deleted))) => return wire::deleted(&deleted),
                Some(Some(Deleted::Error(error))) => return Err(fate_of_item(&error)),
                Some(None) => return Err(silent(None)),
                None => {}
            }
        }
    }
}
