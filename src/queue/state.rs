//! The replicated state and the one door through which it changes.
//!
//! Laws of [`State::apply`]: no I/O, it cannot fail, it answers the same on every replica, and
//! it does bounded work: the commands of the entry, plus at most 1,000 messages or sessions
//! that time made due. It refuses by outcome, and a refused command changes nothing (but its
//! session remembers the refusal). An entry of another epoch changes nothing at all.
//!
//! `verbs.rs` says what each command does, `reads.rs` what may be asked, `rows.rs` and `load.rs`
//! how the state becomes rows and comes back, `reclaim.rs` how cleared messages are freed,
//! `touch.rs` how many queues are sent to at once.

use std::collections::VecDeque;

use super::authority::command::RegionReply;
use super::authority::seed::SeedRow;
use super::authority::{self, AuditRow, Authority};
use super::catalog::Catalog;
use super::command::{Command, Entry, Envelope};
use super::digest;
use super::error::Rejection;
use super::ids::{Digest, Epoch, LogTime};
use super::limits::WORK_PER_ENTRY;
use super::log_time;
use super::milestones::Milestones;
use super::outcome::{Applied, Changes, Outcome, Reply};
use super::rows::{CountersRow, RowKey};
use super::rules;
use super::session::{Sessions, Turn};
use super::touch::NEAR;
use super::verbs;

/// The epoch of a cluster that was never promoted.
pub const FIRST_EPOCH: Epoch = Epoch(1);

#[derive(Clone, Debug)]
pub struct State {
    /// Its `digest` and `authority` fields are filled in only when the row is asked for.
    pub(super) counters: CountersRow,
    pub(super) catalog: Catalog,
    pub(super) sessions: Sessions,
    pub(super) authority: Option<Box<Authority>>,
    pub(super) audit: VecDeque<AuditRow>,
    /// Chunks of a state that is under way to this secondary.
    pub(super) seed: Vec<SeedRow>,
    pub(super) milestones: Milestones,
}

/// What the commands of one entry share.
pub(super) struct Step {
    /// T of this entry.
    pub now: LogTime,
    /// How many more messages or sessions this entry may end because of time.
    pub budget: usize,
    pub changes: Changes,
    /// The entry comes from the other region.
    pub shipped: bool,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// The state before the first entry: epoch 1, the first rules, no queues.
    #[must_use]
    pub fn new() -> State {
        State {
            counters: CountersRow {
                log_time: LogTime(0),
                epoch: FIRST_EPOCH,
                rules: rules::FIRST,
                next_number: 1,
                next_queue: 1,
                digest: Digest(0),
                authority: 0,
            },
            catalog: Catalog::default(),
            sessions: Sessions::default(),
            authority: None,
            audit: VecDeque::new(),
            seed: Vec::new(),
            milestones: Milestones::default(),
        }
    }

    /// Applies one entry: one outcome for each command, in order, and the changes made.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        if let [Envelope { command: Command::Region(asked), .. }] = entry.commands.as_slice() {
            return authority::run(self, entry, asked);
        }
        if let Some(authority) = &self.authority
            && let Err(refusal) = authority.check_write()
        {
            return self.refuse(entry, &refusal.into());
        }
        if entry.epoch != self.counters.epoch {
            let (seen, current) = (entry.epoch.0, self.counters.epoch.0);
            return self.refuse(entry, &Rejection::WrongEpoch { seen, current });
        }
        self.apply_commands(entry, false).0
    }

    /// Runs the commands of an entry that counts; of one that the other region `shipped`, those
    /// about regions are passed over. Answers too how much of what time made due was done.
    pub(super) fn apply_commands(&mut self, entry: &Entry, shipped: bool) -> (Applied, usize) {
        self.counters.log_time = log_time::advance(self.counters.log_time, entry.stamp);
        let now = self.counters.log_time;
        let mut step = Step { now, budget: WORK_PER_ENTRY, changes: Changes::default(), shipped };
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for some in entry.commands.chunks(NEAR) {
            self.touch(some);
            outcomes.extend(some.iter().map(|envelope| self.take_turn(envelope, &mut step)));
        }
        step.changes.row(RowKey::Counters);
        self.note_milestone(entry.epoch, entry.position);
        let work = WORK_PER_ENTRY - step.budget;
        (Applied { outcomes, changes: step.changes, log_time: now }, work)
    }

    /// T: the time of the last entry.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.counters.log_time
    }

    /// Entries must carry this epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.counters.epoch
    }

    /// The replicated rules version.
    #[must_use]
    pub fn rules(&self) -> u32 {
        self.counters.rules
    }

    /// Equal on every replica that has applied the same entries.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let rows = self.catalog.sum().wrapping_add(self.sessions.sum());
        Digest(rows.wrapping_add(digest::counters(&self.counters)))
    }

    fn take_turn(&mut self, envelope: &Envelope, step: &mut Step) -> Outcome {
        if let Command::Region(_) = envelope.command {
            // It is in no session, and another group's are not this one's.
            return if step.shipped {
                Ok(Reply::Region(RegionReply::Done))
            } else {
                self.run(envelope, step)
            };
        }
        let Some(tag) = &envelope.session else { return self.run(envelope, step) };
        match self.sessions.begin(tag, step.now, &mut step.changes) {
            Turn::Answer(outcome) if !crate::mutants::is_chosen("sessions-forgotten") => outcome,
            Turn::Answer(_) | Turn::Run => {
                let outcome = self.run(envelope, step);
                // An empty receive did nothing: whoever waits asks again under the same number.
                if !gave_nothing(&outcome) {
                    self.sessions.keep(tag, &outcome);
                }
                outcome
            }
        }
    }

    fn run(&mut self, envelope: &Envelope, step: &mut Step) -> Outcome {
        verbs::run(self, &envelope.account, &envelope.command, step)
    }

    fn refuse(&self, entry: &Entry, rejection: &Rejection) -> Applied {
        Applied {
            outcomes: entry.commands.iter().map(|_| Err(rejection.clone())).collect(),
            changes: Changes::default(),
            log_time: self.counters.log_time,
        }
    }
}

fn gave_nothing(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Reply::Received { messages, .. }) if messages.is_empty())
}
