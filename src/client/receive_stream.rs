//! A stream of received messages: credit goes out, messages come in, deletes ride on it too.
//!
//! Laws: never more messages than the credit are held here, whose leases run meanwhile. A stream
//! that breaks is opened again at the next node; unanswered deletes are written again under the
//! same session. Messages that were on their way when it broke come again once their leases have
//! run out: delivery is at least once. Only a refusal, its limit or its reader ends it. More than
//! the limit is never asked for; a reader who ends it is given what came and was not taken.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::backoff::Backoff;
use super::builder::Client;
use super::call::{check_size, report};
use super::endpoints::{Choice, Pick, Pool};
use super::error::{ClientError, Failure, Verdict};
use super::outbox::{Outbox, Patience, Waiter};
use super::send_stream::{TICK, next};
use super::shelf::{self, Reader, Stock};
use super::standby;
use super::types::{self, DeleteItem, Deleted, Message};
use super::verbs::{service, single_outcome};
use crate::proto::queue::v1 as pb;
use pb::receive_stream_request::Request;

const MOST_CREDIT: u32 = 10_000;
const MOST_BATCH: u32 = 1_000;
/// Deletes that wait to be written.
const WAITING: usize = 1_024;
/// Deletes that are joined into one write.
const JOINED: usize = 100;
const FRAMES: usize = 16;
const GRACE: Duration = Duration::from_millis(500);
/// How long a stream that is ended may take to hand out what was on its way.
const FINISH: Duration = Duration::from_secs(1);
/// Between two rounds over nodes that all take no writes.
const STAND_BY: Duration = Duration::from_millis(200);

/// How a stream receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// `None` = the queue's default.
    pub visibility_timeout: Option<Duration>,
    /// Messages in one answer at most; 1 to 1000.
    pub max_batch: u32,
    /// Messages that may be on their way or wait here; 1 to 10000.
    pub credit: u32,
    /// Messages in all, from 1: then the stream ends. `None` = it goes on.
    pub limit: Option<u64>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions { visibility_timeout: None, max_batch: 100, credit: 100, limit: None }
    }
}

/// Received messages, one after the other. Dropping it ends the stream.
#[derive(Debug)]
pub struct ReceiveStream {
    shelf: Reader,
    acks: Acks,
}

/// Deletes messages over the stream they came on; for many workers, clone it.
#[derive(Clone, Debug)]
pub struct Acks {
    jobs: mpsc::Sender<Job>,
    queue: Arc<str>,
    deadline: Duration,
}

#[derive(Debug)]
struct Job {
    items: Vec<DeleteItem>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Deleted, ClientError>>,
}

impl Client {
    /// Receives messages as they come. The stream opens in the background and again after
    /// failures.
    pub fn receive_stream(
        &self,
        queue: &str,
        options: StreamOptions,
    ) -> Result<ReceiveStream, ClientError> {
        for (name, value, most) in
            [("credit", options.credit, MOST_CREDIT), ("max_batch", options.max_batch, MOST_BATCH)]
        {
            if value == 0 || value > most {
                let text = format!("{name} is {value}; allowed: 1 to {most}");
                return Err(ClientError::Invalid(text));
            }
        }
        if options.limit == Some(0) {
            return Err(ClientError::Invalid("limit is 0; allowed: 1 or more".to_owned()));
        }
        let open = pb::ReceiveStreamOpen {
            account: self.shared.account.clone(),
            queue: queue.to_owned(),
            visibility_timeout: types::wire_some(options.visibility_timeout)?,
            max_batch: options.max_batch,
        };
        let (jobs, waiting) = mpsc::channel(WAITING);
        let (stock, shelf) = shelf::new();
        let task = Task {
            open,
            credit: options.credit,
            left: options.limit,
            asked: 0,
            stock,
            waiting,
            outbox: Outbox::new(self.shared.sessions, self.shared.pool.len()),
            patience: Patience::new(self.shared.attempt),
        };
        tokio::spawn(task.run(self.shared.pool.clone()));
        let acks = Acks { jobs, queue: Arc::from(queue), deadline: self.shared.write_deadline() };
        Ok(ReceiveStream { shelf, acks })
    }
}

impl ReceiveStream {
    /// The next message, waiting for it as long as it takes. After an error there is no more, nor
    /// after as many as the limit says.
    pub async fn next(&mut self) -> Option<Result<Message, ClientError>> {
        self.shelf.next().await
    }

    /// The next message and up to `most` in all that are here already: for workers that take
    /// many at once. `None` and an error as in [`next`](Self::next); never an empty list unless
    /// `most` is 0.
    pub async fn next_batch(&mut self, most: usize) -> Option<Result<Vec<Message>, ClientError>> {
        if most == 0 {
            return Some(Ok(Vec::new()));
        }
        let first = match self.shelf.next().await? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut taken = vec![first];
        self.shelf.take(most - 1, &mut taken);
        Some(Ok(taken))
    }

    /// Deletes a message that came on this stream.
    pub async fn delete(&self, message: &Message) -> Result<(), ClientError> {
        self.acks.delete(message).await
    }

    /// Ends the stream, within a second, and answers the messages that came and were not taken:
    /// they are leased, and may be released. Deletes that were asked for are written first, and
    /// no handle takes more of them. What the node was about to grant may be missing here; it is
    /// given out again when its lease has run out.
    pub async fn finish(self) -> Vec<Message> {
        let ReceiveStream { mut shelf, acks } = self;
        drop(acks);
        shelf.close();
        // A node that says nothing any more holds nobody up: the leases run out by themselves.
        let _ = tokio::time::timeout(FINISH, shelf.ended()).await;
        let mut rest = Vec::new();
        shelf.take(usize::MAX, &mut rest);
        rest
    }

    /// A handle for deletes from other tasks.
    #[must_use]
    pub fn acks(&self) -> Acks {
        self.acks.clone()
    }
}

impl Acks {
    /// Deletes one message; one that is gone or leased anew is a refusal.
    pub async fn delete(&self, message: &Message) -> Result<(), ClientError> {
        let deleted = self.delete_batch(vec![DeleteItem::from(message)]).await?;
        single_outcome(&self.queue, &message.id, &deleted.outcomes)
    }

    /// Deletes 1 to 1000 messages; each has its own outcome.
    pub async fn delete_batch(&self, items: Vec<DeleteItem>) -> Result<Deleted, ClientError> {
        check_size(&pb::ReceiveStreamDelete {
            items: types::wire_items(items.clone()),
            ..Default::default()
        })?;
        let deadline = Instant::now() + self.deadline;
        let (reply, answer) = oneshot::channel();
        let ended = || ClientError::not_now("the stream has ended");
        tokio::time::timeout_at(deadline, self.jobs.send(Job { items, deadline, reply }))
            .await
            .map_err(|_| ClientError::not_now("too many deletes are unanswered"))?
            .map_err(|_| ended())?;
        let unknown = || ClientError::unknown("the stream ended before the delete was answered");
        match tokio::time::timeout_at(deadline + GRACE, answer).await {
            Ok(answer) => answer.map_err(|_| unknown())?,
            Err(_) => Err(unknown()),
        }
    }
}

/// The waiters of deletes that were joined into one write, with the number of items of each.
struct Joined(Vec<(usize, oneshot::Sender<Result<Deleted, ClientError>>)>);

impl Waiter<pb::DeleteResponse> for Joined {
    fn give(self, answer: Result<pb::DeleteResponse, ClientError>) {
        let mut answer = answer.map(Deleted::from);
        for (count, reply) in self.0 {
            let part = match &mut answer {
                Err(error) => Err(error.clone()),
                Ok(all) => {
                    let rest = all.outcomes.split_off(count.min(all.outcomes.len()));
                    let outcomes = std::mem::replace(&mut all.outcomes, rest);
                    Ok(Deleted { outcomes, durability: all.durability.clone() })
                }
            };
            let _ = reply.send(part);
        }
    }

    fn is_gone(&self) -> bool {
        self.0.iter().all(|(_, reply)| reply.is_closed())
    }
}

struct Task {
    open: pb::ReceiveStreamOpen,
    credit: u32,
    /// Messages that are wanted yet; `None` = without end.
    left: Option<u64>,
    /// Credit given on this stream whose messages have not come.
    asked: u32,
    stock: Stock,
    waiting: mpsc::Receiver<Job>,
    outbox: Outbox<Vec<DeleteItem>, pb::DeleteResponse, Joined>,
    patience: Patience,
}

enum Ended {
    /// Nobody reads any more.
    Done,
    Failed {
        failure: Failure,
        opened: bool,
    },
}

impl Ended {
    fn failed(status: &Status, opened: bool) -> Ended {
        Ended::Failed { failure: Failure::of_status(status), opened }
    }
}

impl Task {
    async fn run(mut self, pool: Arc<Pool>) {
        let backoff = Backoff::default();
        let mut fruitless = 0u32;
        loop {
            let mut pick = match pool.pick(None) {
                Choice::Node(pick) => pick,
                Choice::Wait(until) => {
                    self.pause(until).await;
                    if self.is_over() || self.is_settled() {
                        return;
                    }
                    continue;
                }
            };
            let mut heard = false;
            let ended = self.stream(&mut pick, &mut heard).await;
            fruitless = if heard { 0 } else { fruitless.saturating_add(1) };
            let Ended::Failed { failure, opened } = ended else { return };
            let (sent, why) = failure.sent(opened);
            self.outbox.broken(sent, &why);
            report(&mut pick, &failure);
            drop(pick);
            if let Verdict::Final(error) = failure.verdict {
                self.outbox.end_all(&error);
                self.stock.end(error);
                return;
            }
            let refused = matches!(&failure.verdict, Verdict::OtherRegion(_));
            if fruitless as usize >= pool.len() && refused {
                standby::wait(&pool, Instant::now() + STAND_BY).await;
                self.outbox.sweep(Instant::now());
            } else if fruitless as usize >= pool.len() {
                self.pause(Instant::now() + backoff.wait(fruitless, None)).await;
            }
            if self.is_over() || self.is_settled() {
                return;
            }
        }
    }

    /// Nobody reads or deletes any more.
    fn is_over(&self) -> bool {
        self.stock.is_abandoned() && self.is_idle()
    }

    /// The reader wants no more, and no delete is unanswered. From then on none is taken.
    fn is_settled(&mut self) -> bool {
        if !self.stock.is_closing() {
            return false;
        }
        self.waiting.close();
        self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_closed() && self.waiting.is_empty() && self.outbox.is_empty()
    }

    async fn pause(&mut self, until: Instant) {
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + TICK)).await;
            self.outbox.sweep(Instant::now());
        }
    }

    async fn stream(&mut self, pick: &mut Pick<'_>, heard: &mut bool) -> Ended {
        let (out, frames) = mpsc::channel::<pb::ReceiveStreamRequest>(FRAMES);
        let mut out = Some(out);
        let mut service = service(pick.line.clone());
        let open = async move {
            service.receive_stream(ReceiverStream::new(frames)).await.map(Response::into_inner)
        };
        tokio::pin!(open);
        let mut answers: Option<Streaming<pb::ReceiveStreamResponse>> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = Vec::with_capacity(JOINED);
        self.asked = 0;
        self.patience.start();
        let stock = self.stock.clone();
        let mut acks_ended = false;
        let mut first = Some(Request::Open(self.open.clone()));
        loop {
            let room = self.outbox.room().min(JOINED);
            let write = first.is_some() || self.outbox.has_ready() || self.due_credit() > 0;
            tokio::select! {
                opened = &mut open, if answers.is_none() => match opened {
                    Ok(stream) => answers = Some(stream),
                    Err(status) => return Ended::failed(&status, false),
                },
                answer = next(&mut answers), if answers.is_some() => match answer {
                    Ok(answer) => {
                        *heard = true;
                        pick.answered();
                        if let Err(failure) = self.take_answer(answer) {
                            return Ended::Failed { failure, opened: true };
                        }
                    }
                    // The node's answer to the end of what is asked of it.
                    Err(_) if out.is_none() => return Ended::Done,
                    Err(status) => return Ended::failed(&status, true),
                },
                permit = permit_of(out.as_ref()), if write => {
                    let request = first.take().or_else(|| self.next_request());
                    if request.is_some() {
                        permit.send(pb::ReceiveStreamRequest { request });
                    }
                }
                // More credit may be due, or nobody reads any more.
                () = stock.taken() => {}
                count = self.waiting.recv_many(&mut jobs, room), if room > 0 && !acks_ended => {
                    acks_ended = count == 0;
                    self.accept(&mut jobs);
                }
                _ = tick.tick(), if !self.outbox.is_empty() || self.stock.is_abandoned() => {
                    self.outbox.sweep(Instant::now());
                    if !self.outbox.is_out() {
                        self.patience.start();
                    } else if let Some(silence) = self.patience.over() {
                        let failure = Failure::silent(silence);
                        return Ended::Failed { failure, opened: true };
                    }
                }
            }
            if self.is_over() {
                return Ended::Done;
            }
            if self.is_settled() {
                // The node hands out what it has granted, and ends the stream.
                out = None;
            }
        }
    }

    /// More credit, once half of it has been used up, or for all that is wanted yet.
    fn due_credit(&self) -> u32 {
        if self.stock.is_abandoned() || self.stock.is_closing() {
            return 0;
        }
        let held = u32::try_from(self.stock.len()).unwrap_or(u32::MAX);
        let free = self.credit.saturating_sub(self.asked).saturating_sub(held);
        let left = self.left.map_or(u32::MAX, |left| u32::try_from(left).unwrap_or(u32::MAX));
        let wanted = left.saturating_sub(self.asked);
        let due = free.min(wanted);
        if due >= self.credit.div_ceil(2) || due == wanted { due } else { 0 }
    }

    /// Deletes first: they free the leases that run.
    fn next_request(&mut self) -> Option<Request> {
        if let Some(writing) = self.outbox.take() {
            return Some(Request::Delete(pb::ReceiveStreamDelete {
                tag: writing.tag,
                items: types::wire_items(writing.request),
                session: writing.session,
            }));
        }
        let messages = self.due_credit();
        if messages == 0 {
            return None;
        }
        self.asked += messages;
        Some(Request::Credit(pb::ReceiveStreamCredit { messages }))
    }

    /// Joins deletes that were asked for at the same time.
    fn accept(&mut self, jobs: &mut Vec<Job>) {
        let mut items = Vec::new();
        let mut waiters = Vec::new();
        let mut deadline: Option<Instant> = None;
        if self.outbox.is_empty() {
            self.patience.start();
        }
        for job in jobs.drain(..) {
            if items.len() + job.items.len() > MOST_BATCH as usize && !items.is_empty() {
                let full = std::mem::take(&mut items);
                let waiters = Joined(std::mem::take(&mut waiters));
                self.outbox.accept(full, deadline.take().unwrap_or(job.deadline), waiters);
            }
            deadline = Some(deadline.map_or(job.deadline, |other| other.max(job.deadline)));
            waiters.push((job.items.len(), job.reply));
            items.extend(job.items);
        }
        if let Some(deadline) = deadline {
            self.outbox.accept(items, deadline, Joined(waiters));
        }
    }

    fn take_answer(&mut self, answer: pb::ReceiveStreamResponse) -> Result<(), Failure> {
        let count = u32::try_from(answer.messages.len()).unwrap_or(u32::MAX);
        let Some(asked) = self.asked.checked_sub(count) else {
            return Err(Failure::nonsense("the node sent more messages than it had credit for"));
        };
        self.asked = asked;
        self.stock.add(answer.messages.into_iter().map(Message::from));
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(u64::from(count));
            if *left == 0 {
                self.stock.complete();
            }
        }
        for deleted in answer.deleted {
            let outcome = match deleted.result {
                Some(pb::receive_stream_deleted::Result::Deleted(deleted)) => Ok(deleted),
                Some(pb::receive_stream_deleted::Result::Error(error)) => {
                    Err(Failure::of_item(&error))
                }
                None => Err(Failure::nonsense("a delete was answered with nothing")),
            };
            self.outbox.answered(deleted.tag, outcome);
            self.patience.heard();
        }
        Ok(())
    }
}

/// Room for one frame; never, once the stream takes no more.
async fn permit_of<T>(out: Option<&mpsc::Sender<T>>) -> mpsc::Permit<'_, T> {
    if let Some(out) = out
        && let Ok(permit) = out.reserve().await
    {
        return permit;
    }
    std::future::pending().await
}
