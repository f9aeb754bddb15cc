//! The history that a pair of regions went on with: its epochs, which cluster wrote each, and what
//! of each was left behind.
//!
//! Law: it is told from the ledger of the highest epoch that any node was in, so from what was
//! applied, and not from what operators were answered.

pub mod places;

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::authority::{LedgerLine, RegionEpoch, Role};

use crate::history::{Cluster, History, LogTime, Mark, Micros, Op, Outcome, REGIONS, Sighted};
use places::{Beyond, Earliest, begun, each_once, newest, next, ours, released, written};

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
    /// Of each epoch: which of `all` it is.
    numbers: BTreeMap<RegionEpoch, usize>,
    /// Of each cluster: when it was first seen in each of its epochs, in order, and which of `all`
    /// that is.
    written: BTreeMap<Cluster, Vec<(Micros, usize)>>,
    /// Of each cluster: the T of what it has given up, and since when it went that way.
    given_up: BTreeMap<Cluster, Earliest>,
}

fn is_writer(role: &Role) -> bool {
    !matches!(role, Role::Secondary | Role::Detached)
}

fn is_of(cluster: Cluster, epoch: &RegionEpoch) -> bool {
    REGIONS.get(cluster.region).is_some_and(|name| *name == epoch.region)
}

impl Lineage {
    pub fn of(history: &History) -> Lineage {
        let sighted: Vec<&Sighted> = ours(&history.pair.sighted).map(|(_, it)| it).collect();
        let newest = newest(&history.pair.sighted).and_then(|it| history.pair.sighted.get(it));
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
        let released = released(&sighted);
        let line = |(line, before): (&LedgerLine, Option<&LedgerLine>)| Line {
            epoch: line.epoch.clone(),
            before: before.map(|it| it.epoch.clone()),
            cluster: writers.get(&line.epoch).copied(),
            previous: line.previous.map(|at| at.index),
            first: line.first.map(|at| at.index),
            began: began.get(&line.epoch).copied().unwrap_or_default(),
            is_planned: line.previous.is_some_and(|at| released.contains(&(&line.epoch, at))),
            fork_time: times.get(&line.epoch).copied().unwrap_or(LogTime::MAX),
            left_since: Micros::MAX,
        };
        let mut lines: Vec<Line> = with_before(ledger).map(line).collect();
        let beyond = Beyond::of(&sighted);
        for next in 1..lines.len() {
            let (Some(cluster), previous) = (lines[next - 1].cluster, lines[next].previous) else {
                continue;
            };
            lines[next].left_since = beyond.first(cluster, previous).unwrap_or(Micros::MAX);
        }
        let kept: BTreeSet<&RegionEpoch> = ledger.iter().map(|line| &line.epoch).collect();
        let all = each_once(sighted.iter().copied()).flat_map(|it| with_before(&it.ledger));
        let left = all.filter(|(line, _)| writers.contains_key(&line.epoch));
        let left: BTreeMap<&RegionEpoch, _> = left.map(|it| (&it.0.epoch, it)).collect();
        let left = left.into_iter().filter(|(epoch, _)| !kept.contains(epoch));
        let dead: Vec<Line> = left.map(|(_, it)| line(it)).collect();
        let mut lineage = Lineage {
            begun: begun(lines.iter().chain(&dead)),
            next: next(&lines, &dead),
            numbers: numbers(lines.iter().chain(&dead)),
            written: written(lines.iter().chain(&dead)),
            copies: copies(&sighted),
            places: places(&sighted),
            given_up: BTreeMap::new(),
            lines,
            dead,
        };
        lineage.given_up = lineage.given_up();
        lineage
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
        let line = self.numbered(number)?;
        Some((line, self.after(line)))
    }

    fn numbered(&self, number: usize) -> Option<&Line> {
        let dead = || self.dead.get(number.checked_sub(self.lines.len())?);
        self.lines.get(number).or_else(dead)
    }

    /// What is known of an epoch that a cluster wrote in.
    pub fn line(&self, epoch: &RegionEpoch) -> Option<&Line> {
        self.numbered(*self.numbers.get(epoch)?)
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
        let own = self.written.get(&cluster)?;
        let begun = own.partition_point(|(began, _)| *began <= at);
        self.numbered(own.get(begun.checked_sub(1)?)?.1)
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
        let since = self.given_up.get(&cluster).and_then(|given_up| given_up.at(at));
        since.is_some_and(|since| since <= told)
    }

    fn given_up(&self) -> BTreeMap<Cluster, Earliest> {
        let mut all: BTreeMap<Cluster, Vec<(LogTime, LogTime, Micros)>> = BTreeMap::new();
        for line in self.all() {
            let (Some(cluster), Some(next)) = (line.cluster, self.after(line)) else { continue };
            let places = self.places.get(&(cluster, line.epoch.clone()));
            let end = places.and_then(|places| places.keys().next_back());
            let is_left = self.is_dead(line) || !next.is_planned;
            if let Some(end) = end.filter(|_| is_left) {
                let stretch = (next.fork_time, *end, next.left_since);
                all.entry(cluster).or_default().push(stretch);
            }
        }
        all.into_iter().map(|(cluster, all)| (cluster, Earliest::of(&all))).collect()
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
            Some((self.line(before)?, line))
        })
    }
}

/// The lines of a ledger, each with the one before it.
fn with_before(ledger: &[LedgerLine]) -> impl Iterator<Item = (&LedgerLine, Option<&LedgerLine>)> {
    let before = std::iter::once(None).chain(ledger.iter().map(Some));
    ledger.iter().zip(before)
}

fn numbers<'a>(all: impl Iterator<Item = &'a Line>) -> BTreeMap<RegionEpoch, usize> {
    let mut numbers = BTreeMap::new();
    for (number, line) in all.enumerate() {
        numbers.entry(line.epoch.clone()).or_insert(number);
    }
    numbers
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

/// An acknowledged write, and where it stands.
pub type Write<'a> = (&'a Op, Mark);

/// A history of two regions with what is known of its epochs.
#[derive(Debug)]
pub struct PairStory<'a> {
    pub history: &'a History,
    pub lineage: Lineage,
    /// The acknowledged writes of each epoch.
    placed: BTreeMap<RegionEpoch, Vec<Write<'a>>>,
    /// Of these: the index of each, in order, and which it is.
    indexes: BTreeMap<RegionEpoch, Vec<(u64, usize)>>,
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
        let placed: BTreeMap<RegionEpoch, Vec<Write<'_>>> =
            placed.into_iter().map(|(epoch, writes)| (epoch.clone(), writes)).collect();
        let of = |(epoch, writes): (&RegionEpoch, &Vec<Write<'_>>)| {
            let numbered = (0..).zip(writes);
            let mut of: Vec<_> = numbered.map(|(at, (_, mark))| (mark.index, at)).collect();
            of.sort_unstable();
            (epoch.clone(), of)
        };
        let indexes = placed.iter().map(of).collect();
        PairStory { history, lineage, placed, indexes, strays }
    }

    /// The acknowledged writes of an epoch that stand beyond a place of its log.
    pub fn writes_beyond(&self, epoch: &RegionEpoch, place: Option<u64>) -> Vec<Write<'a>> {
        let all = self.indexes.get(epoch).map_or(&[][..], Vec::as_slice);
        let beyond = all.partition_point(|(index, _)| Some(*index) <= place);
        let mut beyond: Vec<usize> = all.iter().skip(beyond).map(|(_, number)| *number).collect();
        beyond.sort_unstable();
        let writes = self.placed.get(epoch).map_or(&[][..], Vec::as_slice);
        beyond.into_iter().filter_map(|number| writes.get(number)).copied().collect()
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
