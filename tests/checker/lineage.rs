//! The history that a pair of regions went on with: its epochs, which cluster wrote each, and what
//! of each was left behind.
//!
//! Law: it is told from the ledger of the highest epoch that any node was in, so from what was
//! applied, and not from what operators were answered.

use std::collections::BTreeMap;

use zoneq::queue::authority::{LedgerLine, RegionEpoch, Role};

use crate::history::{Cluster, History, LogTime, Mark, Micros, Op, Outcome, REGIONS, Sighted};

/// One epoch.
#[derive(Clone, Debug)]
pub struct Line {
    pub epoch: RegionEpoch,
    /// The epoch before it, as its own ledger has it.
    pub before: Option<RegionEpoch>,
    /// Who wrote it; `None` = nobody was seen to.
    pub cluster: Option<Cluster>,
    /// The index of the last entry of the epoch before, in its cluster's log.
    pub previous: Option<u64>,
    /// The index that began it, in its own cluster's log.
    pub first: Option<u64>,
    /// When a node was first seen in it.
    pub began: Micros,
    /// The epoch before was handed over to it, and ended just where it begins.
    pub is_planned: bool,
    /// T of the state that it began with is not above this.
    pub fork_time: LogTime,
    /// When the cluster of the epoch before was first seen beyond the place where this one begins.
    pub left_since: Micros,
}

/// Of each cluster and epoch that it wrote: places of its log by the T there, as far as they were
/// seen. From one epoch to the next T may go back, where a copy was replaced.
type Places = BTreeMap<(Cluster, RegionEpoch), BTreeMap<LogTime, u64>>;

/// The epochs, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    pub lines: Vec<Line>,
    /// Epochs that a cluster wrote in and that the history did not go on with, in order.
    pub dead: Vec<Line>,
    /// Of each cluster, from when on it was a secondary or ceased to be one.
    copies: BTreeMap<Cluster, Vec<(Micros, bool)>>,
    places: Places,
    /// Of each cluster: the index that began each of its epochs, in order, and which of `all` that
    /// is.
    begun: BTreeMap<Cluster, Vec<(Option<u64>, usize)>>,
    /// Of each epoch: which of `lines` went on after it, or without it.
    next: BTreeMap<RegionEpoch, usize>,
}

fn is_writer(role: &Role) -> bool {
    !matches!(role, Role::Secondary | Role::Detached)
}

fn is_of(cluster: Cluster, epoch: &RegionEpoch) -> bool {
    REGIONS.get(cluster.region).is_some_and(|name| *name == epoch.region)
}

impl Lineage {
    pub fn of(history: &History) -> Lineage {
        // A copy that became a cluster of its own has a history of its own.
        let ours = history.pair.sighted.iter().map(|it| it.authority.lineage).find(|id| *id > 0);
        let is_ours = |id: u128| id == 0 || Some(id) == ours;
        let sighted = history.pair.sighted.iter().filter(|it| is_ours(it.authority.lineage));
        let sighted: Vec<&Sighted> = sighted.collect();
        let newest = sighted.iter().copied().max_by_key(|it| (it.authority.epoch.clone(), it.at));
        let Some(newest) = newest else { return Lineage::default() };
        let ledger = &newest.authority.ledger;
        let mut writers: BTreeMap<&RegionEpoch, Cluster> = BTreeMap::new();
        let mut began: BTreeMap<&RegionEpoch, Micros> = BTreeMap::new();
        let mut times: BTreeMap<&RegionEpoch, LogTime> = BTreeMap::new();
        for seen in &sighted {
            let epoch = &seen.authority.epoch;
            if is_writer(&seen.authority.role) && is_of(seen.cluster, epoch) {
                writers.entry(epoch).or_insert(seen.cluster);
                began.entry(epoch).or_insert(seen.at);
                let lowest = times.entry(epoch).or_insert(seen.log_time);
                *lowest = seen.log_time.min(*lowest);
            }
        }
        let line = |(line, before): (&LedgerLine, Option<&LedgerLine>)| Line {
            epoch: line.epoch.clone(),
            before: before.map(|it| it.epoch.clone()),
            cluster: writers.get(&line.epoch).copied(),
            previous: line.previous.map(|at| at.index),
            first: line.first.map(|at| at.index),
            began: began.get(&line.epoch).copied().unwrap_or_default(),
            is_planned: was_handed_over(&sighted, line),
            fork_time: times.get(&line.epoch).copied().unwrap_or(LogTime::MAX),
            left_since: Micros::MAX,
        };
        let mut lines: Vec<Line> = with_before(ledger).map(line).collect();
        for next in 1..lines.len() {
            let (Some(cluster), previous) = (lines[next - 1].cluster, lines[next].previous) else {
                continue;
            };
            let beyond = sighted.iter().filter(|it| it.cluster == cluster);
            let beyond = beyond.filter(|it| Some(it.index) > previous).map(|it| it.at);
            lines[next].left_since = beyond.min().unwrap_or(Micros::MAX);
        }
        let is_kept = |epoch: &RegionEpoch| ledger.iter().any(|line| line.epoch == *epoch);
        let all = sighted.iter().flat_map(|seen| with_before(&seen.authority.ledger));
        let left = all.filter(|(line, _)| writers.contains_key(&line.epoch));
        let left: BTreeMap<&RegionEpoch, _> = left.map(|it| (&it.0.epoch, it)).collect();
        let left = left.into_iter().filter(|(epoch, _)| !is_kept(epoch));
        let dead: Vec<Line> = left.map(|(_, it)| line(it)).collect();
        let (begun, next) = (begun(lines.iter().chain(&dead)), next(&lines, &dead));
        let (copies, places) = (copies(&sighted), places(&sighted));
        Lineage { lines, dead, copies, places, begun, next }
    }

    /// Every epoch that a cluster wrote in, those that went on first.
    pub fn all(&self) -> impl Iterator<Item = &Line> + Clone {
        self.lines.iter().chain(&self.dead)
    }

    /// Whether a cluster was a secondary then, as far as was seen.
    pub fn is_copy(&self, cluster: Cluster, at: Micros) -> bool {
        let Some(turns) = self.copies.get(&cluster) else { return false };
        let before = turns.partition_point(|(since, _)| *since <= at);
        before.checked_sub(1).and_then(|last| turns.get(last)).is_some_and(|(_, is)| *is)
    }

    /// The epoch that an entry of this cluster's log belongs to, and the one that went on after
    /// it.
    pub fn place(&self, cluster: Cluster, index: u64) -> Option<(&Line, Option<&Line>)> {
        let own = self.begun.get(&cluster)?;
        let before = own.partition_point(|(first, _)| first.is_none_or(|first| first < index));
        let (_, number) = *own.get(before.checked_sub(1)?)?;
        let dead = || self.dead.get(number.checked_sub(self.lines.len())?);
        let line = self.lines.get(number).or_else(dead)?;
        Some((line, self.after(line)))
    }

    fn is_dead(&self, line: &Line) -> bool {
        self.dead.binary_search_by(|dead| dead.epoch.cmp(&line.epoch)).is_ok()
    }

    /// The epoch that went on after this one, or without it.
    pub fn after(&self, line: &Line) -> Option<&Line> {
        self.lines.get(*self.next.get(&line.epoch)?)
    }

    /// The epoch that went on without what this cluster acknowledged there, if one did.
    pub fn left_behind(&self, cluster: Cluster, mark: Mark) -> Option<&Line> {
        let (line, next) = self.place(cluster, mark.index)?;
        let is_beyond = |next: &Line| next.previous.is_none_or(|last| last < mark.index);
        next.filter(|next| self.is_dead(line) || is_beyond(next))
    }

    /// Whether an entry of a cluster's log is in the history that went on.
    pub fn holds(&self, cluster: Cluster, mark: Mark) -> bool {
        self.place(cluster, mark.index).is_some() && self.left_behind(cluster, mark).is_none()
    }

    /// Whether the entry with this T, which a cluster told of by then, is in the history that went
    /// on; nothing where that is not known.
    pub fn holds_at(&self, cluster: Cluster, at: LogTime, told: Micros) -> Option<bool> {
        let line = self.written(cluster, told)?;
        let places = self.places.get(&(cluster, line.epoch.clone()))?;
        let after = places.range(..at).next_back().map_or(0, |(_, index)| *index);
        let by = places.range(at..).next().map_or(u64::MAX, |(_, index)| *index);
        let holds = |index: u64| self.holds(cluster, Mark { index, term: 0, node: 0, at });
        let first = holds(after.saturating_add(1).min(by));
        (first == holds(by)).then_some(first)
    }

    /// The epoch in which a cluster was the writer last, as of then.
    fn written(&self, cluster: Cluster, at: Micros) -> Option<&Line> {
        let is_its = |line: &&Line| line.cluster == Some(cluster) && line.began <= at;
        self.all().filter(is_its).max_by_key(|line| line.began)
    }

    /// The epoch that went on without the one in which a cluster was the writer last, as of then,
    /// and since when that cluster went another way; `None` where it was handed over.
    pub fn parted(&self, cluster: Cluster, at: Micros) -> Option<(&Line, Micros)> {
        let last = self.written(cluster, at)?;
        let next = self.after(last)?;
        if self.is_dead(last) {
            return Some((next, last.began));
        }
        (!next.is_planned).then_some((next, next.left_since))
    }

    /// Whether a state with this T may be of a tail that the cluster has given up since: one of its
    /// nodes that is behind still has it, and answers reads that may be old.
    pub fn may_be_of_tail(&self, cluster: Cluster, at: LogTime, told: Micros) -> bool {
        self.all().filter(|line| line.cluster == Some(cluster)).any(|line| {
            let Some(next) = self.after(line) else { return false };
            let is_left = self.is_dead(line) || !next.is_planned;
            let places = self.places.get(&(cluster, line.epoch.clone()));
            let end = places.and_then(|places| places.keys().next_back());
            let is_in = next.fork_time <= at && end.is_some_and(|end| at <= *end);
            is_left && next.left_since <= told && is_in
        })
    }

    /// The epochs that a promotion by force began, each after the one before it.
    pub fn forced(&self) -> impl Iterator<Item = (&Line, &Line)> {
        let pairs = self.lines.windows(2).filter_map(|two| Some((two.first()?, two.get(1)?)));
        pairs.filter(|(_, next)| !next.is_planned)
    }

    /// The epochs that were handed over to, each after the one that did; also those that nothing
    /// went on from.
    pub fn planned(&self) -> impl Iterator<Item = (&Line, &Line)> {
        let handed = self.all().filter(|line| line.is_planned);
        handed.filter_map(|line| {
            let before = line.before.as_ref()?;
            Some((self.all().find(|it| it.epoch == *before)?, line))
        })
    }
}

/// The lines of a ledger, each with the one before it.
fn with_before(ledger: &[LedgerLine]) -> impl Iterator<Item = (&LedgerLine, Option<&LedgerLine>)> {
    let before = std::iter::once(None).chain(ledger.iter().map(Some));
    ledger.iter().zip(before)
}

fn begun<'a>(all: impl Iterator<Item = &'a Line>) -> BTreeMap<Cluster, Vec<(Option<u64>, usize)>> {
    let mut begun: BTreeMap<Cluster, Vec<(Option<u64>, usize)>> = BTreeMap::new();
    for (number, line) in all.enumerate() {
        if let Some(cluster) = line.cluster {
            begun.entry(cluster).or_default().push((line.first, number));
        }
    }
    begun.values_mut().for_each(|own| own.sort_unstable());
    begun
}

fn next(lines: &[Line], dead: &[Line]) -> BTreeMap<RegionEpoch, usize> {
    let after = |line: &Line| lines.iter().position(|later| later.epoch > line.epoch);
    let next = lines.iter().chain(dead).filter_map(|line| Some((line.epoch.clone(), after(line)?)));
    next.collect()
}

/// What nodes were that had not yet applied what another had, or were started anew, says nothing
/// of the cluster.
fn copies(sighted: &[&Sighted]) -> BTreeMap<Cluster, Vec<(Micros, bool)>> {
    let mut copies: BTreeMap<Cluster, Vec<(Micros, bool)>> = BTreeMap::new();
    let mut highest: BTreeMap<Cluster, u64> = BTreeMap::new();
    for seen in sighted {
        let known = highest.entry(seen.cluster).or_default();
        if seen.index < *known {
            continue;
        }
        *known = seen.index;
        let is = seen.authority.role == Role::Secondary;
        let turns = copies.entry(seen.cluster).or_default();
        if turns.last().is_none_or(|(_, was)| *was != is) {
            turns.push((seen.at, is));
        }
    }
    copies
}

/// Of each T the first place at which it was seen: that of its entry, or one behind it.
fn places(sighted: &[&Sighted]) -> Places {
    let mut places = Places::new();
    for seen in sighted.iter().filter(|seen| is_writer(&seen.authority.role)) {
        let of = places.entry((seen.cluster, seen.authority.epoch.clone())).or_default();
        let index = of.entry(seen.log_time).or_insert(seen.index);
        *index = seen.index.min(*index);
    }
    places
}

/// Whether a cluster was seen to release to that epoch, just where it begins.
fn was_handed_over(sighted: &[&Sighted], line: &LedgerLine) -> bool {
    sighted.iter().any(|seen| match &seen.authority.role {
        Role::Released { to, at } => *to == line.epoch && line.previous == Some(*at),
        _ => false,
    })
}

/// An acknowledged write, and where it stands.
pub type Write<'a> = (&'a Op, Mark);

/// A history of two regions with what is known of its epochs.
#[derive(Debug)]
pub struct PairStory<'a> {
    pub history: &'a History,
    pub lineage: Lineage,
    /// The acknowledged writes of each epoch.
    placed: BTreeMap<RegionEpoch, Vec<Write<'a>>>,
    /// Those of no epoch.
    pub strays: Vec<Write<'a>>,
}

impl<'a> PairStory<'a> {
    pub fn of(history: &'a History) -> PairStory<'a> {
        let lineage = Lineage::of(history);
        let mut placed: BTreeMap<&RegionEpoch, Vec<Write<'_>>> = BTreeMap::new();
        let mut strays = Vec::new();
        for write in writes(history) {
            match lineage.place(write.0.site, write.1.index) {
                Some((line, _)) => placed.entry(&line.epoch).or_default().push(write),
                None => strays.push(write),
            }
        }
        let placed = placed.into_iter().map(|(epoch, writes)| (epoch.clone(), writes)).collect();
        PairStory { history, lineage, placed, strays }
    }

    /// The acknowledged writes of an epoch.
    pub fn writes_of(&self, epoch: &RegionEpoch) -> impl Iterator<Item = Write<'a>> {
        self.placed.get(epoch).into_iter().flatten().copied()
    }
}

/// Every write that was acknowledged, with where it stands.
fn writes(history: &History) -> impl Iterator<Item = Write<'_>> {
    history.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(answer) => Some((op, answer.mark()?)),
        _ => None,
    })
}
