//! A caller that knows of a promotion makes a deposed primary ask, and stops nobody but itself.

use super::*;
use crate::proto::epoch::KnownEpoch;

fn epoch(number: u64, lineage: u128) -> KnownEpoch {
    KnownEpoch::new(number, "west", lineage).expect("an epoch")
}

/// A write of a client that knows this.
async fn send_knowing(east: &Region, told: KnownEpoch, body: &str) -> Result<Outcome, GroupError> {
    east.group.check_told(&told, soon()).await?;
    east.try_send(body).await
}

fn is_untold<T>(answer: &Result<T, GroupError>) -> bool {
    let (reason, fate) = (Reason::Untold, Fate::NotApplied);
    matches!(answer, Err(GroupError::NotNow { reason: why, fate: what, .. })
        if *why == reason && *what == fate)
}

/// East, deposed by west, of which nothing tells it.
async fn cut_off(dir: &Path, reaches_west: bool) -> (Region, Region) {
    let (east, west, at) = protected(dir).await;
    east.send("shipped").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.stop().await;
    let nobody = free_address().await;
    let west = Region::start(dir, "west", &at[1], &nobody).await;
    let other = if reaches_west { &at[1] } else { &nobody };
    let both = (at[0].as_str(), other.as_str());
    let east = Region::start_but(dir, "east", both, Compression::None, "herald").await;
    (east, west)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_of_a_promotion_is_not_acknowledged_by_the_deposed_primary_which_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = cut_off(dir.path(), true).await;
    east.send_patiently("nobody has told it").await;
    assert_eq!(east.role(), Role::Primary);
    let told = west.group.store().known_epoch().expect("a pair");
    assert_eq!(told, epoch(2, 7), "what clients of west are told");
    let answer = send_knowing(&east, told, "never").await;
    assert!(matches!(answer, Err(GroupError::Rejected(_))), "{answer:?}");
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    assert_eq!(east.total(), 2);
    assert_eq!(east.group.store().known_epoch(), Some(told), "its clients are told from now on");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_of_another_lineage_or_a_known_one_makes_nobody_ask() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = cut_off(dir.path(), true).await;
    east.send_patiently("nobody has told it").await;
    let asked = tokio::spawn({
        let group = east.group.clone();
        async move { group.until_asked(0).await }
    });
    for told in [epoch(9, 8), epoch(1, 7)] {
        send_knowing(&east, told, "acknowledged").await.expect("sent").expect("sent");
    }
    assert_eq!(east.role(), Role::Primary);
    assert!(!asked.is_finished(), "it did not ask");
    send_knowing(&east, epoch(2, 7), "never").await.expect_err("now it asks");
    assert_eq!(asked.await.expect("ended"), 1);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_other_region_is_out_of_reach_only_who_knows_better_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = cut_off(dir.path(), false).await;
    for body in ["one", "two", "three"] {
        let answer = send_knowing(&east, epoch(2, 7), "never").await;
        assert!(is_untold(&answer), "{answer:?}");
        east.send_patiently(body).await;
    }
    assert_eq!((east.role(), east.total()), (Role::Primary, 4));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_the_other_region_does_not_know_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    let begun = Instant::now();
    for body in ["one", "two", "three"] {
        // As a client does that is told to try again.
        until("it is not so", async {
            while send_knowing(&east, epoch(99, 7), body).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // Each write comes after a question of its own, and there is one a second.
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((east.role(), east.total()), (Role::Primary, 3));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_say_it_they_share_a_question_and_none_begins_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    let begun = Instant::now();
    let told = epoch(99, 7);
    let all = (0..100).map(|_| east.group.check_told(&told, soon()));
    for answer in futures::future::join_all(all).await {
        answer.expect("the other region said that it is not so");
    }
    // One at a time they would take a hundred seconds; the first of them may be asked alone.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    east.stop().await;
    west.stop().await;
}
