//! Where a call is answered: here, when this node leads, or by the leader's node, to which the
//! whole call is passed, once.
//!
//! Laws: a call that was passed on is never passed on again, and says which node of which cluster
//! it is meant for, so that no other answers it at an address that is used again; what is left of
//! the deadline goes with it; a connection that was never made means *not applied*, and the call tries again while
//! there is time; one that broke in the middle of a write means *unknown*, and so does a leader
//! that was replaced before it answered: it may have fallen silent. A call that is repeatable is
//! then asked again here, and *unknown* is said only where no answer came in time.
//!
//! A call that knows of a higher epoch of the pair than this cluster is answered here only after
//! the other region has said that it is not so. One that knows of a pair which this cluster is not
//! of is not answered, also where that came to be while it waited. What a caller knows goes with a call that is
//! passed on: the node that leads decides.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::call::{Call, FORWARDED};
use super::error::{DOMAIN, Refusal};
use crate::consensus::error::Fate;
use crate::consensus::group::{Group, Leadership};
use crate::consensus::types::NodeId;
use crate::proto::epoch;

/// How long a call waits for somebody to lead before it is answered *not now*.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// What was passed on to a leader that leads no more is given up after this: a living one has
/// answered by then, a silent one never will.
const FAREWELL: Duration = Duration::from_millis(100);

/// What a broken call may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// A write under a session that waits: asked again it says what became of it, or goes on
    /// waiting.
    Repeatable,
}

impl Kind {
    fn fate(self) -> Fate {
        match self {
            Kind::Read => Fate::NotApplied,
            Kind::Write | Kind::Repeatable => Fate::Unknown,
        }
    }

    fn may_be_tried_again(self, refusal: &Refusal) -> bool {
        let repeatable = self == Kind::Repeatable && refusal.is_unknown();
        repeatable || refusal.may_be_tried_again()
    }
}

/// The leader and the way to it.
pub(super) struct Way {
    pub channel: Channel,
    group: Group,
    leader: NodeId,
}

impl Way {
    /// Ends a while after another leads, or nobody.
    pub(super) fn moved(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut leadership, leader) = (self.group.leadership(), self.leader);
        async move {
            // Without a sender the node stops, and its streams end by themselves.
            if leadership.wait_for(|now| now.leader != Some(leader)).await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(FAREWELL).await;
        }
    }

    /// Opens a stream at the leader, as long as it leads. No frame is passed on before.
    pub(super) async fn opened<T>(
        &self,
        open: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            opened = open => match opened {
                Ok(stream) => Ok(stream.into_inner()),
                Err(status) => Err(self.failure(status, Kind::Write)),
            },
            () = self.moved() => Err(moved_away(Fate::NotApplied).into()),
        }
    }

    fn sign(&self, metadata: &mut MetadataMap) {
        metadata.insert(FORWARDED, MetadataValue::from_static("1"));
        self.group.peers().sign(self.leader, metadata);
    }

    /// The failure of a call that was passed on, as it is answered.
    pub(super) fn failure(&self, status: Status, kind: Kind) -> Status {
        self.note(&status);
        stream_failure(status, kind)
    }

    /// A node that is not the leader is not asked again over the same connection.
    fn note(&self, status: &Status) {
        if is_elsewhere(status) {
            self.group.forget_leader_channel(self.leader);
        }
    }

    /// What a stream that was passed on answers, or failed with; it ends when leadership moves.
    pub(super) fn answers<T: Send + 'static>(
        &self,
        from: tonic::Streaming<T>,
    ) -> BoxStream<'static, Result<T, Status>> {
        let answers = from.map(|frame| frame.map_err(|status| stream_failure(status, Kind::Write)));
        let farewell = self.moved();
        let moved = futures::stream::once(async move {
            farewell.await;
            Err(moved_away(Fate::Unknown).into())
        });
        futures::stream::unfold(Some((answers.boxed(), moved.boxed())), |both| async move {
            let (mut answers, mut moved) = both?;
            tokio::select! {
                biased;
                answer = answers.next() => Some((answer?, Some((answers, moved)))),
                last = moved.next() => Some((last?, None)),
            }
        })
        .boxed()
    }
}

fn moved_away(fate: Fate) -> Refusal {
    let why = "leadership moved while the call was passed on".to_owned();
    Refusal::NotNow { why, fate, retry_after: None }
}

/// The way to the leader, or `None` when this node leads.
pub(super) async fn place(group: &Group, call: &Call) -> Result<Option<Way>, Refusal> {
    way_to(group, call, |now| now.is_me).await
}

/// The same for a call about queues, which only the region that writes may answer: *not now* where
/// the caller knows of a higher epoch, until the other region has said what is so.
pub(super) async fn place_of_writer(group: &Group, call: &Call) -> Result<Option<Way>, Refusal> {
    let way = place(group, call).await?;
    if let (None, Some(told)) = (&way, &call.knows) {
        group.check_told(told, call.deadline).await?;
    }
    Ok(way)
}

/// What is answered here, if this cluster was of the pair that the caller knows until then.
async fn here_of_pair<T>(
    group: &Group,
    call: &Call,
    kind: Kind,
    answer: BoxFuture<'_, Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let answer = answer.await;
    if let Some(told) = &call.knows {
        group.check_pair(told, kind.fate())?;
    }
    answer
}

/// The same for the answers of a stream, which ends where it is so no more.
pub(super) fn stream_of_pair<T: Send + 'static>(
    group: &Group,
    call: &Call,
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let Some(told) = call.knows else { return answers.boxed() };
    let group = group.clone();
    let checked = answers.scan(false, move |has_ended, answer| {
        if *has_ended {
            return std::future::ready(None);
        }
        let answer = match group.check_pair(&told, Fate::Unknown) {
            Ok(()) => answer,
            Err(error) => {
                *has_ended = true;
                Err(Refusal::from(error).into())
            }
        };
        std::future::ready(Some(answer))
    });
    checked.boxed()
}

/// The same as [`place`] for a call that needs no log time: a leader answers it before it is ready
/// to propose.
pub(super) async fn place_of_leader(group: &Group, call: &Call) -> Result<Option<Way>, Refusal> {
    let own = group.node();
    way_to(group, call, |now| now.leader == Some(own)).await
}

async fn way_to(
    group: &Group,
    call: &Call,
    is_here: impl Fn(&Leadership) -> bool,
) -> Result<Option<Way>, Refusal> {
    let mut leadership = group.leadership();
    // Not to the very end: the answer that nothing was applied must reach the caller in time.
    let until = Instant::now() + PATIENCE.min(call.remaining() * 3 / 4);
    loop {
        let now = *leadership.borrow_and_update();
        if is_here(&now) {
            return Ok(None);
        }
        if call.forwarded {
            return Err(Refusal::not_now(
                "the call was passed on to this node, which leads no more",
            ));
        }
        if let Some((leader, channel)) = group.leader_channel() {
            let way = |channel| Some(Way { channel, group: group.clone(), leader });
            return channel.map(way).map_err(|error| Refusal::not_now(error.to_string()));
        }
        match tokio::time::timeout_at(until, leadership.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Refusal::not_now("this node is stopping")),
            Err(_) => {
                return Err(Refusal::not_now(
                    "no leader is known; a majority of the zones may be out of reach",
                ));
            }
        }
    }
}

/// Answers a call here or passes it on, again and again while it is certainly not applied and
/// there is time: a call in flight survives a change of leaders.
pub(super) async fn unary<'a, Req, Res>(
    group: &Group,
    call: &Call,
    kind: Kind,
    request: Req,
    here: impl Fn(Req) -> BoxFuture<'a, Result<Res, Refusal>>,
    there: impl Fn(Channel, Request<Req>) -> BoxFuture<'a, Result<Response<Res>, Status>>,
) -> Result<Response<Res>, Status>
where
    Req: Clone,
{
    // What was not known before: it stays so, whatever comes after it.
    let mut doubt: Option<Status> = None;
    loop {
        let failed: Status = match place_of_writer(group, call).await {
            Err(refusal) => return Err(doubt.unwrap_or_else(|| refusal.into())),
            Ok(None) => match here_of_pair(group, call, kind, here(request.clone())).await {
                Ok(answer) => return Ok(Response::new(answer)),
                Err(refusal) if kind.may_be_tried_again(&refusal) => refusal.into(),
                // A role or a queue that refuses it now says nothing of what went before.
                Err(refusal) => return Err(doubt.unwrap_or_else(|| refusal.into())),
            },
            Ok(Some(way)) => {
                let passed = signed(&way, call, request.clone());
                tokio::select! {
                    biased;
                    answer = there(way.channel.clone(), passed) => match answer {
                        Ok(answer) => return Ok(Response::new(answer.into_inner())),
                        Err(status) => {
                            way.note(&status);
                            match judge(status, kind) {
                                Ok(again) => again,
                                Err(status) => return Err(doubt.unwrap_or(status)),
                            }
                        }
                    },
                    () = way.moved() => match kind {
                        Kind::Read => moved_away(Fate::NotApplied).into(),
                        Kind::Write => return Err(moved_away(Fate::Unknown).into()),
                        Kind::Repeatable => moved_away(Fate::Unknown).into(),
                    },
                    () = tokio::time::sleep_until(call.deadline) => {
                        let why = "the leader did not answer in time".to_owned();
                        return Err(Refusal::Late { why, fate: kind.fate() }.into());
                    }
                }
            }
        };
        if is_unknown(&failed) {
            doubt = Some(failed.clone());
        }
        if call.forwarded || call.remaining() <= PAUSE {
            return Err(doubt.unwrap_or(failed));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The call as it is passed on: to this leader of this cluster and to no other, whoever answers.
pub(super) fn signed<T>(way: &Way, call: &Call, message: T) -> Request<T> {
    let mut request = Request::new(message);
    way.sign(request.metadata_mut());
    pass_knowledge(call, request.metadata_mut());
    request.set_timeout(call.remaining());
    request
}

fn pass_knowledge(call: &Call, metadata: &mut MetadataMap) {
    if let Some(Ok(told)) = call.knows.map(|told| MetadataValue::try_from(told.to_string())) {
        metadata.insert(epoch::HEADER, told);
    }
}

fn is_unknown(status: &Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "OUTCOME_UNKNOWN")
}

/// `Ok` is a failure after which the call may be tried again: certainly not applied, or
/// repeatable.
#[allow(clippy::result_large_err, reason = "tonic's own error type")]
fn judge(status: Status, kind: Kind) -> Result<Status, Status> {
    if let Some(info) = status.get_error_details().error_info()
        && info.domain == DOMAIN
    {
        let passing = info.reason == "NOT_NOW"
            || kind == Kind::Repeatable && info.reason == "OUTCOME_UNKNOWN";
        let again = status.code() == Code::Unavailable && passing;
        let status = told(&status);
        return if again { Ok(status) } else { Err(status) };
    }
    let why = format!("the connection to the leader failed: {}", status.message());
    let retry_after = None;
    if never_connected(&status) || is_elsewhere(&status) || kind == Kind::Read {
        return Ok(Refusal::NotNow { why, fate: Fate::NotApplied, retry_after }.into());
    }
    match status.code() {
        // Made by the leader's node before its handlers: it looked and refused.
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Err(told(&status)),
        _ => {
            let unknown = Refusal::NotNow { why, fate: Fate::Unknown, retry_after }.into();
            if kind == Kind::Repeatable { Ok(unknown) } else { Err(unknown) }
        }
    }
}

/// What the leader said, without what the connection between us added.
fn told(status: &Status) -> Status {
    let details = bytes::Bytes::copy_from_slice(status.details());
    Status::with_details(status.code(), status.message(), details)
}

/// Said by a node for which the call is not meant, before anything else; what handlers refuse has
/// details.
fn is_elsewhere(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.get_error_details().error_info().is_none()
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Passes on a stream that has no deadline of its own.
pub(super) fn signed_stream<T: Send + 'static>(
    way: &Way,
    call: &Call,
    incoming: tonic::Streaming<T>,
) -> Request<impl Stream<Item = T> + Send + 'static> {
    // A client that breaks off ends the stream to the leader too.
    let frames = incoming.take_while(|frame| std::future::ready(frame.is_ok()));
    let frames = frames.filter_map(|frame| std::future::ready(frame.ok()));
    let mut request = Request::new(frames);
    way.sign(request.metadata_mut());
    pass_knowledge(call, request.metadata_mut());
    request
}

/// The failure of a stream that was passed on, opened or not.
pub(super) fn stream_failure(status: Status, kind: Kind) -> Status {
    match judge(status, kind) {
        Ok(status) | Err(status) => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status: &Status) -> String {
        status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn what_a_caller_knows_is_passed_on_as_it_said_it() {
        let mut told = MetadataMap::new();
        let text = format!("{} west {:032x}", u64::MAX, 7);
        told.insert(epoch::HEADER, text.parse().expect("ASCII"));
        let mut passed = MetadataMap::new();
        pass_knowledge(&Call::of(&told, Duration::ZERO), &mut passed);
        assert_eq!(passed.get(epoch::HEADER), told.get(epoch::HEADER));
        let mut passed = MetadataMap::new();
        pass_knowledge(&Call::of(&MetadataMap::new(), Duration::ZERO), &mut passed);
        assert!(passed.is_empty(), "nothing is made up");
    }

    #[test]
    fn a_broken_write_is_unknown_and_a_broken_read_may_be_tried_again() {
        let broken = || Status::unavailable("connection reset");
        let status = judge(broken(), Kind::Write).expect_err("may have been applied");
        assert_eq!(reason(&status), "OUTCOME_UNKNOWN");
        let status = judge(broken(), Kind::Read).expect("a read changes nothing");
        assert_eq!(reason(&status), "NOT_NOW");
    }

    #[test]
    fn a_call_that_met_another_node_was_not_applied_and_is_tried_again() {
        let elsewhere = Status::failed_precondition("this call is for node 1");
        let status = judge(elsewhere, Kind::Write).expect("may be tried again");
        assert_eq!(reason(&status), "NOT_NOW");
    }

    #[test]
    fn a_broken_call_that_is_repeatable_is_tried_again_and_remembers_the_doubt() {
        let broken = Status::unavailable("connection reset");
        let status = judge(broken, Kind::Repeatable).expect("may be tried again");
        assert!(is_unknown(&status));
        let said: Status = moved_away(Fate::Unknown).into();
        assert!(is_unknown(&judge(said, Kind::Repeatable).expect("may be tried again")));
        assert!(judge(moved_away(Fate::Unknown).into(), Kind::Write).is_err());
        let said = Status::from(Refusal::invalid("id", "is bad", "good ones"));
        assert!(judge(said, Kind::Repeatable).is_err(), "an answer is an answer");
    }

    #[test]
    fn what_the_leader_said_is_passed_back_as_it_is() {
        let said = Status::from(Refusal::invalid("id", "is bad", "good ones"));
        let status = judge(said, Kind::Write).expect_err("final");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_ARGUMENT")
        );
        let said = Status::from(Refusal::not_now("moved"));
        assert!(judge(said, Kind::Write).is_ok(), "not applied: may be tried again");
    }
}
