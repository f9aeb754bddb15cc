//! What becomes of a copy that is given up: it is wiped, or goes its own way.

use super::*;
use crate::proto::epoch::KnownEpoch;

fn is_empty(region: &Region) -> bool {
    region.group.store().read().state().is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_wiped_is_as_if_it_was_never_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    for body in ["one", "two"] {
        east.send(body).await.expect("sent");
    }
    west.until_applied("all is there", |west| west.total() == 2).await;
    east.pair.unprotect("anna", true).await.expect("apart");
    east.pair.unprotect("anna", true).await.expect("again, and nothing is left to do");
    assert_eq!((east.role(), west.role()), (Role::Standalone, Role::Standalone));
    assert!(is_empty(&west) && west.total() == 0 && east.total() == 2);
    let said: Vec<String> =
        west.group.store().read().state().audit().map(|row| row.what.clone()).collect();
    assert_eq!(said.last().map(String::as_str), Some("wipe its copy"), "{said:?}");

    // Its disk says the same, and it can be used by itself, or be a copy again.
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    assert!(is_empty(&west) && west.total() == 0);
    east.pair.protect("anna", false).await.expect("protected again");
    west.until_applied("all is there", |west| west.total() == 2).await;
    assert!(digests_are_equal(&east, &west));
    west.pair.unprotect("anna", true).await.expect("wiped by itself");
    assert!(is_empty(&west));
    west.create().await;
    west.send_patiently("of its own").await;
    let refused = west.pair.unprotect("anna", true).await;
    assert!(refused.is_err(), "what stands alone and holds data is no copy");
    assert_eq!(west.total(), 1);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_the_pair_is_not_answered_by_a_region_whose_copy_was_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("of the pair").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    let told = east.group.store().known_epoch().expect("a pair");
    let is_other = |answer: Result<(), GroupError>| {
        matches!(answer, Err(GroupError::NotNow { reason, fate, .. })
            if reason == Reason::OtherPair && fate == Fate::NotApplied)
    };
    for region in [&east, &west] {
        region.group.check_told(&told, soon()).await.expect("both are of the pair");
    }
    east.pair.unprotect("anna", true).await.expect("apart");
    east.group.check_told(&told, soon()).await.expect("it has the data of the pair");
    assert!(is_other(west.group.check_told(&told, soon()).await));
    // Also once it was started again, and while it is the copy of another pair.
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    assert!(is_other(west.group.check_told(&told, soon()).await));
    east.pair.protect("anna", false).await.expect("protected again");
    west.group.check_told(&told, soon()).await.expect("of the pair again");
    let other = KnownEpoch::new(told.number(), told.region(), 99).expect("an epoch");
    assert!(is_other(west.group.check_told(&other, soon()).await));
    east.group.check_told(&other, soon()).await.expect("a primary is asked by all");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_copy_becomes_a_cluster_of_its_own_with_ids_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.send("of both").await.expect("sent");
    west.until_applied("all is there", |west| west.total() == 1).await;
    let refused = west.pair.promote_copy("anna").await;
    assert!(refused.is_err(), "a secondary that follows is no kept copy");
    east.pair.unprotect("anna", false).await.expect("apart");
    assert_eq!(west.role(), Role::Detached);
    let lineage = |region: &Region| region.group.standing().expect("a pair").authority.lineage;
    for _ in 0..2 {
        west.pair.promote_copy("anna").await.expect("on its own, and nothing is done again");
    }
    assert_eq!(west.role(), Role::Standalone);
    assert_ne!(lineage(&west), lineage(&east));
    west.send_patiently("of its own").await;
    let epoch = |region: &Region| region.group.store().read().state().epoch();
    assert!(epoch(&west) > epoch(&east), "its ids are no other cluster's");
    assert_eq!((west.total(), east.total()), (2, 1));
    let refused = east.pair.protect("anna", false).await;
    assert!(matches!(refused, Err(PairError::Refused(_))), "it has data of its own: {refused:?}");
    east.stop().await;
    west.stop().await;
}
