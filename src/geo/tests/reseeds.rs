//! A deposed primary is given the state of the new one in the place of its own, as it is.

use super::tails::deposed;
use super::*;

async fn all_bodies(region: &Region, count: u32) -> Vec<Bytes> {
    let command = Command::Receive(Receive {
        queue: "orders".to_owned(),
        max_messages: count,
        max_bytes: 4 << 20,
        visibility: None,
    });
    let envelope = Envelope { session: None, account: "default".to_owned(), command };
    let mut done = Err(GroupError::not_applied(Reason::NotLeader));
    while done.is_err() {
        done = region.group.propose(envelope.clone(), soon()).await;
    }
    done.expect("received").contents.into_iter().map(|it| it.body).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_primary_is_protected_again_without_being_emptied_and_handed_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = deposed(dir.path(), 20).await;
    let refused = west.pair.protect("anna", false).await;
    let Err(PairError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("neither replayed nor exported"), "{why}");
    assert!(matches!(east.role(), Role::Fenced { .. }));
    assert_eq!(west.role(), Role::Standalone, "nothing was begun");
    let mut replay = east.pair.replay("anna", false).await.expect("begun");
    while replay.next().await.expect("a part").is_some() {}
    for _ in 0..2 {
        west.pair.protect("anna", false).await.expect("protected, and so already");
    }
    west.send_patiently("while it is seeded").await;
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    assert!(west.watermark.borrow().copied_bytes > 1_000_000, "what was copied is counted");
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    assert_eq!(east.role(), Role::Secondary);
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    assert!(digests_are_equal(&east, &west), "durable");
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let total = west.total() as u32;
    west.pair.fail_over("anna", Some("east"), soon()).await.expect("handed back");
    east.until_applied("east leads again", |east| east.role() == Role::Primary).await;
    let bodies = all_bodies(&east, total).await;
    assert_eq!(bodies.len() as u32, total);
    assert!(bodies.iter().any(|body| body == "next of client 3"), "what only west had");
    assert!(bodies.iter().any(|body| body.starts_with(b"0019x")), "what was replayed");
    let known = &east.group.standing().unwrap().authority.replayed;
    assert!(known.iter().any(|it| it.done && it.sent == 21), "for ever: {known:?}");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_is_given_up_by_name_is_gone_once_the_state_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = deposed(dir.path(), 3).await;
    west.pair.protect("anna", true).await.expect("protected");
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    assert_eq!(east.total(), west.total());
    assert_eq!(east.total(), 7, "what the tail had alone is not there");
    // And apart again: the copy is kept.
    west.pair.unprotect("anna", false).await.expect("apart");
    assert_eq!((west.role(), east.role()), (Role::Standalone, Role::Detached));
    east.stop().await;
    west.stop().await;
}
