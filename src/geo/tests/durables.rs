//! Whether the other region has an entry is said by its acknowledgement, and never too early.

use super::tails::deposed;
use super::*;
use crate::geo::pair::ShapeChange;
use crate::queue::ids::Position;

/// Sends, and answers where in the log that is.
async fn placed(region: &Region, body: &str) -> Position {
    let envelope = Envelope { session: None, account: "default".to_owned(), command: sent(body) };
    let last = soon();
    loop {
        match region.group.propose(envelope.clone(), soon()).await {
            Ok(done) => {
                done.outcome.expect("sent");
                return done.position;
            }
            Err(error) => assert!(Instant::now() < last, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn until_there(region: &Region, at: Position) {
    until("the other region has it", async {
        while region.group.is_in_other_region(at) != Some(true) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_in_the_other_region_once_that_acknowledged_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address().await, free_address().await];
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.create().await;
    let alone = placed(&east, "alone").await;
    assert_eq!(east.group.is_in_other_region(alone), None, "there is no other region");
    pair_up(&east, &west).await;
    let there = placed(&east, "shipped").await;
    until_there(&east, there).await;
    assert_eq!(west.total(), 2, "it is there when it is said to be");
    assert_eq!(east.group.is_in_other_region(alone), Some(true), "the whole log was shipped");

    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    let waits = placed(&east, "waits").await;
    assert_eq!(east.group.is_in_other_region(waits), Some(false));
    let never = Position { term: waits.term + 1, ..there };
    assert_eq!(east.group.is_in_other_region(never), None, "no entry of this log");
    let own = west.group.standing().unwrap().applied;
    assert_eq!(west.group.is_in_other_region(own), None, "its own log is shipped nowhere");

    // Until the copy answers a new leader, what was recorded of it counts.
    east.until_applied("recorded", |east| {
        let shipped = east.group.standing().and_then(|it| it.authority.shipped);
        shipped.is_some_and(|at| at.index >= there.index)
    })
    .await;
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    until_there(&east, there).await;
    assert_eq!(east.group.is_in_other_region(waits), Some(false));
    let resume = ShapeChange { paused: Some(false), ..ShapeChange::default() };
    east.pair.shape("anna", resume).await.expect("resumed");
    until_there(&east, waits).await;
    east.pair.unprotect("anna", false).await.expect("apart");
    assert_eq!(east.group.is_in_other_region(waits), None, "there is none any more");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deposed_side_had_alone_is_not_said_to_be_anywhere_once_it_is_the_primary_again() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = deposed(dir.path(), 2).await;
    let head = east.pair.tail_head().expect("a tail");
    let after = head.fork.after.expect("a fork");
    let Role::Fenced { at: fence, .. } = east.role() else { panic!("not fenced") };
    let entries = east.group.log_entries(after.index + 1, fence.index, usize::MAX).expect("read");
    let lost = entries.iter().find(|it| matches!(it.payload, Payload::Commands(_)));
    let lost = lost.expect("an entry of the tail").position;

    west.pair.protect("anna", true).await.expect("protected");
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    until("handed over", async {
        while west.pair.fail_over("anna", Some("east"), soon()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let again = placed(&east, "again").await;
    until_there(&east, again).await;
    assert!(east.group.has_applied(lost), "it is in the log still");
    assert!(lost.index < again.index, "before what the copy has");
    assert_eq!(east.group.is_in_other_region(lost), None);
    east.stop().await;
    west.stop().await;
}
