//! A node that heard of a promotion answers nothing more, whether or not its cluster can agree.

use super::*;

/// East, which knows nothing of the promotion of west, and whose herald reaches nobody; with what
/// west's ledger says.
async fn deposed(
    dir: &Path,
    left_out: &str,
) -> (Region, String, Vec<crate::queue::authority::LedgerLine>) {
    let (east, west, at) = protected(dir).await;
    east.send("shipped").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    let ledger = west.group.standing().expect("a pair").authority.ledger;
    west.stop().await;
    let nobody = free_address().await;
    let east = Region::start_but(dir, "east", (&at[0], &nobody), Compression::None, left_out).await;
    (east, at[0].clone(), ledger)
}

fn by_west() -> Rejection {
    let by = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    Rejection::Region(RegionRefusal::Fenced { by })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_heard_of_a_promotion_answers_nothing_more_and_remembers_it_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Its cluster does not agree: nobody proposes the fence.
    let (east, at, ledger) = deposed(dir.path(), "fencing").await;
    east.send_patiently("acknowledged before").await;
    east.group.keep_heard(9, &ledger).await;
    east.send("of another lineage, which is nobody's business").await.expect("sent");
    east.group.keep_heard(7, &ledger).await;
    assert_eq!(east.role(), Role::Primary, "it is not fenced yet");
    assert_eq!(east.send("never").await, Err(by_west()));
    let read = east.group.read(Freshness::Linearizable, soon(), |_, _| ()).await;
    assert!(matches!(read, Err(GroupError::Rejected(_))), "{read:?}");
    let stale = Freshness::Stale(Duration::from_secs(60));
    east.group.read(stale, soon(), |_, _| ()).await.expect("an old answer is still given");
    east.stop().await;

    let nobody = free_address().await;
    let (name, both) = ("east", (at.as_str(), nobody.as_str()));
    let east = Region::start_but(dir.path(), name, both, Compression::None, "fencing").await;
    assert_eq!(east.role(), Role::Primary, "nobody has told it anything since");
    assert_eq!(east.send("never").await, Err(by_west()));
    east.stop().await;
    let east = Region::start_but(dir.path(), name, both, Compression::None, "").await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    assert_eq!(east.send("never").await, Err(by_west()));
    assert_eq!(east.total(), 3);
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_and_heard_of_a_promotion_is_fenced_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (east, _, ledger) = deposed(dir.path(), "").await;
    east.group.keep_heard(7, &ledger).await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_known_deposes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (east, _, ledger) = deposed(dir.path(), "fencing").await;
    let own = east.group.standing().expect("a pair").authority.ledger;
    east.group.keep_heard(7, &own).await;
    east.send_patiently("its own epoch is no news").await;
    east.group.keep_heard(7, &ledger).await;
    assert_eq!(east.send("never").await, Err(by_west()));
    east.stop().await;
}
