//! Every verb may be begun, and gone on with, from either side, and asked again.

use super::*;
use crate::geo::pair::{Replaying, ShapeChange, Stage, Way};
use crate::queue::authority::TailFate;

/// What the audit of a region says that anna did.
fn said(region: &Region, what: &str) -> bool {
    let audit = region.pair.status().audit;
    audit.iter().any(|row| row.who == "anna" && row.what.contains(what) && row.at_us > 0)
}

/// A refusal that says what to type.
fn says<T: std::fmt::Debug>(answer: Result<T, PairError>, what: &str) {
    match answer {
        Err(PairError::Refused(why)) => assert!(why.contains(what), "{why:?} and not {what:?}"),
        other => panic!("{other:?} and not {what:?}"),
    }
}

async fn empty_pair(dir: &Path) -> (Region, Region, [String; 2]) {
    let at = [free_address().await, free_address().await];
    let east = Region::start(dir, "east", &at[0], &at[1]).await;
    let west = Region::start(dir, "west", &at[1], &at[0]).await;
    (east, west, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_side_has_the_other_one_protected_though_that_ended_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = empty_pair(dir.path()).await;
    east.create().await;
    east.send("one").await.expect("sent");
    // East is a primary and has not asked west yet, when it ends.
    let (region, peer) = ("east".to_owned(), "west".to_owned());
    let protect = RegionVerb::Protect { region, lineage: 7, attachment: 70, peer };
    east.region(protect).await.expect("protected");
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    for _ in 0..2 {
        west.pair.protect("anna", false).await.expect("protected from west");
        east.pair.protect("anna", false).await.expect("and from east");
    }
    assert_eq!((east.role(), west.role()), (Role::Primary, Role::Secondary));
    let attachment = east.group.standing().unwrap().authority.attachment.unwrap();
    assert_eq!((attachment.id, attachment.peer.as_str()), (70, "west"), "the one it began");
    west.until_applied("it follows", |west| west.total() == 1).await;
    assert!(said(&west, "become the secondary region"));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_is_taken_back_from_either_side() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    west.until_applied("one is there", |west| west.total() == 1).await;
    let pause = ShapeChange { paused: Some(true), ..ShapeChange::default() };
    east.pair.shape("anna", pause).await.expect("paused");
    east.until_known("down", |mark| mark.is_down).await;
    says(west.pair.take_back("anna", false).await, "zoneq region failback");
    let Ok(RegionReply::At(seal)) = east.region(RegionVerb::Seal).await else {
        panic!("not sealed")
    };
    let to = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    let release = RegionVerb::Release { to, seal, acknowledged: seal };
    east.region(release).await.expect("released");
    // West has declined, and east ends before it learns of that.
    west.region(RegionVerb::Decline { number: Epoch(2) }).await.expect("declined");
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    for _ in 0..2 {
        west.pair.take_back("anna", false).await.expect("taken back from west");
        east.pair.take_back("anna", false).await.expect("and from east");
    }
    assert!(said(&east, "learn that epoch 2 was declined"));
    let resume = ShapeChange { is_off: true, ..ShapeChange::default() };
    east.pair.shape("anna", resume).await.expect("resumed");
    east.send_patiently("two").await;
    west.until_applied("two is there", |west| west.total() == 2).await;
    assert_eq!((east.role(), west.role()), (Role::Primary, Role::Secondary));
    east.stop().await;
    west.stop().await;
}

/// The next step of a replay that there is.
async fn step(replay: &mut Replaying) -> crate::geo::pair::ReplayStep {
    replay.next().await.expect("a part").expect("there is one")
}

async fn way(region: &Region, discard: bool) -> Way {
    let mut back = region.pair.fail_back("anna", None, discard, soon());
    back.next().await.expect("a way").expect("shown")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_is_replayed_and_the_way_back_is_gone_from_whichever_side_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = tails::deposed(dir.path(), 30).await;
    // The new primary is asked for the tail, and the side that has it ends after a part.
    let mut replay = west.pair.replay_tail("anna", false).await.expect("begun at west");
    let first = step(&mut replay).await;
    assert!(!first.done && first.found > 3, "{first:?}");
    let names: Vec<&str> = first.skipped.iter().map(|it| it.queue.as_str()).collect();
    assert_eq!(names, ["orders"; 2], "those that were not sent are named: {first:?}");
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let second = step(&mut east.pair.replay_tail("anna", false).await.expect("at east")).await;
    assert!(second.total_sent > first.total_sent, "{second:?}");
    let mut last = step(&mut replay).await;
    while let Some(step) = replay.next().await.expect("a part") {
        last = step;
    }
    assert_eq!((last.done, last.total_sent, last.total_skipped), (true, 31, 2));
    for side in [&east, &west] {
        let mut again = side.pair.replay_tail("anna", false).await.expect("again");
        let again = step(&mut again).await;
        assert_eq!((again.found, again.done), (0, true), "{}: {again:?}", side.name);
    }
    assert_eq!(west.total(), 7 + 31, "each once");
    assert_eq!(east.group.standing().unwrap().authority.tail, Some(TailFate::Replayed));
    assert!(said(&west, "take the tail of epoch 1 of region \"east\": 31 sent, 2 not"));

    // Both say the same way; begun at the fenced side, gone on with there after the other ended.
    let stages = vec![Stage::Protect, Stage::AwaitCopy, Stage::HandOver];
    assert_eq!(
        (&way(&east, false).await.stages, &way(&west, false).await.stages),
        (&stages, &stages)
    );
    let mut back = east.pair.fail_back("anna", None, false, soon());
    back.next().await.expect("a way").expect("shown");
    let left = back.next().await.expect("a stage").expect("said");
    assert!(!left.stages.contains(&Stage::Protect), "{left:?}");
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let mut back = east.pair.fail_back("anna", None, false, soon());
    while let Some(way) = back.next().await.expect("gone on with") {
        assert_eq!(way.to, "east");
    }
    east.until_applied("east is the primary", |east| east.role() == Role::Primary).await;
    for side in [&east, &west] {
        assert_eq!(way(side, false).await.stages, vec![], "{} is done", side.name);
    }
    east.send_patiently("after").await;
    west.until_applied("west follows", |west| west.total() == east.total()).await;
    assert!(said(&west, "protect itself by region \"east\""));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_that_one_side_decided_is_decided_so_by_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    west.until_applied("one is there", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.stop().await;
    // East begins an epoch of the same number, and both hear of that.
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let epoch = RegionEpoch { number: Epoch(1), region: "west".to_owned() };
    let line = crate::queue::authority::LedgerLine { epoch, ..Default::default() };
    let fence = RegionVerb::Fence { lineage: 7, ledger: vec![line] };
    east.region(fence).await.expect("heard");
    let keep = |region: &str, number| RegionVerb::Resolve {
        keep: region.to_owned(),
        number: Epoch(number),
    };
    east.region(keep("east", 2)).await.expect("east goes on in epoch 2");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let is_in_conflict = |region: &Region| matches!(region.role(), Role::Conflict { .. });
    for side in [&east, &west] {
        side.until_applied("in conflict", is_in_conflict).await;
    }
    says(east.pair.shape("anna", ShapeChange::default()).await, "zoneq region resolve --keep");
    // West has decided and east is to go on with that, which was away.
    east.stop().await;
    west.region(keep("west", 3)).await.expect("decided");
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let by = RegionEpoch { number: Epoch(3), region: "west".to_owned() };
    for side in [&east, &west, &east] {
        side.pair.resolve("anna", "west").await.expect("it is so");
        says(side.pair.resolve("anna", "east").await, "\"west\" is the one that goes on");
    }
    assert!(matches!(east.role(), Role::Fenced { by: known, .. } if known == by), "no new epoch");
    assert_eq!(west.group.standing().unwrap().authority.epoch, by);
    // And they are a pair again, asked for by the side that gave way.
    east.pair.protect("anna", true).await.expect("protected");
    east.until_applied("it follows", |east| east.role() == Role::Secondary).await;
    east.stop().await;
    west.stop().await;
}

/// What a side does when it is asked, and again while its leader prepares its term anew.
async fn done<T, Asked: Future<Output = Result<T, PairError>>>(ask: impl Fn() -> Asked) -> T {
    let until = soon();
    loop {
        match ask().await {
            Err(error) if error.is_not_now() && Instant::now() < until => {
                tokio::task::yield_now().await;
            }
            done => return done.unwrap_or_else(|error| panic!("it is done: {error}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_side_does_not_do_it_says_where_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = empty_pair(dir.path()).await;
    let shape = ShapeChange::default;
    let limit = crate::geo::pair::LimitChange::default;
    let within = Duration::from_secs(1);
    // Of clusters that stand alone.
    let protect = "zoneq region protect";
    says(east.pair.unprotect("anna", false).await, protect);
    says(east.pair.promote_copy("anna").await, protect);
    says(east.pair.fail_over("anna", None, soon()).await, protect);
    says(east.pair.force("anna", false).await, protect);
    says(east.pair.way_back(None).await, protect);
    says(east.pair.take_back("anna", false).await, protect);
    says(east.pair.resolve("anna", "east").await, protect);
    says(east.pair.set_read_access("anna", true).await, protect);
    says(east.pair.set_lease("anna", None, false, within).await, protect);
    says(east.pair.shape("anna", shape()).await, protect);
    says(east.pair.limit("anna", limit()).await, protect);
    says(east.pair.replay_tail("anna", false).await.map(drop), protect);
    says(east.pair.settle_tail("anna", TailFate::Exported).await, protect);
    says(east.pair.tail_head(), "zoneq region status");
    // Of a pair.
    east.create().await;
    done(|| east.pair.protect("anna", false)).await;
    west.until_applied("it follows", |west| west.role() == Role::Secondary).await;
    let at = |verb: &str, region: &str| format!("run `zoneq region {verb}` at region {region:?}");
    says(west.pair.promote_copy("anna").await, &at("promote", "east"));
    says(west.pair.set_lease("anna", None, false, within).await, &at("lease", "east"));
    says(west.pair.shape("anna", shape()).await, &at("shape", "east"));
    says(east.pair.force("anna", false).await, &at("failover --force", "west"));
    says(east.pair.promote_copy("anna").await, &at("promote", "west"));
    for (side, other) in [(&east, "west"), (&west, "east")] {
        says(side.pair.replay_tail("anna", false).await.map(drop), &at("status", other));
        let settled = side.pair.settle_tail("anna", TailFate::Exported).await;
        says(settled, &at("tail export", other));
        says(side.pair.tail_head(), &at("tail list", other));
    }
    // Of a side that is fenced, and of the one that did it.
    let heir = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    west.until_applied("complete", |west| {
        west.group.standing().is_some_and(|it| it.authority.is_complete)
    })
    .await;
    done(|| west.pair.force("anna", false)).await;
    east.until_applied(
        "fenced",
        |east| matches!(east.role(), Role::Fenced { by, .. } if by == heir),
    )
    .await;
    says(east.pair.unprotect("anna", false).await, &at("unprotect", "west"));
    says(east.pair.promote_copy("anna").await, &at("promote", "west"));
    says(east.pair.force("anna", false).await, &at("failover --force", "west"));
    says(east.pair.fail_over("anna", None, soon()).await, &at("failback", "west"));
    says(east.pair.take_back("anna", false).await, &at("failback", "west"));
    says(east.pair.shape("anna", shape()).await, &at("shape", "west"));
    says(east.pair.limit("anna", limit()).await, &at("limit", "west"));
    says(west.pair.take_back("anna", false).await, protect);
    says(west.pair.shape("anna", shape()).await, protect);
    // A kept copy.
    // West is asked to.
    done(|| east.pair.protect("anna", true)).await;
    east.until_applied("it follows", |east| east.role() == Role::Secondary).await;
    done(|| east.pair.unprotect("anna", false)).await;
    assert_eq!(east.role(), Role::Detached);
    says(east.pair.shape("anna", shape()).await, "zoneq region promote");
    says(east.pair.take_back("anna", false).await, "zoneq region promote");
    east.stop().await;
    west.stop().await;
}
