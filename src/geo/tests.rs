//! Two groups in one process, a region each, with the line between them over real sockets.

mod agreements;
mod behind;
mod bootstraps;
mod clocks;
mod compresses;
mod crowded;
mod durables;
mod handovers;
mod heard;
mod inquiries;
mod leases;
mod limits;
mod losses;
mod patches;
mod readings;
mod redundancies;
mod reseeds;
mod resumes;
mod settings;
mod shapes;
mod sides;
mod strangers;
mod tails;
mod wipes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::agreement;
use super::error::PairError;
use super::failover;
use super::herald::Herald;
use super::inquiry;
use super::lag;
use super::lease::LeaseKeeper;
use super::other::{Compression, OtherRegion};
use super::pair::Pair;
use super::receiver::Receiver;
use super::shipper::Shipper;
use super::watermark::{GeoStatus, Watermark};
use crate::clock::{Clock as _, SharedClock, SystemClock};
use crate::consensus::error::{Fate, GroupError, Reason};
use crate::consensus::group::{Freshness, Group, GroupConfig};
use crate::consensus::network::{ChannelOptions, Listener, Network as _, TcpNetwork};
use crate::consensus::types::Member;
use crate::consensus::zones::Wanted;
use crate::queue::authority::command::{
    Actor, Attach, RegionCommand, RegionReply, RegionVerb, SeedChunk,
};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{RegionEpoch, Role};
use crate::queue::command::{
    Command, Content, Envelope, NewMessage, Receive, Settings, StringMap, TimeToLive,
};
use crate::queue::error::Rejection;
use crate::queue::ids::{Epoch, LogTime, Span};
use crate::queue::outcome::{Outcome, Reply};
use crate::storage::codec;
use crate::storage::disk::FlushMode;
use crate::storage::disk::real::RealDisk;
use crate::storage::log::{Log, LogEntry, LogOptions, Payload};
use crate::storage::space::Space;
use crate::storage::store::{Store, StoreOptions};

fn sent(body: &str) -> Command {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let content = Content { body, headers: StringMap::new() };
    let messages = vec![NewMessage { content, ..NewMessage::default() }];
    Command::Send { queue: "orders".to_owned(), messages }
}

/// A cluster of one node.
struct Region {
    name: &'static str,
    group: Group,
    pair: Pair,
    watermark: watch::Receiver<Watermark>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

async fn free_address() -> String {
    TcpNetwork.listen("127.0.0.1:0").await.unwrap().local.to_string()
}

/// A connection that somebody else makes may have the port for a moment.
async fn listener_at(at: &str) -> Listener {
    let give_up = soon();
    loop {
        match TcpNetwork.listen(at).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < give_up =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            listener => return listener.expect("it listens"),
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Waits for a condition, or fails.
async fn until(what: &str, condition: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(30), condition).await.expect(what);
}

impl Region {
    async fn start(dir: &Path, name: &'static str, at: &str, other: &str) -> Region {
        Region::start_with(dir, name, at, other, Compression::None).await
    }

    async fn start_with(
        dir: &Path,
        name: &'static str,
        at: &str,
        other: &str,
        compression: Compression,
    ) -> Region {
        Region::start_but(dir, name, (at, other), compression, "").await
    }

    /// As [`Region::start`], on a disk that is seen to be as full as it is said to be.
    async fn start_on_disk(dir: &Path, name: &'static str, at: &str, other: &str) -> Region {
        let clock = Arc::new(SystemClock::default());
        Region::start_all(dir, name, (at, other), Compression::None, ("", 1 << 20), clock).await
    }

    /// All tasks run but the one of this name.
    async fn start_but(
        dir: &Path,
        name: &'static str,
        (at, other): (&str, &str),
        compression: Compression,
        left_out: &str,
    ) -> Region {
        let clock = Arc::new(SystemClock::default());
        Region::start_all(dir, name, (at, other), compression, (left_out, 0), clock).await
    }

    async fn start_all(
        dir: &Path,
        name: &'static str,
        (at, other): (&str, &str),
        compression: Compression,
        (left_out, reserve): (&str, u64),
        clock: SharedClock,
    ) -> Region {
        let disk: Arc<dyn crate::storage::disk::Disk> = Arc::new(RealDisk);
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(1, clock.clone()) };
        let (log, _) = Log::open(disk.clone(), &dir.join("log"), options).unwrap();
        let mut options = StoreOptions::new(clock.clone());
        options.space = Space::open(disk.clone(), &dir, reserve).unwrap();
        let store = Store::open(disk, &dir.join("store"), options).unwrap();
        let member = Member {
            zone: "z1".into(),
            region: name.into(),
            peer_address: at.to_owned(),
            grpc_address: String::new(),
        };
        let election = (Duration::from_millis(200), Duration::from_millis(400));
        let config = GroupConfig {
            cluster_id: name.into(),
            node: 1,
            founders: BTreeMap::from([(1, member)]),
            heartbeat: Duration::from_millis(80),
            election,
            clock_bound: Duration::from_secs(1),
            preferred_zone: None,
            enable_faults: false,
            channel: ChannelOptions::for_election(election.0),
            seed: 1,
        };
        let network = Arc::new(TcpNetwork);
        let mode = FlushMode::Threads;
        let started = Group::start(config, log, store, mode, clock.clone(), network).await.unwrap();
        let group = started.group;
        let other = OtherRegion::new(group.clone(), vec![other.to_owned()], compression);
        let (shipper, watermark) = Shipper::new(group.clone(), other.clone(), clock.clone());
        let (herald, heard) = Herald::new(group.clone(), other.clone(), clock.clone());
        let keeper = LeaseKeeper::new(group.clone(), other.clone(), clock.clone());
        let lag = lag::run(group.clone());
        let inquiry = inquiry::run(group.clone(), other.clone());
        let failover = failover::run(group.clone(), watermark.clone());
        let (region, mark) = (name.to_owned(), watermark.clone());
        let pair = Pair::new(group.clone(), region, other, mark, heard, clock);
        let listener = listener_at(at).await;
        let serve = tonic::transport::Server::builder()
            .add_service(started.peer_service.into_server())
            .add_service(Receiver::new(group.clone(), pair.clone()).into_server())
            .serve_with_incoming(listener.incoming.boxed());
        let mut runs = started.tasks;
        runs.push(("herald", Box::pin(herald.run())));
        let runs = runs.into_iter().filter(|(name, _)| *name != left_out);
        let mut tasks: Vec<_> = runs.map(|(_, task)| tokio::spawn(task)).collect();
        tasks.push(tokio::spawn(async move {
            let _ = serve.await;
        }));
        tasks.push(tokio::spawn(shipper.run()));
        tasks.push(tokio::spawn(inquiry));
        tasks.push(tokio::spawn(keeper.run()));
        tasks.push(tokio::spawn(lag));
        tasks.push(tokio::spawn(agreement::run(pair.clone())));
        tasks.push(tokio::spawn(failover));
        group.join(Wanted::Lrs, Duration::from_secs(10)).await.unwrap();
        let mut leadership = group.leadership();
        until("it leads", async {
            leadership.wait_for(|now| now.is_me).await.unwrap();
        })
        .await;
        Region { name, group, pair, watermark, tasks }
    }

    /// Lets the disk count as if no more than this were free.
    fn pretend_free(&self, bytes: Option<u64>) {
        let space = self.group.store().read().disk_space().clone();
        space.pretend_free(bytes);
        space.observe(0).expect("looked at");
    }

    /// Waits until the copy says that it has no room for a state, and answers of how many bytes.
    async fn until_no_room(&self) -> u64 {
        let said = |mark: &Watermark| {
            let (_, rest) = mark.trouble.as_ref()?.split_once("no room for a state of ")?;
            rest.split(' ').next()?.parse::<u64>().ok()
        };
        let mut watermark = self.watermark.clone();
        let known = watermark.wait_for(|mark| said(mark).is_some());
        let known = tokio::time::timeout(Duration::from_secs(30), known).await;
        let known = known.expect("there is no room").expect("the shipper runs");
        said(&known).expect("just known")
    }

    async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.group.shutdown().await;
    }

    /// Proposes, again while the leader says that it is not ready and that nothing was applied: who
    /// leads is told a moment before its proposals are taken.
    async fn propose(&self, command: Command) -> Outcome {
        let envelope = Envelope { session: None, account: "default".to_owned(), command };
        let last = soon();
        loop {
            match self.group.propose(envelope.clone(), soon()).await {
                Ok(done) => return done.outcome,
                Err(GroupError::NotNow { fate: Fate::NotApplied, .. }) if Instant::now() < last => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("not proposed: {error}"),
            }
        }
    }

    async fn region(&self, verb: RegionVerb) -> Result<RegionReply, RegionRefusal> {
        let by = Actor { who: "anna".to_owned(), at_us: 5 };
        let command = Command::Region(Box::new(RegionCommand { by, verb }));
        match self.propose(command).await {
            Ok(Reply::Region(reply)) => Ok(reply),
            Err(Rejection::Region(refusal)) => Err(refusal),
            other => panic!("no answer about regions: {other:?}"),
        }
    }

    async fn create(&self) {
        let (metadata, settings) = (StringMap::new(), Box::new(Settings::default()));
        let name = "orders".to_owned();
        self.propose(Command::CreateQueue { name, metadata, settings }).await.expect("created");
    }

    /// Sends, again while the cluster finds its footing.
    async fn send_patiently(&self, body: &str) {
        until("a message is sent", async {
            while self.try_send(body).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn try_send(&self, body: &str) -> Result<Outcome, GroupError> {
        let envelope =
            Envelope { session: None, account: "default".to_owned(), command: sent(body) };
        match self.group.propose(envelope, soon()).await {
            Ok(done) => done.outcome.map(Ok).map_err(GroupError::Rejected),
            Err(error) => Err(error),
        }
    }

    /// The commands in this node's own log, those about regions aside.
    fn data_in_log(&self) -> Vec<Command> {
        let from = self.group.log_first().expect("a log");
        let to = self.group.applied().borrow().position.expect("applied").index + 1;
        let entries = self.group.log_entries(from, to, usize::MAX).expect("read");
        let commands = |entry: LogEntry| match entry.payload {
            Payload::Commands(bytes) => {
                codec::decode_entry(entry.position, bytes).expect("an entry").commands
            }
            _ => Vec::new(),
        };
        let commands = entries.into_iter().flat_map(commands).map(|envelope| envelope.command);
        commands.filter(|command| !matches!(command, Command::Region(_))).collect()
    }

    async fn send(&self, body: &str) -> Outcome {
        let envelope =
            Envelope { session: None, account: "default".to_owned(), command: sent(body) };
        match self.group.propose(envelope, soon()).await {
            Ok(done) => done.outcome,
            Err(GroupError::Rejected(rejection)) => Err(rejection),
            Err(error) => panic!("{error}"),
        }
    }

    fn total(&self) -> u64 {
        let store = self.group.store().read();
        store.state().queue("default", "orders").map_or(0, |view| view.counts.total)
    }

    /// Lets the whole log go.
    async fn purge(&self) {
        // Raft keeps what its newest snapshot does not have yet, and an entry of the group's own may
        // come meanwhile.
        use openraft::async_runtime::WatchReceiver as _;
        let mut metrics = self.group.raft().metrics();
        until("the log is gone", async {
            while self.group.log_first().is_some() {
                self.group.store().commit().await.expect("committed");
                let through = self.group.status().durable;
                let trigger = self.group.raft().trigger();
                let work = async {
                    trigger.snapshot().await?;
                    trigger.purge_log(through).await
                };
                self.group.peers().scoped(work).await.expect("asked for");
                // Raft takes questions before the word that a snapshot stands: asked without a
                // pause it would never come to that.
                let taken = tokio::time::timeout(Duration::from_millis(200), metrics.changed());
                let _ = taken.await;
            }
        })
        .await;
    }

    fn log_time(&self) -> LogTime {
        self.group.standing().expect("in a pair").log_time
    }

    fn role(&self) -> Role {
        self.group.standing().map_or(Role::Standalone, |it| it.authority.role)
    }

    async fn until_applied(&self, what: &str, condition: impl Fn(&Region) -> bool) {
        let mut applied = self.group.applied();
        until(what, async {
            while !condition(self) {
                applied.changed().await.unwrap();
            }
        })
        .await;
    }

    async fn until_known(&self, what: &str, condition: impl Fn(&Watermark) -> bool) {
        let mut watermark = self.watermark.clone();
        until(what, async {
            watermark.wait_for(|mark| condition(mark)).await.unwrap();
        })
        .await;
    }
}

/// East with a queue, protected by west.
async fn protected(dir: &Path) -> (Region, Region, [String; 2]) {
    let at = [free_address().await, free_address().await];
    let east = Region::start(dir, "east", &at[0], &at[1]).await;
    let west = Region::start(dir, "west", &at[1], &at[0]).await;
    east.create().await;
    pair_up(&east, &west).await;
    (east, west, at)
}

/// Makes two regions a pair, the first of them the primary.
async fn pair_up(east: &Region, west: &Region) {
    let (region, peer) = (east.name.to_owned(), west.name.to_owned());
    let attachment = 70;
    east.region(RegionVerb::Protect { region, lineage: 7, attachment, peer }).await.unwrap();
    let ledger = east.group.standing().unwrap().authority.ledger;
    let region = west.name.to_owned();
    let attach = Attach { region, lineage: 7, attachment, ledger, ..Attach::default() };
    west.region(RegionVerb::Attach(attach)).await.unwrap();
}

fn digests_are_equal(one: &Region, other: &Region) -> bool {
    let digest = |region: &Region| region.group.store().read().state().digest();
    digest(one) == digest(other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_primary_acknowledges_is_soon_in_the_secondary() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    for at in 0..50 {
        east.send(&format!("message {at}")).await.expect("sent");
    }
    let sent = east.group.standing().unwrap().log_time;
    east.until_known("live", |mark| mark.status == GeoStatus::Live && mark.last_sync >= Some(sent))
        .await;
    assert_eq!(west.total(), 50);
    let refused = west.send("to the wrong side").await.unwrap_err();
    let read_only = RegionRefusal::ReadOnly { primary: "east".into() };
    assert_eq!(refused, Rejection::Region(read_only));
    // The mark rides in an entry of a client, or in the pulse of an idle second.
    east.until_applied("the mark is replicated", |east| {
        let shipped = east.group.standing().and_then(|it| it.authority.shipped);
        shipped.is_some()
    })
    .await;
    west.until_applied("equal", |west| digests_are_equal(&east, west)).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_proposes_nothing_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    // Something is always due: it expires, and only the primary's pulses remove it.
    let short = NewMessage { ttl: TimeToLive::For(Span(1)), ..NewMessage::default() };
    let queue = "orders".to_owned();
    let messages = vec![short; 3];
    east.propose(Command::Send { queue, messages }).await.expect("sent");
    west.until_applied("there, and gone", |west| {
        west.group.standing().is_some_and(|it| it.log_time > LogTime(0)) && west.total() == 0
    })
    .await;
    // A second passes, in which an idle primary pulses and a secondary must not.
    let begun = west.group.standing().unwrap().log_time;
    west.until_applied("the primary's idle pulse", |west| {
        west.group.standing().is_some_and(|it| it.log_time.since(begun) > Span::from_secs(1))
    })
    .await;
    let read_only = Rejection::Region(RegionRefusal::ReadOnly { primary: "east".into() });
    assert_eq!(west.send("refused before it is proposed").await, Err(read_only));
    assert_eq!(west.data_in_log(), Vec::new(), "a secondary's log holds what was shipped");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shipping_goes_on_where_it_ended_after_either_side_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    west.until_applied("one is there", |west| west.total() == 1).await;
    west.stop().await;
    east.until_known("gone", |mark| mark.status == GeoStatus::Unavailable).await;
    east.send("two").await.expect("sent while the other side is away");
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.until_applied("two is there", |west| west.total() == 2).await;
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.send("three").await.expect("sent");
    west.until_applied("three is there", |west| west.total() == 3).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_turns_shipping_round_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let before = west.group.standing().unwrap().log_time;
    // Asked of the secondary, which asks the primary.
    west.pair.fail_over("anna", None, soon()).await.expect("handed over");
    assert_eq!(west.role(), Role::Primary);
    west.send_patiently("two").await;
    let after = west.group.standing().unwrap().log_time;
    let wall = LogTime(SystemClock::default().wall_us());
    assert!(before < after, "T goes on from where the other region's was");
    assert!(wall.since(after) < Span::from_secs(5), "T is that of the wall: {after:?} {wall:?}");
    east.until_applied("east follows", |east| east.role() == Role::Secondary && east.total() == 2)
        .await;
    let to = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    assert_eq!(east.group.standing().unwrap().authority.epoch, to);
    let late = Rejection::Region(RegionRefusal::ReadOnly { primary: "west".into() });
    assert_eq!(east.send("late").await, Err(late));
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    let compared = east.pair.verify(soon()).await.expect("compared");
    assert_eq!(compared.own, compared.other);
    // By name it is so already, whoever is asked.
    for side in [&east, &west] {
        side.pair.fail_over("anna", Some("west"), soon()).await.expect("so already");
        let stranger = side.pair.fail_over("anna", Some("north"), soon()).await;
        assert!(matches!(stranger, Err(PairError::Refused(_))), "{stranger:?}");
    }
    assert_eq!((east.role(), west.role()), (Role::Secondary, Role::Primary));
    // And back, asked of the primary.
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.pair.fail_over("anna", Some("east"), soon()).await.expect("handed back");
    east.until_applied("east leads again", |east| east.role() == Role::Primary).await;
    east.send_patiently("three").await;
    west.until_applied("west follows", |west| west.total() == 3).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_that_is_not_acknowledged_in_time_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, _) = protected(dir.path()).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    east.until_known("gone", |mark| mark.status == GeoStatus::Unavailable).await;
    // Begun by hand: the verb itself waits until the copy is near.
    east.region(RegionVerb::Seal).await.expect("sealed");
    east.until_applied("taken back", |east| east.role() == Role::Primary).await;
    east.send_patiently("writes go on").await;
    let refused =
        east.pair.fail_over("anna", None, Instant::now() + Duration::from_millis(300)).await;
    assert!(
        matches!(refused, Err(PairError::NotNow { fate: Fate::NotApplied, .. })),
        "{refused:?}"
    );
    assert_eq!(east.role(), Role::Primary, "nothing was begun");
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_primary_is_fenced_when_it_comes_back_and_its_tail_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("shipped").await.expect("sent");
    west.until_applied("shipped", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    for body in ["lost one", "lost two"] {
        east.send(body).await.expect("acknowledged");
    }
    east.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    assert!(west.pair.loss().expect("a secondary").is_complete);
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("after").await;
    let again = west.pair.force("anna", false).await;
    assert!(matches!(again, Err(PairError::Refused(_))), "{again:?}");
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    let by = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    let fenced = Rejection::Region(RegionRefusal::Fenced { by: by.clone() });
    assert_eq!(east.send("never again").await, Err(fenced));
    let newest = east.group.read(Freshness::Linearizable, soon(), |_, _| ()).await;
    assert!(matches!(newest, Err(GroupError::Rejected(_))), "west has newer: {newest:?}");
    let stale = Freshness::Stale(Duration::from_secs(60));
    east.group.read(stale, soon(), |_, _| ()).await.expect("an old answer is still given");
    let head = east.pair.tail_head().expect("a tail");
    assert_eq!((&head.fenced_by, head.is_whole), (&by, true));
    let after = head.fork.after.expect("they share something");
    assert_eq!(head.whole_from, Some(after.index + 1), "from the first that west never got");
    assert!(head.log_entries >= 2, "{} entries", head.log_entries);
    let (page, next) = east.pair.tail_page(&head, None).await.expect("a page");
    let bodies: Vec<_> = page.iter().map(|(_, content)| content.body.clone()).collect();
    assert_eq!(bodies, ["lost one", "lost two"].map(Bytes::from));
    assert_eq!(next, None);
    assert_eq!(west.total(), 2, "nothing was merged");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_protects_itself_by_an_empty_one_and_by_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address().await, free_address().await];
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.create().await;
    east.create().await;
    let refused = east.pair.protect("anna", false).await;
    assert!(matches!(refused, Err(PairError::Refused(_))), "{refused:?}");
    assert_eq!(east.role(), Role::Standalone, "nothing was begun");
    west.stop().await;
    std::fs::remove_dir_all(dir.path().join("west")).unwrap();
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    for _ in 0..2 {
        east.pair.protect("anna", false).await.expect("protected, and so already");
    }
    west.until_applied("a copy", |west| digests_are_equal(&east, west)).await;
    assert_eq!(east.pair.status().redundancy, "GRS");
    // Apart, and together again from where the copy ended.
    east.pair.unprotect("anna", false).await.expect("apart");
    assert_eq!((east.role(), west.role()), (Role::Standalone, Role::Detached));
    east.send("meanwhile").await.expect("sent");
    east.pair.protect("anna", false).await.expect("protected again");
    west.until_applied("a copy", |west| west.total() == 1).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_forced_failover_an_empty_cluster_is_given_all_and_is_handed_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    for at in 0..200 {
        east.send(&format!("message {at}")).await.expect("sent");
    }
    west.until_applied("all is there", |west| west.total() == 200).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("after").await;
    std::fs::remove_dir_all(dir.path().join("east")).unwrap();
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    west.pair.protect("anna", false).await.expect("protected anew");
    west.send_patiently("while it is seeded").await;
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    assert_eq!(east.total(), 202);
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    assert_eq!(east.total(), 202, "durable");
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.pair.fail_over("anna", None, soon()).await.expect("handed back");
    east.until_applied("east leads again", |east| east.role() == Role::Primary).await;
    let command = Command::Receive(Receive {
        queue: "orders".to_owned(),
        max_messages: 202,
        max_bytes: 1 << 20,
        visibility: None,
    });
    let envelope = Envelope { session: None, account: "default".to_owned(), command };
    let mut done = Err(GroupError::not_applied(Reason::NotLeader));
    while done.is_err() {
        done = east.group.propose(envelope.clone(), soon()).await;
    }
    let contents = done.expect("received").contents;
    assert!(contents.iter().any(|it| it.body == "message 7"), "bodies came with the seed");
    assert_eq!(contents.len(), 202);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_of_another_history_is_given_up_and_done_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    west.until_applied("all is there", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    std::fs::remove_dir_all(dir.path().join("east")).unwrap();
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let ledger = west.group.standing().unwrap().authority.ledger;
    let (region, attachment) = (east.name.to_owned(), 71);
    let attach =
        Attach { region, lineage: 7, attachment, ledger: ledger.clone(), ..Attach::default() };
    east.region(RegionVerb::Attach(attach)).await.expect("attached");
    let position = west.group.standing().unwrap().applied;
    let mut ledger = ledger;
    ledger.last_mut().expect("a line").next_number += 1;
    let begun = RegionVerb::SeedBegin {
        attachment,
        id: 99,
        position,
        ledger,
        replayed: Vec::new(),
        base: None,
        resumes: None,
    };
    east.region(begun).await.expect("begun");
    let chunk = SeedChunk {
        attachment,
        id: 99,
        number: 0,
        rows: Vec::new(),
        contents: Vec::new(),
        removed: Vec::new(),
    };
    east.region(RegionVerb::SeedChunk(chunk)).await.expect("taken");
    let (region, peer) = (west.name.to_owned(), east.name.to_owned());
    let protect = RegionVerb::Protect { region, lineage: 7, attachment, peer };
    west.region(protect).await.expect("protected");
    east.until_applied("equal", |east| east.total() == 1 && digests_are_equal(east, &west)).await;
    east.stop().await;
    west.stop().await;
}
