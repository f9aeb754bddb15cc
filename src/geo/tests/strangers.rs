//! Who ships where he has no business, and regions that are gone at the same time.

use super::*;

/// Why shipping stands still at a primary, once it does.
async fn trouble(region: &Region) -> String {
    region.until_known("it stands still", |mark| mark.trouble.is_some()).await;
    region.watermark.borrow().trouble.clone().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_cluster_that_ships_to_a_secondary_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("of the pair").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    let place = free_address().await;
    // Of another history, and then one that says that it is of the same.
    for lineage in [9, 7] {
        let home = dir.path().join(format!("lineage {lineage}"));
        let north = Region::start(&home, "north", &place, &at[1]).await;
        north.create().await;
        let (region, peer) = ("north".to_owned(), "west".to_owned());
        let protect = RegionVerb::Protect { region, lineage, attachment: 90, peer };
        north.region(protect).await.expect("it takes itself for a primary");
        north.send("of a stranger").await.expect("sent");
        let why = trouble(&north).await;
        assert!(why.contains("attached to another primary"), "{why}");
        assert_ne!(north.watermark.borrow().status, GeoStatus::Live);
        let known = west.pair.status().stranger.expect("it was turned away just now");
        assert_eq!(known.region, "north");
        north.stop().await;
    }
    assert_eq!(west.role(), Role::Secondary);
    east.send("of the pair, too").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 2).await;
    assert!(digests_are_equal(&east, &west), "nothing of the stranger's came there");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_primary_that_ships_on_gives_nothing_and_loses_nothing_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("shipped").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("of the new epoch").await;
    // East hears of nothing: its herald does not ask, and west's does not reach it.
    west.stop().await;
    let nobody = free_address().await;
    let west = Region::start(dir.path(), "west", &at[1], &nobody).await;
    let none = Compression::None;
    let east = Region::start_but(dir.path(), "east", (&at[0], &at[1]), none, "herald").await;
    let why = trouble(&east).await;
    assert!(why.contains("attached to no") || why.contains("another primary"), "{why}");
    assert_ne!(east.watermark.borrow().status, GeoStatus::Live);
    assert_eq!(west.total(), 2, "nothing of the old epoch came");
    assert_eq!(west.pair.status().stranger, None, "it is of the pair");
    assert_eq!(west.role(), Role::Standalone, "without a copy, and its own master");
    east.stop().await;
    // And once it may hear of it, it is fenced, with what it has alone for a tail.
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_regions_restart_at_the_same_time_and_shipping_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    for number in 0..20 {
        east.send(&format!("message {number}")).await.expect("sent");
    }
    east.stop().await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    assert_eq!((east.role(), west.role()), (Role::Primary, Role::Secondary));
    east.send_patiently("after").await;
    west.until_applied("all is there", |west| west.total() == 21).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    assert!(digests_are_equal(&east, &west));
    east.stop().await;
    west.stop().await;
}
