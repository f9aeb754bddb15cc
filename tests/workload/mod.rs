//! Clients: each worker does one call after another, chosen by its own dice, and writes down
//! what it asked and what it was told.
//!
//! Laws: every body is of its own; a call without a definite answer is unknown; old receipts are
//! tried again on purpose. Writes go under a session and are tried again on another node while
//! their fate is unknown, which must not make two of them; the next write under the session ends
//! all that is still on its way. Streams receive without a session. One worker of two tells the
//! nodes what it knows of a pair of regions, as the client library does.
//!
//! Simulator and chaos run these same clients: how nodes are reached and what time it is, they are
//! told.

mod accounts;
mod closing;
mod held;
mod messages;
mod queues;
mod reads;
mod redrives;
mod short;
mod streams;
mod wire;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::transport::Channel;
use tower::util::Either;
use zoneq::client::epochs::{Epochs, Line};
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;
use zoneq::storage::disk::faulty::Dice;

use crate::history::{
    Answer, Call, LARGE_BODIES, LogTime, Micros, Outcome, Session, SharedHistory,
};
pub use closing::close;
pub use held::Held;
use wire::fate;

/// How long a call may take.
const WITHIN: Duration = Duration::from_secs(2);
/// By then whoever called has an answer, or gave up.
pub const LONGEST: Duration = Duration::from_millis(2_500);
/// Salt of the seeds of which all bodies are large: a record of the log that is cut short has
/// blocks in its middle to lose.
const LARGE: u64 = 0x6c_6172_6879;
/// Salt of the workers that tell what epoch they know.
const TELLS: u64 = 0x7465_6c6c_7300;
/// Calls of one write.
const ATTEMPTS: usize = 4;

type Client = QueueServiceClient<Either<Channel, Line>>;
/// What one try came to.
type Told<T> = Result<T, Outcome>;

/// A node as clients reach it.
#[derive(Clone, Debug)]
pub struct Reached {
    pub channel: Channel,
    pub region: usize,
}

/// What time it is for clients.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Since the start of the run.
    pub now: fn() -> Micros,
    /// The wall clock's time at the start of the run.
    pub began: LogTime,
}

/// One worker.
pub struct Worker {
    number: u32,
    dice: Dice,
    clock: Clock,
    history: SharedHistory,
    nodes: Vec<Client>,
    /// What it was told of the pair, if it tells.
    epochs: Arc<Epochs>,
    /// The region of each of them.
    regions: Vec<usize>,
    preferred: usize,
    /// The region that was asked last.
    asked: Cell<usize>,
    tags: u64,
    /// All its bodies are of some kilobytes.
    is_large: bool,
    /// Under which its writes go; another one when it was told that this one has ended.
    client: u64,
    sequence: u64,
    held: Vec<Held>,
    old: Vec<Held>,
    /// Redrives that it knows of: one of each queue, with its id.
    jobs: Vec<(String, String)>,
}

/// A write that was begun, and what is known of it so far.
struct Pending {
    op: usize,
    session: Session,
    /// The region of each try that may have taken effect.
    doubts: Vec<usize>,
}

impl Pending {
    fn session(&self) -> pb::Session {
        let mut client_id = vec![0; 8];
        client_id.extend(self.session.client.to_be_bytes());
        pb::Session {
            client_id: client_id.into(),
            sequence: self.session.sequence,
            lowest_unanswered: self.session.lowest,
        }
    }
}

/// Whether a node looks at its state before it proposes this call: a refusal then says nothing
/// of an earlier try.
fn is_looked_at_first(call: &Call) -> bool {
    matches!(call, Call::Receive { .. } | Call::Update { tag: Some(_), .. })
}

/// Refusals by a cluster that is not the primary of its pair.
fn is_of_role(why: &str) -> bool {
    matches!(why, "READ_ONLY" | "FENCED")
}

/// Refusals after which another try may go through.
fn may_be_tried_again(why: &str) -> bool {
    matches!(why, "NOT_NOW" | "OVERLOADED") || is_of_role(why)
}

impl Worker {
    /// A worker that knows the nodes of all regions.
    pub fn new(
        (number, seed): (u32, u64),
        reached: Vec<Reached>,
        clock: Clock,
        history: SharedHistory,
    ) -> Worker {
        let epochs = Arc::<Epochs>::default();
        let tells = Dice::new(seed ^ TELLS ^ u64::from(number)).below(2) == 0;
        let client = |node: &Reached| {
            let line = || Line::new(node.channel.clone(), Arc::clone(&epochs));
            let line =
                if tells { Either::Right(line()) } else { Either::Left(node.channel.clone()) };
            QueueServiceClient::new(line).max_decoding_message_size(16 << 20)
        };
        let nodes: Vec<_> = reached.iter().map(client).collect();
        let regions = reached.iter().map(|node| node.region).collect();
        let mut dice = Dice::new(seed ^ (u64::from(number) << 40));
        let preferred = dice.below(nodes.len() as u64) as usize;
        Worker {
            number,
            dice,
            clock,
            history,
            nodes,
            epochs,
            regions,
            preferred,
            asked: Cell::new(0),
            tags: 0,
            is_large: Dice::new(seed ^ LARGE).below(4) == 0,
            client: u64::from(number),
            sequence: 0,
            held: Vec::new(),
            old: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// Opens its session, trying until it is open: a client whose first write is not known to
    /// have come through has none to go on with.
    pub async fn enter(&mut self) {
        while !self.try_to_create(crate::queues::ALL[0].name).await {
            self.change_session();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Goes on as another client.
    fn change_session(&mut self) {
        self.client += 1 << 32;
        self.sequence = 0;
    }

    /// Works until told to stop.
    pub async fn work(mut self, stop: Arc<AtomicBool>) {
        self.enter().await;
        while !stop.load(Ordering::Relaxed) {
            self.turn().await;
            let pause = 5 + self.dice.below(80);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn turn(&mut self) {
        match self.dice.below(216) {
            0..54 => self.send().await,
            54..100 => self.receive().await,
            100..120 => self.delete_held().await,
            120..132 => self.update_held().await,
            132..144 => self.release_held().await,
            144..152 => self.use_old_receipt().await,
            152..162 => self.transact().await,
            162..170 => self.peek().await,
            170..178 => self.get().await,
            178..184 => self.look_at_any().await,
            184..186 => self.list().await,
            186..189 => self.receive_by_stream().await,
            189..192 => self.send_by_stream().await,
            192..195 => self.pause_for_a_while().await,
            195..198 => self.set().await,
            198..200 => self.empty().await,
            200..208 => self.redrive().await,
            208..211 => self.delete_for_a_while().await,
            211..214 => self.account().await,
            _ => self.ask_for_durability().await,
        }
    }

    fn now(&self) -> Micros {
        (self.clock.now)()
    }

    /// A number that no other call uses.
    fn tag(&mut self) -> u64 {
        self.tags += 1;
        let of_worker = u64::from(self.number) * 10_000_000;
        if self.is_large { LARGE_BODIES + of_worker + self.tags } else { of_worker + self.tags }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn begin_read(&self, call: Call) -> usize {
        self.history.lock().invoke(self.now(), self.number, None, call)
    }

    fn end(&mut self, op: usize, attempts: u32, told: Told<Answer>) -> Option<Answer> {
        let (answer, outcome) = match told {
            Ok(answer) => (Some(answer.clone()), Outcome::Ok(answer)),
            Err(outcome) => (None, outcome),
        };
        let refused = matches!(&outcome, Outcome::Failed(why) if !may_be_tried_again(why));
        let region = self.asked.get();
        if answer.is_none() && !refused {
            self.go_elsewhere();
        }
        self.history.lock().answer(self.now(), op, attempts, outcome, region);
        answer
    }

    fn go_elsewhere(&mut self) {
        self.preferred = (self.preferred + 1) % self.nodes.len().max(1);
    }

    fn region(&self) -> usize {
        self.regions.get(self.preferred).copied().unwrap_or_default()
    }

    /// Goes to the other region, if there is one.
    fn go_to_other_region(&mut self) {
        let own = self.region();
        match self.regions.iter().position(|region| *region != own) {
            Some(first) => self.preferred = first,
            None => self.go_elsewhere(),
        }
    }

    /// Reads go to any node: one that led and is cut off from the others may still be reached. Of
    /// two regions mostly to the one that answered last.
    fn choose_node(&mut self) {
        let own = self.region();
        let is_pair = self.regions.iter().any(|region| *region != own);
        let stays = is_pair && !self.one_in(4);
        let near = |at: &usize| !stays || self.regions.get(*at) == Some(&own);
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(near).collect();
        let chosen = self.dice.below(nodes.len() as u64) as usize;
        self.preferred = nodes.get(chosen).copied().unwrap_or_default();
    }

    fn node(&self) -> Told<Client> {
        self.asked.set(self.region());
        let knows_the_pair = self.epochs.known().is_some();
        if self.history.lock().pair.is_closed_to(self.region(), knows_the_pair) {
            return Err(Outcome::Failed("READ_ONLY".to_owned()));
        }
        let node = self.nodes.get(self.preferred).cloned();
        node.ok_or_else(|| Outcome::Failed("no node".to_owned()))
    }

    /// One call of one node, within the time for it.
    async fn ask<Q, R, F>(
        &self,
        message: Q,
        call: impl FnOnce(Client, tonic::Request<Q>) -> F,
    ) -> Told<R>
    where
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let node = self.node()?;
        let mut request = tonic::Request::new(message);
        request.set_timeout(WITHIN);
        let answer = tokio::time::timeout(LONGEST, call(node, request)).await;
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(fate(&status)),
            Err(_) => Err(Outcome::Unknown("no answer in time".to_owned())),
        }
    }

    /// Begins writes that are on their way together.
    fn begin_writes(&mut self, calls: Vec<Call>) -> Vec<Pending> {
        let lowest = self.sequence + 1;
        let mut begun = Vec::new();
        for call in calls {
            self.sequence += 1;
            let session = Session { client: self.client, sequence: self.sequence, lowest };
            let now = self.now();
            let op = self.history.lock().invoke(now, self.number, Some(session), call);
            begun.push(Pending { op, session, doubts: Vec::new() });
        }
        begun
    }

    fn begin_write(&mut self, call: Call) -> Option<Pending> {
        self.begin_writes(vec![call]).pop()
    }

    /// A write, tried until its fate is known or it was tried often enough.
    async fn write<Q, R, F>(
        &mut self,
        call: Call,
        request: impl Fn(pb::Session) -> Q,
        ask: impl Fn(Client, tonic::Request<Q>) -> F,
        read: impl Fn(R) -> Told<Answer>,
    ) -> Option<Answer>
    where
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let looked_at_first = is_looked_at_first(&call);
        let pending = self.begin_write(call)?;
        self.finish(pending, looked_at_first, request, ask, read).await
    }

    async fn finish<Q, R, F>(
        &mut self,
        mut pending: Pending,
        looked_at_first: bool,
        request: impl Fn(pb::Session) -> Q,
        ask: impl Fn(Client, tonic::Request<Q>) -> F,
        read: impl Fn(R) -> Told<Answer>,
    ) -> Option<Answer>
    where
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let mut told = Err(Outcome::Unknown("not tried".to_owned()));
        for _ in 0..ATTEMPTS {
            told = self.ask(request(pending.session()), &ask).await.and_then(&read);
            match &told {
                Err(Outcome::Unknown(why)) => {
                    pending.doubts.push(self.asked.get());
                    if why == "SESSION_ENDED" {
                        break;
                    }
                }
                Err(Outcome::Failed(why)) if may_be_tried_again(why) => {}
                _ => break,
            }
            if matches!(&told, Err(Outcome::Failed(why)) if is_of_role(why)) {
                self.go_to_other_region();
            } else {
                self.go_elsewhere();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.settle(pending, looked_at_first, told)
    }

    /// Writes down what came of a write.
    fn settle(
        &mut self,
        pending: Pending,
        looked_at_first: bool,
        mut told: Told<Answer>,
    ) -> Option<Answer> {
        let unknown = pending.doubts.len() as u32;
        if pending.doubts.iter().any(|region| *region != self.asked.get()) {
            self.history.lock().went_elsewhere(pending.op);
        }
        if unknown > 0 {
            let says_nothing = match &told {
                Err(Outcome::Failed(why)) => looked_at_first || may_be_tried_again(why),
                Ok(Answer::Received { mark: None, messages, .. }) => messages.is_empty(),
                _ => false,
            };
            if says_nothing {
                let why = format!("{told:?}, after a try of unknown fate");
                told = Err(Outcome::Unknown(why));
            }
        }
        if matches!(&told, Err(Outcome::Unknown(why)) if why == "SESSION_ENDED") {
            self.change_session();
        }
        let tries = if told.is_ok() { unknown + 1 } else { unknown.max(1) };
        self.end(pending.op, tries, told)
    }
}
