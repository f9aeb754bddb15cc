//! The region lease over real sockets and the real clock.

use super::*;
use crate::consensus::group::Freshness;

const LEASE: Span = Span::from_secs(1);
const STEP: Duration = Duration::from_secs(5);
/// What a forced promotion waits at least.
const WAIT: Duration = Duration::from_millis(1_350);

async fn leased(dir: &Path) -> (Region, Region, [String; 2]) {
    let (east, west, at) = protected(dir).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    assert!(east.pair.set_lease("anna", Some(LEASE), false, STEP).await.expect("set"), "agreed");
    east.send_patiently("under the lease").await;
    (east, west, at)
}

impl Region {
    /// Sends until that is refused for want of a lease; answers when it was last acknowledged.
    async fn last_acknowledged(&self) -> Instant {
        let mut last = Instant::now();
        let give_up = soon();
        while Instant::now() < give_up {
            match self.try_send("while it may").await {
                Ok(_) => last = Instant::now(),
                Err(GroupError::NotNow { reason: Reason::NoRegionLease, .. }) => return last,
                Err(GroupError::Rejected(_)) => panic!("it was fenced and still acknowledged"),
                Err(other) => panic!("{other}"),
            }
        }
        panic!("it acknowledges without a lease");
    }

    async fn read(&self) -> Result<u64, GroupError> {
        let count = |store: &Store, _: LogTime| store.state().authority().map_or(0, |_| 1);
        self.group.read(Freshness::Linearizable, soon(), count).await.map(|(count, _)| count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_relies_on_a_lease_stands_alone_only_by_the_other_regions_word() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = leased(dir.path()).await;
    west.stop().await;
    east.last_acknowledged().await;
    // West may have been promoted for all that east knows.
    let refused = east.pair.unprotect("anna", false).await.expect_err("it is not reached");
    assert!(refused.to_string().contains("`zoneq region lease off --force`"), "{refused}");
    assert_eq!(east.role(), Role::Primary);
    let refused = east.try_send("by itself").await;
    let no_lease = GroupError::not_applied(Reason::NoRegionLease);
    assert_eq!(refused.expect_err("no lease").to_string(), no_lease.to_string());
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.pair.unprotect("anna", false).await.expect("apart");
    assert_eq!((east.role(), west.role()), (Role::Standalone, Role::Detached));
    east.send_patiently("alone").await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_let_go_and_follows_again_grants_the_lease_and_is_waited_for() {
    for wipe in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (east, west, _) = leased(dir.path()).await;
        west.pair.unprotect("anna", wipe).await.expect("let go by its own operator");
        east.last_acknowledged().await;
        east.pair.protect("anna", false).await.expect("protected again");
        let held = west.pair.loss().expect("a secondary").lease_wait;
        assert_eq!(held, Some(WAIT), "a grant of before may be out");
        east.send_patiently("under the lease again").await;
        let said = east.pair.set_lease("anna", Some(LEASE), false, STEP).await;
        assert!(said.expect("it is in force"), "asked for again, it is agreed");
        west.until_applied("all is there", |west| west.total() == east.total()).await;
        east.stop().await;
        west.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_line_is_cut_stops_within_the_lease_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = leased(dir.path()).await;
    assert_eq!(east.read().await.expect("read"), 1);
    west.stop().await;
    let cut = Instant::now();
    let last = east.last_acknowledged().await;
    let lease = Duration::from_micros(LEASE.0);
    assert!(last.duration_since(cut) < lease, "acknowledged {:?} later", last.duration_since(cut));
    let refused = east.read().await;
    let no_lease = |it: &Result<u64, GroupError>| {
        matches!(it, Err(GroupError::NotNow { reason: Reason::NoRegionLease, .. }))
    };
    assert!(no_lease(&refused), "{refused:?}");
    let trouble = east.pair.status().lease_trouble.expect("a trouble");
    assert!(trouble.contains("there is no region lease"), "{trouble}");
    // What the cluster does for itself goes on: nobody is told anything by it.
    east.propose(Command::Pulse).await.expect("a pulse");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.send_patiently("writes go on").await;
    assert_eq!(east.pair.status().lease_trouble, None);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_promotion_waits_until_no_lease_runs_and_can_be_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = leased(dir.path()).await;
    let shown = west.pair.loss().expect("a secondary").lease_wait;
    assert_eq!(shown, Some(WAIT), "shown before it is begun");
    // Begun, and cut off while it waits.
    let pair = west.pair.clone();
    let begun = tokio::spawn(async move { pair.force("anna", false).await });
    let has_stopped = |west: &Region| {
        west.group.standing().is_some_and(|it| it.authority.leasing.stopped.is_some())
    };
    west.until_applied("granting is stopped", has_stopped).await;
    let stopped = Instant::now();
    begun.abort();
    let last = east.last_acknowledged().await;
    assert_eq!(west.role(), Role::Secondary, "it waits longer than the primary writes");
    west.pair.force("anna", false).await.expect("promoted");
    let promoted = Instant::now();
    assert!(last < promoted);
    let waited = promoted.duration_since(stopped);
    // `stopped` is a little later than the moment that counts.
    assert!(waited > WAIT - Duration::from_millis(100), "only {waited:?}");
    assert_eq!(west.role(), Role::Standalone);
    west.send_patiently("after").await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_promotion_that_is_taken_back_lets_the_primary_write_on() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = leased(dir.path()).await;
    west.region(RegionVerb::SetGranting { on: false }).await.expect("stopped");
    east.last_acknowledged().await;
    let off = east.pair.set_lease("anna", None, false, STEP).await;
    assert!(matches!(off, Err(PairError::Refused(_))), "a promotion may be waiting: {off:?}");
    west.pair.take_back("anna", false).await.expect("taken back");
    east.send_patiently("writes go on").await;
    // A planned failover carries the lease over to the other side.
    east.pair.fail_over("anna", Some("west"), soon()).await.expect("handed over");
    let in_force = |region: &Region| region.group.standing().unwrap().authority.leasing.in_force;
    west.until_applied("agreed on anew", |west| in_force(west) == Some(LEASE)).await;
    west.send_patiently("there").await;
    assert_eq!(in_force(&east), None);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_not_agreed_to_is_not_relied_on_and_one_that_is_takes_a_word_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let short = east.pair.set_lease("anna", Some(Span::from_secs(31)), false, STEP).await;
    assert!(short.is_err(), "too long: {short:?}");
    let at_west = west.pair.set_lease("anna", Some(LEASE), false, STEP).await;
    assert!(matches!(at_west, Err(PairError::Refused(_))), "{at_west:?}");
    west.stop().await;
    let agreed = east.pair.set_lease("anna", Some(LEASE), false, STEP).await.expect("set");
    assert!(!agreed, "nobody agreed");
    east.send("not relied on").await.expect("sent");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let in_force = |region: &Region| region.group.standing().unwrap().authority.leasing.in_force;
    east.until_applied("agreed on", |east| in_force(east) == Some(LEASE)).await;
    west.stop().await;
    east.last_acknowledged().await;
    let off = east.pair.set_lease("anna", None, false, STEP).await;
    assert!(matches!(off, Err(PairError::Refused(_))), "{off:?}");
    east.last_acknowledged().await;
    east.pair.set_lease("anna", None, true, STEP).await.expect("given up");
    east.send_patiently("without").await;
    east.stop().await;
}
