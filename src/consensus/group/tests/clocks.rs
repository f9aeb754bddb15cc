//! Clocks that differ, and clocks that step.

use std::sync::atomic::{AtomicI64, AtomicU64};

use super::*;
use crate::clock::Clock;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// The machine's clock, set wrong by hand, and time that passes at once.
#[derive(Debug, Default)]
struct TestClock {
    system: SystemClock,
    skew_us: AtomicI64,
    passed_us: AtomicU64,
}

impl TestClock {
    fn set_skew(&self, skew_us: i64) {
        self.skew_us.store(skew_us, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_us(&self) -> u64 {
        let wall = self.system.wall_us() + self.passed_us.load(Ordering::SeqCst);
        wall.saturating_add_signed(self.skew_us.load(Ordering::SeqCst))
    }

    fn monotonic_us(&self) -> u64 {
        self.system.monotonic_us() + self.passed_us.load(Ordering::SeqCst)
    }
}

struct Stage {
    nodes: Vec<TestNode>,
    clocks: [Arc<TestClock>; 3],
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn with(skews: [i64; 3]) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let clocks = skews.map(|skew| {
            let clock = TestClock::default();
            clock.set_skew(skew);
            Arc::new(clock)
        });
        let shared = clocks.clone().map(|clock| clock as SharedClock);
        let (nodes, _) = cluster_by(dir.path(), shared).await;
        Stage { nodes, clocks, _dir: dir }
    }

    /// Lets time pass for all.
    fn pass(&self, span: Duration) {
        for clock in &self.clocks {
            clock.passed_us.fetch_add(span.as_micros() as u64, Ordering::SeqCst);
        }
    }

    fn group(&self, at: usize) -> &Group {
        &self.nodes[at].group
    }

    /// How far a node's wall clock is ahead of the T of its state.
    fn ahead_of_state(&self, at: usize) -> i64 {
        let log_time = self.group(at).store().read().state().log_time();
        self.clocks[at].wall_us() as i64 - log_time.0 as i64
    }
}

/// Looks again and again until there is an answer.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let found = async {
        loop {
            looks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect(what)
}

fn near(found: Option<i64>, expected: i64) -> bool {
    found.is_some_and(|found| found.abs_diff(expected) < 400_000)
}

/// How far the leader's clock has stepped, and how far it is ahead of T as it runs.
fn step(group: &Group) -> Option<(i64, i64)> {
    Some((group.term().ok()?.clock.step_us()?, group.measures().lead?.wall_ahead_us?))
}

#[tokio::test]
async fn a_cluster_without_a_time_begins_with_the_leaders_clock_once_an_operator_accepts_it() {
    let stage = Stage::with([0, HOUR, -HOUR]).await;
    let waiting = || {
        (0..3).find(|at| {
            let status = stage.group(*at).status();
            let heard = |other: &NodeView| other.clock_ahead_us.is_some();
            status.follows == Some(Follows::NoTime) && status.nodes.iter().all(heard)
        })
    };
    let first = until("a leader asks the others", waiting).await;
    let group = stage.group(first);
    let own = stage.clocks[first].skew_us.load(Ordering::SeqCst);
    for (node, clock) in group.status().nodes.iter().zip(&stage.clocks) {
        let ahead = clock.skew_us.load(Ordering::SeqCst) - own;
        assert!(near(node.clock_ahead_us, ahead), "{node:?}: {ahead}");
    }
    let refused = group.propose(create("orders"), soon()).await.unwrap_err();
    assert!(matches!(refused, GroupError::NotNow { .. }), "{refused}");
    let other = stage.group((first + 1) % 3).accept_clock(soon()).await.unwrap_err();
    assert!(
        matches!(other, GroupError::NotNow { .. }),
        "a follower has nothing to accept: {other}"
    );

    let followed = group.accept_clock(soon()).await.unwrap();
    assert_eq!((followed.log_time, followed.was_agreed), (LogTime(0), false));
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    assert!(near(Some(stage.ahead_of_state(first)), 0));
    assert_eq!(group.status().follows, Some(Follows::Accepted));
    assert!(group.accept_clock(soon()).await.unwrap().was_agreed, "there is nothing to do");
}

#[tokio::test]
async fn where_t_runs_on_an_accepted_clock_is_taken_whole() {
    let stage = Stage::with([0; 3]).await;
    let first = leader(&stage.nodes).await;
    stage.group(first).propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    stage.clocks[(first + 1) % 3].set_skew(HOUR);
    stage.clocks[(first + 2) % 3].set_skew(2 * HOUR);
    let heir = stage.group(first).hand_over(None).await.unwrap() as usize - 1;
    let group = stage.group(heir);
    until("T runs on", || (group.status().follows == Some(Follows::RunsOn)).then_some(())).await;
    group.propose(send("by itself"), soon()).await.unwrap().outcome.unwrap();
    assert!(stage.ahead_of_state(heir) > HOUR / 2);

    let followed = group.accept_clock(soon()).await.unwrap();
    assert!(!followed.was_agreed);
    assert!(followed.wall_us - followed.log_time.0 > HOUR as u64 / 2);
    group.propose(send("by the clock"), soon()).await.unwrap().outcome.unwrap();
    assert!(near(Some(stage.ahead_of_state(heir)), 0));
}

#[tokio::test]
async fn a_step_that_a_majority_agrees_with_is_slewed() {
    let stage = Stage::with([0; 3]).await;
    let first = leader(&stage.nodes).await;
    let group = stage.group(first);
    for skew in [3 * SECOND, -3 * SECOND] {
        let (clock, stamp) = (&stage.clocks[first], group.stamp().unwrap().0 as f64);
        let began = clock.monotonic_us();
        let before = step(group).unwrap().1;
        for at in [first, (first + 1) % 3] {
            stage.clocks[at].set_skew(skew);
        }
        until("T is steered", || step(group).filter(|(step, _)| step.abs() < SECOND / 2)).await;
        assert_eq!(group.status().follows, Some(Follows::Agreed));
        let ran = group.stamp().unwrap().0 as f64 - stamp;
        let elapsed = (clock.monotonic_us() - began) as f64;
        assert!((elapsed * 0.89..elapsed * 1.11 + 5e3).contains(&ran), "{ran} in {elapsed}");
        let apart = step(group).unwrap().1;
        assert!(apart.abs() > 2 * SECOND, "from {before} to {apart}: it leapt");
        stage.pass(Duration::from_secs(70));
        let (step, apart) = step(group).unwrap();
        assert!(near(Some(step), 0) && near(Some(apart), 0), "{step} {apart}");
    }
    assert!(group.leadership().borrow().is_me);
}

#[tokio::test]
async fn a_step_that_nobody_agrees_with_changes_nothing_and_is_told_as_long_as_it_lasts() {
    let stage = Stage::with([0; 3]).await;
    let first = leader(&stage.nodes).await;
    let group = stage.group(first);
    let other = (first + 1) % 3;
    stage.clocks[first].set_skew(HOUR);
    until("the others are asked", || {
        let heard = group.status().nodes[other].clock_ahead_us;
        near(heard, -HOUR).then_some(())
    })
    .await;
    // They were asked a second time.
    stage.clocks[other].set_skew(-HOUR);
    until("and again", || {
        let heard = group.status().nodes[other].clock_ahead_us;
        near(heard, -2 * HOUR).then_some(())
    })
    .await;
    let (step_us, apart) = step(group).unwrap();
    assert!(near(Some(step_us), HOUR) && near(Some(apart), HOUR), "{step_us} {apart}");
    assert!(group.leadership().borrow().is_me, "leadership stays where it is");
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    assert!(near(Some(stage.ahead_of_state(first)), HOUR));
    stage.clocks[first].set_skew(0);
    let (step_us, apart) = step(group).unwrap();
    assert!(near(Some(step_us), 0) && near(Some(apart), 0), "{step_us} {apart}");
}
