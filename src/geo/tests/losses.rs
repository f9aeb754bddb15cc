//! What a copy lacks is counted in messages, and by queue.

use super::*;
use crate::geo::pair::ShapeChange;
use crate::queue::authority::loss::{LostMessages, LostQueue};

/// Clocks of one machine differ by what passes between two looks.
const SAME: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_lacks_is_told_by_queue_and_receives_are_no_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.send("there already").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    let known = |region: &Region| region.pair.status().messages_behind;
    // Receipts draw from the counter of the messages' numbers.
    for _ in 0..5 {
        let visibility = Some(Span(0));
        let receive =
            Receive { queue: "orders".to_owned(), max_messages: 1, max_bytes: 1 << 20, visibility };
        east.propose(Command::Receive(receive)).await.expect("received");
    }
    assert_eq!(known(&east), Some(0), "nothing was sent");
    for at in 0..3 {
        east.send(&format!("message {at}")).await.expect("sent");
    }
    assert_eq!(known(&east), Some(3));
    until("the copy hears of it", async {
        while known(&west) != Some(3) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let loss = west.pair.loss().expect("a secondary");
    // Both are on this machine.
    let clock = loss.clock.expect("it says its time");
    assert!(Duration::from_micros(clock.by_us.unsigned_abs()) <= clock.within + SAME, "{clock:?}");
    let orders = lost(3);
    assert_eq!((loss.messages(), loss.queues), (Some(3), Some(orders)));
    let resume = ShapeChange { paused: Some(false), ..ShapeChange::default() };
    east.pair.shape("anna", resume).await.expect("resumed");
    west.until_applied("all is there", |west| west.total() == 4).await;
    // Without another word: what came is not missing any more.
    assert_eq!(west.pair.loss().expect("a secondary").messages(), Some(0));
    east.stop().await;
    west.stop().await;
}

fn lost(messages: u64) -> LostMessages {
    let (account, queue) = ("default".to_owned(), "orders".to_owned());
    let queues = vec![LostQueue { account, queue, messages }];
    LostMessages { queues, ..LostMessages::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promotion_by_force_lost_is_known_after_a_restart_and_to_whoever_asks_again() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("there already").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    for at in 0..4 {
        east.send(&format!("message {at}")).await.expect("sent");
    }
    until("the copy hears of it", async {
        while west.pair.status().messages_behind != Some(4) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let said = west.pair.force_from("anna", false, Some(Epoch(1)), soon()).await.expect("promoted");
    assert_eq!(said.queues, Some(lost(4)));
    east.stop().await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let own = west.group.standing().unwrap().authority;
    let kept = own.loss.expect("kept");
    assert_eq!((kept.epoch.clone(), kept.messages.clone()), (own.epoch, Some(lost(4))));
    assert_eq!((kept.entries, kept.is_complete), (said.positions, true));
    let again = west.pair.force_from("anna", false, Some(Epoch(1)), soon()).await;
    assert_eq!(again.expect("promoted already").queues, Some(lost(4)));
    // It is in the tables, and not only in the log.
    west.purge().await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let own = west.group.standing().unwrap().authority;
    assert_eq!(own.loss, Some(kept));
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_that_was_started_anew_without_its_primary_does_not_know_which_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("there").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    until("it hears of its primary", async {
        while west.pair.loss().expect("a secondary").clock.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    east.stop().await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let loss = west.pair.loss().expect("a secondary");
    assert_eq!((loss.queues.as_ref(), loss.messages(), loss.clock), (None, None, None));
    assert!(loss.positions.is_some(), "the last batch said how far the primary was: {loss:?}");
    west.stop().await;
}
