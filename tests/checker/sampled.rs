//! What a pair of regions was, from the looks of one who asked both again and again, as a drill
//! does: where nobody saw each position, each look says what was so by then.
//!
//! Laws: a state was reached after the newest look that began when the cluster had less, and when
//! it was asked for at that look counts: for what ends a right to answer, which is a fence, the
//! moment at which it was told counts in its place. So nobody is blamed who may be right: a last
//! sync time after which nobody asked what the copy has is not judged. An epoch was handed over to,
//! unless somebody asked the region that began it for a promotion by force between the last look
//! that did not show it and the first that did. A call belongs to the region of the epoch that its
//! answer names; one that names none, and took nothing, says nothing of any region.
//!
//! `begun` says which epochs were asked for by force.

mod begun;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zoneq::cli::drill::history::{Look, Part};
use zoneq::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};

use crate::highest::Highest;
use crate::history::{
    Answer, Cluster, History, LogTime, Micros, Op, Outcome, REGIONS, Sighted, Told,
};
use crate::lineage::places::newest;
use crate::parts::authority;
use begun::Begun;

/// The looks and calls of a history that is being read.
#[derive(Debug, Default)]
pub struct Sampled {
    seen: Vec<Seen>,
    /// Of calls: the number of the epoch that each was acknowledged under.
    epochs: Vec<(usize, Option<u32>)>,
    /// The ledgers that looks told of, each once, the first an empty one.
    ledgers: Vec<Vec<LedgerLine>>,
    /// Of each cluster the one that was told last.
    last: BTreeMap<Cluster, usize>,
}

/// A look, what it said but for the ledger, and which ledger that was.
#[derive(Debug)]
struct Seen {
    look: Look,
    authority: Authority,
    ledger: usize,
}

/// Of each cluster: the indexes that looks found there, each with when the look began.
type Reached = BTreeMap<Cluster, Highest<u64, Micros>>;

/// What looks showed, from the last to the first: the highest epoch, and whether by its copy.
type Followed<'a> = Highest<Reverse<Micros>, (&'a RegionEpoch, bool)>;

impl Sampled {
    /// Takes the next look in; a ledger without lines is the one before.
    pub fn look(&mut self, mut look: Look) -> Result<(), String> {
        let part: Part = std::mem::take(&mut look.part);
        let mut read = authority(part)?;
        if self.ledgers.is_empty() {
            self.ledgers.push(Vec::new());
        }
        let told = std::mem::take(&mut read.ledger);
        let ledger = self.last.entry(look.told.cluster).or_default();
        if !told.is_empty() {
            *ledger = self.ledgers.len();
            self.ledgers.push(told);
        }
        self.seen.push(Seen { look, authority: read, ledger: *ledger });
        Ok(())
    }

    /// The call of this number was acknowledged under that epoch.
    pub fn call(&mut self, op: usize, epoch: Option<u32>) {
        self.epochs.push((op, epoch));
    }

    /// Tells the history what the looks say.
    pub fn tell(mut self, history: &mut History) -> Result<(), String> {
        self.seen.sort_by_key(|seen| seen.look.told.invoked);
        self.place(&mut history.ops)?;
        let reached = self.reached();
        let looked = self.seen.iter().map(|seen| (as_sighted(seen, &reached), Some(seen.ledger)));
        let mut sighted: Vec<(Sighted, Option<usize>)> = looked.collect();
        sighted.extend(self.handed_over(history, &reached).into_iter().map(|seen| (seen, None)));
        sighted.sort_by_key(|(seen, _)| (seen.cluster, seen.index, seen.at));
        history.pair.sighted.extend(self.with_ledgers(sighted));
        let later = self.seen.iter().map(|Seen { look, authority: it, .. }| {
            (Reverse(look.told.invoked), (&it.epoch, it.role == Role::Secondary))
        });
        let later: Followed<'_> = later.collect();
        let all = self.seen.iter().map(|Seen { look, .. }| {
            let told = look.told.clone();
            let last_sync = told.last_sync.filter(|_| is_followed(&told, &later));
            Told { last_sync, ..told }
        });
        history.pair.told.extend(all);
        Ok(())
    }

    /// Gives each ledger to the last state that had it, and to the newest state its own: nobody
    /// asks for it of others.
    fn with_ledgers(&self, all: Vec<(Sighted, Option<usize>)>) -> Vec<Sighted> {
        let (mut sighted, ledgers): (Vec<Sighted>, Vec<Option<usize>>) = all.into_iter().unzip();
        let newest = newest(&sighted);
        let mut told = BTreeSet::new();
        for (place, (seen, ledger)) in sighted.iter_mut().zip(ledgers).enumerate().rev() {
            let Some(ledger) = ledger else { continue };
            if told.insert(ledger) || newest == Some(place) {
                Arc::make_mut(&mut seen.authority).ledger = self.ledger(ledger).to_vec();
            }
        }
        sighted
    }

    fn ledger(&self, number: usize) -> &[LedgerLine] {
        self.ledgers.get(number).map_or(&[], Vec::as_slice)
    }

    fn reached(&self) -> Reached {
        let mut reached: BTreeMap<Cluster, Vec<(u64, Micros)>> = BTreeMap::new();
        for Seen { look, .. } in &self.seen {
            let of = reached.entry(look.told.cluster).or_default();
            of.push((look.index, look.told.invoked));
        }
        reached.into_iter().map(|(cluster, looks)| (cluster, looks.into_iter().collect())).collect()
    }

    /// What nobody may have seen: each release to the epoch after it, where it began.
    fn handed_over(&self, history: &History, reached: &Reached) -> Vec<Sighted> {
        let height = |it: &Seen| (it.authority.epoch.clone(), self.ledger(it.ledger).len());
        let newest = self.seen.iter().max_by_key(|it| height(it));
        let Some(newest) = newest else { return Vec::new() };
        let (begun, ends) = (Begun::of(self, history), self.ends());
        let joins = self.ledger(newest.ledger).windows(2).filter_map(|two| match two {
            [before, line] => Some((before, line, line.previous?)),
            _ => None,
        });
        let released = joins.filter(|(_, line, _)| !begun.was_forced(&line.epoch));
        let sighted = released.filter_map(|(before, line, at)| {
            let cluster = cluster_of(&before.epoch)?;
            let authority = Arc::new(Authority {
                lineage: newest.authority.lineage,
                region: before.epoch.region.clone(),
                epoch: before.epoch.clone(),
                role: Role::Released { to: line.epoch.clone(), at },
                ..Authority::default()
            });
            let (index, log_time) = (at.index, *ends.get(&(cluster, &before.epoch))?);
            let at = since(reached, cluster, index);
            Some(Sighted { at, cluster, node: 0, index, log_time, digest: None, authority })
        });
        sighted.collect()
    }

    /// The latest T that each cluster told of in each epoch.
    fn ends(&self) -> BTreeMap<(Cluster, &RegionEpoch), LogTime> {
        let mut ends: BTreeMap<(Cluster, &RegionEpoch), LogTime> = BTreeMap::new();
        for Seen { look, authority, .. } in &self.seen {
            let end = ends.entry((look.told.cluster, &authority.epoch)).or_default();
            *end = look.log_time.max(*end);
        }
        ends
    }

    /// Says of each call which region answered it.
    fn place(&self, ops: &mut [Op]) -> Result<(), String> {
        let mut regions: BTreeMap<u32, Cluster> = BTreeMap::new();
        let mut told = BTreeSet::new();
        // What was told last counts.
        for Seen { authority, ledger, .. } in self.seen.iter().rev() {
            let lines = if told.insert(*ledger) { self.ledger(*ledger) } else { &[] };
            let all = [&authority.epoch].into_iter().chain(lines.iter().rev().map(|it| &it.epoch));
            for epoch in all {
                if let Some(cluster) = cluster_of(epoch) {
                    regions.entry(epoch.number.0).or_insert(cluster);
                }
            }
        }
        for (at, epoch) in &self.epochs {
            let Some(op) = ops.get_mut(*at) else { continue };
            let site = epoch.and_then(|epoch| regions.get(&epoch));
            match (&op.outcome, site) {
                (Outcome::Ok(answer), Some(site)) if answer.mark().is_some() => op.site = *site,
                (Outcome::Ok(Answer::Received { mark: None, .. }), None) => {
                    let why = "nothing was visible, and it is not known to which region";
                    op.outcome = Outcome::Failed(why.to_owned());
                }
                (Outcome::Ok(_), _) => {
                    return Err(format!("of epoch {epoch:?} no look tells, and {op:?} is of it"));
                }
                (Outcome::Failed(_) | Outcome::Unknown(_), _) => {}
            }
        }
        Ok(())
    }
}

/// Whether somebody asked after it what the copy has: a last sync time is judged by that.
fn is_followed(told: &Told, later: &Followed<'_>) -> bool {
    later.through(&Reverse(told.returned)).is_some_and(|newest| newest > (&told.epoch, false))
}

/// Not before this moment had a cluster all to this index.
fn since(reached: &Reached, cluster: Cluster, index: u64) -> Micros {
    reached.get(&cluster).and_then(|less| less.below(&index)).unwrap_or_default()
}

fn as_sighted(Seen { look, authority, .. }: &Seen, reached: &Reached) -> Sighted {
    let Look { told, index, log_time, .. } = look;
    let is_silent = matches!(authority.role, Role::Fenced { .. } | Role::Conflict { .. });
    let at = if is_silent { told.returned } else { since(reached, told.cluster, *index) };
    let (cluster, index, log_time) = (told.cluster, *index, *log_time);
    let authority = Arc::new(authority.clone());
    Sighted { at, cluster, node: 0, index, log_time, digest: None, authority }
}

fn cluster_of(epoch: &RegionEpoch) -> Option<Cluster> {
    let region = REGIONS.iter().position(|name| *name == epoch.region)?;
    Some(Cluster { region, generation: 0 })
}

#[cfg(test)]
pub mod tests {
    use zoneq::cli::drill::history::{EpochId, Join, Place};

    use super::*;
    use crate::history::{Act, Ending, Mark, Verb};
    use crate::invariants::broken;
    use crate::invariants::sample::Sample;

    /// A pair of which one looked again and again; one tick apart.
    #[derive(Default)]
    pub struct Watched {
        sampled: Sampled,
        pub history: History,
        now: Micros,
    }

    fn joins(count: usize) -> Vec<Join> {
        let at = |index| Some(Place { index, ..Place::default() });
        let all = [
            Join { epoch: (1, "east".to_owned()), previous: None, first: None },
            Join { epoch: (2, "west".to_owned()), previous: at(9), first: at(100) },
        ];
        all.into_iter().take(count).collect()
    }

    impl Watched {
        fn tick(&mut self) -> Micros {
            self.now += 10;
            self.now
        }

        /// A region says what it is in an epoch, at an index and a T that are ten times that.
        pub fn is(
            &mut self,
            region: usize,
            role: &str,
            epoch: usize,
            index: u64,
            sync: Option<u64>,
        ) {
            let ledger = joins(epoch);
            let id = ledger.last().expect("an epoch").epoch.clone();
            self.says(region, role, (id, ledger), index, sync);
        }

        /// A region says so, and that its ledger is as it was, with an epoch of east at its end.
        pub fn is_as_before(
            &mut self,
            region: usize,
            role: &str,
            epoch: u64,
            index: u64,
            sync: Option<u64>,
        ) {
            let id = (2 * epoch as u32 - 1, "east".to_owned());
            self.says(region, role, (id, Vec::new()), index, sync);
        }

        /// East is the primary of so many epochs, with one of west before each but the first.
        pub fn tells(&mut self, epochs: u64) {
            let at = |index| Some(Place { index, ..Place::default() });
            let joins = (1..2 * epochs as u32).map(|number| Join {
                epoch: (number, REGIONS[(number as usize + 1) % 2].to_owned()),
                previous: at(5 * u64::from(number) - 1).filter(|_| number > 1),
                first: at(5 * u64::from(number)).filter(|_| number > 1),
            });
            let joins: Vec<Join> = joins.collect();
            let id = joins.last().expect("an epoch").epoch.clone();
            self.says(1, "secondary", (id.clone(), joins.clone()), 10 * epochs, None);
            self.says(0, "primary", (id, joins), 10 * epochs, None);
        }

        fn says(
            &mut self,
            region: usize,
            role: &str,
            (id, ledger): (EpochId, Vec<Join>),
            index: u64,
            sync: Option<u64>,
        ) {
            let (invoked, returned) = (self.tick(), self.tick());
            let part = Part {
                lineage: 1,
                region: REGIONS[region].to_owned(),
                role: role.to_owned(),
                role_at: Some(Place { index, ..Place::default() }),
                epoch: id.clone(),
                ledger,
                applied_through: Some(Place { index, ..Place::default() }),
                ..Part::default()
            };
            let told = Told {
                invoked,
                returned,
                cluster: Cluster { region, generation: 0 },
                role: role.to_owned(),
                epoch: crate::parts::epoch_in(id),
                last_sync: sync,
                is_live: true,
                trouble: String::new(),
                is_complete: true,
                peer: String::new(),
            };
            let look = Look { told, index, log_time: 10 * index, part };
            self.sampled.look(look).expect("a look");
        }

        /// A message is acknowledged in an epoch, and deleted there where it is not left behind.
        fn sent(&mut self, epoch: u32, index: u64) {
            let mut sample = Sample::default();
            sample.send(&format!("m{index}"), 10 * index);
            let mut op = sample.history.ops.pop().expect("a send");
            (op.invoked, op.returned) = (self.tick(), self.tick());
            if let Outcome::Ok(Answer::Sent { mark, .. }) = &mut op.outcome {
                *mark = Mark { index, term: 1, node: 1, at: 10 * index };
            }
            self.sampled.call(self.history.ops.len(), Some(epoch));
            self.history.ops.push(op);
        }

        fn forced(&mut self) {
            let (invoked, returned) = (self.tick(), self.tick());
            let (verb, outcome) = (Verb::Force { accept_incomplete: false }, Ok(()));
            let cluster = Cluster { region: 1, generation: 0 };
            self.history.pair.acts.push(Act { invoked, returned, cluster, verb, outcome });
        }

        pub fn judged(mut self) -> Vec<&'static str> {
            self.sampled.tell(&mut self.history).expect("told");
            let (converged, served, steady, paired) = (true, true, true, true);
            self.history.ending = Ending { converged, served, steady, paired, ..Ending::default() };
            let mut names: Vec<_> = broken(&self.history).into_iter().map(|it| it.0).collect();
            names.retain(|name| *name != "I10");
            names
        }
    }

    /// East acknowledged up to 12, and west goes on from 9.
    fn handed(is_forced: bool, shown: u64) -> Watched {
        let mut watched = Watched::default();
        watched.is(0, "primary", 1, 8, Some(shown));
        watched.is(1, "secondary", 1, 9, None);
        watched.sent(1, 9);
        watched.sent(1, 12);
        watched.is(0, "primary", 1, 12, None);
        if is_forced {
            watched.forced();
        }
        watched.is(1, "primary", 2, 101, None);
        watched.sent(2, 102);
        watched
    }

    #[test]
    fn what_a_promotion_by_force_left_behind_is_no_loss_and_what_a_planned_one_did_is() {
        assert_eq!(handed(true, 80).judged(), Vec::<&str>::new());
        assert_eq!(handed(false, 80).judged(), ["G3"]);
    }

    #[test]
    fn a_last_sync_time_that_covers_what_was_lost_is_found() {
        assert_eq!(handed(true, 120).judged(), ["G1", "G4"]);
    }

    #[test]
    fn a_last_sync_time_is_judged_by_what_the_copy_is_seen_to_have_later() {
        let shown = |copied: Option<u64>| {
            let mut watched = Watched::default();
            watched.is(0, "primary", 1, 8, None);
            watched.is(1, "secondary", 1, 8, None);
            watched.sent(1, 12);
            watched.is(0, "primary", 1, 12, Some(120));
            if let Some(copied) = copied {
                watched.is(1, "secondary", 1, copied, None);
            }
            watched.judged()
        };
        assert_eq!(shown(Some(12)), Vec::<&str>::new());
        assert_eq!(shown(Some(11)), ["G1"]);
        assert_eq!(shown(None), Vec::<&str>::new(), "nobody knows");
    }

    #[test]
    fn what_a_fenced_side_acknowledges_is_found() {
        let fenced = |index| {
            let mut watched = handed(true, 80);
            watched.is(0, "fenced", 1, 13, None);
            watched.sent(1, index);
            watched.judged()
        };
        assert_eq!((fenced(13), fenced(14)), (Vec::new(), vec!["G5"]));
    }

    #[test]
    fn an_epoch_that_nobody_saw_is_refused() {
        let mut watched = handed(true, 80);
        watched.sent(3, 103);
        let error = watched.sampled.tell(&mut watched.history).expect_err("no region");
        assert!(error.contains("no look tells"), "{error}");
    }
}
