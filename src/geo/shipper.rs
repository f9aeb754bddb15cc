//! The primary's end of the stream. It runs on every node and works on the one that leads.
//!
//! Laws: a new stream begins where the copy says that it ends, so nothing is lost by a new
//! leader on either side and little is sent twice. Batches are in order, at most a few in
//! flight, each bounded by bytes. What is acknowledged rides in the next entry, so that the next
//! leader and the purge of the log know it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::batch;
use super::error::{PairError, SeedError, ShipError};
use super::other::OtherRegion;
use super::watermark::{GeoStatus, Pace, Watermark};
use super::wire;
use super::{patch, seed};
use crate::clock::SharedClock;
use crate::consensus::group::{Group, Standing};
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::geo_service_client::GeoServiceClient;
use crate::queue::authority::Role;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::authority::plan::{CopyEnd, Parted};
use crate::queue::command::Command;
use crate::queue::ids::LogTime;

/// Batches sent and not yet acknowledged.
const IN_FLIGHT: usize = 4;
/// An answer that does not come by then will not.
const SILENCE: Duration = Duration::from_secs(15);
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
}

/// One stream, from its hello on.
struct Line {
    requests: mpsc::Sender<pb::ShipRequest>,
    answers: tonic::Streaming<pb::ShipResponse>,
    /// Where the copy ends once it has all that was sent.
    copy: CopyEnd,
    /// Another leader began to give the copy a whole state, and did not end it.
    is_seeding: bool,
    /// What it has is of another history.
    must_seed: bool,
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
        let gives_all = AtomicBool::new(false);
        (Shipper { group, other, clock, news, gives_all }, watermark)
    }

    /// Runs until the group ends.
    pub async fn run(self) {
        let (mut at, mut pause) = (0, PAUSE.0);
        while self.until_due().await {
            let began = self.clock.monotonic_us();
            let Err(error) = self.ship(at).await else {
                pause = PAUSE.0;
                continue;
            };
            at = at.wrapping_add(1);
            tracing::debug!(%error, "shipping stands still");
            self.news.send_modify(|mark| {
                mark.status = GeoStatus::Unavailable;
                mark.trouble = Some(error.to_string());
            });
            // A stream that did its work for a while is no repeated failure.
            let lived = Duration::from_micros(self.clock.monotonic_us().saturating_sub(began));
            pause = if lived > PAUSE.1 { PAUSE.0 } else { pause };
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
    async fn until_due(&self) -> bool {
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

    async fn ship(&self, at: usize) -> Result<(), ShipError> {
        let mut line = self.open(at).await?;
        if line.must_seed
            || line.is_seeding
            || (line.copy.through.is_none() && self.must_seed(&line.copy))
        {
            let has_another = line.must_seed;
            drop(line);
            self.give(has_another).await?;
            return Ok(());
        }
        let (mut leadership, mut applied) = (self.group.leadership(), self.group.applied());
        while self.ships() {
            applied.borrow_and_update();
            let has_all = self.fill(&mut line).await?;
            self.tell(has_all && line.in_flight.is_empty());
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
                changed = leadership.changed() => {
                    if changed.is_err() { return Ok(()) }
                }
            }
        }
        Ok(())
    }

    /// Gives the copy a state: what differs, where it has another one and takes that, or all.
    async fn give(&self, has_another: bool) -> Result<(), SeedError> {
        let (group, other, clock, news) = (&self.group, &self.other, &self.clock, &self.news);
        if has_another && !self.gives_all.load(Ordering::Relaxed) {
            let given = patch::give(group, other, clock, news).await;
            if let Err(SeedError::Other(error)) = &given
                && matches!(**error, PairError::Refused(_))
            {
                tracing::info!(%error, "what differs was not taken: the copy is given all");
                self.gives_all.store(true, Ordering::Relaxed);
            }
            return given;
        }
        seed::give(group, other, clock, news).await?;
        self.gives_all.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an empty copy cannot have all from this node's log.
    fn must_seed(&self, copy: &CopyEnd) -> bool {
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
        let mut client =
            GeoServiceClient::new(channel).max_encoding_message_size(wire::MESSAGE_BYTES);
        let opened = async {
            let mut answers = client.ship(ReceiverStream::new(queued)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let opened = tokio::time::timeout(SILENCE, opened).await.map_err(|_| ShipError::Silent)?;
        let (answers, first) = opened.map_err(Box::new)?;
        let first = first.ok_or(ShipError::Closed)?;
        let copy = wire::copy_end(&first)?;
        self.news.send_modify(|mark| {
            mark.status = GeoStatus::Bootstrap;
            mark.trouble = None;
        });
        if !first.must_seed {
            self.keep(&copy, LogTime(first.log_time_us));
        }
        let pace = Pace::default();
        let (is_seeding, must_seed) = (first.seeding, first.must_seed);
        let in_flight = std::collections::VecDeque::new();
        Ok(Line { requests, answers, copy, is_seeding, must_seed, in_flight, pace })
    }

    /// Sends what there is, as far as the window allows; says whether that is all.
    async fn fill(&self, line: &mut Line) -> Result<bool, ShipError> {
        while line.in_flight.len() < IN_FLIGHT {
            let Some(batch) = batch::next(&self.group, &line.copy)? else { return Ok(true) };
            let bytes = batch.entries.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            line.copy = batch.end();
            line.requests.send(wire::batch(batch)).await.map_err(|_| ShipError::Closed)?;
            line.in_flight.push_back(bytes);
        }
        Ok(false)
    }

    fn acknowledge(&self, line: &mut Line, answer: &pb::ShipResponse) -> Result<(), ShipError> {
        let copy = wire::copy_end(answer)?;
        self.keep(&copy, LogTime(answer.log_time_us));
        if answer.promoted {
            self.news.send_modify(|mark| mark.promoted = true);
        }
        if line.in_flight.len() == 1 && copy.through != line.copy.through {
            // The batch was too much for one entry there: begin anew where the copy is.
            line.copy = copy;
        }
        let bytes = line.in_flight.pop_front().unwrap_or(0);
        let pace = line.pace.count(bytes, self.clock.monotonic_us());
        self.news.send_modify(|mark| mark.bytes_per_second = pace);
        Ok(())
    }

    /// Takes in where the copy ends, and lets it ride in the next entry.
    fn keep(&self, copy: &CopyEnd, log_time: LogTime) {
        let Some(standing) = self.group.standing() else { return };
        let authority = &standing.authority;
        let (Some(through), Some(attachment)) = (copy.through, &authority.attachment) else {
            return;
        };
        if copy.epoch != authority.epoch {
            return;
        }
        let is_early = crate::mutants::is_chosen("last-sync-early");
        let log_time = if is_early { standing.log_time } else { log_time };
        self.news.send_modify(|mark| mark.acknowledge(through, log_time));
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
        let Some(standing) = self.group.standing() else { return };
        self.news.send_if_modified(|mark| {
            let before = mark.clone();
            mark.measure(&standing, |shipped| self.group.log_bytes_after(shipped));
            if is_live {
                mark.status = GeoStatus::Live;
            }
            *mark != before
        });
    }
}
