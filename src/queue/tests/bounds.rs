//! No entry does unbounded work, an untouched message costs at most 64 bytes, and a session
//! keeps a bounded number of outcomes.

use super::stage::{ACCOUNT, QUEUE, Stage, create, delete, receive, secs, send, text, update};
use crate::queue::command::{
    Command, DeadLetters, NewMessage, SessionTag, Settings, StringMap, TimeToLive,
};
use crate::queue::ids::{LogTime, Span};
use crate::queue::limits::{BATCH, DEAD_LETTER_CHAIN, SESSION_OUTCOMES, WORK_PER_ENTRY};
use crate::queue::message::Slot;
use crate::queue::order::chunks::CHUNK;
use crate::queue::outcome::{ContentEvent, Counts, DeleteOutcome, Reply};
use crate::queue::ranked;
use crate::queue::rows::RowKey;
use crate::queue::{State, error::Rejection};

const MILLION: u64 = 1_000_000;

fn empty(ttl: TimeToLive) -> NewMessage {
    NewMessage { ttl, ..NewMessage::default() }
}

/// A queue with a million messages. No table beside it: that would be the slow part.
fn million(ttl: TimeToLive) -> State {
    let mut stage = Stage::with_queue();
    let batch = send(vec![empty(ttl); BATCH]);
    for _ in 0..MILLION / BATCH as u64 {
        let entry = stage.entry(LogTime(0), vec![super::stage::plain(batch.clone())]);
        stage.state.apply(&entry);
    }
    stage.state
}

/// Applies one command to a bare state: its outcome, and how much it changed.
fn apply(state: &mut State, stamp: LogTime, command: Command) -> (Reply, usize) {
    let mut stage = Stage::new();
    let entry = stage.entry(stamp, vec![super::stage::plain(command)]);
    let mut applied = state.apply(&entry);
    let size = applied.changes.rows.len() + applied.changes.contents.len();
    (applied.outcomes.remove(0).expect("accepted"), size)
}

fn counts(state: &State) -> Counts {
    state.queue(ACCOUNT, QUEUE).expect("the queue is there").counts
}

#[test]
fn an_untouched_message_costs_at_most_64_bytes() {
    // A slot in its chunk, and a key among the expiries in blocks that are at least half full.
    let slot = size_of::<Slot>();
    let key = 2 * size_of::<ranked::Key>();
    assert!(slot + key <= 64, "{slot} + {key} bytes");
}

#[test]
fn a_chunk_takes_64_messages() {
    let mut stage = Stage::with_queue();
    stage.run(send(vec![empty(TimeToLive::Never); CHUNK + 1])).expect("sent");
    let chunks = |stage: &Stage| {
        let keys = stage.state.row_keys();
        keys.iter().filter(|key| matches!(key, RowKey::Chunk { .. })).count()
    };
    assert_eq!(chunks(&stage), 2);
    let got = stage.receive(CHUNK as u32, None);
    assert_eq!(got.len(), CHUNK);
    assert_eq!(chunks(&stage), 1, "an emptied chunk is gone");
    stage.check();
}

#[test]
fn a_million_lapsed_leases_cost_the_entries_after_them_nothing() {
    let mut state = million(TimeToLive::Never);
    for _ in 0..MILLION / BATCH as u64 {
        apply(&mut state, LogTime(0), receive(BATCH as u32, Some(Span::from_secs(60))));
    }
    assert_eq!(counts(&state).leased, MILLION);
    let (reply, size) = apply(&mut state, secs(1_000), Command::Pulse);
    assert_eq!((reply, size), (Reply::Pulsed { more: false }, 1), "only the counters change");
    assert_eq!(counts(&state).visible, MILLION, "all are visible again at once");
    let (reply, size) = apply(&mut state, LogTime(0), receive(1, None));
    let Reply::Received { messages, more } = reply else { panic!("{reply:?}") };
    assert_eq!((messages[0].dequeue_count, more), (2, true));
    assert!(size <= 3, "{size} changes");
}

#[test]
fn a_million_expired_messages_leave_a_thousand_an_entry() {
    let mut state = million(TimeToLive::For(Span::from_secs(60)));
    let later = secs(1_000);
    let (reply, size) = apply(&mut state, later, receive(10, None));
    assert_eq!(reply, Reply::Received { messages: Vec::new(), more: false });
    assert!(size <= 2 * WORK_PER_ENTRY, "{size} changes");
    let due = MILLION - WORK_PER_ENTRY as u64;
    let now = counts(&state);
    assert_eq!((now.due, now.visible, now.total), (due, 0, due));
    let (reply, size) = apply(&mut state, later, Command::Pulse);
    assert_eq!(reply, Reply::Pulsed { more: true });
    assert!(size <= 2 * WORK_PER_ENTRY, "{size} changes");
    assert_eq!(counts(&state).due, due - WORK_PER_ENTRY as u64);
    let (_, size) = apply(&mut state, later, send(vec![empty(TimeToLive::Never)]));
    assert!(size <= 3, "{size} changes");
}

#[test]
fn a_receive_behind_a_thousand_expired_messages_gives_some_soon() {
    let mut stage = Stage::with_queue();
    let short = TimeToLive::For(Span::from_secs(60));
    for _ in 0..3 {
        stage.run(send(vec![empty(short); BATCH])).expect("sent");
    }
    stage.run(send(vec![empty(TimeToLive::Never)])).expect("sent");
    let later = secs(1_000);
    let none = Ok(Reply::Received { messages: Vec::new(), more: true });
    assert_eq!(stage.run_at(later, receive(1, None)), none, "it used up what an entry may");
    assert_eq!(stage.run_at(later, receive(1, None)), none);
    assert!(stage.state.visible(ACCOUNT, QUEUE, later).expect("it is there") > 0);
    assert_eq!(stage.receive(1, None).len(), 1);
    stage.check();
}

#[test]
fn all_receives_of_an_entry_share_its_thousand() {
    let mut stage = Stage::with_queue();
    for _ in 0..3 {
        let short = TimeToLive::For(Span::from_secs(60));
        stage.run(send(vec![empty(short); BATCH])).expect("sent");
    }
    let commands = [receive(1, None), Command::Pulse, receive(1, None)];
    let applied = stage.apply(secs(1_000), commands.into_iter().map(super::stage::plain).collect());
    let dropped = applied.changes.contents.len();
    assert_eq!(dropped, WORK_PER_ENTRY);
    assert_eq!(counts(&stage.state).due, 2_000);
}

#[test]
fn a_million_dead_letters_leave_a_thousand_an_entry() {
    let mut state = million(TimeToLive::Never);
    apply(&mut state, LogTime(0), create("dead"));
    let dead_letters = Some(DeadLetters { queue: "dead".to_owned(), max_deliveries: 1 });
    let settings = Settings { dead_letters, ..Settings::default() };
    let name = QUEUE.to_owned();
    apply(&mut state, LogTime(0), Command::SetSettings { name, settings: Box::new(settings) });
    for _ in 0..MILLION / BATCH as u64 {
        apply(&mut state, LogTime(0), receive(BATCH as u32, Some(Span::from_secs(60))));
    }
    let later = secs(1_000);
    let (reply, size) = apply(&mut state, later, receive(10, None));
    assert_eq!(reply, Reply::Received { messages: Vec::new(), more: false });
    assert!(size <= 3 * WORK_PER_ENTRY, "{size} changes");
    let due = MILLION - WORK_PER_ENTRY as u64;
    assert_eq!((counts(&state).due, counts(&state).total), (due, due));
    let (reply, size) = apply(&mut state, later, Command::Pulse);
    assert_eq!(reply, Reply::Pulsed { more: true });
    assert!(size <= 3 * WORK_PER_ENTRY, "{size} changes");
    let dead = state.queue(ACCOUNT, "dead").expect("the queue is there").counts;
    assert_eq!((dead.visible, counts(&state).due), (2_000, due - WORK_PER_ENTRY as u64));
}

#[test]
fn a_queue_keeps_a_million_keys_and_frees_a_thousand_an_entry() {
    let mut state = million(TimeToLive::Never);
    let keyed = |n: u64| NewMessage { key: Some(Box::new(u128::from(n))), ..NewMessage::default() };
    for n in 0..MILLION / BATCH as u64 {
        let batch = (0..BATCH as u64).map(|m| keyed(n * BATCH as u64 + m)).collect();
        apply(&mut state, LogTime(0), send(batch));
    }
    let mut stage = Stage::new();
    let entry = stage.entry(LogTime(0), vec![super::stage::plain(send(vec![keyed(MILLION)]))]);
    let full = state.apply(&entry).outcomes.remove(0).expect_err("full");
    assert!(matches!(full, Rejection::Full { limit: MILLION, .. }), "{full}");
    let (reply, _) = apply(&mut state, LogTime(0), send(vec![keyed(7)]));
    let Reply::Sent(sent) = reply else { panic!("{reply:?}") };
    assert!(sent[0].duplicate, "one that is there still works");
    let (reply, size) = apply(&mut state, secs(1_000), Command::Pulse);
    assert_eq!((reply, size), (Reply::Pulsed { more: true }, WORK_PER_ENTRY + 1));
    apply(&mut state, LogTime(0), send(vec![keyed(MILLION)]));
}

#[test]
fn a_million_messages_of_one_blocked_group_cost_its_receives_nothing() {
    let mut stage = Stage::with_queue();
    let grouped = |ttl| NewMessage { group: Some("one".into()), ttl, ..NewMessage::default() };
    let short = TimeToLive::For(Span::from_secs(60));
    for n in 0..MILLION / BATCH as u64 {
        let ttl = if n < 10 { short } else { TimeToLive::Never };
        let entry =
            stage.entry(LogTime(0), vec![super::stage::plain(send(vec![grouped(ttl); BATCH]))]);
        stage.state.apply(&entry);
    }
    let mut state = stage.state;
    let (reply, size) = apply(&mut state, LogTime(0), receive(BATCH as u32, None));
    let Reply::Received { messages, more } = reply else { panic!("{reply:?}") };
    assert_eq!((messages.len(), more), (1, false), "one of a group, however many are asked for");
    assert!(size <= 3, "{size} changes");
    let now = counts(&state);
    assert_eq!((now.visible, now.leased, now.blocked), (0, 1, MILLION - 1));
    let head = (messages[0].id, messages[0].receipt);
    let (_, size) = apply(&mut state, LogTime(0), delete(vec![head]));
    assert!(size <= 4, "{size} changes");
    assert_eq!((counts(&state).visible, counts(&state).blocked), (1, MILLION - 2));
    let later = secs(1_000);
    let (reply, size) = apply(&mut state, later, receive(1, None));
    assert_eq!(reply, Reply::Received { messages: Vec::new(), more: false });
    assert!(size <= 2 * WORK_PER_ENTRY + 1, "{size} changes");
    while apply(&mut state, later, Command::Pulse).0 == (Reply::Pulsed { more: true }) {}
    let now = counts(&state);
    assert_eq!((now.visible, now.blocked, now.due), (1, MILLION - 10_001, 0));
    let (_, size) = apply(&mut state, later, Command::Clear { queue: QUEUE.to_owned() });
    assert!(size <= 2, "{size} changes");
    let changes = state.reclaim(5_000);
    assert_eq!(changes.contents.len(), 5_000, "freed in steps");
}

#[test]
fn a_chain_of_dead_letter_queues_ends() {
    let mut stage = Stage::new();
    stage.run(create("queue-0")).expect("created");
    for n in 1..12 {
        let queue = format!("queue-{}", n - 1);
        let dead_letters = Some(DeadLetters { queue, max_deliveries: 1 });
        let settings = Settings { dead_letters, ..Settings::default() };
        let name = format!("queue-{n}");
        let (metadata, settings) = (StringMap::new(), Box::new(settings));
        let made = stage.run(Command::CreateQueue { name, metadata, settings });
        assert_eq!(made.is_ok(), n <= DEAD_LETTER_CHAIN, "queue {n}: {made:?}");
        if made.is_err() {
            break;
        }
    }
    stage.check();
}

/// A queue of this number, and its dead letters go to the one of that.
fn feeding(n: usize, to: Option<usize>) -> Box<Settings> {
    let target = |to| DeadLetters { queue: format!("queue-{to}"), max_deliveries: 1 + n as u32 };
    let (dead_letters, undelete_window) = (to.map(target), Span::from_secs(3_600));
    Box::new(Settings { dead_letters, undelete_window, ..Settings::default() })
}

fn feed(stage: &mut Stage, n: usize, to: Option<usize>) -> Result<Reply, Rejection> {
    let name = format!("queue-{n}");
    stage.run(Command::SetSettings { name, settings: feeding(n, to) })
}

fn too_long(made: &Result<Reply, Rejection>) -> bool {
    let Err(Rejection::InvalidArgument { field, problem, .. }) = made else { return false };
    field == "settings.dead_letter_queue" && problem == "makes a longer chain"
}

/// Queues 0 to `last` of which each sends its dead letters to the next, set from the first on.
fn chain_from_its_head(stage: &mut Stage, last: usize) {
    for n in 0..=last {
        stage.run(create(&format!("queue-{n}"))).expect("created");
    }
    for n in 0..last {
        feed(stage, n, Some(n + 1)).expect("set");
    }
}

#[test]
fn a_chain_of_dead_letter_queues_that_is_built_from_its_head_ends_too() {
    let mut stage = Stage::new();
    let last = DEAD_LETTER_CHAIN;
    chain_from_its_head(&mut stage, last);
    for n in last + 1..last + 7 {
        stage.run(create(&format!("queue-{n}"))).expect("created");
    }
    assert!(too_long(&feed(&mut stage, last, Some(last + 1))), "a ninth at its end");
    assert!(too_long(&feed(&mut stage, last + 1, Some(0))), "one more before its head");
    for n in last + 1..last + 5 {
        feed(&mut stage, n, Some(n + 1)).expect("a chain of its own");
    }
    assert!(too_long(&feed(&mut stage, 4, Some(last + 1))), "4 above and 5 below");
    feed(&mut stage, 3, Some(last + 1)).expect("3 above and 5 below");
    feed(&mut stage, 3, Some(4)).expect("as it was");
    let back = feed(&mut stage, last, Some(0)).expect_err("a circle");
    assert!(back.to_string().contains("leads back to queue"), "{back}");
    let (name, id, new_name) = ("queue-0".to_owned(), None, None);
    let undelete = Command::UndeleteQueue { name: name.clone(), id, new_name };
    stage.run(Command::DeleteQueue { name: name.clone() }).expect("deleted");
    stage.run(undelete.clone()).expect("brought back");
    assert!(too_long(&feed(&mut stage, last, Some(last + 6))), "it is in the chain again");
    // Without its head there is room at its end, and then none for the head.
    stage.run(Command::DeleteQueue { name }).expect("deleted");
    feed(&mut stage, last, Some(last + 6)).expect("there is room");
    assert!(too_long(&stage.run(undelete.clone())));
    // Cut in the middle, and both halves can grow.
    feed(&mut stage, 4, None).expect("cut");
    stage.run(undelete).expect("brought back");
    assert!(too_long(&feed(&mut stage, last + 6, Some(last + 1))), "4 above and 5 below");
    feed(&mut stage, last + 6, Some(last + 2)).expect("4 above and 4 below");
    stage.check();
}

#[test]
fn a_queue_of_a_chain_that_is_too_long_already_can_be_set_anew_but_sent_nowhere_else() {
    let mut stage = Stage::new();
    let (last, more) = (DEAD_LETTER_CHAIN, 4);
    chain_from_its_head(&mut stage, last);
    for n in last + 1..=last + more {
        stage.run(create(&format!("queue-{n}"))).expect("created");
    }
    // As an older node made it.
    for n in last..last + more {
        let id = stage.state.queue(ACCOUNT, &format!("queue-{n}")).expect("made").row.id;
        stage.state.catalog.set_settings(id, &feeding(n, Some(n + 1)));
        stage.state.catalog.settle_row(id);
    }
    for n in 0..last + more {
        let mut settings = feeding(n, Some(n + 1));
        settings.dead_letter_ttl = Some(Span::from_secs(9));
        let name = format!("queue-{n}");
        stage.run(Command::SetSettings { name, settings }).expect("set");
    }
    assert!(too_long(&feed(&mut stage, last, Some(last + 2))), "10 queues without one of them");
    feed(&mut stage, last, None).expect("cut");
    feed(&mut stage, last + 2, None).expect("cut");
    stage.check();
}

#[test]
fn the_bound_of_a_chain_is_the_same_in_whatever_order_its_rows_are_read() {
    for order in [[0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1, 0]]
        .into_iter()
        .chain([[4, 1, 7, 0, 8, 3, 5, 2, 6]])
    {
        let mut stage = Stage::new();
        for n in order.into_iter().chain([9]) {
            stage.run(create(&format!("queue-{n}"))).expect("created");
        }
        for n in 0..DEAD_LETTER_CHAIN {
            feed(&mut stage, n, Some(n + 1)).expect("set");
        }
        stage.state = State::load(live_rows(&stage.state)).expect("a state");
        assert!(too_long(&feed(&mut stage, DEAD_LETTER_CHAIN, Some(9))), "{order:?}");
        feed(&mut stage, 3, None).expect("cut");
        feed(&mut stage, DEAD_LETTER_CHAIN, Some(9)).expect("there is room");
    }
}

#[test]
fn clearing_a_million_messages_changes_one_row_and_they_are_freed_in_steps() {
    let mut state = million(TimeToLive::Default);
    apply(&mut state, LogTime(0), receive(BATCH as u32, None));
    let (reply, size) = apply(&mut state, LogTime(0), Command::Clear { queue: QUEUE.to_owned() });
    assert_eq!((reply, size), (Reply::Cleared { removed: MILLION }, 2));
    assert_eq!(counts(&state), Counts::default());
    assert_eq!(state.next_due(), None);
    let digest = state.digest();
    assert_eq!(State::load(live_rows(&state)).expect("a state").digest(), digest);
    let (mut dropped, mut steps) = (0, 0);
    while state.has_garbage() {
        let changes = state.reclaim(10_000);
        assert!(changes.rows.len() + changes.contents.len() <= 20_000);
        dropped += changes.contents.iter().filter(|e| matches!(e, ContentEvent::Drop(_))).count();
        steps += 1;
    }
    assert_eq!(dropped as u64, MILLION);
    assert!((100..110).contains(&steps), "{steps} steps");
    assert_eq!(state.digest(), digest);
}

fn live_rows(state: &State) -> Vec<crate::queue::rows::Row> {
    state.row_keys().iter().filter_map(|key| state.row(key)).collect()
}

#[test]
fn many_idle_sessions_end_a_bounded_number_an_entry() {
    let mut stage = Stage::with_queue();
    for client in 0..2_500 {
        let tag = SessionTag { client, sequence: 1, lowest_unanswered: 1 };
        stage.run_in(tag, Command::Pulse).expect("pulsed");
    }
    let sessions =
        |stage: &Stage| stage.table.keys().filter(|key| matches!(key, RowKey::Session(_))).count();
    assert_eq!(sessions(&stage), 2_500);
    let more = Ok(Reply::Pulsed { more: true });
    assert_eq!(stage.run_at(secs(601), Command::Pulse), more);
    assert_eq!(sessions(&stage), 2_500 - WORK_PER_ENTRY / 2);
    while stage.run_at(secs(601), Command::Pulse) == more {}
    assert_eq!(sessions(&stage), 0);
    stage.check();
}

#[test]
fn a_session_keeps_the_newest_1024_outcomes() {
    let mut stage = Stage::with_queue();
    let tag = |sequence| SessionTag { client: 7, sequence, lowest_unanswered: 1 };
    let last = SESSION_OUTCOMES as u64 + 1;
    for sequence in 1..=last {
        stage.run_in(tag(sequence), send(vec![text("one")])).expect("sent");
    }
    let total = counts(&stage.state).total;
    assert_eq!(total, last);
    assert_eq!(stage.run_in(tag(1), send(vec![text("one")])), Err(Rejection::SessionEnded));
    assert!(stage.run_in(tag(2), send(vec![text("one")])).is_ok(), "answered again");
    assert_eq!(counts(&stage.state).total, total, "and neither ran again");
    stage.check();
}

#[test]
fn a_session_keeps_outcomes_that_name_16384_messages() {
    let mut stage = Stage::with_queue();
    let tag = |sequence| SessionTag { client: 7, sequence, lowest_unanswered: 1 };
    for sequence in 1..=17 {
        let batch = send(vec![empty(TimeToLive::Never); BATCH]);
        stage.run_in(tag(sequence), batch).expect("sent");
    }
    let again = |stage: &mut Stage, sequence| stage.run_in(tag(sequence), send(vec![text("x")]));
    assert_eq!(again(&mut stage, 1), Err(Rejection::SessionEnded));
    let Ok(Reply::Sent(sent)) = again(&mut stage, 2) else { panic!("not answered again") };
    assert_eq!(sent.len(), BATCH);
    stage.check();
}

#[test]
fn messages_in_the_middle_of_chunks_can_be_deleted_and_updated_by_their_send_receipts() {
    let mut stage = Stage::with_queue();
    let bodies: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    let sent = stage.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    let items = sent.iter().skip(1).step_by(2).map(|s| (s.id, s.receipt)).collect::<Vec<_>>();
    let deleted = Ok(Reply::Deleted(vec![DeleteOutcome::Deleted; 350]));
    assert_eq!(stage.run(delete(items)), deleted);
    let third = sent[300];
    stage.run(update(third.id, third.receipt, Some(Span::from_secs(5)))).expect("updated");
    let got = stage.receive(1_000, None);
    let left: Vec<_> = sent.iter().step_by(2).filter(|s| s.id != third.id).map(|s| s.id).collect();
    assert_eq!(got.iter().map(|g| g.id).collect::<Vec<_>>(), left);
    stage.check();
}

#[test]
fn a_queue_made_again_shows_no_old_message_while_those_wait_to_be_freed() {
    let mut stage = Stage::with_queue();
    let old = stage.send(&["old"])[0];
    stage.run(Command::DeleteQueue { name: QUEUE.to_owned() }).expect("deleted");
    stage.run(create(QUEUE)).expect("created");
    stage.check();
    assert_eq!(stage.receive(10, None), Vec::new());
    assert!(stage.state.message(ACCOUNT, QUEUE, old.id).is_err());
    stage.state = stage.reload();
    stage.check();
    assert!(stage.state.has_garbage(), "found again after a restart");
    stage.reclaim_all();
    stage.check();
    assert!(stage.contents.is_empty());
}
