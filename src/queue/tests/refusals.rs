//! Every refusal, and that a refused command changes nothing but the counters.

use super::stage::{
    ACCOUNT, QUEUE, Stage, create, delete, next_visible, other_epoch, plain, receive, send, text,
};
use super::stage::{secs, update};
use crate::queue::command::{
    AccountQuota, BackOff, Command, Content, DeadLetters, Envelope, Quota, Receive, Redrive,
    RedriveFilter, ReleaseAfter, SessionTag, Settings, StringMap, TimeToLive, Update,
};
use crate::queue::error::Rejection;
use crate::queue::ids::{MessageId, Number, Receipt, Span};
use crate::queue::limits;
use crate::queue::rows::{Row, RowKey};
use crate::queue::{KNOWN_RULES, LoadError, State, check};

fn map(name: &str, value: &str) -> StringMap {
    StringMap::from([(name.to_owned(), value.to_owned())])
}

fn release(items: Vec<(MessageId, Receipt)>, after: ReleaseAfter) -> Command {
    Command::Release { queue: QUEUE.to_owned(), items, after }
}

/// Runs a command that must be refused without a trace.
fn refused(stage: &mut Stage, command: Command) -> Rejection {
    let before = stage.table.clone();
    let outcome = stage.run(command);
    let mut after = stage.table.clone();
    after.remove(&RowKey::Counters);
    let counters = before.get(&RowKey::Counters).cloned();
    after.extend(counters.map(|row| (RowKey::Counters, row)));
    assert_eq!(after, before, "no row but the counters may change");
    outcome.expect_err("refused")
}

fn field(rejection: &Rejection) -> &str {
    match rejection {
        Rejection::InvalidArgument { field, allowed, .. } => {
            assert!(!allowed.is_empty());
            field
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_names_no_queue_is_refused_by_every_verb() {
    let mut stage = Stage::new();
    let id = MessageId { epoch: stage.state.epoch(), number: Number(1) };
    let receipt = Receipt { epoch: id.epoch, counter: 1 };
    let name = QUEUE.to_owned();
    let (metadata, settings) = (StringMap::new(), Settings::default());
    for command in [
        Command::DeleteQueue { name: name.clone() },
        Command::SetMetadata { name: name.clone(), metadata },
        Command::SetSettings { name: name.clone(), settings: Box::new(settings) },
        Command::SetPaused { name: name.clone(), paused: true },
        Command::Clear { queue: name.clone() },
        send(vec![text("hello")]),
        receive(1, None),
        update(id, receipt, None),
        delete(vec![(id, receipt)]),
        release(vec![(id, receipt)], ReleaseAfter::Now),
    ] {
        assert_eq!(refused(&mut stage, command), Rejection::QueueNotFound(name.clone()));
    }
    let missing = Err(Rejection::QueueNotFound(name));
    assert_eq!(stage.state.message(ACCOUNT, QUEUE, id), missing);
    let any = crate::queue::outcome::Standing::Visible;
    assert!(stage.state.peek(ACCOUNT, QUEUE, any, None, 1).is_err());
    assert!(stage.state.visible(ACCOUNT, QUEUE, secs(1)).is_err());
    assert_eq!(next_visible(&stage.state, QUEUE), None);
}

#[test]
fn a_queue_with_other_settings_is_not_made_twice() {
    let mut stage = Stage::with_queue();
    let settings = Settings { max_message_bytes: 9, ..Settings::default() };
    let metadata = StringMap::new();
    let command =
        Command::CreateQueue { name: QUEUE.to_owned(), metadata, settings: Box::new(settings) };
    assert_eq!(refused(&mut stage, command), Rejection::QueueExists(QUEUE.to_owned()));
}

#[test]
fn queue_names_and_accounts_are_those_of_azure() {
    for name in ["abc", "a-b-c", "0-0", &"x".repeat(63)] {
        assert_eq!(check::queue_name(name), Ok(()), "{name}");
    }
    for name in ["", "ab", &"x".repeat(64), "Abc", "a_b", "-ab", "ab-", "a--b", "naïve", "a b"] {
        assert_eq!(check::queue_name(name).as_ref().map_err(field), Err("queue"), "{name}");
        let mut stage = Stage::new();
        assert_eq!(field(&refused(&mut stage, create(name))), "queue");
    }
    assert_eq!(check::account(ACCOUNT), Ok(()));
    let mut stage = Stage::new();
    for account in ["", "ab", "UPPER", "has-dash", &"x".repeat(25)] {
        assert_eq!(check::account(account).as_ref().map_err(field), Err("account"));
        let envelope = Envelope { account: account.to_owned(), ..plain(create(QUEUE)) };
        assert!(stage.apply(secs(1), vec![envelope]).outcomes[0].is_err());
    }
}

#[test]
fn arguments_out_of_range_name_their_field() {
    let mut stage = Stage::with_queue();
    let week = limits::MAX_DELAY.0 + 1;
    let message = |change: &dyn Fn(&mut crate::queue::command::NewMessage)| {
        let mut message = text("hello");
        change(&mut message);
        send(vec![message])
    };
    let with = |settings| {
        let settings = Box::new(settings);
        Command::SetSettings { name: QUEUE.to_owned(), settings }
    };
    let dead = |queue: &str, max_deliveries| {
        let dead_letters = Some(DeadLetters { queue: queue.to_owned(), max_deliveries });
        Settings { dead_letters, ..Settings::default() }
    };
    let quota = |messages, bytes| {
        let quota = Quota { messages, bytes };
        Settings { quota, ..Settings::default() }
    };
    let window = |span| Settings { deduplication_window: span, ..Settings::default() };
    for bad in [String::new(), "x".repeat(257)] {
        let refused = check::deduplication_key(&bad).expect_err("refused");
        assert_eq!(field(&refused), "deduplication_key");
    }
    let back_off = |first, most, factor| Settings {
        back_off: BackOff { first: Span(first), most: Span(most), factor },
        ..Settings::default()
    };
    let long = "x".repeat(limits::HEADER_BYTES);
    let receipt = stage.send(&["one"])[0].receipt;
    let id = MessageId { epoch: receipt.epoch, number: Number(receipt.counter) };
    let redrive = |ids, rate| {
        let ids = (0..ids as u64).map(|n| MessageId { number: Number(n), ..id }).collect();
        let filter = RedriveFilter { ids, ..RedriveFilter::default() };
        let (queue, target) = (QUEUE.to_owned(), None);
        Command::StartRedrive(Box::new(Redrive { queue, target, rate, filter }))
    };
    let cases = [
        (send(Vec::new()), "messages"),
        (send(vec![text(""); limits::BATCH + 1]), "messages"),
        (message(&|m| m.delay = Span(week)), "delay"),
        (message(&|m| m.ttl = TimeToLive::For(Span::ZERO)), "ttl"),
        (message(&|m| m.priority = 10), "priority"),
        (message(&|m| m.group = Some("".into())), "group"),
        (message(&|m| m.group = Some("x".repeat(129).into())), "group"),
        (
            message(&|m| {
                m.delay = Span(9);
                m.ttl = TimeToLive::For(Span(9));
            }),
            "delay",
        ),
        (message(&|m| m.content.headers = map("name", &long)), "headers"),
        (message(&|m| m.content.headers = map("", "value")), "headers"),
        (message(&|m| m.content.body = vec![0; (64 << 10) + 1].into()), "message"),
        (receive(0, None), "max_messages"),
        (receive(limits::BATCH as u32 + 1, None), "max_messages"),
        (receive(1, Some(Span(limits::MAX_VISIBILITY.0 + 1))), "visibility_timeout"),
        (update(id, receipt, Some(Span(week))), "visibility_timeout"),
        (release(Vec::new(), ReleaseAfter::Now), "items"),
        (release(vec![(id, receipt)], ReleaseAfter::Delay(Span(week))), "delay"),
        (with(quota(Some(0), None)), "settings.max_messages"),
        (with(quota(None, Some(0))), "settings.max_bytes"),
        (with(window(Span(999_999))), "settings.deduplication_window"),
        (with(window(Span(week))), "settings.deduplication_window"),
        (with(back_off(9, 8, 2)), "settings.back_off.first"),
        (with(back_off(9, week, 2)), "settings.back_off.most"),
        (with(back_off(8, 9, 0)), "settings.back_off.factor"),
        (with(back_off(8, 9, 11)), "settings.back_off.factor"),
        (redrive(limits::REDRIVE_IDS + 1, None), "ids"),
        (redrive(1, Some(0)), "max_messages_per_second"),
        (redrive(1, Some(limits::REDRIVE_RATE.end() + 1)), "max_messages_per_second"),
        (delete(Vec::new()), "items"),
        (delete(vec![(id, receipt); limits::BATCH + 1]), "items"),
        (Command::SetMetadata { name: QUEUE.to_owned(), metadata: map("name", &long) }, "metadata"),
        (
            with(Settings { default_ttl: Some(Span::ZERO), ..Settings::default() }),
            "settings.default_ttl",
        ),
        (
            with(Settings { default_visibility: Span(week), ..Settings::default() }),
            "settings.default_visibility_timeout",
        ),
        (
            with(Settings { dead_letter_ttl: Some(Span::ZERO), ..Settings::default() }),
            "settings.dead_letter_ttl",
        ),
        (with(dead(QUEUE, 3)), "settings.dead_letter_queue"),
        (with(dead("Dead", 3)), "queue"),
        (with(dead("dead", 0)), "settings.max_deliveries"),
        (with(dead("dead", 10_001)), "settings.max_deliveries"),
        (
            with(Settings { max_message_bytes: 0, ..Settings::default() }),
            "settings.max_message_bytes",
        ),
        (
            with(Settings { max_message_bytes: (1 << 20) + 1, ..Settings::default() }),
            "settings.max_message_bytes",
        ),
    ];
    for (command, expected) in cases {
        let rejection = refused(&mut stage, command.clone());
        assert_eq!(field(&rejection), expected, "{rejection}");
    }
    for rate in [None, Some(*limits::REDRIVE_RATE.start()), Some(*limits::REDRIVE_RATE.end())] {
        assert_eq!(check::command(&redrive(limits::REDRIVE_IDS, rate)), Ok(()), "{rate:?}");
    }
    let body = vec![0; (64 << 10) + 1].into();
    let content = Some(Content { body, headers: StringMap::new() });
    let queue = QUEUE.to_owned();
    let too_big = Command::Update(Update { queue, id, receipt, visibility: None, content });
    assert_eq!(field(&refused(&mut stage, too_big)), "message");
}

#[test]
fn a_batch_with_one_bad_message_sends_none() {
    let mut stage = Stage::with_queue();
    let mut bad = text("bad");
    bad.content.body = vec![0; 1 << 17].into();
    refused(&mut stage, send(vec![text("good"), bad]));
    assert_eq!(stage.receive(10, None), Vec::new());
}

#[test]
fn a_message_that_is_gone_or_of_another_receipt_is_not_updated() {
    let mut stage = Stage::with_queue();
    let sent = stage.send(&["one"])[0];
    let granted = stage.receive(1, None).remove(0);
    let mismatch = Rejection::ReceiptMismatch { id: sent.id.to_string() };
    assert_eq!(refused(&mut stage, update(sent.id, sent.receipt, None)), mismatch);
    stage.run(delete(vec![(granted.id, granted.receipt)])).expect("deleted");
    let (queue, id) = (QUEUE.to_owned(), sent.id.to_string());
    let gone = Rejection::MessageNotFound { queue, id };
    assert_eq!(refused(&mut stage, update(granted.id, granted.receipt, None)), gone);
    assert_eq!(stage.state.message(ACCOUNT, QUEUE, granted.id), Err(gone));
}

#[test]
fn an_id_of_another_epoch_is_another_message() {
    let mut stage = Stage::with_queue();
    let sent = stage.send(&["one"])[0];
    let id = MessageId { epoch: other_epoch(), ..sent.id };
    let rejection = refused(&mut stage, update(id, sent.receipt, None));
    assert!(matches!(rejection, Rejection::MessageNotFound { .. }), "{rejection}");
}

#[test]
fn an_account_has_a_limited_number_of_queues() {
    let mut stage = Stage::new();
    let names = (0..limits::QUEUES).map(|n| plain(create(&format!("queue-{n}")))).collect();
    let entry = stage.entry(secs(1), names);
    assert!(stage.state.apply(&entry).outcomes.iter().all(Result::is_ok));
    let what = format!("the number of queues of account {ACCOUNT:?}");
    let full = Rejection::LimitReached { what, limit: limits::QUEUES as u64 };
    assert_eq!(refused(&mut stage, create(QUEUE)), full);
    assert!(stage.run(create("queue-7")).is_ok(), "one that is there may be made again");
    let envelope = Envelope { account: "another".to_owned(), ..plain(create(QUEUE)) };
    assert!(stage.apply(secs(1), vec![envelope]).outcomes[0].is_ok());
}

#[test]
fn a_limited_number_of_accounts_have_a_quota() {
    let mut stage = Stage::new();
    let set = |n: usize, messages| {
        let quota = AccountQuota { messages, ..AccountQuota::default() };
        Envelope { account: format!("a{n:05}"), ..plain(Command::SetAccountQuota(quota)) }
    };
    let many = (0..limits::ACCOUNT_QUOTAS).map(|n| set(n, Some(1))).collect();
    assert!(stage.apply(secs(1), many).outcomes.iter().all(Result::is_ok));
    let mut one = |n, messages| stage.apply(secs(1), vec![set(n, messages)]).outcomes.remove(0);
    let more = limits::ACCOUNT_QUOTAS;
    let what = "the number of accounts with a quota".to_owned();
    let full = Rejection::LimitReached { what, limit: more as u64 };
    assert_eq!(one(more, Some(1)), Err(full));
    assert!(one(7, Some(2)).is_ok(), "one that has a quota may have another");
    assert!(one(7, None).is_ok() && one(more, Some(1)).is_ok(), "one that has none makes room");
    stage.check();
}

#[test]
fn sequences_begin_at_1_and_an_unknown_session_has_ended() {
    let mut stage = Stage::with_queue();
    let tag = |sequence, lowest| SessionTag { client: 7, sequence, lowest_unanswered: lowest };
    let zero = stage.run_in(tag(0, 0), send(vec![text("x")])).expect_err("refused");
    assert_eq!(field(&zero), "session.sequence");
    let ended = Err(Rejection::SessionEnded);
    assert_eq!(stage.run_in(tag(5, 4), send(vec![text("x")])), ended);
    assert_eq!(stage.state.totals().1, 0);
    stage.check();
}

#[test]
fn an_entry_of_another_epoch_changes_nothing_at_all() {
    let mut stage = Stage::with_queue();
    let mut entry = stage.entry(secs(9_999), vec![plain(send(vec![text("x")]))]);
    entry.epoch = other_epoch();
    let (digest, now) = (stage.state.digest(), stage.state.log_time());
    let applied = stage.apply_entry(&entry);
    let wrong = Rejection::WrongEpoch { seen: other_epoch().0, current: stage.state.epoch().0 };
    assert_eq!(applied.outcomes, vec![Err(wrong)]);
    assert!(applied.changes.rows.is_empty() && applied.changes.contents.is_empty());
    assert_eq!((stage.state.digest(), stage.state.log_time()), (digest, now));
}

#[test]
fn unknown_rules_are_refused() {
    let mut stage = Stage::with_queue();
    let asked = KNOWN_RULES + 1;
    let unknown = Rejection::UnknownRules { asked, known: KNOWN_RULES };
    assert_eq!(refused(&mut stage, Command::RaiseRules { version: asked }), unknown);
    assert_eq!(stage.state.rules(), KNOWN_RULES);
    assert!(stage.run(Command::RaiseRules { version: KNOWN_RULES }).is_ok());
}

#[test]
fn a_receive_with_room_for_no_byte_gives_one_message() {
    let mut stage = Stage::with_queue();
    stage.send(&["12345", "12345", "12345"]);
    let sized = |max_bytes| {
        let queue = QUEUE.to_owned();
        Command::Receive(Receive { queue, max_messages: 3, max_bytes, visibility: None })
    };
    let given = |outcome| match outcome {
        Ok(crate::queue::outcome::Reply::Received { messages, more }) => (messages.len(), more),
        other => panic!("{other:?}"),
    };
    assert_eq!(given(stage.run(sized(0))), (1, true));
    assert_eq!(given(stage.run(sized(10))), (2, false));
}

#[test]
fn rows_that_are_not_one_whole_state_are_refused() {
    let mut stage = Stage::with_queue();
    stage.send(&["one", "two"]);
    stage.receive(1, None);
    let rows: Vec<Row> = stage.table.values().cloned().collect();
    assert!(State::load(rows.clone()).is_ok());
    assert_eq!(State::load([]).map(|s| s.digest()), Ok(State::new().digest()));
    for lost in 0..rows.len() {
        let mut fewer = rows.clone();
        let key = fewer.remove(lost).key();
        let error = State::load(fewer).expect_err("one row is missing");
        match key {
            RowKey::Counters => assert_eq!(error, LoadError::NoCounters),
            RowKey::Queue(_) => assert!(matches!(error, LoadError::NoQueue(_)), "{error}"),
            _ => assert!(matches!(error, LoadError::WrongDigest { .. }), "{error}"),
        }
    }
    for (at, row) in rows.iter().enumerate() {
        let mut more = rows.clone();
        more.insert(at + 1, row.clone());
        let error = State::load(more).expect_err("one row is there twice");
        assert_eq!(error, LoadError::BadRow(row.key()));
    }
    let mut newer = rows.clone();
    if let Some(Row::Counters(row)) = newer.first_mut() {
        row.rules = KNOWN_RULES + 1;
    }
    let (found, known) = (KNOWN_RULES + 1, KNOWN_RULES);
    assert_eq!(State::load(newer).err(), Some(LoadError::NewerRules { found, known }));
}
