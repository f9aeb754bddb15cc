//! No step of a redrive is unbounded, and what it and undelete keep has an end.

use super::stage::{ACCOUNT, QUEUE, Stage, create, receive, secs, send, text};
use crate::queue::command::{Command, DeadLetters, Redrive, RedriveFilter, Settings};
use crate::queue::ids::{LogTime, Number, QueueId, Span};
use crate::queue::limits::{BATCH, DELETED_QUEUES, REDRIVES_KEPT, WORK_PER_ENTRY};
use crate::queue::outcome::Reply;
use crate::queue::redrive::{Progress, Tally};
use crate::queue::rows::RedriveRow;

const LETTERS: usize = 5_000;

fn redrive(filter: RedriveFilter) -> Command {
    let (queue, target) = ("dead".to_owned(), None);
    Command::StartRedrive(Box::new(Redrive { queue, target, rate: None, filter }))
}

/// A queue with so many dead letters in another.
fn with_letters() -> Stage {
    let mut stage = Stage::new();
    stage.run(create("dead")).expect("created");
    let dead_letters = Some(DeadLetters { queue: "dead".to_owned(), max_deliveries: 1 });
    let settings = Box::new(Settings { dead_letters, ..Settings::default() });
    let (name, metadata) = (QUEUE.to_owned(), Default::default());
    stage.run(Command::CreateQueue { name, metadata, settings }).expect("created");
    for _ in 0..LETTERS / BATCH {
        stage.run(send(vec![text("x"); BATCH])).expect("sent");
        stage.run(receive(BATCH as u32, Some(Span::ZERO))).expect("received");
        stage.run(Command::Pulse).expect("pulsed");
    }
    assert_eq!(totals(&stage), (LETTERS as u64, 0));
    stage
}

/// Messages in the dead-letter queue and in the other.
fn totals(stage: &Stage) -> (u64, u64) {
    let total = |name| stage.state.queue(ACCOUNT, name).expect("it is there").counts.total;
    (total("dead"), total(QUEUE))
}

fn job(stage: &Stage) -> RedriveRow {
    stage.state.redrives(ACCOUNT, "dead").expect("it is there").remove(0)
}

#[test]
fn a_redrive_moves_a_thousand_an_entry_and_goes_on_after_a_restart() {
    let mut stage = with_letters();
    stage.run(redrive(RedriveFilter::default())).expect("started");
    for step in 1..=LETTERS / WORK_PER_ENTRY {
        let applied = stage.apply(LogTime(0), vec![super::stage::plain(Command::Pulse)]);
        let moved = (step * WORK_PER_ENTRY) as u64;
        assert_eq!(totals(&stage), (LETTERS as u64 - moved, moved));
        let changed = applied.changes.rows.len();
        assert!(changed <= 2 * WORK_PER_ENTRY + 4, "{changed} rows in step {step}");
        assert!(applied.changes.contents.is_empty(), "contents stay where they are");
        stage.state = stage.reload();
    }
    stage.run(Command::Pulse).expect("pulsed");
    let end = job(&stage);
    assert_eq!((end.progress, end.tally.moved), (Progress::Done, LETTERS as u64));
    stage.check();
}

#[test]
fn a_redrive_that_fits_nothing_looks_at_a_thousand_an_entry() {
    let mut stage = with_letters();
    let filter = RedriveFilter { source: Some("others".to_owned()), ..RedriveFilter::default() };
    stage.run(redrive(filter)).expect("started");
    let mut last = Number(0);
    for _ in 0..LETTERS / WORK_PER_ENTRY {
        stage.run(Command::Pulse).expect("pulsed");
        let now = job(&stage);
        assert_eq!((now.progress, now.tally), (Progress::Running, Tally::default()));
        assert!(now.looked_through > last, "each entry goes on");
        last = now.looked_through;
    }
    stage.run(Command::Pulse).expect("pulsed");
    assert_eq!(job(&stage).progress, Progress::Done);
    assert_eq!(totals(&stage), (LETTERS as u64, 0));
}

#[test]
fn a_pulse_with_more_to_do_leaves_a_redrive_what_is_left_of_its_thousand() {
    let mut stage = with_letters();
    stage.run(redrive(RedriveFilter::default())).expect("started");
    stage.run(send(vec![text("y"); 700])).expect("sent");
    stage.run(receive(700, Some(Span::ZERO))).expect("received");
    stage.run(Command::Pulse).expect("pulsed");
    let moved = job(&stage).tally.moved as usize;
    assert!((300..=WORK_PER_ENTRY).contains(&moved), "{moved}");
    stage.run(Command::Pulse).expect("pulsed");
    let (dead, live) = totals(&stage);
    assert_eq!(dead + live, LETTERS as u64 + 700, "nothing is lost");
    stage.check();
}

#[test]
fn a_queue_remembers_ten_redrives() {
    let mut stage = Stage::new();
    stage.run(create("dead")).expect("created");
    for _ in 0..2 * REDRIVES_KEPT {
        stage.run(redrive(RedriveFilter::default())).expect("started");
        stage.run(Command::Pulse).expect("pulsed");
    }
    let kept = stage.state.redrives(ACCOUNT, "dead").expect("it is there");
    assert_eq!(kept.len(), REDRIVES_KEPT);
    assert!(kept.iter().all(|job| job.progress == Progress::Done));
    stage.check();
}

#[test]
fn an_account_keeps_a_thousand_deleted_queues_and_the_next_ends_the_first() {
    let mut stage = Stage::new();
    let settings = Settings { undelete_window: Span::from_secs(60), ..Settings::default() };
    for at in 0..=DELETED_QUEUES as u64 {
        let (name, metadata) = ("again".to_owned(), Default::default());
        let settings = Box::new(settings.clone());
        let create = Command::CreateQueue { name: name.clone(), metadata, settings };
        stage.run_at(secs(1 + at / 100), create).expect("created");
        stage.run(Command::DeleteQueue { name }).expect("deleted");
    }
    let (kept, more) = stage.state.deleted_queues(ACCOUNT, "", None, DELETED_QUEUES);
    assert_eq!((kept.len(), more), (DELETED_QUEUES, false));
    assert!(kept.iter().all(|view| view.row.id > QueueId(1)), "the first is gone");
    assert_eq!(stage.run_at(secs(3_600), Command::Pulse), Ok(Reply::Pulsed { more: false }));
    assert_eq!(stage.state.account(ACCOUNT).deleted_queues, 0, "a pulse ends a thousand windows");
    stage.reclaim_all();
    stage.check();
}
