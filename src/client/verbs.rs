//! The verbs of the queue service that are one call each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::builder::Client;
use super::call::{Plan, Safety, check_size, run};
use super::epochs::Line;
use super::error::{ClientError, Reason};
use super::standby;
use super::types::{
    self, Cleared, CreatedQueue, DeleteItem, DeleteOutcome, Deleted, Durability, DurabilityNow,
    ListQueues, Message, MessageState, NewMessage, OtherRegion, PeekOptions, PeekPage, Position,
    Queue, QueuePage, QueueSettings, ReceiveOptions, Received, ReleaseAfter, ReleaseOutcome,
    Released, Sent, SentBatch, ShownMessage, Transaction, Update, Updated,
};
use crate::proto::queue::v1 as pb;
use pb::queue_service_client::QueueServiceClient;

/// The largest answer that is taken.
const ANSWER_BYTES: usize = 8 << 20;

pub(super) fn service(line: Line) -> QueueServiceClient<Line> {
    QueueServiceClient::new(line)
        .max_decoding_message_size(ANSWER_BYTES)
        .max_encoding_message_size(ANSWER_BYTES)
}

/// Makes one unary call under a plan: `call!(client, plan, method, request)`, with the field
/// `session` set when the request has one.
macro_rules! call {
    ($client:expr, $plan:expr, $method:ident, $request:expr) => {{
        let request = $request;
        let attempt = |attempt: $crate::client::call::Attempt| {
            let message = attempt.request(request.clone());
            async move { service(attempt.line).$method(message).await }
        };
        match $crate::client::call::check_size(&request) {
            Ok(()) => run(&$client.shared.pool, &$plan, attempt).await,
            Err(error) => Err(error),
        }
    }};
    ($client:expr, $plan:expr, $method:ident, session $request:expr) => {{
        let request = $request;
        let attempt = |attempt: $crate::client::call::Attempt| {
            let mut message = attempt.request(request.clone());
            message.get_mut().session = attempt.session.clone();
            async move { service(attempt.line).$method(message).await }
        };
        match $crate::client::call::check_size(&request) {
            Ok(()) => run(&$client.shared.pool, &$plan, attempt).await,
            Err(error) => Err(error),
        }
    }};
}

pub(super) use call;

/// Metadata and headers: name to value.
pub type StringMap = BTreeMap<String, String>;

impl Client {
    /// Creates a queue; an equal one that exists already is no error.
    pub async fn create_queue(
        &self,
        name: &str,
        metadata: StringMap,
        settings: QueueSettings,
    ) -> Result<CreatedQueue, ClientError> {
        let request = pb::CreateQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            metadata,
            settings: Some(settings.to_wire()?),
            session: None,
        };
        let answer = call!(self, self.write_plan(), create_queue, session request)?;
        Ok(CreatedQueue {
            queue: answer.queue.map(Queue::from).unwrap_or_default(),
            created: answer.created,
            durability: types::durability(answer.durability),
        })
    }

    /// Deletes a queue and all its messages; see [`Client::undelete_queue`].
    pub async fn delete_queue(&self, name: &str) -> Result<Durability, ClientError> {
        let request = pb::DeleteQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), delete_queue, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// Brings a deleted queue back, whole, while its undelete window lasts: the one of this name
    /// that was deleted last, or the one with the id; under another name if one is given.
    pub async fn undelete_queue(
        &self,
        name: &str,
        id: Option<u64>,
        new_name: Option<&str>,
    ) -> Result<Durability, ClientError> {
        let request = pb::UndeleteQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            id: id.unwrap_or(0),
            new_name: new_name.unwrap_or_default().to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), undelete_queue, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// A queue's settings, metadata and exact counts.
    pub async fn queue(&self, name: &str) -> Result<Queue, ClientError> {
        self.queue_within(name, None).await
    }

    /// The same from any node, from a state at most this old.
    pub async fn queue_within(
        &self,
        name: &str,
        max_staleness: Option<Duration>,
    ) -> Result<Queue, ClientError> {
        let request = pb::GetQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            max_staleness: types::wire_some(max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), get_queue, request)?;
        Ok(answer.queue.map(Queue::from).unwrap_or_default())
    }

    /// One page of queues by name.
    pub async fn list_queues(&self, options: ListQueues) -> Result<QueuePage, ClientError> {
        let request = pb::ListQueuesRequest {
            account: self.shared.account.clone(),
            prefix: options.prefix,
            page_size: options.page_size,
            page_token: options.page_token.unwrap_or_default(),
            max_staleness: types::wire_some(options.max_staleness)?,
            deleted: options.deleted,
        };
        let answer = call!(self, self.read_plan(), list_queues, request)?;
        Ok(QueuePage {
            queues: answer.queues.into_iter().map(Queue::from).collect(),
            next_page_token: types::token(answer.next_page_token),
            log_time: types::time(answer.log_time),
        })
    }

    /// Replaces a queue's metadata.
    pub async fn set_metadata(
        &self,
        name: &str,
        metadata: StringMap,
    ) -> Result<Durability, ClientError> {
        let request = pb::SetQueueMetadataRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            metadata,
            session: None,
        };
        let answer = call!(self, self.write_plan(), set_queue_metadata, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// Replaces a queue's settings.
    pub async fn set_settings(
        &self,
        name: &str,
        settings: QueueSettings,
    ) -> Result<Durability, ClientError> {
        let request = pb::SetQueueSettingsRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            settings: Some(settings.to_wire()?),
            session: None,
        };
        let answer = call!(self, self.write_plan(), set_queue_settings, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// Stops receives: they find nothing until [`Client::resume_queue`]. Everything else works.
    pub async fn pause_queue(&self, name: &str) -> Result<Durability, ClientError> {
        let request = pb::PauseQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), pause_queue, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// Lets receives go on, and wakes those that wait.
    pub async fn resume_queue(&self, name: &str) -> Result<Durability, ClientError> {
        let request = pb::ResumeQueueRequest {
            account: self.shared.account.clone(),
            name: name.to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), resume_queue, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// Sends one message. Sends made at the same time share a stream and its frames.
    pub async fn send(
        &self,
        queue: &str,
        message: impl Into<NewMessage>,
    ) -> Result<Sent, ClientError> {
        let batch = self.send_batch(queue, vec![message.into()]).await?;
        let message = batch.messages.into_iter().next().ok_or_else(|| ClientError::Fatal {
            message: "the acknowledgement names no message".to_owned(),
        })?;
        Ok(Sent { message, durability: batch.durability })
    }

    /// Sends 1 to 1000 messages of 4 MiB together at most, all or none.
    pub async fn send_batch(
        &self,
        queue: &str,
        messages: Vec<NewMessage>,
    ) -> Result<SentBatch, ClientError> {
        let request = self.send_request(queue, messages)?;
        // On a shared stream it would disturb the others.
        check_size(&request)?;
        let deadline = Instant::now() + self.shared.write_deadline();
        let answer = self.shared.lane().send(request, deadline).await?;
        Ok(SentBatch::from(answer))
    }

    /// The same as a unary call of its own, and not on a shared stream: for who sends now and
    /// then, or through a proxy that carries no streams.
    pub async fn send_batch_unary(
        &self,
        queue: &str,
        messages: Vec<NewMessage>,
    ) -> Result<SentBatch, ClientError> {
        let request = self.send_request(queue, messages)?;
        let answer = call!(self, self.write_plan(), send, session request)?;
        Ok(SentBatch::from(answer))
    }

    fn send_request(
        &self,
        queue: &str,
        messages: Vec<NewMessage>,
    ) -> Result<pb::SendRequest, ClientError> {
        Ok(pb::SendRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            messages: messages.into_iter().map(NewMessage::into_wire).collect::<Result<_, _>>()?,
            session: None,
        })
    }

    /// Leases visible messages; empty when none came within `wait`.
    pub async fn receive(
        &self,
        queue: &str,
        options: ReceiveOptions,
    ) -> Result<Received, ClientError> {
        let until = Instant::now() + options.wait;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            let received = self.receive_once(queue, ReceiveOptions { wait, ..options }).await;
            match received {
                Err(error) if standby::is_refused(&error) && Instant::now() < until => {
                    standby::wait(&self.shared.pool, until).await;
                }
                received => return received,
            }
        }
    }

    async fn receive_once(
        &self,
        queue: &str,
        options: ReceiveOptions,
    ) -> Result<Received, ClientError> {
        let request = pb::ReceiveRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            max_messages: options.max_messages,
            visibility_timeout: types::wire_some(options.visibility_timeout)?,
            wait: Some(types::wire(options.wait)?),
            session: None,
        };
        let session = self.shared.sessions.then(|| self.shared.take_receive_session());
        let safety = session.clone().map_or(Safety::OnlyIfNotApplied, Safety::Session);
        let mut plan = self.plan(safety);
        plan.deadline += options.wait;
        plan.attempt += options.wait;
        let answer = call_receive(self, &plan, request, options.wait).await?;
        // After a failure the session is not kept: an attempt may still be under way.
        if let Some(session) = session {
            if answer.messages.is_empty() {
                session.not_recorded();
            } else {
                session.recorded();
            }
            self.shared.keep_receive_session(session);
        }
        Ok(Received {
            messages: answer.messages.into_iter().map(Message::from).collect(),
            more: answer.more,
            durability: answer.durability.map(Durability::from),
        })
    }

    /// Changes a message's lease, body or headers; answers the receipt to use from here on.
    pub async fn update(
        &self,
        queue: &str,
        id: &str,
        pop_receipt: &str,
        update: Update,
    ) -> Result<Updated, ClientError> {
        let request = pb::UpdateRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            id: id.to_owned(),
            pop_receipt: pop_receipt.to_owned(),
            visibility_timeout: types::wire_some(update.visibility_timeout)?,
            body: update.body,
            headers: update.headers.map(|values| pb::Headers { values }),
            session: None,
        };
        let answer = call!(self, self.write_plan(), update, session request)?;
        Ok(Updated {
            pop_receipt: answer.pop_receipt,
            visible_at: types::time(answer.visible_at),
            durability: types::durability(answer.durability),
        })
    }

    /// Deletes one message; a message that is gone or a receipt that is old is a refusal.
    pub async fn delete(
        &self,
        queue: &str,
        id: &str,
        pop_receipt: &str,
    ) -> Result<Durability, ClientError> {
        let item = DeleteItem { id: id.to_owned(), pop_receipt: pop_receipt.to_owned() };
        let deleted = self.delete_batch(queue, vec![item]).await?;
        single_outcome(queue, id, &deleted.outcomes)?;
        Ok(deleted.durability)
    }

    /// Deletes 1 to 1000 messages; each has its own outcome.
    pub async fn delete_batch(
        &self,
        queue: &str,
        items: Vec<DeleteItem>,
    ) -> Result<Deleted, ClientError> {
        let request = pb::DeleteRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            items: types::wire_items(items),
            session: None,
        };
        let answer = call!(self, self.write_plan(), delete, session request)?;
        Ok(Deleted::from(answer))
    }

    /// Deletes and sends as one step. The messages are answered queue by queue, in the order of
    /// the queues' names.
    pub async fn transact(&self, transaction: Transaction) -> Result<SentBatch, ClientError> {
        let delete = |(queue, item): (String, DeleteItem)| pb::TransactDelete {
            queue,
            id: item.id,
            pop_receipt: item.pop_receipt,
        };
        let send = |(queue, messages): (String, Vec<NewMessage>)| {
            let messages = messages.into_iter().map(NewMessage::into_wire);
            Ok(pb::TransactSend { queue, messages: messages.collect::<Result<_, ClientError>>()? })
        };
        let request = pb::TransactRequest {
            account: self.shared.account.clone(),
            deletes: transaction.deletes.into_iter().map(delete).collect(),
            sends: transaction.sends.into_iter().map(send).collect::<Result<_, ClientError>>()?,
            session: None,
        };
        let answer = call!(self, self.write_plan(), transact, session request)?;
        Ok(SentBatch {
            messages: answer.messages.into_iter().map(types::SentMessage::from).collect(),
            durability: types::durability(answer.durability),
        })
    }

    /// Gives 1 to 1000 messages back; each has its own result. Their receipts are void after it.
    pub async fn release(
        &self,
        queue: &str,
        items: Vec<DeleteItem>,
        after: ReleaseAfter,
    ) -> Result<Released, ClientError> {
        use pb::release_request::After;
        let after = match after {
            ReleaseAfter::Now => None,
            ReleaseAfter::Delay(delay) => Some(After::Delay(types::wire(delay)?)),
            ReleaseAfter::BackOff => Some(After::BackOff(true)),
        };
        let item =
            |item: DeleteItem| pb::ReleaseItem { id: item.id, pop_receipt: item.pop_receipt };
        let request = pb::ReleaseRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            items: items.into_iter().map(item).collect(),
            after,
            session: None,
        };
        let answer = call!(self, self.write_plan(), release, session request)?;
        Ok(Released::from(answer))
    }

    /// Gives one message back; a message that is gone or a receipt that is old is a refusal.
    /// Answers when it may be received again.
    pub async fn release_one(
        &self,
        queue: &str,
        id: &str,
        pop_receipt: &str,
        after: ReleaseAfter,
    ) -> Result<(Option<SystemTime>, Durability), ClientError> {
        let item = DeleteItem { id: id.to_owned(), pop_receipt: pop_receipt.to_owned() };
        let released = self.release(queue, vec![item], after).await?;
        let result = released.results.first().copied().unwrap_or_default();
        single_outcome(
            queue,
            id,
            &[match result.outcome {
                ReleaseOutcome::Released => DeleteOutcome::Deleted,
                ReleaseOutcome::MessageNotFound => DeleteOutcome::MessageNotFound,
                ReleaseOutcome::ReceiptMismatch => DeleteOutcome::ReceiptMismatch,
                ReleaseOutcome::Unspecified => DeleteOutcome::Unspecified,
            }],
        )?;
        Ok((result.visible_at, released.durability))
    }

    /// Shows messages without leasing them.
    pub async fn peek(&self, queue: &str, options: PeekOptions) -> Result<PeekPage, ClientError> {
        let request = pb::PeekRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            max_messages: options.max_messages,
            state: options.state.unwrap_or_default().into(),
            page_token: options.page_token.unwrap_or_default(),
            max_staleness: types::wire_some(options.max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), peek, request)?;
        Ok(PeekPage {
            messages: answer.messages.into_iter().map(Message::from).collect(),
            next_page_token: types::token(answer.next_page_token),
            log_time: types::time(answer.log_time),
        })
    }

    /// Reads one message by id without leasing it.
    pub async fn get(&self, queue: &str, id: &str) -> Result<ShownMessage, ClientError> {
        self.get_within(queue, id, None).await
    }

    /// As [`Client::get`]; any node may answer, from a state at most this old. `None` = the newest.
    pub async fn get_within(
        &self,
        queue: &str,
        id: &str,
        max_staleness: Option<Duration>,
    ) -> Result<ShownMessage, ClientError> {
        let request = pb::GetMessageRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            id: id.to_owned(),
            max_staleness: types::wire_some(max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), get_message, request)?;
        Ok(ShownMessage {
            state: MessageState::try_from(answer.state).unwrap_or_default(),
            message: answer.message.map(Message::from).unwrap_or_default(),
            log_time: types::time(answer.log_time),
        })
    }

    /// Removes every message of a queue.
    pub async fn clear(&self, queue: &str) -> Result<Cleared, ClientError> {
        let request = pb::ClearRequest {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            session: None,
        };
        let answer = call!(self, self.write_plan(), clear, session request)?;
        Ok(Cleared { removed: answer.removed, durability: types::durability(answer.durability) })
    }

    /// In how many zones a position is durable now, and whether the other region has it.
    pub async fn durability(&self, position: Position) -> Result<DurabilityNow, ClientError> {
        let request = pb::GetDurabilityRequest { position: Some(position) };
        let answer = call!(self, self.read_plan(), get_durability, request)?;
        Ok(DurabilityNow {
            committed: answer.committed,
            zones_at_least: answer.zones_at_least,
            zones: answer.zones,
            other_region: OtherRegion::try_from(answer.other_region).unwrap_or_default(),
        })
    }
}

/// A receive whose later attempts wait only for what is left.
async fn call_receive(
    client: &Client,
    plan: &Plan,
    request: pb::ReceiveRequest,
    wait: Duration,
) -> Result<pb::ReceiveResponse, ClientError> {
    check_size(&request)?;
    let until = Instant::now() + wait;
    run(&client.shared.pool, plan, |attempt| {
        let mut message = attempt.request(request.clone());
        let left = until.saturating_duration_since(Instant::now());
        message.get_mut().session = attempt.session.clone();
        message.get_mut().wait = prost_types::Duration::try_from(left).ok();
        async move { service(attempt.line).receive(message).await }
    })
    .await
}

/// Turns the outcome of a delete of one message into a result.
pub(super) fn single_outcome(
    queue: &str,
    id: &str,
    outcomes: &[DeleteOutcome],
) -> Result<(), ClientError> {
    let refused = |reason, message: String| Err(ClientError::rejected(reason, message));
    match outcomes.first() {
        Some(DeleteOutcome::Deleted) => Ok(()),
        Some(DeleteOutcome::MessageNotFound) => {
            refused(Reason::MessageNotFound, format!("message {id} is not in queue {queue:?}"))
        }
        Some(DeleteOutcome::ReceiptMismatch) => refused(
            Reason::ReceiptMismatch,
            format!("the pop receipt of message {id} is no longer valid"),
        ),
        Some(DeleteOutcome::Unspecified) | None => Err(ClientError::Fatal {
            message: format!("the answer does not say what became of message {id}"),
        }),
    }
}
