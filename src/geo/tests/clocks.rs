//! Regions whose clocks are minutes apart.

use super::*;
use crate::clock::Clock;
use crate::geo::herald::ClockAhead;

const MINUTE_US: i64 = 60_000_000;

/// The machine's clock, wrong by as much.
#[derive(Debug)]
struct WrongClock {
    system: SystemClock,
    by_us: i64,
}

impl Clock for WrongClock {
    fn wall_us(&self) -> u64 {
        self.system.wall_us().saturating_add_signed(self.by_us)
    }

    fn monotonic_us(&self) -> u64 {
        self.system.monotonic_us()
    }
}

impl Region {
    async fn start_by(dir: &Path, name: &'static str, both: (&str, &str), by_us: i64) -> Region {
        let clock = Arc::new(WrongClock { system: SystemClock::default(), by_us });
        Region::start_all(dir, name, both, Compression::None, ("", 0), clock).await
    }

    /// Waits for the other region's word of its clock.
    async fn until_clock_is_known(&self) -> ClockAhead {
        self.until_applied("it is heard", |it| it.pair.status().clock.is_some()).await;
        self.pair.status().clock.expect("just known")
    }
}

/// East, whose clock is right, protected by west, whose clock is not.
async fn apart(dir: &Path, by_us: i64) -> (Region, Region) {
    let at = [free_address().await, free_address().await];
    let east = Region::start_by(dir, "east", (&at[0], &at[1]), 0).await;
    let west = Region::start_by(dir, "west", (&at[1], &at[0]), by_us).await;
    east.create().await;
    pair_up(&east, &west).await;
    (east, west)
}

fn about(known: ClockAhead, by_us: i64) -> bool {
    known.by_us.abs_diff(by_us) <= known.within.as_micros() as u64 + 100_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_sync_time_is_the_primarys_and_both_sides_say_how_far_the_clocks_differ() {
    for by_us in [-10 * MINUTE_US, 10 * MINUTE_US] {
        let dir = tempfile::tempdir().unwrap();
        let (east, west) = apart(dir.path(), by_us).await;
        east.send("shipped").await.expect("sent");
        let sent = east.log_time();
        let is_synced = |mark: &Watermark| {
            mark.status == GeoStatus::Live && mark.last_sync.is_some_and(|at| at >= sent)
        };
        east.until_known("live", is_synced).await;
        let last_sync = east.watermark.borrow().last_sync.expect("just known");
        assert!(last_sync <= east.log_time(), "never later than what was acknowledged");
        west.until_applied("shipped", |west| west.total() == 1).await;
        assert!(west.log_time() <= east.log_time(), "a copy is at its primary's times");
        let (of_west, of_east) =
            (east.until_clock_is_known().await, west.until_clock_is_known().await);
        assert!(about(of_west, by_us), "{of_west:?}");
        assert!(about(of_east, -by_us), "{of_east:?}");
        east.stop().await;
        west.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_goes_on_in_a_region_that_was_promoted_with_a_clock_that_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = apart(dir.path(), -10 * MINUTE_US).await;
    let late = NewMessage { delay: Span::from_secs(1), ..NewMessage::default() };
    let (queue, messages) = ("orders".to_owned(), vec![late]);
    east.propose(Command::Send { queue, messages }).await.expect("sent");
    let sent = east.log_time();
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    assert!(west.log_time() >= sent, "log time never goes back");
    until("the delay is over, ten minutes before that clock says so", async {
        while west.log_time() < sent.after(Span::from_secs(1)) {
            west.send_patiently("to the new primary").await;
        }
    })
    .await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_and_the_way_back_lose_nothing_whichever_clock_is_ahead() {
    for by_us in [-10 * MINUTE_US, 10 * MINUTE_US] {
        let dir = tempfile::tempdir().unwrap();
        let (east, west) = apart(dir.path(), by_us).await;
        east.send("of the first").await.expect("sent");
        east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
        let before = east.log_time();
        east.pair.fail_over("anna", None, soon()).await.expect("handed over");
        west.send_patiently("of the second").await;
        let between = west.log_time();
        assert!(between >= before);
        west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
        west.pair.fail_over("anna", None, soon()).await.expect("handed back");
        east.send_patiently("of the first again").await;
        assert!(east.log_time() >= between);
        assert_eq!(east.total(), 3);
        east.stop().await;
        west.stop().await;
    }
}
