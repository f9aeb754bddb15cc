//! A handing over that does not come to its end.

use super::*;

/// East hands over to west, whether that hears of it or not.
async fn hand_over(east: &Region) {
    let Ok(RegionReply::At(seal)) = east.region(RegionVerb::Seal).await else {
        panic!("not sealed")
    };
    let to = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    let release = RegionVerb::Release { to, seal, acknowledged: seal };
    east.region(release).await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_failover_is_answered_when_the_node_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    hand_over(&east).await;
    let pair = east.pair.clone();
    let later = Instant::now() + Duration::from_secs(3_600);
    let waits = tokio::spawn(async move { pair.fail_over("anna", None, later).await });
    east.stop().await;
    until("it is answered", async {
        let answer = waits.await.expect("no panic");
        assert!(matches!(answer, Err(PairError::NotNow { fate: Fate::Unknown, .. })), "{answer:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_given_its_state_after_the_release_is_promoted_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    west.stop().await;
    east.send("before").await.expect("sent");
    east.purge().await;
    hand_over(&east).await;
    east.send("too late").await.expect_err("it has handed over");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.until_applied("promoted", |west| west.role() == Role::Primary).await;
    assert!(east.watermark.borrow().copied_bytes > 0, "the log did not go back so far");
    west.send_patiently("after").await;
    east.until_applied("it follows", |east| east.total() == west.total()).await;
    assert_eq!((east.role(), west.total()), (Role::Secondary, 2));
    east.stop().await;
    west.stop().await;
}
