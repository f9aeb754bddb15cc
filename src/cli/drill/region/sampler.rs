//! What the regions say of themselves, asked again and again while a drill runs.
//!
//! Laws: a last sync time is compared with what the secondary has applied *after* it was read, so
//! the comparison is strict: what is shown must be so already. Two sides are called writable only
//! when one was before and after the other said that it is, in the same epoch: no sample cries
//! wolf. A region that was lost and comes back is watched apart, until it is fenced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;

use crate::cli::drill::recorder::Recorder;
use crate::cli::lab::files::Lab;
use crate::cli::lab::pair::{self, RegionView};
use crate::cli::lab::table::Eye;
use crate::proto::admin::v1 as pb;

const EVERY: Duration = Duration::from_millis(40);
/// Findings in words; all are counted.
const MOST_TEXTS: usize = 10;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub samples: u64,
    pub two_writable: u64,
    pub sync_later_than_truth: u64,
    pub texts: Vec<String>,
    /// The latest last sync time that was shown of each epoch.
    sync: BTreeMap<u32, SystemTime>,
}

#[derive(Debug, Default)]
struct Shared {
    found: Mutex<Findings>,
    ended: AtomicBool,
    /// A region was lost: until it is fenced both may take writes, each from those who reach it.
    lost: AtomicBool,
}

/// A sampler that runs.
#[derive(Debug)]
pub(super) struct Sampler {
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

impl Shared {
    fn found(&self) -> MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Findings {
    fn find(&mut self, text: String) {
        if self.texts.len() < MOST_TEXTS {
            self.texts.push(text);
        }
    }

    /// Notes a last sync time that was shown of an epoch.
    fn shown(&mut self, status: &pb::GetRegionResponse) {
        let (Some(epoch), Some(at)) = (&status.epoch, time(status.last_sync_time)) else { return };
        let known = self.sync.entry(epoch.number).or_insert(at);
        *known = (*known).max(at);
    }

    /// `first` was asked, then `second`, then `first` again.
    fn take(&mut self, first: &RegionView, second: &RegionView, again: &RegionView, lost: bool) {
        self.samples += 1;
        for view in [first, second, again] {
            view.status.iter().for_each(|status| self.shown(status));
        }
        let (Some(before), Some(other), Some(after)) =
            (&first.status, &second.status, &again.status)
        else {
            return;
        };
        if before.writable
            && other.writable
            && after.writable
            && before.epoch == after.epoch
            && !lost
        {
            self.two_writable += 1;
            self.find(format!(
                "both regions took writes at once: {} in epoch {}, {} in epoch {}",
                first.name,
                number(before),
                second.name,
                number(other)
            ));
        }
        let follows = other.role() == pb::RegionRole::Secondary && other.epoch == before.epoch;
        if before.role() == pb::RegionRole::Primary
            && follows
            && let (Some(shown), Some(truth)) = (time(before.last_sync_time), time(other.log_time))
            && shown > truth
        {
            self.sync_later_than_truth += 1;
            let early = shown.duration_since(truth).unwrap_or_default().as_micros();
            self.find(format!(
                "{} showed a last sync time {early} us later than what {} had applied",
                first.name, second.name
            ));
        }
    }
}

fn number(status: &pb::GetRegionResponse) -> u32 {
    status.epoch.as_ref().map_or(0, |epoch| epoch.number)
}

/// A protobuf time; `None` where it is none.
pub(super) fn time(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(at?).ok()
}

impl Sampler {
    /// Samples the two regions of a lab until told to end.
    pub(super) fn start(lab: Lab, recorder: Option<Arc<Recorder>>) -> anyhow::Result<Sampler> {
        let eyes = Eye::all(&lab)?;
        let shared = Arc::new(Shared::default());
        let asked = Asked { lab, eyes, recorder };
        let running = tokio::spawn(sample(asked, Arc::clone(&shared)));
        Ok(Sampler { shared, running })
    }

    /// Whether a region is lost now, and not yet fenced.
    pub(super) fn set_lost(&self, lost: bool) {
        self.shared.lost.store(lost, Relaxed);
    }

    /// The latest last sync time that was shown of an epoch, this status' own among them.
    pub(super) fn sync(&self, status: &pb::GetRegionResponse) -> Option<SystemTime> {
        let mut found = self.shared.found();
        found.shown(status);
        found.sync.get(&number(status)).copied()
    }

    pub(super) async fn finish(self) -> anyhow::Result<Findings> {
        self.shared.ended.store(true, Relaxed);
        self.running.await?;
        let found = self.shared.found().clone();
        Ok(found)
    }
}

/// Who is asked, and where the answers are written down.
struct Asked {
    lab: Lab,
    eyes: Vec<Eye>,
    recorder: Option<Arc<Recorder>>,
}

impl Asked {
    async fn ask(&self, name: &str) -> RegionView {
        let invoked = self.recorder.as_ref().map(|recorder| recorder.now());
        let view = pair::ask(&self.lab, &self.eyes, name).await;
        if let (Some(recorder), Some(invoked), Some(status)) =
            (&self.recorder, invoked, &view.status)
        {
            recorder.look(invoked, status);
        }
        view
    }
}

async fn sample(asked: Asked, shared: Arc<Shared>) {
    let names = asked.lab.regions();
    let [one, two] = names.as_slice() else { return };
    let mut turn = false;
    while !shared.ended.load(Relaxed) {
        turn = !turn;
        let (first, second) = if turn { (one, two) } else { (two, one) };
        let before_lost = shared.lost.load(Relaxed);
        let first = asked.ask(first).await;
        let second = asked.ask(second).await;
        let again = asked.ask(&first.name).await;
        let lost = before_lost || shared.lost.load(Relaxed);
        shared.found().take(&first, &second, &again, lost);
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn view(name: &str, role: pb::RegionRole, epoch: u32) -> RegionView {
        let status = pb::GetRegionResponse {
            region: name.to_owned(),
            role: role.into(),
            epoch: Some(pb::EpochId { number: epoch, region: name.to_owned() }),
            writable: role == pb::RegionRole::Primary,
            ..pb::GetRegionResponse::default()
        };
        RegionView { name: name.to_owned(), status: Some(status) }
    }

    fn with(mut view: RegionView, change: impl Fn(&mut pb::GetRegionResponse)) -> RegionView {
        view.status.iter_mut().for_each(change);
        view
    }

    #[test]
    fn two_sides_write_when_one_did_before_and_after_the_other_said_so() {
        let (old, new) =
            (view("east", pb::RegionRole::Primary, 1), view("west", pb::RegionRole::Primary, 2));
        let handed = view("east", pb::RegionRole::Released, 1);
        let mut found = Findings::default();
        found.take(&old, &new, &handed, false);
        assert_eq!(found.two_writable, 0, "it handed over between the two looks");
        found.take(&old, &new, &old, true);
        assert_eq!(found.two_writable, 0, "a region that was lost and came back");
        found.take(&old, &new, &old, false);
        assert_eq!((found.two_writable, found.texts.len(), found.samples), (1, 1, 3));
    }

    #[test]
    fn a_last_sync_time_is_later_than_the_truth_when_the_copy_has_less() {
        let primary =
            with(view("east", pb::RegionRole::Primary, 1), |it| it.last_sync_time = at(10));
        let copy = |seconds| {
            with(view("west", pb::RegionRole::Secondary, 1), move |it| {
                it.log_time = at(seconds);
                it.last_sync_time = at(seconds);
                it.epoch = Some(pb::EpochId { number: 1, region: "east".to_owned() });
            })
        };
        let mut found = Findings::default();
        found.take(&primary, &copy(10), &primary, false);
        assert_eq!(found.sync_later_than_truth, 0);
        found.take(&primary, &copy(9), &primary, false);
        assert_eq!(found.sync_later_than_truth, 1);
        assert_eq!(found.sync.get(&1).copied(), time(at(10)), "the latest that was shown");
    }
}
