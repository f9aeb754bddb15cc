//! What a secondary answers to readers, by how old they allow it to be.

use super::*;
use crate::geo::pair::ShapeChange;

const SHORT: Duration = Duration::from_secs(2);

/// What is read at a region by who allows this age.
async fn read(region: &Region, freshness: Freshness) -> Result<u64, RegionRefusal> {
    let count = |store: &Store, _| {
        store.state().queue("default", "orders").map_or(0, |view| view.counts.total)
    };
    match region.group.read(freshness, soon(), count).await {
        Ok((count, _)) => Ok(count),
        Err(GroupError::Rejected(Rejection::Region(refusal))) => Err(refusal),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_is_read_by_who_says_how_old_the_copy_may_be_and_never_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    let (short, long) = (Freshness::Stale(SHORT), Freshness::Stale(Duration::from_secs(3_600)));
    let off = RegionRefusal::NoReads { primary: "east".to_owned() };
    for freshness in [Freshness::Linearizable, long] {
        assert_eq!(read(&west, freshness).await, Err(off.clone()));
    }
    west.pair.set_read_access("anna", true).await.expect("set");
    east.send("it is there").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;

    let not_newest = RegionRefusal::NotNewest { primary: "east".to_owned() };
    assert_eq!(read(&west, Freshness::Linearizable).await, Err(not_newest));
    assert_eq!(read(&east, Freshness::Linearizable).await, Ok(1));
    assert_eq!(read(&west, short).await, Ok(1));

    // Its own leader is heard all the while.
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    east.send("it is not there").await.expect("sent");
    let refusal = async {
        loop {
            match read(&west, short).await {
                Ok(count) => assert_eq!(count, 1),
                Err(refusal) => return refusal,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let refusal = tokio::time::timeout(Duration::from_secs(30), refusal).await.expect("refused");
    let RegionRefusal::TooOld { newer, behind, allowed } = &refusal else { panic!("{refusal}") };
    assert_eq!((newer.as_str(), *allowed), ("east", Span::from_secs(2)));
    assert!(*behind > *allowed, "{refusal}");
    assert_eq!(read(&west, long).await, Ok(1), "who allows more is answered");
    assert_eq!(read(&east, short).await, Ok(2), "at the primary there is nothing newer");

    let resume = ShapeChange { paused: Some(false), ..ShapeChange::default() };
    east.pair.shape("anna", resume).await.expect("resumed");
    until("it is near again", async {
        while read(&west, short).await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    east.stop().await;
    west.stop().await;
}
