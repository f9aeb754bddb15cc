//! The power goes at every write and at every fsync of a scripted run.

use super::*;

/// What the run was told, and what it asked and does not know the end of.
#[derive(Debug, Default, Clone)]
struct Told {
    /// The log as of the last acknowledged step.
    entries: Vec<LogEntry>,
    purged: Option<Position>,
    vote: Option<VoteRecord>,
    /// The step that was under way.
    asked: Option<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<LogEntry>),
    Truncate(Option<Position>),
    Purge(Position),
    Vote(VoteRecord),
}

impl Told {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Step::Truncate(last) => {
                let keep = last.map_or(0, |last| last.index + 1);
                self.entries.retain(|entry| entry.position.index < keep);
            }
            Step::Purge(through) => {
                self.entries.retain(|entry| entry.position.index > through.index);
                self.purged = Some(*through);
            }
            Step::Vote(vote) => self.vote = Some(*vote),
        }
    }

    /// The log must be as acknowledged, or with the step under way, or a part of its entries.
    fn check(&self, log: &Log, state: &LogState, why: &str) {
        let found = all(log);
        let mut after = self.clone();
        if let Some(step) = &self.asked {
            after.take(step);
        }
        let indices: Vec<u64> = found.iter().map(|entry| entry.position.index).collect();
        let first = state.last_purged.map_or(0, |purged| purged.index + 1);
        assert_eq!(indices, (first..first + found.len() as u64).collect::<Vec<_>>(), "{why}");
        assert!(state.vote == self.vote || state.vote == after.vote, "{why}: {state:?}");
        let as_before = found == self.entries && state.last_purged == self.purged;
        let as_after = found == after.entries && state.last_purged == after.purged;
        assert!(
            as_before || as_after,
            "{why}: {state:?} holds {indices:?}, told {:?}",
            self.entries.iter().map(|entry| entry.position.index).collect::<Vec<_>>()
        );
    }
}

async fn perform(log: &Log, step: &Step) -> Result<(), StorageError> {
    match step {
        Step::Append(entries) => append(log, entries.clone()).await,
        Step::Truncate(last) => log.truncate_after(*last).await,
        Step::Purge(through) => log.purge(*through).await,
        Step::Vote(vote) => log.save_vote(vote).await,
    }
}

/// The next step of a run: mostly appends of all sizes, with the rest between.
fn next_step(dice: &mut Dice, told: &Told, term: &mut u64) -> Step {
    let next = told.entries.last().map(|entry| entry.position).or(told.purged);
    let next = next.map_or(0, |last| last.index + 1);
    match dice.below(12) {
        0 => {
            *term += 1;
            Step::Vote(VoteRecord { term: *term, node: dice.below(3), committed: false })
        }
        1 if !told.entries.is_empty() => {
            *term += 1;
            let keep = dice.below(told.entries.len() as u64 + 1) as usize;
            let kept = told.entries[..keep].last();
            Step::Truncate(kept.map(|entry| entry.position).or(told.purged))
        }
        2 | 3 if told.entries.len() > 3 => {
            let through = &told.entries[dice.below(told.entries.len() as u64) as usize];
            Step::Purge(through.position)
        }
        _ => {
            let count = 1 + dice.below(4);
            let length = [0, 30, 600, 2000][dice.below(4) as usize];
            Step::Append((next..next + count).map(|index| entry(*term, index, length)).collect())
        }
    }
}

const STEPS: usize = 150;

/// Runs until the end or the power goes.
async fn run(disk: &FaultyDisk, dice: &mut Dice, told: &mut Told, term: &mut u64) {
    let Ok((log, state)) = Log::open(disk.shared(), Path::new(DIR), options(16 << 10)) else {
        assert!(disk.is_crashed(), "only a cut keeps a log from opening");
        return;
    };
    assert_eq!(state.last_purged.map(|purged| purged.index + 1).unwrap_or(0), told.first());
    for _ in 0..STEPS {
        let step = next_step(dice, told, term);
        told.asked = Some(step.clone());
        if perform(&log, &step).await.is_err() {
            assert!(disk.is_crashed());
            return;
        }
        told.take(&step);
        told.asked = None;
    }
}

/// Opens what survived and settles what was under way. A record in doubt was never
/// acknowledged here, so nobody has it and it is cut.
async fn settle(disk: &FaultyDisk, told: &mut Told, why: &str) {
    let (log, mut state) = open(disk);
    let damage = state.trouble.iter().any(|trouble| matches!(trouble, Trouble::Damage(_)));
    assert!(!damage, "{why}: a cut is no damage: {state:?}");
    if !state.holes().is_empty() {
        assert!(append(&log, vec![]).await.is_err(), "{why}: takes nothing before it is mended");
        state = log.cut_doubt().await.expect("cut");
        assert_eq!(state.holes(), vec![], "{why}");
    }
    told.check(&log, &state, why);
    told.entries = all(&log);
    told.purged = state.last_purged;
    told.vote = state.vote;
    told.asked = None;
}

async fn cut_everywhere(seed: u64, plan: impl Fn(&FaultyDisk, u64)) -> u64 {
    let mut doubts = 0;
    for nth in 1.. {
        let disk = FaultyDisk::new(seed * 1000 + nth);
        let mut dice = Dice::new(seed);
        let (mut told, mut term) = (Told::default(), 1);
        plan(&disk, nth);
        run(&disk, &mut dice, &mut told, &mut term).await;
        if !disk.is_crashed() {
            assert!(nth > 100, "the run has many places to die: {nth}");
            return doubts;
        }
        let why = format!("seed {seed}, cut {nth}");
        let disk = disk.restart();
        settle(&disk, &mut told, &why).await;
        // And once more, so that what the first cut left behind meets a second one.
        disk.kill_at_write(1 + nth % 17);
        run(&disk, &mut dice, &mut told, &mut term).await;
        let disk = disk.restart();
        doubts += u64::from(told.asked.is_some());
        settle(&disk, &mut told, &format!("{why}, again")).await;
    }
    doubts
}

#[tokio::test]
async fn a_cut_at_any_write_keeps_what_was_acknowledged_and_brings_nothing_back() {
    for seed in 1..3 {
        cut_everywhere(seed, FaultyDisk::kill_at_write).await;
    }
}

#[tokio::test]
async fn a_cut_at_any_fsync_keeps_what_was_acknowledged_and_brings_nothing_back() {
    for seed in 11..13 {
        cut_everywhere(seed, FaultyDisk::kill_at_sync).await;
    }
}
