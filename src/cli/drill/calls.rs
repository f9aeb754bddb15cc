//! The calls of a drill's load on its queue, each written down when it has returned, where the
//! drill is asked for its history.
//!
//! Laws: what is written is what the client library answered. How often it tried is told where it
//! is known: not of receives, which the node that passes one on may try again. Sends share a stream
//! that does not tell; one that stands where its message was made was made by the try that was
//! answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::history::{Answer, Call, Deleted, Mark, New, Outcome, SentMessage, Shown};
use super::recorder::{Recorder, failed, micros, moment};
use crate::client::{
    self, Client, ClientError, DeleteItem, DeleteOutcome, Durability, Message, QueueSettings,
    ReceiveOptions, Received, Sent, Ttl, Update, Updated, counted,
};

/// Priority of a message that names none.
const USUAL: u8 = 4;

/// Who calls, of the load; the drill itself is 0.
pub type Who = u32;

/// One queue, and where calls on it are written down.
#[derive(Debug)]
pub struct Calls {
    client: Client,
    queue: String,
    recorder: Option<Arc<Recorder>>,
}

/// Where a write stands; `None` = the answer does not say.
fn mark(durability: &Durability) -> Option<Mark> {
    let position = &durability.position;
    let at = moment(Some(durability.log_time?));
    Some(Mark { index: position.index, term: position.term, node: position.node, at })
}

/// An answer that may say where it stands.
trait Placed {
    fn durability(&self) -> Option<&Durability>;
}

macro_rules! placed {
    ($($answer:ty),*) => {$(
        impl Placed for $answer {
            fn durability(&self) -> Option<&Durability> {
                Some(&self.durability)
            }
        }
    )*};
}

placed!(client::CreatedQueue, Sent, Updated, client::Deleted);

impl Placed for Received {
    fn durability(&self) -> Option<&Durability> {
        self.durability.as_ref()
    }
}

/// An answer with a place in the log.
fn placed(durability: &Durability, answer: impl FnOnce(Mark) -> Answer) -> Outcome {
    match mark(durability) {
        Some(mark) => Outcome::Ok(answer(mark)),
        None => Outcome::Unknown("the answer does not say where it stands".to_owned()),
    }
}

fn sent_message(sent: &client::SentMessage) -> SentMessage {
    SentMessage {
        id: sent.id.clone(),
        receipt: sent.pop_receipt.clone(),
        inserted_at: moment(sent.inserted_at),
        expires_at: sent.expires_at.map(|at| moment(Some(at))),
        visible_at: moment(sent.visible_at),
        duplicate: sent.duplicate,
    }
}

fn shown(message: &Message, tag: Option<u64>) -> Shown {
    Shown {
        id: message.id.clone(),
        tag,
        receipt: message.pop_receipt.clone(),
        inserted_at: moment(message.inserted_at),
        expires_at: message.expires_at.map(|at| moment(Some(at))),
        visible_at: moment(message.visible_at),
        dequeue_count: message.dequeue_count,
        priority: u8::try_from(message.priority).unwrap_or(u8::MAX),
        group: None,
        dead: None,
        redriven: None,
        standing: None,
    }
}

fn deleted(outcome: DeleteOutcome) -> Deleted {
    match outcome {
        DeleteOutcome::Deleted => Deleted::Done,
        DeleteOutcome::ReceiptMismatch => Deleted::Mismatch,
        DeleteOutcome::MessageNotFound | DeleteOutcome::Unspecified => Deleted::NotFound,
    }
}

impl Calls {
    pub fn new(client: Client, queue: String, recorder: Option<Arc<Recorder>>) -> Calls {
        Calls { client, queue, recorder }
    }

    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.as_ref()
    }

    /// Makes a call and writes down what came of it.
    async fn recorded<T: Placed>(
        &self,
        who: Who,
        call: impl Future<Output = Result<T, ClientError>>,
        words: impl FnOnce() -> Call,
        told: impl FnOnce(&T) -> Outcome,
    ) -> Result<T, ClientError> {
        let Some(recorder) = &self.recorder else { return call.await };
        let begun = recorder.begin(who);
        let (answer, tries) = counted(call).await;
        let outcome = answer.as_ref().map_or_else(failed, told);
        let words = words();
        let tries = match (&words, &outcome) {
            (Call::Receive { .. }, _) => 0,
            (Call::Send { .. }, Outcome::Ok(Answer::Sent { mark, messages })) => {
                u32::from(messages.iter().all(|sent| sent.inserted_at == mark.at))
            }
            _ => tries,
        };
        let placed = answer.as_ref().ok().and_then(Placed::durability);
        recorder.op(begun, words, (outcome, tries, placed.map(|placed| placed.epoch)));
        answer
    }

    /// Makes the queue, whose messages never expire.
    pub async fn create(&self) -> Result<(), ClientError> {
        let settings = QueueSettings { default_ttl: Ttl::Never, ..QueueSettings::default() };
        let call = self.client.create_queue(&self.queue, BTreeMap::new(), settings);
        let words = || Call::Create { queue: self.queue.clone() };
        let told =
            |made: &client::CreatedQueue| placed(&made.durability, |mark| Answer::Done { mark });
        self.recorded(0, call, words, told).await.map(drop)
    }

    /// Messages that are left. It is no part of the history.
    pub async fn left(&self) -> Result<u64, ClientError> {
        Ok(self.client.queue(&self.queue).await?.counts.total)
    }

    /// Removes the queue, which is no part of the history: it is over by then.
    pub async fn remove(&self) -> Result<(), ClientError> {
        self.client.delete_queue(&self.queue).await.map(drop)
    }

    /// Sends the message of a number.
    pub async fn send(&self, who: Who, number: u64, body: Bytes) -> Result<Sent, ClientError> {
        let call = self.client.send(&self.queue, body);
        let words = || {
            let new = New { tag: number, priority: USUAL, ..New::default() };
            Call::Send { queue: self.queue.clone(), messages: vec![new] }
        };
        let told = |sent: &Sent| {
            let messages = vec![sent_message(&sent.message)];
            placed(&sent.durability, |mark| Answer::Sent { mark, messages })
        };
        self.recorded(who, call, words, told).await
    }

    /// Receives under leases of that length; `number` reads whose body it is.
    pub async fn receive(
        &self,
        who: Who,
        (max, lease, wait): (u32, Duration, Duration),
        number: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<Received, ClientError> {
        let options = ReceiveOptions { max_messages: max, visibility_timeout: Some(lease), wait };
        let call = self.client.receive(&self.queue, options);
        let words = || {
            let (queue, visibility) = (self.queue.clone(), micros(lease));
            Call::Receive { queue, max, visibility }
        };
        let told = |received: &Received| {
            let all = received.messages.iter();
            let messages: Vec<Shown> = all.map(|one| shown(one, number(&one.body))).collect();
            let mark = received.durability.as_ref().and_then(mark);
            match mark {
                None if !messages.is_empty() => {
                    Outcome::Unknown("the answer does not say where it stands".to_owned())
                }
                _ => Outcome::Ok(Answer::Received { mark, messages, more: received.more }),
            }
        };
        self.recorded(who, call, words, told).await
    }

    /// Moves a lease to so long from now.
    pub async fn update(
        &self,
        who: Who,
        message: &Message,
        lease: Duration,
    ) -> Result<Updated, ClientError> {
        let (id, receipt) = (&message.id, &message.pop_receipt);
        let update = Update { visibility_timeout: Some(lease), ..Update::default() };
        let call = self.client.update(&self.queue, id, receipt, update);
        let words = || {
            let (queue, visibility) = (self.queue.clone(), Some(micros(lease)));
            let (id, receipt, tag) = (id.clone(), receipt.clone(), None);
            Call::Update { queue, id, receipt, visibility, tag }
        };
        let told = |updated: &Updated| {
            let (receipt, visible_at) = (updated.pop_receipt.clone(), moment(updated.visible_at));
            placed(&updated.durability, |mark| Answer::Updated { mark, receipt, visible_at })
        };
        self.recorded(who, call, words, told).await
    }

    pub async fn delete(
        &self,
        who: Who,
        items: Vec<DeleteItem>,
    ) -> Result<client::Deleted, ClientError> {
        let call = self.client.delete_batch(&self.queue, items.clone());
        let words = || {
            let items = items.into_iter().map(|item| (item.id, item.pop_receipt)).collect();
            Call::Delete { queue: self.queue.clone(), items }
        };
        let told = |done: &client::Deleted| {
            let outcomes = done.outcomes.iter().map(|outcome| deleted(*outcome)).collect();
            placed(&done.durability, |mark| Answer::Deleted { mark, outcomes })
        };
        self.recorded(who, call, words, told).await
    }
}
