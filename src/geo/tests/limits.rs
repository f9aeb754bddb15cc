//! Limits of the lag over real sockets and the real clock.

use super::*;
use crate::geo::pair::{LimitChange, ShapeChange};

const LIMIT: u64 = 1 << 20;

async fn live(dir: &Path) -> (Region, Region, [String; 2]) {
    let (east, west, at) = protected(dir).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    (east, west, at)
}

fn throttled() -> LimitChange {
    LimitChange {
        max_unshipped_bytes: Some(Some(LIMIT)),
        throttle: Some(true),
        ..LimitChange::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_a_copy_that_is_too_far_behind_and_a_forced_failover_says_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = live(dir.path()).await;
    east.pair.limit("anna", throttled()).await.expect("set");
    until("the other side hears of it", async {
        while west.pair.loss().expect("a secondary").bytes_at_most != Some(LIMIT) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    let body = "x".repeat(16 << 10);
    let mut acknowledged = 0;
    let refused = loop {
        match east.try_send(&body).await {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused,
        }
        assert!(acknowledged < 100, "nothing holds it back");
    };
    let GroupError::NotNow { reason: Reason::TooFarBehind, fate, retry_after, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!((fate, retry_after), (Fate::NotApplied, Duration::from_secs(1)));
    assert!(acknowledged > 30, "only {acknowledged} of 64 fit in the limit");
    assert!(acknowledged * body.len() as u64 <= LIMIT, "{acknowledged} are too many");
    let status = east.pair.status();
    assert_eq!(status.messages_behind, Some(acknowledged));
    // One that waits goes on when the line is back.
    let (waiting, body) = (east.group.clone(), body.clone());
    let waits = tokio::spawn(async move {
        let account = "default".to_owned();
        let envelope = Envelope { session: None, account, command: sent(&body) };
        loop {
            match waiting.propose(envelope.clone(), soon()).await {
                Err(GroupError::NotNow { reason: Reason::TooFarBehind, .. }) => {}
                other => return other,
            }
        }
    });
    let resume = ShapeChange { paused: Some(false), ..ShapeChange::default() };
    east.pair.shape("anna", resume).await.expect("resumed");
    waits.await.unwrap().expect("sent").outcome.expect("sent");
    west.until_applied("all is there", |west| west.total() == acknowledged + 1).await;
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.send_patiently("the next leader has the limit too").await;
    let limits = east.group.store().footing_now().limits;
    assert_eq!(limits.and_then(|it| it.max_unshipped_bytes), Some(LIMIT));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_says_that_the_copy_is_late_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = live(dir.path()).await;
    let short = LimitChange { max_lag: Some(Some(Span(1))), ..LimitChange::default() };
    let refused = east.pair.limit("anna", short).await;
    assert!(matches!(refused, Err(PairError::Refused(_))), "{refused:?}");
    let max_lag = Some(Some(Span::from_secs(2)));
    let limit = LimitChange { max_lag, ..LimitChange::default() };
    east.pair.limit("anna", limit).await.expect("set");
    assert_eq!(east.pair.status().lag_trouble, None);
    west.stop().await;
    east.send("while the other side is away").await.expect("sent");
    until("the alarm", async {
        while east.pair.status().lag_trouble.is_none() {
            east.send("late").await.expect("an alarm stops nobody");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for _ in 0..3 {
        east.send("beyond the limit").await.expect("an alarm stops nobody");
    }
    let status = east.pair.status();
    assert!(status.lag_trouble.is_some(), "it was beyond all the while: {status:?}");
    assert!(status.watermark.positions_behind > 2, "what is behind grows: {status:?}");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    until("no alarm", async {
        while east.pair.status().lag_trouble.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_holds_back_for_a_copy_that_it_has_not_heard_of_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = live(dir.path()).await;
    let max_lag = Some(Some(Span::from_secs(2)));
    let limit = LimitChange { max_lag, throttle: Some(true), ..LimitChange::default() };
    east.pair.limit("anna", limit).await.expect("set");
    east.send("the copy has it").await.expect("sent");
    west.stop().await;
    until("the limit holds writes back", async {
        while east.try_send("the copy lacks it").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    loop {
        match east.try_send("beyond the limit").await {
            Err(GroupError::NotNow { reason: Reason::TooFarBehind, .. }) => break,
            Err(GroupError::NotNow { .. }) => {}
            other => panic!("a new leader took it though the copy is away: {other:?}"),
        }
    }
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.send_patiently("once the copy has the rest").await;
    east.stop().await;
    west.stop().await;
}
