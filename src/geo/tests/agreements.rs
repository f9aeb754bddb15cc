//! Two regions compare what they hold.

use super::*;
use crate::queue::ids::Digest;
use crate::queue::milestones::{Comparison, EVERY};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_that_are_written_to_are_compared_at_a_fixed_position() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    while east.group.standing().unwrap().applied.index <= EVERY {
        east.send("a message").await.expect("sent");
    }
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.until_applied("it has the milestone", |west| {
        west.group.milestones().iter().any(|it| it.at.index == EVERY)
    })
    .await;
    for region in [&east, &west] {
        let goes_on = async {
            loop {
                east.send("and on").await.expect("sent");
            }
        };
        let compared = tokio::select! {
            compared = region.pair.verify(soon()) => compared.expect("compared"),
            () = goes_on => unreachable!("it ends with the other"),
        };
        assert_eq!((compared.own, compared.differs.len()), (compared.other, 0));
        assert!(compared.index >= EVERY, "{compared:?}");
    }
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_compares_its_copy_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.send("a message").await.expect("sent");
    west.until_applied("it is there", |west| west.total() == 1).await;
    until("they are equal", async {
        while !matches!(east.pair.compare(soon()).await, Ok(Comparison::Equal(_))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    until("it is kept", async {
        while !east.group.agreed().contains_key("region west") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(east.group.agreed()["region west"].differs.is_empty());
    assert_eq!(east.pair.status().differs, None);
    // Nothing rots here: it is only said that something did.
    let Some(own) = east.group.milestones().pop().map(|it| it.mark()) else { panic!("it has one") };
    let differ = Comparison::Differ { own, other: Digest(0), parts: Vec::new() };
    east.group.note_comparison("region west".to_owned(), &differ);
    let (region, found) = east.pair.status().differs.expect("the status says so");
    assert_eq!((region.as_str(), found.index), ("west", own.at.index));
    assert_eq!(west.pair.status().differs, None, "who compares is the primary");
    east.stop().await;
    west.stop().await;
}
