//! Clients: each worker does one call after another, chosen by its own dice, and writes down
//! what it asked and what it was told.
//!
//! Laws: every body is of its own; a call without a definite answer is unknown; old receipts are
//! tried again on purpose. Sends go under a session and are tried again on another node when
//! their fate is unknown, which must not make two of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use zoneq::consensus::network::{ChannelOptions, channel};
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;
use zoneq::storage::disk::faulty::Dice;

use crate::history::{
    Answer, Call, Deleted, Mark, Outcome, SentMessage, SharedHistory, Shown, body, tag_of,
};
use crate::network::{SimNetwork, now_us};

pub const QUEUES: [&str; 2] = ["alpha", "beta"];
/// How long a call may take.
const WITHIN: Duration = Duration::from_secs(2);
/// Messages and old receipts that a worker remembers.
const REMEMBERED: usize = 40;
/// Calls of one send.
const ATTEMPTS: usize = 4;

/// One worker.
pub struct Worker {
    number: u32,
    dice: Dice,
    history: SharedHistory,
    nodes: Vec<QueueServiceClient<Channel>>,
    preferred: usize,
    tags: u64,
    sequence: u64,
    held: Vec<Held>,
    old: Vec<Held>,
}

/// A message of which it has, or had, the receipt.
#[derive(Clone, Debug)]
pub struct Held {
    pub queue: String,
    pub id: String,
    pub receipt: String,
}

type Told<T> = Result<T, Outcome>;

fn span(us: u64) -> prost_types::Duration {
    let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
    prost_types::Duration { seconds: seconds as i64, nanos: rest as i32 * 1_000 }
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<u64> {
    at.map(|at| at.seconds as u64 * 1_000_000 + at.nanos as u64 / 1_000)
}

fn moment(at: Option<&prost_types::Timestamp>) -> u64 {
    time(at).unwrap_or_default()
}

fn mark(durability: Option<&pb::Durability>) -> Option<Mark> {
    let durability = durability?;
    let position = durability.position.as_ref()?;
    let at = time(durability.log_time.as_ref())?;
    Some(Mark { index: position.index, term: position.term, node: position.node, at })
}

fn shown(message: &pb::Message) -> Shown {
    Shown {
        id: message.id.clone(),
        tag: tag_of(&message.body),
        receipt: message.pop_receipt.clone(),
        inserted_at: moment(message.inserted_at.as_ref()),
        expires_at: time(message.expires_at.as_ref()),
        visible_at: moment(message.visible_at.as_ref()),
        dequeue_count: message.dequeue_count,
    }
}

/// What a failed call says of its fate: only the server's own word makes it definite.
fn fate(status: &tonic::Status) -> Outcome {
    let info = status.get_details_error_info();
    let not_applied = info.as_ref().is_some_and(|info| {
        info.metadata.get("outcome").is_some_and(|outcome| outcome == "not_applied")
    });
    match info {
        Some(info) if not_applied => Outcome::Failed(info.reason),
        Some(info) => Outcome::Unknown(info.reason),
        None => Outcome::Unknown(format!("{:?}", status.code())),
    }
}

impl Worker {
    pub fn new(number: u32, seed: u64, network: &SimNetwork, history: SharedHistory) -> Worker {
        let options = ChannelOptions::for_election(Duration::from_millis(400));
        let nodes = ["z1:7401", "z2:7401", "z3:7401"].into_iter().filter_map(|address| {
            let made = channel(Arc::new(network.clone()), address, &options).ok()?;
            Some(QueueServiceClient::new(made).max_decoding_message_size(16 << 20))
        });
        let mut dice = Dice::new(seed ^ (u64::from(number) << 40));
        let nodes: Vec<_> = nodes.collect();
        let preferred = dice.below(nodes.len() as u64) as usize;
        let (held, old) = (Vec::new(), Vec::new());
        Worker { number, dice, history, nodes, preferred, tags: 0, sequence: 0, held, old }
    }

    /// Works until told to stop.
    pub async fn work(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            self.turn().await;
            let pause = 5 + self.dice.below(80);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn turn(&mut self) {
        let queue = QUEUES[self.dice.below(2) as usize].to_owned();
        match self.dice.below(100) {
            0..34 => self.send(&queue).await,
            34..60 => self.receive(&queue).await,
            60..74 => self.delete_held().await,
            74..82 => self.update_held().await,
            82..88 => self.use_old_receipt().await,
            88..93 => self.peek(&queue).await,
            93..99 => self.get(&queue).await,
            _ if self.dice.below(4) == 0 => self.clear("beta").await,
            _ => {}
        }
    }

    fn now() -> u64 {
        now_us().unwrap_or_default()
    }

    fn begin(&self, call: Call) -> usize {
        self.history.lock().invoke(Self::now(), self.number, call)
    }

    fn end(&mut self, op: usize, told: Told<Answer>) -> bool {
        let outcome = told.map_or_else(|outcome| outcome, Outcome::Ok);
        let well = matches!(outcome, Outcome::Ok(_));
        let refused = matches!(&outcome, Outcome::Failed(why) if why != "NOT_NOW");
        if !well && !refused {
            self.preferred = (self.preferred + 1) % self.nodes.len().max(1);
        }
        self.history.lock().answer(Self::now(), op, outcome);
        well
    }

    /// One call of one node, within the time for it.
    async fn ask<Q, R, F>(
        &mut self,
        message: Q,
        call: impl FnOnce(QueueServiceClient<Channel>, tonic::Request<Q>) -> F,
    ) -> Told<R>
    where
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let Some(node) = self.nodes.get(self.preferred).cloned() else {
            return Err(Outcome::Failed("no node".to_owned()));
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(WITHIN);
        let answer = tokio::time::timeout(WITHIN + WITHIN / 4, call(node, request)).await;
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(fate(&status)),
            Err(_) => Err(Outcome::Unknown("no answer in time".to_owned())),
        }
    }

    fn lost_mark() -> Outcome {
        Outcome::Unknown("the answer does not say where it stands".to_owned())
    }

    /// Creates a queue, trying until it is there.
    pub async fn create(&mut self, queue: &str) {
        loop {
            let op = self.begin(Call::Create { queue: queue.to_owned() });
            let request = pb::CreateQueueRequest { name: queue.to_owned(), ..Default::default() };
            let asked = self.ask(request, |mut node, r| async move { node.create_queue(r).await });
            let told = asked.await.map(|_| Answer::Created);
            if self.end(op, told) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn tag(&mut self) -> u64 {
        self.tags += 1;
        u64::from(self.number) * 10_000_000 + self.tags
    }

    pub async fn send(&mut self, queue: &str) {
        let count = if self.dice.below(5) == 0 { 1 + self.dice.below(8) } else { 1 };
        let tags: Vec<u64> = (0..count).map(|_| self.tag()).collect();
        let ttl = (self.dice.below(3) == 0).then(|| 300_000 + self.dice.below(20_000_000));
        let delay = if self.dice.below(4) == 0 { self.dice.below(3_000_000) } else { 0 };
        self.send_tags(queue, tags, ttl, delay).await;
    }

    pub async fn send_tags(
        &mut self,
        queue: &str,
        tags: Vec<u64>,
        ttl: Option<u64>,
        delay: u64,
    ) -> bool {
        self.sequence += 1;
        let session = pb::Session {
            client_id: vec![self.number as u8; 16].into(),
            sequence: self.sequence,
            lowest_unanswered: self.sequence,
        };
        let new = |tag: &u64| pb::NewMessage {
            body: body(*tag).into(),
            delay: (delay > 0).then(|| span(delay)),
            ttl: Some(span(ttl.unwrap_or(0))),
            ..Default::default()
        };
        let request = pb::SendRequest {
            queue: queue.to_owned(),
            messages: tags.iter().map(new).collect(),
            session: Some(session),
            ..Default::default()
        };
        let op = self.begin(Call::Send { queue: queue.to_owned(), tags, ttl, delay });
        let mut told = Err(Outcome::Unknown("not tried".to_owned()));
        let mut unknown_before = false;
        for _ in 0..ATTEMPTS {
            let asked = self.ask(request.clone(), |mut node, r| async move { node.send(r).await });
            told = asked.await.and_then(|answer| sent(&answer));
            match &told {
                Err(Outcome::Unknown(_)) => unknown_before = true,
                Err(Outcome::Failed(why)) if why == "NOT_NOW" => {}
                _ => break,
            }
            self.preferred = (self.preferred + 1) % self.nodes.len().max(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A refusal now says nothing of an earlier attempt whose fate is unknown.
        if unknown_before && let Err(Outcome::Failed(why)) = told {
            told = Err(Outcome::Unknown(format!("{why}, after an attempt of unknown fate")));
        }
        if let Ok(Answer::Sent { messages, .. }) = &told
            && let Some(first) = messages.first()
        {
            let (id, receipt) = (first.id.clone(), first.receipt.clone());
            self.remember_old(Held { queue: queue.to_owned(), id, receipt });
        }
        self.end(op, told)
    }

    async fn receive(&mut self, queue: &str) {
        let max = 1 + self.dice.below(4) as u32;
        let visibility = 200_000 + self.dice.below(2_500_000);
        let wait = if self.dice.below(4) == 0 { self.dice.below(800_000) } else { 0 };
        for held in self.receive_for(queue, max, visibility, wait).await {
            if self.held.len() >= REMEMBERED {
                let oldest = self.held.remove(0);
                self.remember_old(oldest);
            }
            self.held.push(held);
        }
    }

    /// What it was given.
    pub async fn receive_for(
        &mut self,
        queue: &str,
        max: u32,
        visibility: u64,
        wait: u64,
    ) -> Vec<Held> {
        let op = self.begin(Call::Receive { queue: queue.to_owned(), max, visibility });
        let request = pb::ReceiveRequest {
            queue: queue.to_owned(),
            max_messages: max,
            visibility_timeout: Some(span(visibility)),
            wait: Some(span(wait)),
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.receive(r).await });
        let told = asked.await.and_then(|answer| {
            let messages: Vec<Shown> = answer.messages.iter().map(shown).collect();
            let mark = mark(answer.durability.as_ref());
            if mark.is_none() && !messages.is_empty() {
                return Err(Self::lost_mark());
            }
            Ok(Answer::Received { mark, messages })
        });
        let given = match &told {
            Ok(Answer::Received { messages, .. }) => messages.iter().map(|message| Held {
                queue: queue.to_owned(),
                id: message.id.clone(),
                receipt: message.receipt.clone(),
            }),
            _ => {
                self.end(op, told);
                return Vec::new();
            }
        };
        let given = given.collect();
        self.end(op, told);
        given
    }

    fn remember_old(&mut self, held: Held) {
        if self.old.len() >= REMEMBERED {
            self.old.remove(0);
        }
        self.old.push(held);
    }

    fn take_held(&mut self) -> Option<Held> {
        let count = self.held.len() as u64;
        let at = self.dice.below(count) as usize;
        (count > 0).then(|| self.held.remove(at))
    }

    async fn delete_held(&mut self) {
        let Some(held) = self.take_held() else { return };
        self.delete(&held.queue.clone(), vec![held]).await;
    }

    /// Tries a receipt that a later grant, an update or a send's receipt may have replaced.
    async fn use_old_receipt(&mut self) {
        let count = self.old.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.dice.below(count) as usize;
        let old = self.old[at].clone();
        if self.dice.below(3) == 0 {
            self.update(old, Some(1_000_000), None).await;
        } else {
            self.delete(&old.queue.clone(), vec![old]).await;
        }
    }

    pub async fn delete(&mut self, queue: &str, items: Vec<Held>) -> bool {
        let pairs = items.iter().map(|held| (held.id.clone(), held.receipt.clone())).collect();
        let op = self.begin(Call::Delete { queue: queue.to_owned(), items: pairs });
        let item =
            |held: &Held| pb::DeleteItem { id: held.id.clone(), pop_receipt: held.receipt.clone() };
        let request = pb::DeleteRequest {
            queue: queue.to_owned(),
            items: items.iter().map(item).collect(),
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.delete(r).await });
        let told = asked.await.and_then(|answer| {
            let mark = mark(answer.durability.as_ref()).ok_or_else(Self::lost_mark)?;
            let outcomes = answer.outcomes().map(|outcome| match outcome {
                pb::DeleteOutcome::Deleted => Deleted::Done,
                pb::DeleteOutcome::ReceiptMismatch => Deleted::Mismatch,
                _ => Deleted::NotFound,
            });
            Ok(Answer::Deleted { mark, outcomes: outcomes.collect() })
        });
        self.end(op, told)
    }

    async fn update_held(&mut self) {
        let Some(held) = self.take_held() else { return };
        let visibility = match self.dice.below(4) {
            0 => None,
            1 => Some(0),
            _ => Some(300_000 + self.dice.below(2_000_000)),
        };
        let tag = (self.dice.below(3) == 0).then(|| self.tag());
        self.update(held, visibility, tag).await;
    }

    async fn update(&mut self, held: Held, visibility: Option<u64>, tag: Option<u64>) {
        let Held { queue, id, receipt } = held.clone();
        let call = Call::Update {
            queue: queue.clone(),
            id: id.clone(),
            receipt: receipt.clone(),
            visibility,
            tag,
        };
        let op = self.begin(call);
        let request = pb::UpdateRequest {
            queue,
            id,
            pop_receipt: receipt,
            visibility_timeout: visibility.map(span),
            body: tag.map(|tag| body(tag).into()),
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.update(r).await });
        let told = asked.await.and_then(|answer| {
            let mark = mark(answer.durability.as_ref()).ok_or_else(Self::lost_mark)?;
            let visible_at = moment(answer.visible_at.as_ref());
            Ok(Answer::Updated { mark, receipt: answer.pop_receipt, visible_at })
        });
        if let Ok(Answer::Updated { receipt, .. }) = &told {
            let receipt = receipt.clone();
            self.held.push(Held { receipt, ..held.clone() });
        }
        self.remember_old(held);
        self.end(op, told);
    }

    /// Reads go to any node: one that led and is cut off from the others may still be reached.
    fn choose_node(&mut self) {
        self.preferred = self.dice.below(self.nodes.len() as u64) as usize;
    }

    fn staleness(&mut self) -> Option<prost_types::Duration> {
        (self.dice.below(3) == 0).then(|| span(5_000_000))
    }

    async fn peek(&mut self, queue: &str) {
        self.choose_node();
        let max_staleness = self.staleness();
        let stale = max_staleness.is_some();
        let op = self.begin(Call::Peek { queue: queue.to_owned(), stale });
        let state = 1 + self.dice.below(3) as i32;
        let request = pb::PeekRequest {
            queue: queue.to_owned(),
            max_messages: 20,
            state,
            max_staleness,
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.peek(r).await });
        let told = asked.await.map(|answer| Answer::Seen {
            at: moment(answer.log_time.as_ref()),
            messages: answer.messages.iter().map(shown).collect(),
        });
        self.end(op, told);
    }

    async fn get(&mut self, queue: &str) {
        self.choose_node();
        let known = self.old.iter().chain(&self.held);
        let known: Vec<&Held> = known.filter(|held| held.queue == queue).collect();
        let at = self.dice.below(known.len() as u64) as usize;
        let Some(id) = known.get(at).map(|held| held.id.clone()) else { return };
        let max_staleness = self.staleness();
        let stale = max_staleness.is_some();
        let op = self.begin(Call::Get { queue: queue.to_owned(), id: id.clone(), stale });
        let request = pb::GetMessageRequest {
            queue: queue.to_owned(),
            id,
            max_staleness,
            ..Default::default()
        };
        let asked = self.ask(request, |mut node, r| async move { node.get_message(r).await });
        let told = asked.await.map(|answer| Answer::Seen {
            at: moment(answer.log_time.as_ref()),
            messages: answer.message.iter().map(shown).collect(),
        });
        self.end(op, told);
    }

    async fn clear(&mut self, queue: &str) {
        let op = self.begin(Call::Clear { queue: queue.to_owned() });
        let request = pb::ClearRequest { queue: queue.to_owned(), ..Default::default() };
        let asked = self.ask(request, |mut node, r| async move { node.clear(r).await });
        let told = asked.await.and_then(|answer| {
            let mark = mark(answer.durability.as_ref()).ok_or_else(Self::lost_mark)?;
            Ok(Answer::Cleared { mark, removed: answer.removed })
        });
        self.end(op, told);
    }

    /// The exact counts of a queue by a linearizable read, and its T.
    pub async fn counts(&mut self, queue: &str) -> Option<(pb::QueueCounts, u64)> {
        let request = pb::GetQueueRequest { name: queue.to_owned(), ..Default::default() };
        let asked = self.ask(request, |mut node, r| async move { node.get_queue(r).await });
        match asked.await {
            Ok(answer) => Some((answer.queue?.counts?, moment(answer.log_time.as_ref()))),
            Err(_) => {
                self.preferred = (self.preferred + 1) % self.nodes.len().max(1);
                None
            }
        }
    }
}

fn sent(answer: &pb::SendResponse) -> Told<Answer> {
    let mark = mark(answer.durability.as_ref()).ok_or_else(Worker::lost_mark)?;
    let message = |message: &pb::SentMessage| SentMessage {
        id: message.id.clone(),
        receipt: message.pop_receipt.clone(),
        inserted_at: moment(message.inserted_at.as_ref()),
        expires_at: time(message.expires_at.as_ref()),
        visible_at: moment(message.visible_at.as_ref()),
    };
    Ok(Answer::Sent { mark, messages: answer.messages.iter().map(message).collect() })
}
