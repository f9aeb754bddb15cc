//! The primary's end of the stream. It runs on every node and works on the one that leads.
//!
//! Laws: a new stream begins where the copy says that it ends, so nothing is lost by a new
//! leader on either side and little is sent twice. Batches are in order, at most a few in
//! flight, each bounded by bytes. What is acknowledged rides in the next entry, so that the next
//! leader and the purge of the log know it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::batch::{self, Reach};
use super::error::{PairError, SeedError, ShipError};
use super::other::OtherRegion;
use super::shaper::{self, Shaper};
use super::watermark::{GeoStatus, Pace, Watermark};
use super::wire;
use super::{patch, seed};
use crate::clock::SharedClock;
use crate::consensus::group::{Group, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::authority::plan::{CopyEnd, Parted};
use crate::queue::authority::shape::Weather;
use crate::queue::authority::{Head, Role};
use crate::queue::command::Command;
use crate::queue::ids::LogTime;

/// Batches sent and not yet acknowledged.
const IN_FLIGHT: usize = 4;
/// An answer that does not come by then will not.
const SILENCE: Duration = Duration::from_secs(15);
/// What a line says that is shaped to let nothing through.
const DOWN: &str = "the line is shaped: it is down";
/// Between two attempts, doubled each time up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Ships the log of one group.
pub struct Shipper {
    group: Group,
    other: OtherRegion,
    clock: SharedClock,
    news: watch::Sender<Watermark>,
    /// A copy did not take what differs.
    gives_all: AtomicBool,
    /// A copy did not take the rest of what was begun.
    begins_anew: AtomicBool,
    /// Bytes of batches that were put on the line since this node leads.
    shipped_bytes: AtomicU64,
}

/// What a line can do next.
enum Next {
    /// It has sent all.
    Rests,
    /// The window is full.
    Waits,
    /// The shape of the line holds the rest back; it may be otherwise after this.
    HeldBack(Duration),
}

/// One stream, from its hello on.
struct Line {
    /// Of whom it says where the copy ends.
    attachment: u128,
    requests: mpsc::Sender<pb::ShipRequest>,
    answers: tonic::Streaming<pb::ShipResponse>,
    /// Where the copy ends once it has all that was sent.
    copy: CopyEnd,
    /// A state was begun to be given to the copy, and is not whole.
    is_seeding: bool,
    /// What it has is of another history.
    must_seed: bool,
    /// A batch that was read and has not crossed the shaped line: when it has, and its bytes.
    held: Option<(u64, u64, pb::ShipRequest)>,
    /// The bytes of each batch in flight.
    in_flight: std::collections::VecDeque<u64>,
    pace: Pace,
}

impl Shipper {
    /// A shipper, and what it knows of the copy.
    #[must_use]
    pub fn new(
        group: Group,
        other: OtherRegion,
        clock: SharedClock,
    ) -> (Shipper, watch::Receiver<Watermark>) {
        let (news, watermark) = watch::channel(Watermark::default());
        let (gives_all, begins_anew) = (AtomicBool::new(false), AtomicBool::new(false));
        let shipped_bytes = AtomicU64::new(0);
        let shipper = Shipper { group, other, clock, news, gives_all, begins_anew, shipped_bytes };
        (shipper, watermark)
    }

    /// Runs until the group ends.
    pub async fn run(self) {
        let (mut at, mut pause, mut untold) = (0, PAUSE.0, 0);
        let mut shaper = Shaper::new(self.group.config().seed);
        while self.until_due(&mut shaper).await {
            let known = self.news.borrow().shipped;
            let mut is_open = false;
            let Err(error) = self.ship(at, &mut shaper, &mut is_open).await else {
                pause = PAUSE.0;
                continue;
            };
            at = at.wrapping_add(1);
            // A node that does not lead, or is gone, does not know why nothing is taken.
            untold = if is_open || error.is_of_leader() { 0 } else { untold + 1 };
            let asks_on = untold > 0 && untold < self.other.endpoints().len();
            tracing::debug!(%error, "shipping stands still");
            let now = self.clock.monotonic_us();
            self.news.send_modify(|mark| {
                let known = mark.trouble.clone().filter(|_| asks_on);
                mark.stand_still(known.unwrap_or_else(|| error.to_string()), now);
            });
            if asks_on {
                tokio::time::sleep(PAUSE.0).await;
                continue;
            }
            // A stream that brought the copy on is no repeated failure.
            pause = if self.news.borrow().shipped == known { pause } else { PAUSE.0 };
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn ships(&self) -> bool {
        let leads = self.group.leadership().borrow().is_me;
        let role = |standing: &Standing| {
            let authority = &standing.authority;
            authority.attachment.is_some()
                && matches!(
                    authority.role,
                    Role::Primary | Role::Sealed { .. } | Role::Released { .. }
                )
        };
        leads && self.group.standing().as_ref().is_some_and(role)
    }

    /// Waits until this node leads a primary; false when the group has ended.
    async fn until_due(&self, shaper: &mut Shaper) -> bool {
        let (mut leadership, mut applied) = (self.group.leadership(), self.group.applied());
        if !self.other.is_configured() {
            // Nothing here wakes for each entry where there is nobody to ship to.
            while leadership.changed().await.is_ok() {}
            return false;
        }
        loop {
            leadership.borrow_and_update();
            applied.borrow_and_update();
            if self.ships() {
                return true;
            }
            shaper.clear();
            self.shipped_bytes.store(0, Ordering::Relaxed);
            self.group.note_copy(None, None);
            self.news.send_if_modified(|mark| {
                let known = *mark != Watermark::default();
                *mark = Watermark::default();
                known
            });
            // Who leads tells of a term, what is applied of a role.
            let ended = tokio::select! {
                changed = leadership.changed() => changed.is_err(),
                changed = applied.changed() => changed.is_err(),
            };
            if ended {
                return false;
            }
        }
    }

    /// Ships until it leads a primary no more, over one node of the other region; `is_open` once
    /// that answered the hello.
    async fn ship(
        &self,
        at: usize,
        shaper: &mut Shaper,
        is_open: &mut bool,
    ) -> Result<(), ShipError> {
        if self.weather().is_some_and(|weather| weather.is_down) {
            tell_down(&self.news, true, &self.clock);
            tokio::time::sleep(shaper::LOOK).await;
            return Ok(());
        }
        let mut line = self.open(at).await?;
        *is_open = true;
        if let Some(has_another) = self.must_give(&line) {
            let is_seeding = line.is_seeding;
            drop(line);
            self.give(has_another, is_seeding).await?;
            return Ok(());
        }
        let (mut leadership, mut applied) = (self.group.leadership(), self.group.applied());
        while self.ships() {
            applied.borrow_and_update();
            let next = self.fill(&mut line, shaper).await?;
            let has_all = !matches!(next, Next::Waits);
            let pause = match next {
                Next::HeldBack(pause) => Some(pause),
                Next::Rests | Next::Waits => None,
            };
            self.tell(has_all && line.in_flight.is_empty() && line.held.is_none());
            tokio::select! {
                answer = line.answers.message() => {
                    let answer = answer.map_err(Box::new)?.ok_or(ShipError::Closed)?;
                    self.acknowledge(&mut line, &answer)?;
                }
                () = tokio::time::sleep(SILENCE), if !line.in_flight.is_empty() => {
                    return Err(ShipError::Silent);
                }
                changed = applied.changed(), if has_all => {
                    if changed.is_err() { return Ok(()) }
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                changed = leadership.changed() => {
                    if changed.is_err() { return Ok(()) }
                }
            }
        }
        Ok(())
    }

    /// Gives the copy a state: the rest of what was begun, or what differs, where it has another
    /// one and takes that, or all.
    async fn give(&self, has_another: bool, is_seeding: bool) -> Result<(), SeedError> {
        let (group, other, clock, news) = (&self.group, &self.other, &self.clock, &self.news);
        let begins_anew = self.begins_anew.swap(false, Ordering::Relaxed);
        if is_seeding && !begins_anew {
            let given = patch::go_on(group, other, clock, news).await;
            if let Err(error) = &given
                && !error.may_be_gone_on_with()
            {
                tracing::info!(%error, "the rest of a state was not given: it begins anew");
                self.begins_anew.store(true, Ordering::Relaxed);
            }
            if given? {
                return Ok(());
            }
        }
        if has_another && !self.gives_all.load(Ordering::Relaxed) {
            let given = patch::give(group, other, clock, news).await;
            if let Err(SeedError::Other(error)) = &given
                && matches!(&**error, PairError::Refused(why) if !wire::is_of_the_moment(why))
            {
                tracing::info!(%error, "what differs was not taken: the copy is given all");
                self.gives_all.store(true, Ordering::Relaxed);
                self.begins_anew.store(true, Ordering::Relaxed);
            }
            return given;
        }
        seed::give(group, other, clock, news).await?;
        self.gives_all.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the copy must be given a state; and if so, whether it has another one.
    fn must_give(&self, line: &Line) -> Option<bool> {
        let has_another = line.must_seed || line.copy.through.is_some();
        let must = line.must_seed || line.is_seeding || self.is_out_of_reach(&line.copy);
        must.then_some(has_another)
    }

    /// Whether a copy cannot have what it lacks from this node's log.
    fn is_out_of_reach(&self, copy: &CopyEnd) -> bool {
        let Some(Standing { authority, .. }) = self.group.standing() else { return false };
        let reach = batch::reach(&self.group, &authority, copy);
        matches!(reach, Err(ShipError::Purged(_) | ShipError::Parted(Parted::Empty)))
    }

    async fn open(&self, at: usize) -> Result<Line, ShipError> {
        let endpoints = self.other.endpoints();
        let endpoint = endpoints.get(at % endpoints.len().max(1)).ok_or(ShipError::NoEndpoints)?;
        let channel = self
            .group
            .peers()
            .channel(endpoint)
            .map_err(|source| ShipError::Endpoint { endpoint: endpoint.clone(), source })?;
        let Some(standing) = self.group.standing() else { return Err(ShipError::Closed) };
        let authority = standing.authority;
        let attachment = authority.attachment.as_ref().map_or(0, |it| it.id);
        let (requests, queued) = mpsc::channel(IN_FLIGHT + 1);
        let hello = wire::hello(authority.lineage, attachment, &authority.region);
        requests.send(hello).await.map_err(|_| ShipError::Closed)?;
        let mut client = self.other.client(channel);
        let opened = async {
            let mut answers = client.ship(ReceiverStream::new(queued)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let opened = tokio::time::timeout(SILENCE, opened).await.map_err(|_| ShipError::Silent)?;
        let (answers, first) = opened.map_err(Box::new)?;
        let first = first.ok_or(ShipError::Closed)?;
        let copy = wire::copy_end(&first)?;
        // Who answers may yet refuse what it is given, as before.
        self.news.send_modify(|mark| {
            if mark.trouble.is_none() {
                mark.status = GeoStatus::Bootstrap;
            }
        });
        self.note_end(attachment, &copy, first.must_seed);
        if !first.must_seed {
            self.keep(&copy, &first);
        }
        let pace = Pace::default();
        let (is_seeding, must_seed) = (first.seeding, first.must_seed);
        let in_flight = std::collections::VecDeque::new();
        let held = None;
        Ok(Line {
            attachment,
            requests,
            answers,
            copy,
            is_seeding,
            must_seed,
            held,
            in_flight,
            pace,
        })
    }

    /// How the line is now, where it is shaped.
    fn weather(&self) -> Option<Weather> {
        shaper::weather(&self.group, &self.group.standing()?.authority)
    }

    /// How far the shape of the line lets the log be read; nothing where it is down.
    fn reach(&self, shaper: &mut Shaper, weather: Option<&Weather>) -> Option<Reach> {
        let Some(weather) = weather else {
            shaper.clear();
            return Some(Reach::default());
        };
        let standing = self.group.standing()?;
        let head = Head { position: standing.applied, log_time: standing.log_time };
        let now = self.clock.monotonic_us();
        shaper.note(head, weather, now);
        let through = Some(shaper.pass(weather, now)?);
        Some(Reach { through, bytes: Shaper::batch_bytes(weather) })
    }

    /// Sends what there is, as far as the window and the shape of the line allow.
    async fn fill(&self, line: &mut Line, shaper: &mut Shaper) -> Result<Next, ShipError> {
        let weather = self.weather();
        tell_down(&self.news, weather.is_some_and(|it| it.is_down), &self.clock);
        let reach = self.reach(shaper, weather.as_ref());
        while line.in_flight.len() < IN_FLIGHT {
            let now = self.clock.monotonic_us();
            let held_back = |shaper: &Shaper| match &weather {
                Some(weather) => Next::HeldBack(shaper.pause(weather, now)),
                None => Next::Rests,
            };
            let Some(reach) = reach else { return Ok(held_back(shaper)) };
            let (crossed, bytes, request) = match line.held.take() {
                Some(held) => held,
                None => {
                    let next = batch::next(&self.group, &line.copy, reach)?;
                    let Some(batch) = next else { return Ok(held_back(shaper)) };
                    let bytes = batch.entries.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                    line.copy = batch.end();
                    let crossed = weather.map_or(now, |it| shaper.cross(bytes, &it, now));
                    (crossed, bytes, wire::batch(batch))
                }
            };
            if weather.is_some() && crossed > now {
                line.held = Some((crossed, bytes, request));
                let left = Duration::from_micros(crossed - now);
                return Ok(Next::HeldBack(left.min(shaper::LOOK)));
            }
            self.shipped_bytes.fetch_add(request.encoded_len() as u64, Ordering::Relaxed);
            line.requests.send(request).await.map_err(|_| ShipError::Closed)?;
            line.in_flight.push_back(bytes);
        }
        Ok(Next::Waits)
    }

    fn acknowledge(&self, line: &mut Line, answer: &pb::ShipResponse) -> Result<(), ShipError> {
        let copy = wire::copy_end(answer)?;
        self.note_end(line.attachment, &copy, false);
        self.keep(&copy, answer);
        if answer.promoted {
            self.news.send_modify(|mark| mark.promoted = true);
        }
        let bytes = line.in_flight.pop_front().unwrap_or(0);
        let pace = line.pace.count(bytes, self.clock.monotonic_us());
        self.news.send_modify(|mark| {
            mark.bytes_per_second = pace;
            if !mark.is_down {
                mark.go_on();
            }
        });
        Ok(())
    }

    /// Takes in where the copy says that it ends, whatever it said before. A copy that ends in
    /// another epoch, or whose state is to be replaced, has nothing of this one.
    fn note_end(&self, attachment: u128, copy: &CopyEnd, must_seed: bool) {
        let Some(Standing { authority, .. }) = self.group.standing() else { return };
        let is_of_this = copy.epoch == authority.epoch && !must_seed;
        let through = copy.through.filter(|_| is_of_this);
        self.group.note_copy_end(attachment, &authority.epoch, through);
    }

    /// Takes in where the copy ends, and lets it ride in the next entry.
    fn keep(&self, copy: &CopyEnd, answer: &pb::ShipResponse) {
        let Some(standing) = self.group.standing() else { return };
        let authority = &standing.authority;
        let (Some(through), Some(attachment)) = (copy.through, &authority.attachment) else {
            return;
        };
        if copy.epoch != authority.epoch {
            return;
        }
        let is_early = crate::mutants::is_chosen("last-sync-early");
        let log_time = if is_early { standing.log_time } else { LogTime(answer.log_time_us) };
        let now = self.clock.monotonic_us();
        self.news.send_modify(|mark| {
            mark.acknowledge(through, log_time);
            mark.took_us = Some(now);
            mark.next_message = (answer.next_message > 0).then_some(answer.next_message);
            self.group.note_copy(mark.shipped, mark.last_sync);
        });
        if authority.shipped.is_none_or(|known| known.index < through.index) {
            let verb = RegionVerb::RecordShipped {
                attachment: attachment.id,
                epoch: copy.epoch.number,
                position: through,
            };
            let by = Actor::default();
            self.group.ride(Command::Region(Box::new(RegionCommand { by, verb })));
        }
    }

    fn tell(&self, is_live: bool) {
        let Some(behind) = self.group.behind() else { return };
        self.news.send_if_modified(|mark| {
            let before = mark.clone();
            mark.positions_behind = behind.positions;
            mark.bytes_behind = behind.bytes;
            mark.shipped_bytes = self.shipped_bytes.load(Ordering::Relaxed);
            if is_live && !mark.is_down {
                mark.go_on();
                mark.status = GeoStatus::Live;
            }
            *mark != before
        });
    }
}

/// Whether the shape of the line lets nothing through.
pub(super) fn tell_down(news: &watch::Sender<Watermark>, is_down: bool, clock: &SharedClock) {
    news.send_if_modified(|mark| {
        let before = mark.is_down;
        if is_down {
            mark.stand_still(DOWN.to_owned(), clock.monotonic_us());
        } else if before {
            mark.go_on();
        }
        mark.is_down = is_down;
        before != is_down
    });
}
