//! Plain sends ride on shared `SendStream`s, one for each connection: many sends in a frame,
//! many frames in flight.
//!
//! Laws: no linger; a frame holds what was waiting. A broken or silent stream is opened again at
//! the next node and what was unanswered is written again under the same session. A node that
//! says *not now* is left once its other answers are in.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::backoff::Backoff;
use super::call::report;
use super::endpoints::{Choice, Pick, Pool};
use super::error::{ClientError, Failure, Verdict};
use super::outbox::{Outbox, Patience, Waiter};
use super::verbs::service;
use crate::proto::queue::v1 as pb;

/// Sends that wait for a place in a frame.
const WAITING: usize = 1_024;
/// Frames given to the connection and not yet taken by it.
const FRAMES: usize = 8;
const FRAME_ITEMS: usize = 512;
/// A frame is closed once it holds this much; one send may be larger by itself.
const FRAME_BYTES: usize = 512 << 10;
pub(super) const TICK: Duration = Duration::from_millis(20);
/// The lane ends a send at its deadline; the caller gives it this much longer to say so.
const GRACE: Duration = Duration::from_millis(500);

type Reply = oneshot::Sender<Result<pb::SendResponse, ClientError>>;

impl<R> Waiter<R> for oneshot::Sender<Result<R, ClientError>> {
    fn give(self, answer: Result<R, ClientError>) {
        // The caller may have gone; then nobody needs the answer.
        let _ = self.send(answer);
    }

    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

#[derive(Debug)]
struct Job {
    send: pb::SendRequest,
    deadline: Instant,
    reply: Reply,
}

/// The door to one stream.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    jobs: mpsc::Sender<Job>,
}

impl Lane {
    /// Starts the task that owns the stream; it ends when the last door is dropped.
    pub(super) fn start(
        pool: Arc<Pool>,
        connection: usize,
        sessions: bool,
        patience: Duration,
    ) -> Lane {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let outbox = Outbox::new(sessions, pool.len());
        let patience = Patience::new(patience);
        let task = Task { waiting, outbox, patience, closed: false, moving: false };
        tokio::spawn(task.run(pool, connection));
        Lane { jobs }
    }

    /// True once the task has gone, with the runtime it ran in.
    pub(super) fn is_closed(&self) -> bool {
        self.jobs.is_closed()
    }

    pub(super) async fn send(
        &self,
        send: pb::SendRequest,
        deadline: Instant,
    ) -> Result<pb::SendResponse, ClientError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { send, deadline, reply };
        let full = || ClientError::not_now("too many sends of this client are unanswered");
        let gone = || ClientError::unknown("the runtime that carried the stream has ended");
        tokio::time::timeout_at(deadline, self.jobs.send(job))
            .await
            .map_err(|_| full())?
            .map_err(|_| gone())?;
        match tokio::time::timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(ClientError::unknown("no answer came before the deadline")),
        }
    }
}

struct Task {
    waiting: mpsc::Receiver<Job>,
    outbox: Outbox<pb::SendRequest, pb::SendResponse, Reply>,
    patience: Patience,
    /// No more jobs will come.
    closed: bool,
    /// The node said that it cannot serve: write nothing more here.
    moving: bool,
}

/// Why a stream ended.
enum Ended {
    /// Nothing more to do.
    Done,
    /// The connection or the node failed, after the stream was open or before.
    Failed { failure: Failure, opened: bool },
    /// The node cannot serve now; all it had was answered.
    Moved,
}

impl Ended {
    fn failed(status: &Status, opened: bool) -> Ended {
        Ended::Failed { failure: Failure::of_status(status), opened }
    }
}

impl Task {
    async fn run(mut self, pool: Arc<Pool>, connection: usize) {
        let backoff = Backoff::default();
        let mut fruitless = 0u32;
        while self.wait_for_work().await {
            let mut pick = match pool.pick(Some(connection)) {
                Choice::Node(pick) => pick,
                Choice::Wait(until) => {
                    self.pause(until).await;
                    continue;
                }
            };
            let mut heard = false;
            self.moving = false;
            let ended = self.stream(&mut pick, &mut heard).await;
            fruitless = if heard { 0 } else { fruitless.saturating_add(1) };
            match ended {
                Ended::Done => return,
                Ended::Moved => pick.leave(),
                Ended::Failed { failure, opened } => {
                    let (sent, why) = failure.sent(opened);
                    self.outbox.broken(sent, &format!("{} said: {why}", pick.address()));
                    if let Verdict::Final(error) = &failure.verdict {
                        self.outbox.end_all(error);
                    }
                    report(&mut pick, &failure);
                }
            }
            drop(pick);
            if fruitless as usize >= pool.len() {
                self.pause(Instant::now() + backoff.wait(fruitless, None)).await;
            }
        }
    }

    /// Returns when there is something to send; false when there never will be.
    async fn wait_for_work(&mut self) -> bool {
        if !self.outbox.is_empty() {
            return true;
        }
        match self.waiting.recv().await {
            Some(job) => {
                self.accept(job);
                true
            }
            None => false,
        }
    }

    fn accept(&mut self, job: Job) {
        if self.outbox.is_empty() {
            self.patience.start();
        }
        self.outbox.accept(job.send, job.deadline, job.reply);
    }

    /// Sleeps, and still ends what passes its deadline.
    async fn pause(&mut self, until: Instant) {
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + TICK)).await;
            self.outbox.sweep(Instant::now());
        }
    }

    /// Opens a stream and serves it to its end.
    async fn stream(&mut self, pick: &mut Pick<'_>, heard: &mut bool) -> Ended {
        let (out, frames) = mpsc::channel::<pb::SendStreamRequest>(FRAMES);
        let mut service = service(pick.line.clone());
        let open = async move {
            service.send_stream(ReceiverStream::new(frames)).await.map(Response::into_inner)
        };
        tokio::pin!(open);
        let mut answers: Option<Streaming<pb::SendStreamResponse>> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = Vec::with_capacity(FRAME_ITEMS);
        self.patience.start();
        loop {
            let room = self.outbox.room().min(FRAME_ITEMS);
            tokio::select! {
                opened = &mut open, if answers.is_none() => match opened {
                    Ok(stream) => answers = Some(stream),
                    Err(status) => return Ended::failed(&status, false),
                },
                answer = next(&mut answers), if answers.is_some() => match answer {
                    Ok(answer) => {
                        *heard = true;
                        pick.answered();
                        self.patience.heard();
                        self.take_answers(answer, pick);
                    }
                    Err(status) => return Ended::failed(&status, true),
                },
                // Nothing is written before the node took the stream: what it never took was
                // certainly not applied, and nobody has to wonder.
                permit = out.reserve(),
                    if answers.is_some() && self.outbox.has_ready() && !self.moving => match permit
                {
                    Ok(permit) => permit.send(self.frame()),
                    // The connection dropped its end; `answers` or `open` says why.
                    Err(_) => self.moving = true,
                },
                count = self.waiting.recv_many(&mut jobs, room), if room > 0 && !self.closed => {
                    self.closed = count == 0;
                    for job in jobs.drain(..) {
                        self.accept(job);
                    }
                }
                _ = tick.tick(), if !self.outbox.is_empty() => {
                    self.outbox.sweep(Instant::now());
                    let opened = answers.is_some();
                    if opened && !self.outbox.is_out() {
                        self.patience.start();
                    } else if let Some(silence) = self.patience.over() {
                        let failure = Failure::silent(silence);
                        return Ended::Failed { failure, opened };
                    }
                }
            }
            if self.outbox.is_empty() && self.closed {
                return Ended::Done;
            }
            if self.moving && !self.outbox.is_out() {
                return Ended::Moved;
            }
        }
    }

    fn take_answers(&mut self, answer: pb::SendStreamResponse, pick: &Pick<'_>) {
        for result in answer.results {
            let outcome = match result.result {
                Some(pb::send_stream_result::Result::Sent(sent)) => Ok(sent),
                Some(pb::send_stream_result::Result::Error(error)) => {
                    let failure = Failure::of_item(&error);
                    self.moving |= failure.elsewhere && pick.has_others();
                    Err(failure)
                }
                None => Err(Failure::nonsense("a send was answered with nothing")),
            };
            self.outbox.answered(result.tag, outcome);
        }
    }

    fn frame(&mut self) -> pb::SendStreamRequest {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < FRAME_ITEMS && bytes < FRAME_BYTES {
            let Some(writing) = self.outbox.take() else { break };
            let mut send = writing.request;
            send.session = writing.session;
            bytes += send.encoded_len();
            items.push(pb::SendStreamItem { tag: writing.tag, send: Some(send) });
        }
        pb::SendStreamRequest { items }
    }
}

/// The next message of a stream that is there; a clean end counts as a failure of the node.
pub(super) async fn next<T>(stream: &mut Option<Streaming<T>>) -> Result<T, Status> {
    match stream {
        Some(stream) => {
            stream.message().await?.ok_or_else(|| Status::unavailable("the node ended the stream"))
        }
        None => std::future::pending().await,
    }
}
