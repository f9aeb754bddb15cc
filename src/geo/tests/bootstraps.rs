//! A copy that has not had everything yet is no place to go to, unless somebody says so.

use super::*;
use crate::geo::pair::ShapeChange;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_still_given_its_data_is_promoted_only_by_who_accepts_that() {
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address().await, free_address().await];
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.create().await;
    for at in 0..3 {
        east.send(&format!("message {at}")).await.expect("sent");
    }
    let (lineage, attachment, peer) = (7, 70, "west".to_owned());
    let region = "east".to_owned();
    east.region(RegionVerb::Protect { region, lineage, attachment, peer }).await.unwrap();
    // The line is held before the copy is there to be given anything.
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    let ledger = east.group.standing().unwrap().authority.ledger;
    let region = "west".to_owned();
    let attach = Attach { region, lineage, attachment, ledger, ..Attach::default() };
    west.region(RegionVerb::Attach(attach)).await.unwrap();
    east.until_known("the line is down", |mark| mark.is_down).await;

    let planned = east.pair.fail_over("anna", Some("west"), soon()).await;
    let planned = planned.expect_err("the copy has nothing").to_string();
    assert!(planned.contains("lets nothing through"), "{planned}");
    east.send("the primary goes on").await.expect("sent");

    let forced = west.pair.force("anna", false).await.expect_err("not by itself").to_string();
    assert!(forced.contains("--accept-incomplete"), "{forced}");
    let own = || west.group.standing().unwrap().authority;
    assert_eq!(own().role, Role::Secondary, "nothing has changed");

    let lost = west.pair.force("anna", true).await.expect("accepted");
    assert!(!lost.is_complete, "{lost:?}");
    assert_eq!((own().role, own().epoch.number), (Role::Standalone, Epoch(2)));
    // What the old primary has is its tail, all of it.
    east.until_applied("it is fenced", |east| {
        let role = east.group.standing().map(|it| it.authority.role);
        matches!(role, Some(Role::Fenced { .. }))
    })
    .await;
    let head = east.pair.tail_head().expect("a tail");
    let (tail, _) = east.pair.tail_page(&head, None).await.expect("listed");
    assert_eq!((tail.len(), head.is_whole), (4, true));
    east.stop().await;
    west.stop().await;
}
