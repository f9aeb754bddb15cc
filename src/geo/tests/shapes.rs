//! The shaped line over real sockets and the real clock.

use super::*;
use crate::geo::pair::ShapeChange;
use crate::queue::authority::shape::Outage;

fn delayed(delay: Span) -> ShapeChange {
    ShapeChange { delay: Some(delay), ..ShapeChange::default() }
}

impl Region {
    async fn shape(&self, change: ShapeChange) {
        self.pair.shape("anna", change).await.expect("shaped");
    }
}

async fn live(dir: &Path) -> (Region, Region, [String; 2]) {
    let (east, west, at) = protected(dir).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    (east, west, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_line_delivers_later_in_order_and_shows_no_later_sync_time() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = live(dir.path()).await;
    let delay = Duration::from_millis(1_500);
    let span = Span(1_500_000);
    east.shape(ShapeChange { jitter: Some(Span(200_000)), ..delayed(span) }).await;
    for at in 0..20 {
        let sent = Instant::now();
        east.send(&format!("message {at}")).await.expect("sent");
        if at % 10 == 0 {
            west.until_applied("it and all before it are there", |west| west.total() > at).await;
            let took = sent.elapsed();
            assert!(took >= delay, "only {took:?}");
        }
        // What is shown is what the copy has, to the entry.
        let mark = east.watermark.borrow().clone();
        assert!(mark.last_sync.is_none_or(|shown| shown <= west.log_time()), "{mark:?}");
    }
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let shaped = east.pair.status().shaped.expect("shown");
    assert_eq!((shaped.shape.delay, shaped.is_down), (span, false));
    until("the other side hears of it", async {
        while west.pair.status().shaped.as_ref() != Some(&shaped) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // A copy is complete though it never has all that was just written.
    assert!(west.pair.loss().expect("a secondary").is_complete);
    east.shape(ShapeChange { is_off: true, ..ShapeChange::default() }).await;
    west.until_applied("all is there", |west| west.total() == 20).await;
    west.until_applied("equal", |west| digests_are_equal(&east, west)).await;
    assert_eq!(east.pair.status().shaped, None);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_paused_or_out_holds_everything_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = live(dir.path()).await;
    east.shape(ShapeChange { paused: Some(true), ..ShapeChange::default() }).await;
    east.until_known("down", |mark| mark.status == GeoStatus::Unavailable).await;
    let trouble = east.watermark.borrow().trouble.clone().expect("it says why");
    assert!(trouble.contains("shaped"), "{trouble}");
    for body in ["one", "two", "three"] {
        east.send(body).await.expect("sent");
    }
    let planned = east.pair.fail_over("anna", Some("west"), soon()).await;
    assert!(
        matches!(planned, Err(PairError::NotNow { fate: Fate::NotApplied, .. })),
        "{planned:?}"
    );
    assert_eq!(west.total(), 0, "nothing passes");
    // The shape is the region's, not its leader's.
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.until_known("down", |mark| mark.is_down).await;
    assert_eq!(west.total(), 0);
    east.shape(ShapeChange { paused: Some(false), ..ShapeChange::default() }).await;
    west.until_applied("all at once", |west| west.total() == 3).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let outage = Outage { after: Span(0), lasts: Span::from_secs(1), every: None };
    let began = Instant::now();
    east.shape(ShapeChange { outages: Some(vec![outage]), ..ShapeChange::default() }).await;
    east.send("four").await.expect("sent");
    west.until_applied("after the outage", |west| west.total() == 4).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_line_takes_its_time_for_each_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = live(dir.path()).await;
    let rate = Some(Some(100 << 10));
    east.shape(ShapeChange { bytes_per_second: rate, ..ShapeChange::default() }).await;
    let began = Instant::now();
    for _ in 0..20 {
        east.send(&"x".repeat(10 << 10)).await.expect("sent");
    }
    west.until_applied("all is there", |west| west.total() == 20).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_900), "200 KiB at 100 KiB/s took {took:?}");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_waits_until_the_backlog_crosses_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = live(dir.path()).await;
    let rate = Some(Some(50 << 10));
    east.shape(ShapeChange { bytes_per_second: rate, ..ShapeChange::default() }).await;
    for _ in 0..30 {
        east.send(&"x".repeat(10 << 10)).await.expect("sent");
    }
    // 300 KiB are six seconds.
    let shortly = Instant::now() + Duration::from_secs(1);
    let refused = east.pair.fail_over("anna", Some("west"), shortly).await;
    let Err(PairError::NotNow { why, fate: Fate::NotApplied }) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("bytes behind"), "{why}");
    assert_eq!(east.role(), Role::Primary, "nothing was begun");
    east.pair.fail_over("anna", Some("west"), soon()).await.expect("handed over");
    west.until_applied("all is there", |west| west.total() == 30).await;
    assert_eq!(west.role(), Role::Primary);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_state_is_given_no_faster_than_the_line_is_shaped() {
    const RATE: u64 = 400_000;
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    for at in 0..20 {
        east.send(&format!("{at:02}{}", "x".repeat(40_000))).await.expect("sent");
    }
    east.purge().await;
    let slow = ShapeChange { bytes_per_second: Some(Some(RATE)), ..ShapeChange::default() };
    east.pair.shape("anna", slow).await.expect("shaped");
    std::fs::remove_dir_all(dir.path().join("west")).unwrap();
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let ledger = east.group.standing().unwrap().authority.ledger;
    let (region, attachment) = (west.name.to_owned(), 70);
    let attach = Attach { region, lineage: 7, attachment, ledger, ..Attach::default() };
    let began = Instant::now();
    west.region(RegionVerb::Attach(attach)).await.expect("attached");
    east.until_known("how much there is", |mark| {
        mark.copy_total.is_some_and(|total| total > 800_000 && mark.copied_bytes < total)
    })
    .await;
    west.until_applied("all is there", |west| west.total() == 20).await;
    let (took, copied) = (began.elapsed(), east.watermark.borrow().copied_bytes);
    assert!(copied > 800_000, "{copied} bytes were given");
    let least = Duration::from_micros(copied * 1_000_000 / RATE);
    assert!(took >= least, "{copied} bytes crossed in {took:?}, and take {least:?}");
    east.until_known("nothing is given any more", |mark| mark.copy_total.is_none()).await;
    east.stop().await;
    west.stop().await;
}
