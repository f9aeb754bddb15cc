//! How far the copy is behind is said on both sides, and is unknown where nobody told.

use super::*;
use crate::geo::pair::{CopyBehind, ShapeChange};

impl Region {
    fn copy(&self) -> CopyBehind {
        self.pair.status().copy
    }

    async fn until_copy(&self, what: &str, is_so: impl Fn(&CopyBehind) -> bool) {
        until(what, async {
            while !is_so(&self.copy()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_say_how_far_the_copy_is_behind_and_how_long_that_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.send("there").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    for region in [&east, &west] {
        region.until_copy("it has all", |it| (it.bytes, it.drain) == (Some(0), Some(0))).await;
    }
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    for _ in 0..30 {
        east.send(&"x".repeat(10 << 10)).await.expect("sent");
    }
    let written = 30 * (10 << 10);
    west.until_copy("it hears of it", |it| it.bytes.is_some_and(|bytes| bytes >= written)).await;
    let through = west.copy().through;
    east.until_copy("all is acknowledged", |it| it.through == through).await;
    // The line rests, and the primary's log only grows.
    let (there, here) = (west.copy(), east.copy());
    assert!(there.bytes <= here.bytes && there.entries <= here.entries, "{there:?} {here:?}");
    assert!(there.entries >= Some(30), "{there:?}");
    let (epoch, at) = there.through.clone().expect("it has something");
    assert_eq!((epoch.number, epoch.region.as_str()), (Epoch(1), "east"));
    assert_eq!(Some(at), west.group.standing().unwrap().authority.applied_through);
    assert_eq!(here.through, there.through);
    assert_eq!(here.drain, None, "what does not go out takes no time that is known");

    let rate = Some(Some(50 << 10));
    let narrow = ShapeChange { bytes_per_second: rate, paused: Some(false), ..Default::default() };
    east.pair.shape("anna", narrow).await.expect("shaped");
    for region in [&east, &west] {
        region.until_copy("it takes seconds", |it| it.drain.is_some_and(|it| it > 0)).await;
    }
    west.until_applied("all is there", |west| west.total() == 31).await;
    for region in [&east, &west] {
        region.until_copy("it has all", |it| (it.bytes, it.drain) == (Some(0), Some(0))).await;
    }
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_that_has_not_heard_of_its_primary_makes_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("there").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    let through = west.copy().through;
    east.stop().await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let copy = west.copy();
    assert_eq!((copy.bytes, copy.drain), (None, None), "{copy:?}");
    assert!(copy.entries.is_some(), "by its last batch: {copy:?}");
    assert!(copy.through >= through, "{copy:?}");
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    west.until_copy("it hears of it", |it| it.bytes == Some(0)).await;
    east.stop().await;
    west.stop().await;
}
