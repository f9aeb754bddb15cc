//! What a deposed primary has alone, sent to the new one over the line between them.

use super::*;
use crate::geo::pair::{Replay, ReplayStep};
use crate::geo::tail::Gone;
use crate::queue::authority::TailFate;
use crate::queue::authority::replay::Skip;
use crate::queue::command::SessionTag;

impl Region {
    async fn send_in(&self, (client, sequence, lowest): (u128, u64, u64), body: &str) {
        let session = Some(SessionTag { client, sequence, lowest_unanswered: lowest });
        let account = "default".to_owned();
        let envelope = Envelope { session, account, command: sent(body) };
        let mut done = Err(GroupError::not_applied(Reason::NotLeader));
        while done.is_err() {
            done = self.group.propose(envelope.clone(), soon()).await;
        }
        done.expect("proposed").outcome.expect("sent");
    }

    fn bodies(&self) -> Vec<Bytes> {
        let store = self.group.store().read();
        let (found, _) = store.state().tail(crate::queue::ids::Number(0), None, 1_000);
        let mut all: Vec<_> = found
            .into_iter()
            .map(|it| {
                let content = store.content(it.shown.content).expect("read").expect("there");
                (it.shown.id.number, content.body)
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, body)| body).collect()
    }
}

async fn all_of(mut replay: Replay) -> Vec<ReplayStep> {
    let mut steps = Vec::new();
    while let Some(step) = replay.next().await.expect("a part") {
        steps.push(step);
    }
    steps
}

/// East is deposed by west, with `lost` messages of its own, of 60 kB each. Three more are
/// of clients that both sides know: one sent again to west, one went on there, one did both.
pub(super) async fn deposed(dir: &Path, lost: usize) -> (Region, Region, [String; 2]) {
    let (east, west, at) = protected(dir).await;
    for client in 1..=3 {
        east.send_in((client, 1, 1), "shipped").await;
    }
    west.until_applied("shipped", |west| west.total() == 3).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    for client in 1..=3 {
        east.send_in((client, 2, 2), &format!("of client {client}")).await;
    }
    for at in 0..lost {
        east.send(&format!("{at:04}{}", "x".repeat(60_000))).await.expect("acknowledged");
    }
    east.stop().await;
    let west = Region::start(dir, "west", &at[1], &at[0]).await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_in((1, 2, 2), "of client 1").await;
    west.send_in((3, 2, 2), "of client 3").await;
    west.send_in((3, 3, 3), "next of client 3").await;
    west.send_in((2, 3, 3), "next of client 2").await;
    let east = Region::start(dir, "east", &at[0], &at[1]).await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    (east, west, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_listed_though_the_log_is_gone_and_is_not_called_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = deposed(dir.path(), 2).await;
    east.purge().await;
    assert_eq!(east.group.log_first(), None);
    let head = east.pair.tail_head().expect("a tail");
    assert_eq!((head.log_entries, head.is_whole, head.whole_from), (0, false, None));
    let (page, next) = east.pair.tail_page(&head, None).await.expect("a page");
    assert_eq!((page.len(), next), (5, None), "what is alive is listed");
    assert_eq!(east.pair.tail_deletes(0).expect("listed"), (Vec::new(), None));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_replayed_once_though_either_side_restarts_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = deposed(dir.path(), 30).await;
    assert_eq!(west.total(), 7);
    assert!(west.pair.replay("anna", false).await.is_err(), "only who is fenced has a tail");
    // One part, and this side ends; then one more, and the other.
    let mut replay = east.pair.replay("anna", false).await.expect("begun");
    let first = replay.next().await.expect("a part").expect("there is one");
    assert!(!first.done && first.found > 3, "{first:?}");
    let why: Vec<Skip> = first.skipped.iter().map(|it| it.why).collect();
    assert_eq!(why, [Skip::SentAgain; 2], "by session, and by the log: {first:?}");
    drop(replay);
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let mut replay = east.pair.replay("anna", false).await.expect("begun again");
    let second = replay.next().await.expect("a part").expect("there is one");
    assert!(!second.done && second.total_sent > first.total_sent, "{second:?}");
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let mut steps = all_of(replay).await;
    let last = steps.pop().expect("a last part");
    assert_eq!((last.done, last.total_sent, last.total_skipped), (true, 31, 2));
    let bodies = west.bodies();
    assert_eq!(bodies.len(), 7 + 31);
    assert_eq!(bodies[7], "of client 2");
    assert!(bodies[8..].is_sorted(), "in the order of sending");
    // Again, and nothing is sent.
    let again = all_of(east.pair.replay("anna", true).await.expect("begun")).await;
    assert_eq!(again.iter().map(|step| step.found).sum::<u64>(), 0);
    assert_eq!(west.total(), 7 + 31);
    let own = east.group.standing().unwrap().authority;
    assert_eq!(own.tail, Some(TailFate::Replayed));
    let said = |region: &Region, what: &str| {
        let audit = region.pair.status().audit;
        audit.iter().any(|row| row.who == "anna" && row.what.contains(what))
    };
    assert!(said(&east, "the tail of epoch 1 is replayed"));
    assert!(said(&west, "take the tail of epoch 1 of region \"east\": 31 sent, 2 not"));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sent_again_is_not_sent_though_its_next_call_reached_the_old_side_late() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    for client in [4, 5] {
        east.send_in((client, 1, 1), "shipped").await;
    }
    west.until_applied("shipped", |west| west.total() == 2).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    // Client 5 has its answer from here, client 4 will have it from there.
    for client in [4, 5] {
        east.send_in((client, 2, 2), "the same for both").await;
        east.send(&format!("between, {client}")).await.expect("acknowledged");
    }
    for client in [4, 5] {
        east.send_in((client, 3, 3), &format!("late, {client}")).await;
    }
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_in((4, 2, 2), "the same for both").await;
    west.send_in((4, 3, 3), "late, 4").await;
    west.send_in((4, 4, 4), "next of client 4").await;
    west.send_in((5, 4, 4), "next of client 5").await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    let steps = all_of(east.pair.replay("anna", false).await.expect("begun")).await;
    let skipped: Vec<Skip> = steps.iter().flat_map(|step| &step.skipped).map(|it| it.why).collect();
    assert_eq!(skipped, [Skip::SentAgain; 2], "both of client 4: {steps:?}");
    assert_eq!(steps.last().expect("a part").total_sent, 4);
    let mut bodies = west.bodies().split_off(6);
    bodies.sort_unstable();
    assert_eq!(bodies, ["between, 4", "between, 5", "late, 5", "the same for both"]);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sends_nothing_of_what_its_side_is_given_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = deposed(dir.path(), 30).await;
    let head = east.pair.tail_head().expect("a tail");
    let mut begun = east.pair.replay("anna", false).await.expect("begun");
    begun.next().await.expect("a part").expect("there is one");
    let (before, bodies) = (west.total(), west.bodies());
    east.pair.settle_tail("bert", TailFate::Exported).await.expect("it is in a file");
    west.pair.protect("bert", false).await.expect("protected");
    east.until_applied("it follows", |east| {
        east.role() == Role::Secondary && digests_are_equal(east, &west)
    })
    .await;
    let why = begun.next().await.expect_err("it is a copy now").to_string();
    assert!(why.contains("has the tail of epoch 1 of region \"east\" no more"), "{why}");
    let why = east.pair.tail_page(&head, None).await.expect_err("nor is it listed").to_string();
    assert!(why.contains("it is secondary now"), "{why}");
    assert_eq!((west.total(), west.bodies()), (before, bodies));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deposed_side_cleared_and_which_queue_it_deleted_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("shipped").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    let queue = || "orders".to_owned();
    east.propose(Command::Clear { queue: queue() }).await.expect("cleared");
    east.propose(Command::DeleteQueue { name: queue() }).await.expect("deleted");
    east.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.pair.force("anna", false).await.expect("promoted");
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    let (gone, next) = east.pair.tail_deletes(0).expect("listed");
    let said = |gone: &Gone| match gone {
        Gone::Queue(all) => (all.account.clone(), all.queue.clone(), all.with_queue),
        Gone::Message(one) => panic!("no message was deleted by name: {one:?}"),
    };
    let said: Vec<_> = gone.iter().map(said).collect();
    let all = |with_queue| ("default".to_owned(), queue(), with_queue);
    assert_eq!((said, next), (vec![all(false), all(true)], None));
    east.stop().await;
    west.stop().await;
}
