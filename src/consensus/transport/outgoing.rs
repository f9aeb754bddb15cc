//! The requests of one append stream as they leave: counted, held while the peer is cut, and
//! without the messages that the next one makes needless.
//!
//! After each commit openraft sends an append without entries, to let the follower know. Under
//! load the next entries are an instant behind and say it too, so such a message waits for them
//! a moment; what follows replaces it, since it says as much and more. The first request of a
//! stream never waits: it may be a probe of the follower's log.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::Fuse;
use futures::{Stream, StreamExt as _};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout_at};

use super::super::types::TypeConfig;
use super::convert;
use super::peers::Peers;
use crate::proto::peer::v1 as pb;

/// How long news of a commit may wait for entries to travel with. A follower that nobody writes
/// to learns of a commit this much later.
const COMMIT_WAIT: Duration = Duration::from_millis(1);

type Request = AppendEntriesRequest<TypeConfig>;

/// The requests of one stream, joined where one says what another does.
struct Joined<S> {
    input: Fuse<S>,
    begun: bool,
}

impl<S: Stream<Item = Request> + Unpin> Joined<S> {
    fn new(input: S) -> Joined<S> {
        Joined { input: input.fuse(), begun: false }
    }

    async fn next(&mut self) -> Option<Request> {
        let mut request = self.input.next().await?;
        let may_wait = std::mem::replace(&mut self.begun, true);
        if !may_wait || !request.entries.is_empty() {
            return Some(request);
        }
        let until = Instant::now() + COMMIT_WAIT;
        while let Ok(Some(next)) = timeout_at(until, self.input.next()).await {
            request = next;
            if !request.entries.is_empty() {
                break;
            }
        }
        Some(request)
    }
}

/// What leaves for `target`; `sent` counts it.
pub(super) fn outgoing(
    input: impl Stream<Item = Request> + Send + Unpin + 'static,
    peers: Peers,
    target: u64,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = pb::AppendRequest> + Send + 'static {
    let joined = Joined::new(input);
    futures::stream::unfold((joined, peers, sent), move |(mut joined, peers, sent)| async move {
        let request = joined.next().await?;
        let message = convert::append_out(request)
            .inspect_err(|error| tracing::error!(%error, target_node = target, "cannot encode"))
            .ok()?;
        sent.fetch_add(1, Ordering::Relaxed);
        peers.faults().until_healed(target).await;
        Some((message, (joined, peers, sent)))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::sync::mpsc;

    use super::super::super::types::{LogId, Proposal, RaftEntry, Vote, log_id};
    use super::*;
    use crate::queue::ids::Position;

    fn id(index: u64) -> LogId {
        log_id(&Position { term: 3, node: 1, index })
    }

    /// An append up to `last` that says that `committed` is committed.
    fn request(last: u64, entries: usize, committed: u64) -> Request {
        let prev = last - entries as u64;
        let entry = |index| RaftEntry {
            log_id: id(index),
            payload: openraft::EntryPayload::Normal(Proposal::encoded(bytes::Bytes::new())),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(id(prev)),
            leader_commit: Some(id(committed)),
            entries: (prev + 1..=last).map(entry).collect(),
        }
    }

    /// The stream's other end, and its requests as (entries, committed).
    fn stream() -> (mpsc::Sender<Request>, impl Stream<Item = (usize, u64)> + Unpin) {
        let (give, take) = mpsc::channel(8);
        let input = futures::stream::unfold(take, |mut take: mpsc::Receiver<Request>| async move {
            take.recv().await.map(|request| (request, take))
        });
        let joined = Joined::new(Box::pin(input));
        let out = futures::stream::unfold(joined, |mut joined| async move {
            let request = joined.next().await?;
            let committed = request.leader_commit.map_or(0, |id| id.index);
            Some(((request.entries.len(), committed), joined))
        });
        (give, Box::pin(out))
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_a_commit_travels_with_the_next_entries() {
        let (give, mut out) = stream();
        for request in [request(5, 1, 3), request(5, 0, 4), request(5, 0, 5), request(7, 2, 5)] {
            give.try_send(request).unwrap();
        }
        assert_eq!(out.next().await, Some((1, 3)));
        assert_eq!(out.next().await, Some((2, 5)), "it says what the two before it said");
    }

    #[tokio::test(start_paused = true)]
    async fn news_that_nothing_follows_leave_after_a_moment() {
        let (give, mut out) = stream();
        give.try_send(request(5, 1, 3)).unwrap();
        assert_eq!(out.next().await, Some((1, 3)));
        give.try_send(request(5, 0, 5)).unwrap();
        let begun = Instant::now();
        assert_eq!(out.next().await, Some((0, 5)));
        assert_eq!(begun.elapsed(), COMMIT_WAIT);
        give.try_send(request(6, 1, 5)).unwrap();
        assert_eq!(out.next().await, Some((1, 5)), "nothing is lost by the wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_does_not_wait_and_the_end_is_kept() {
        let (give, mut out) = stream();
        give.try_send(request(5, 0, 3)).unwrap();
        let begun = Instant::now();
        assert_eq!(out.next().await, Some((0, 3)));
        give.try_send(request(5, 0, 4)).unwrap();
        drop(give);
        assert_eq!(out.next().await, Some((0, 4)));
        assert_eq!(out.next().await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
