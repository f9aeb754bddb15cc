//! What a deposed primary has alone is taken by the new one: once, in order, and as it was.

use super::pair::{ATTACHMENT, LINEAGE, Side, protected};
use super::regions::{begin, chunks};
use super::stage::{ACCOUNT, QUEUE, create, delete, plain, receive, secs, send, text};
use crate::queue::authority::command::{Actor, Attach, RegionReply, RegionVerb};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::replay::{ReplayTail, Replayed, Skip, TailOutcome};
use crate::queue::authority::tail::Due;
use crate::queue::authority::{Role, TailFate};
use crate::queue::command::{
    Command, DeadLetters, Envelope, NewMessage, Receive, Redrive, RedriveFilter, SessionTag,
    Settings, StringMap, TimeToLive, Transact,
};
use crate::queue::dedup;
use crate::queue::ids::{Epoch, MessageId, Number, Span};
use crate::queue::limits::BATCH;
use crate::queue::note::Redriven;
use crate::queue::outcome::{Reply, Sent, Shown};

/// East and west with a queue and one message that both have; west is about to be promoted.
fn shipped() -> (Side, Side) {
    let (mut east, mut west) = protected();
    east.commit(secs(1), vec![plain(create(QUEUE))]);
    east.commit(secs(1), vec![plain(send(vec![text("shared")]))]);
    ship(&mut east, &mut west);
    (east, west)
}

fn ship(from: &mut Side, to: &mut Side) {
    while let Some(batch) = from.batch(&to.copy_end(), 100).expect("it ships") {
        to.apply_batch(batch).expect("applied");
    }
}

/// West is promoted, and east hears of it.
fn depose(east: &mut Side, west: &mut Side) {
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: false,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    let ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    east.region(RegionVerb::Fence { lineage: LINEAGE, ledger }).expect("fenced");
}

/// The part of east's tail behind a number, of about so many bytes.
fn part(east: &Side, after: Number, (bytes, all): (usize, bool)) -> ReplayTail {
    let state = &east.stage.state;
    let authority = state.authority().expect("in a pair");
    let Role::Fenced { fork: Some(fork), .. } = &authority.role else { panic!("not fenced") };
    let first = Number(fork.next_number).max(Number(after.0 + 1));
    let window = state.tail_window(first, 3);
    let mut found = state.tail_part(&window, after, (bytes, all));
    let messages = found.units.iter_mut().flat_map(|unit| &mut unit.messages);
    for (message, content) in messages.zip(&found.contents) {
        message.content = east.stage.contents[content].clone();
    }
    ReplayTail {
        by: Actor { who: "anna".to_owned(), at_us: 5 },
        epoch: authority.epoch.clone(),
        after,
        through: found.through,
        last: found.last,
        first: Number(fork.next_number),
        ended_at: state.log_time(),
        all,
        queues: found.queues,
        units: found.units,
    }
}

fn replay(west: &mut Side, part: &ReplayTail) -> Vec<TailOutcome> {
    let (now, command) = (west.stage.state.log_time(), Command::ReplayTail(Box::new(part.clone())));
    let envelope = Envelope { account: String::new(), ..plain(command) };
    let outcome = west.commit(now, vec![envelope]).outcomes.remove(0);
    west.stage.check();
    match outcome {
        Ok(Reply::Region(RegionReply::Replayed { results, .. })) => results,
        other => panic!("not replayed: {other:?}"),
    }
}

fn mark(west: &Side) -> Replayed {
    let known = &west.stage.state.authority().expect("in a pair").replayed;
    known.first().cloned().unwrap_or_default()
}

/// Part after part, until there is no more; each is sent twice, as after a lost answer.
fn replay_all(east: &Side, west: &mut Side, how: (usize, bool)) -> Vec<TailOutcome> {
    let mut all = Vec::new();
    while !mark(west).done {
        let next = part(east, mark(west).through, how);
        all.extend(replay(west, &next));
        let digest = west.stage.state.digest();
        let totals = mark(west);
        assert_eq!(replay(west, &next), Vec::new(), "a part counts once");
        assert_eq!(mark(west), totals);
        let moved = west.stage.state.digest() != digest;
        assert!(moved, "but for time, which goes on");
        west.stage.state = west.stage.reload();
    }
    all
}

fn sent(side: &mut Side, messages: Vec<NewMessage>) -> Vec<Sent> {
    in_session(side, None, send(messages))
}

fn in_session(side: &mut Side, session: Option<SessionTag>, command: Command) -> Vec<Sent> {
    let now = side.stage.state.log_time();
    let envelope = Envelope { session, ..plain(command) };
    match side.commit(now, vec![envelope]).outcomes.remove(0) {
        Ok(Reply::Sent(sent) | Reply::Transacted(sent)) => sent,
        other => panic!("not sent: {other:?}"),
    }
}

fn turn(client: u128, sequence: u64, lowest_unanswered: u64) -> Option<SessionTag> {
    Some(SessionTag { client, sequence, lowest_unanswered })
}

/// All messages of a side by number, with their bodies.
fn messages(side: &Side) -> Vec<(String, Shown)> {
    let (found, next) = side.stage.state.tail(Number(0), None, 1_000);
    assert_eq!(next, None);
    let mut all: Vec<(String, Shown)> = found
        .into_iter()
        .map(|it| {
            let body = &side.stage.contents[&it.shown.content].body;
            (String::from_utf8(body.to_vec()).expect("text"), it.shown)
        })
        .collect();
    all.sort_unstable_by_key(|(_, shown)| shown.id.number);
    all
}

fn bodies(side: &Side) -> Vec<String> {
    messages(side).into_iter().map(|(body, _)| body).collect()
}

const SENT: fn(&TailOutcome) -> bool = |it| matches!(it, TailOutcome::Sent(_));

#[test]
fn a_tail_is_sent_once_in_order_and_keeps_what_its_messages_had() {
    let (mut east, mut west) = shipped();
    let mut plain_ones: Vec<Sent> = Vec::new();
    for body in ["a", "b", "c", "d", "e"] {
        plain_ones.extend(sent(&mut east, vec![text(body)]));
    }
    let mut odd = text("odd");
    odd.content.headers.insert("kind".to_owned(), "odd".to_owned());
    odd.priority = 1;
    odd.group = Some("g".into());
    odd.key = Some(Box::new(dedup::hash("key")));
    odd.delay = Span::from_secs(50);
    odd.ttl = TimeToLive::For(Span::from_secs(500));
    let before = sent(&mut east, vec![odd.clone(), text("beside")]);
    // One is under a lease, and one was done with.
    let now = east.stage.state.log_time();
    east.commit(now, vec![plain(receive(1, None))]);
    let gone = plain_ones[1];
    east.commit(now, vec![plain(delete(vec![(gone.id, gone.receipt)]))]);
    depose(&mut east, &mut west);
    sent(&mut west, vec![text("after")]);

    let outcomes = replay_all(&east, &mut west, (1, false));
    assert!(outcomes.iter().all(SENT), "{outcomes:?}");
    let expected = ["shared", "after", "a", "c", "d", "e", "odd", "beside"];
    assert_eq!(bodies(&west), expected);
    let all = messages(&west);
    let (_, shown) = &all[6];
    let note = shown.note.as_ref().expect("a group");
    assert_eq!((shown.priority, note.group.as_deref()), (1, Some("g")));
    assert_eq!(shown.visible_at, before[0].visible_at, "the delay ends when it did");
    assert_eq!(shown.expires_at, before[0].expires_at);
    assert_eq!(west.stage.contents[&shown.content], odd.content);
    assert!(all.iter().all(|(_, shown)| shown.dequeue_count == 0), "nobody holds it here");
    // The key counts here from now on.
    assert!(sent(&mut west, vec![odd])[0].duplicate);
    let Replayed { sent, skipped, done, .. } = mark(&west);
    assert_eq!((sent, skipped, done), (6, 0, true));
    let audit: Vec<String> = west.stage.state.audit().map(|row| row.what.clone()).collect();
    assert!(audit.iter().any(|it| it.starts_with("begin to take the tail of epoch 1")));
    assert!(audit.iter().any(|it| it.ends_with("6 sent, 0 not")), "{audit:?}");
}

#[test]
fn what_expired_or_has_no_queue_any_more_is_not_sent_unless_all_is_asked_for() {
    for all in [false, true] {
        let (mut east, mut west) = shipped();
        east.commit(secs(2), vec![plain(create("fresh"))]);
        east.commit(secs(2), vec![plain(create("twin"))]);
        for queue in ["fresh", "twin"] {
            let messages = vec![text(queue)];
            let command = Command::Send { queue: queue.to_owned(), messages };
            in_session(&mut east, None, command);
        }
        let short = TimeToLive::For(Span::from_secs(10));
        sent(&mut east, vec![NewMessage { ttl: short, ..text("short") }, text("long")]);
        depose(&mut east, &mut west);
        // The same name, and the same id even: it is another queue all the same.
        west.commit(secs(60), vec![plain(create("twin"))]);

        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        let skipped = |why| TailOutcome::Skipped(why);
        if all {
            assert!(outcomes.iter().all(SENT), "{outcomes:?}");
            assert_eq!(bodies(&west), ["shared", "fresh", "twin", "short", "long"]);
        } else {
            let whys = [Skip::QueueGone, Skip::QueueMadeAnew, Skip::Expired].map(skipped);
            assert_eq!(outcomes[..3], whys);
            assert_eq!(bodies(&west), ["shared", "long"]);
        }
        let made = west.stage.state.queue(ACCOUNT, "fresh").is_some();
        assert_eq!(made, all, "a queue is made anew only if all is asked for");
    }
}

#[test]
fn what_was_due_and_not_moved_yet_is_listed_with_why_as_a_replay_goes_through_it() {
    let (mut east, mut west) = shipped();
    with_dead_letters(&mut east);
    let short = TimeToLive::For(Span::from_secs(10));
    sent(&mut east, vec![NewMessage { ttl: short, ..text("expired") }, text("alive")]);
    send_strictly(&mut east, text("last"));
    // Time moves on to the end of the lease, and nothing that is due is moved.
    let visibility = Some(Span::from_secs(10));
    let queue = STRICT.to_owned();
    let asked = Receive { queue, max_messages: 1, max_bytes: 1 << 20, visibility };
    east.commit(secs(3), vec![plain(Command::Receive(asked))]);
    east.commit(secs(60), Vec::new());
    depose(&mut east, &mut west);

    let (found, next) = east.stage.state.tail(Number(2), None, 1_000);
    assert_eq!(next, None);
    let mut listed: Vec<_> = found.iter().map(|it| (it.shown.id, it.due)).collect();
    listed.sort_unstable_by_key(|(id, _)| id.number);
    let whys: Vec<Option<Due>> = listed.iter().map(|(_, due)| *due).collect();
    assert_eq!(whys, [Some(Due::Expired), None, Some(Due::LastDeliveryOver)]);
    let replayed = part(&east, Number(0), (1 << 20, false));
    let replayed = replayed.units.iter().flat_map(|unit| &unit.messages).map(|it| it.id);
    let listed: Vec<MessageId> = listed.into_iter().map(|(id, _)| id).collect();
    assert_eq!(replayed.collect::<Vec<_>>(), listed);
}

#[test]
fn sessions_and_keys_say_what_was_sent_to_the_new_primary_already() {
    let (mut east, mut west) = shipped();
    // Clients 1 to 4 are known to both sides.
    for client in 1..=4 {
        in_session(&mut east, turn(client, 1, 1), send(vec![text("first")]));
    }
    ship(&mut east, &mut west);
    let body = |client: u128| text(&format!("of {client}"));
    let mut before = Vec::new();
    for client in 1..=4 {
        before.push(in_session(&mut east, turn(client, 2, 2), send(vec![body(client)])));
    }
    let keyed = NewMessage { key: Some(Box::new(7)), ..text("keyed") };
    sent(&mut east, vec![keyed.clone()]);
    depose(&mut east, &mut west);
    // Client 1 had no answer and sends again; 2 does so too and goes on; 3 had its answer, and
    // goes on; 4 is silent.
    in_session(&mut west, turn(1, 2, 2), send(vec![body(1)]));
    in_session(&mut west, turn(2, 2, 2), send(vec![body(2)]));
    for client in 2..=3 {
        in_session(&mut west, turn(client, 3, 3), send(vec![text("next")]));
    }
    sent(&mut west, vec![keyed]);
    let mut next = part(&east, Number(0), (1 << 20, false));
    let mut clients = Vec::new();
    for session in next.units.iter_mut().filter_map(|unit| unit.session.as_mut()) {
        clients.push(session.client);
        assert!(east.stage.state.authority().is_some_and(|it| it.role.name() == "fenced"));
        let forgotten = west.stage.state.is_forgotten(session.client, session.sequence);
        assert_eq!(forgotten, [2, 3].contains(&session.client));
        // As the log of the new primary says.
        session.ran = forgotten.then_some(session.client == 2);
    }
    assert_eq!(clients, [1, 2, 3, 4]);
    let outcomes = replay(&mut west, &next);
    let again = TailOutcome::Skipped(Skip::SentAgain);
    assert_eq!(outcomes[..2], [again, again]);
    assert!(outcomes[2..4].iter().all(SENT), "{outcomes:?}");
    assert_eq!(outcomes[4..], [TailOutcome::Skipped(Skip::Duplicate)]);
    // Whoever comes late is answered, and nothing is sent.
    let count = messages(&west).len();
    let late = in_session(&mut west, turn(4, 2, 2), send(vec![body(4)]));
    assert_eq!(TailOutcome::Sent(late[0].id), outcomes[3]);
    assert_ne!(late[0].id, before[3][0].id);
    assert_eq!(messages(&west).len(), count);
}

#[test]
fn what_may_have_been_sent_again_is_sent_only_if_all_is_asked_for() {
    for all in [false, true] {
        let (mut east, mut west) = shipped();
        in_session(&mut east, turn(1, 1, 1), send(vec![text("first")]));
        ship(&mut east, &mut west);
        in_session(&mut east, turn(1, 2, 2), send(vec![text("second")]));
        depose(&mut east, &mut west);
        in_session(&mut west, turn(1, 3, 3), send(vec![text("third")]));
        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        let unknown = outcomes == [TailOutcome::Skipped(Skip::MayBeSentAgain)];
        assert_eq!(unknown, !all, "{outcomes:?}");
    }
}

#[test]
fn a_send_of_many_is_one_unit_and_its_late_client_is_answered_for_all_of_it() {
    let (mut east, mut west) = shipped();
    east.commit(secs(2), vec![plain(create("second"))]);
    in_session(&mut east, turn(1, 1, 1), send(vec![text("known")]));
    ship(&mut east, &mut west);
    let sends = vec![
        (QUEUE.to_owned(), vec![text("one"), text("two")]),
        ("second".to_owned(), vec![text("three")]),
    ];
    let transact = Command::Transact(Transact { deletes: Vec::new(), sends });
    let before = in_session(&mut east, turn(1, 2, 2), transact.clone());
    let many: Vec<NewMessage> = (0..BATCH).map(|at| text(&format!("{at}"))).collect();
    in_session(&mut east, turn(1, 3, 2), send(many));
    let gone = before[1];
    east.commit(secs(2), vec![plain(delete(vec![(gone.id, gone.receipt)]))]);
    depose(&mut east, &mut west);
    let first = part(&east, Number(0), (1, false));
    assert_eq!(first.units.len(), 1);
    let outcomes = replay(&mut west, &first);
    assert!(outcomes.len() == 2 && outcomes.iter().all(SENT), "{outcomes:?}");
    let rest = replay_all(&east, &mut west, (1, false));
    assert_eq!(rest.len(), BATCH, "a send is never cut");
    let late = in_session(&mut west, turn(1, 2, 2), transact);
    let now: Vec<_> = late.iter().map(|it| TailOutcome::Sent(it.id)).collect();
    assert_eq!([now[0], now[2]], outcomes[..]);
    assert_eq!(late[1], gone, "what was done with keeps its name");
}

#[test]
fn a_message_that_was_named_twice_in_one_send_is_sent_once() {
    let (mut east, mut west) = shipped();
    let keyed = NewMessage { key: Some(Box::new(7)), ..text("keyed") };
    let twice = in_session(&mut east, turn(1, 1, 1), send(vec![keyed.clone(), keyed]));
    assert!(twice[1].duplicate && twice[0].id == twice[1].id);
    // The key counts no more when it is over.
    let late = secs(10_000);
    let other = Envelope { session: turn(1, 2, 0), ..plain(send(vec![text("late")])) };
    east.commit(late, vec![other]);
    depose(&mut east, &mut west);
    let outcomes = replay_all(&east, &mut west, (1 << 20, false));
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert_eq!(bodies(&west), ["shared", "keyed", "late"]);
}

#[test]
fn a_part_goes_on_just_where_the_one_before_it_ended() {
    let (mut east, mut west) = shipped();
    for body in ["a", "b", "c"] {
        sent(&mut east, vec![text(body)]);
    }
    depose(&mut east, &mut west);
    let first = part(&east, Number(0), (1, false));
    let second = part(&east, first.through, (1, false));
    let third = part(&east, second.through, (1, false));
    let refused = |west: &mut Side, part: &ReplayTail| {
        let command = Command::ReplayTail(Box::new(part.clone()));
        super::pair::answer(west.commit(secs(9), vec![plain(command)]).outcomes.remove(0))
    };
    replay(&mut west, &first);
    let expected = first.through.0;
    let gap = Err(RegionRefusal::ReplayGap { expected });
    assert_eq!(refused(&mut west, &third), gap, "a part is left out");
    let overlaps = ReplayTail { after: Number(first.after.0), ..second.clone() };
    assert_eq!(refused(&mut west, &overlaps), gap, "one that overlaps");
    replay(&mut west, &second);
    replay(&mut west, &third);
    assert_eq!(bodies(&west), ["shared", "a", "b", "c"]);
    // No tail of an epoch that is not below the one in force, and none of its own.
    let own = ReplayTail { epoch: west.stage.state.authority().unwrap().epoch.clone(), ..first };
    let wrong = Err(RegionRefusal::Mismatch { what: "the fenced epoch".to_owned() });
    assert_eq!(refused(&mut west, &own), wrong);
}

/// A queue whose messages are dead letters once they were given out and not deleted, and where
/// those go.
const STRICT: &str = "strict";
const GRAVE: &str = "grave";

fn with_dead_letters(side: &mut Side) {
    let dead_letters = Some(DeadLetters { queue: GRAVE.to_owned(), max_deliveries: 1 });
    let settings = Box::new(Settings { dead_letters, ..Settings::default() });
    let metadata = StringMap::default();
    let strict = Command::CreateQueue { name: STRICT.to_owned(), metadata, settings };
    side.commit(secs(2), vec![plain(create(GRAVE))]);
    side.commit(secs(2), vec![plain(strict)]);
}

fn send_strictly(side: &mut Side, message: NewMessage) -> MessageId {
    let command = Command::Send { queue: STRICT.to_owned(), messages: vec![message] };
    in_session(side, None, command)[0].id
}

/// Both regions have one message, as a dead letter.
fn shipped_letter(message: NewMessage) -> (Side, Side) {
    let (mut east, mut west) = shipped();
    with_dead_letters(&mut east);
    send_strictly(&mut east, message);
    bury(&mut east);
    ship(&mut east, &mut west);
    (east, west)
}

/// The next message of [`STRICT`] is given out, and its lease runs out.
fn bury(side: &mut Side) {
    let now = side.stage.state.log_time();
    let Command::Receive(mut given) = receive(1, None) else { panic!("a receive") };
    given.queue = STRICT.to_owned();
    side.commit(now, vec![plain(Command::Receive(given))]);
    pulse(side, 100);
    let dead = side.stage.state.queue(ACCOUNT, GRAVE).expect("there").counts.total;
    assert_eq!(dead, 1, "it is a dead letter");
}

fn pulse(side: &mut Side, later: u64) {
    let at = side.stage.state.log_time().after(Span::from_secs(later));
    side.commit(at, vec![plain(Command::Pulse)]);
}

/// All dead letters go back.
fn redrive(side: &mut Side) {
    let now = side.stage.state.log_time();
    let (queue, filter) = (GRAVE.to_owned(), RedriveFilter::default());
    let asked = Redrive { queue, target: None, rate: None, filter };
    side.commit(now, vec![plain(Command::StartRedrive(Box::new(asked)))]);
    pulse(side, 1);
    let dead = side.stage.state.queue(ACCOUNT, GRAVE).expect("there").counts.total;
    assert_eq!(dead, 0, "it was sent back");
}

#[test]
fn what_a_redrive_made_of_a_message_that_both_had_is_not_sent_while_that_is_here() {
    for (all, twice) in [(false, false), (true, false), (false, true)] {
        let (mut east, mut west) = shipped_letter(text("letter"));
        redrive(&mut east);
        if twice {
            bury(&mut east);
            redrive(&mut east);
        }
        depose(&mut east, &mut west);
        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        assert_eq!(outcomes, [TailOutcome::Skipped(Skip::StillHere)]);
        assert_eq!(bodies(&west), ["shared", "letter"]);
    }
}

#[test]
fn what_a_redrive_made_of_one_that_is_in_its_first_queue_here_is_not_sent() {
    let (mut east, mut west) = shipped();
    with_dead_letters(&mut east);
    send_strictly(&mut east, text("letter"));
    ship(&mut east, &mut west);
    bury(&mut east);
    redrive(&mut east);
    depose(&mut east, &mut west);
    let outcomes = replay_all(&east, &mut west, (1 << 20, false));
    assert_eq!(outcomes, [TailOutcome::Skipped(Skip::StillHere)]);
}

#[test]
fn a_copy_that_both_had_as_a_dead_letter_is_known_when_the_tail_sends_it_back_again() {
    for all in [false, true] {
        let (mut east, mut west) = shipped_letter(text("letter"));
        redrive(&mut east);
        bury(&mut east);
        ship(&mut east, &mut west);
        redrive(&mut east);
        depose(&mut east, &mut west);
        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        assert_eq!(outcomes, [TailOutcome::Skipped(Skip::StillHere)]);
        assert_eq!(bodies(&west), ["shared", "letter"]);
    }
}

#[test]
fn a_key_that_is_kept_for_the_first_message_does_not_refuse_what_a_redrive_made_of_it() {
    let keyed = NewMessage { key: Some(Box::new(7)), ..text("keyed") };
    for all in [false, true] {
        let (mut east, mut west) = shipped_letter(keyed.clone());
        redrive(&mut east);
        depose(&mut east, &mut west);
        redrive(&mut west);
        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        match outcomes[..] {
            [TailOutcome::Skipped(Skip::MayBeSentAgain)] => assert!(!all),
            [TailOutcome::Sent(id)] => {
                assert!(all);
                assert_eq!(send_strictly(&mut west, keyed.clone()), id, "the key is the copy's");
            }
            _ => panic!("all: {all}, {outcomes:?}"),
        }
    }
}

#[test]
fn what_is_sent_again_waits_no_longer_than_was_left_where_the_clocks_are_apart() {
    let (mut east, mut west) = shipped();
    with_dead_letters(&mut east);
    ship(&mut east, &mut west);
    // East's clock was set an hour ahead behind the fork.
    pulse(&mut east, 3_600);
    send_strictly(&mut east, text("letter"));
    bury(&mut east);
    sent(&mut east, vec![NewMessage { delay: Span::from_secs(5), ..text("late") }]);
    depose(&mut east, &mut west);
    let outcomes = replay_all(&east, &mut west, (1 << 20, false));
    assert!(matches!(outcomes[..], [TailOutcome::Sent(_), TailOutcome::Sent(_)]), "{outcomes:?}");
    let all = messages(&west);
    let of = |body: &str| &all.iter().find(|(it, _)| it == body).expect("sent again").1;
    let letter = of("letter");
    let dead = letter.note.as_ref().and_then(|note| note.dead.as_ref()).expect("a letter");
    assert_eq!(dead.at, letter.inserted_at, "nobody died later than now");
    assert!(dead.received.is_none_or(|(_, last)| last <= letter.inserted_at));
    let late = of("late");
    assert_eq!(late.visible_at, late.inserted_at.after(Span::from_secs(5)));
}

#[test]
fn what_was_sent_back_by_both_sides_is_sent_only_if_all_is_asked_for() {
    for all in [false, true] {
        let (mut east, mut west) = shipped_letter(text("letter"));
        redrive(&mut east);
        depose(&mut east, &mut west);
        redrive(&mut west);
        let outcomes = replay_all(&east, &mut west, (1 << 20, all));
        let unknown = outcomes == [TailOutcome::Skipped(Skip::MayBeSentAgain)];
        assert_eq!(unknown, !all, "{outcomes:?}");
        assert_eq!(bodies(&west).len(), if all { 3 } else { 2 });
    }
}

#[test]
fn what_a_redrive_made_of_a_message_of_the_tail_is_sent_with_the_key_of_that() {
    let (mut east, mut west) = shipped();
    with_dead_letters(&mut east);
    ship(&mut east, &mut west);
    let keyed = NewMessage { key: Some(Box::new(7)), ..text("keyed") };
    let origin = send_strictly(&mut east, keyed.clone());
    for _ in 0..2 {
        bury(&mut east);
        redrive(&mut east);
    }
    depose(&mut east, &mut west);
    let outcomes = replay_all(&east, &mut west, (1 << 20, false));
    let [TailOutcome::Sent(id)] = outcomes[..] else { panic!("not sent: {outcomes:?}") };
    let all = messages(&west);
    let note = all[1].1.note.as_ref().expect("a redrive made it");
    assert_eq!(note.redriven.as_ref().map(Redriven::origin), Some(origin));
    assert_eq!(send_strictly(&mut west, keyed), id, "sent again, it is a duplicate");
}

#[test]
fn a_copy_of_the_new_primary_knows_what_was_replayed() {
    let (mut east, mut west) = shipped();
    for body in ["a", "b"] {
        sent(&mut east, vec![text(body)]);
    }
    depose(&mut east, &mut west);
    replay(&mut west, &part(&east, Number(0), (1, false)));
    // North is given the state of west with what was replayed so far, and then its log.
    let mut north = Side::new("north");
    super::pair::protect(&mut west, &mut north);
    give(&west, &mut north);
    assert_eq!(mark(&north), mark(&west));
    replay_all(&east, &mut west, (1, false));
    ship(&mut west, &mut north);
    north.stage.check();
    assert_eq!(mark(&north), mark(&west));
    assert!(mark(&north).done);
    assert_eq!(north.stage.state.digest(), west.stage.state.digest());
    let own = north.stage.state.audit().filter(|row| row.what.contains("the tail of epoch"));
    assert_eq!(own.count(), 0, "the audit is each cluster's own");
}

#[test]
fn messages_of_a_queue_that_was_deleted_in_the_tail_are_neither_listed_as_alive_nor_sent() {
    let (mut east, mut west) = shipped();
    sent(&mut east, vec![text("gone with it")]);
    let window = Span::from_secs(3_600);
    let settings = Settings { undelete_window: window, ..Settings::default() };
    let set = Command::SetSettings { name: QUEUE.to_owned(), settings: Box::new(settings) };
    east.commit(secs(2), vec![plain(set)]);
    east.commit(secs(2), vec![plain(Command::DeleteQueue { name: QUEUE.to_owned() })]);
    assert_eq!(bodies(&east), Vec::<String>::new(), "though it may be undeleted");
    let undelete = Command::UndeleteQueue { name: QUEUE.to_owned(), id: None, new_name: None };
    east.commit(secs(3), vec![plain(undelete)]);
    assert_eq!(bodies(&east), ["shared", "gone with it"]);
    east.commit(secs(3), vec![plain(Command::DeleteQueue { name: QUEUE.to_owned() })]);
    depose(&mut east, &mut west);
    assert_eq!(replay_all(&east, &mut west, (1 << 20, true)), []);
    assert_eq!(bodies(&west), ["shared"]);
}

#[test]
fn a_tail_that_is_over_takes_nothing_more() {
    let (mut east, mut west) = shipped();
    sent(&mut east, vec![text("a")]);
    depose(&mut east, &mut west);
    let only = part(&east, Number(0), (1_000, false));
    assert!(only.last);
    replay(&mut west, &only);
    let before = mark(&west);
    let behind = ReplayTail { after: only.through, through: Number(only.through.0 + 9), ..only };
    assert_eq!(replay(&mut west, &behind), [], "what stands behind the end is nobody's tail");
    assert_eq!((bodies(&west), mark(&west)), (vec!["shared".to_owned(), "a".to_owned()], before));
}

#[test]
fn the_region_whose_tail_it_was_takes_as_a_copy_what_the_primary_takes() {
    let (mut east, mut west) = shipped();
    for body in ["a", "b", "c"] {
        sent(&mut east, vec![text(body)]);
    }
    depose(&mut east, &mut west);
    let first = part(&east, Number(0), (1, false));
    let second = part(&east, first.through, (1, false));
    replay(&mut west, &first);
    // Its tail is in a file, too: east is given the state of west while the replay goes on.
    let epoch = east.stage.state.authority().expect("in a pair").epoch.clone();
    east.region(RegionVerb::SettleTail { epoch, fate: TailFate::Exported }).expect("settled");
    let (region, peer) = (west.region.to_owned(), east.region.to_owned());
    let protect = RegionVerb::Protect { region, lineage: LINEAGE, attachment: ATTACHMENT, peer };
    west.region(protect).expect("protected");
    let ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    let (region, attachment) = (east.region.to_owned(), ATTACHMENT);
    let again =
        Attach { region, lineage: LINEAGE, attachment, ledger, reseed: true, ..Attach::default() };
    east.region(RegionVerb::Attach(again)).expect("attached");
    give(&west, &mut east);
    replay(&mut west, &second);
    ship(&mut west, &mut east);
    east.stage.check();
    assert_eq!(bodies(&east), ["shared", "a", "b"]);
    assert_eq!(mark(&east), mark(&west));
    assert_eq!(east.stage.state.digest(), west.stage.state.digest());
}

/// Gives a secondary the whole state of its primary.
fn give(from: &Side, to: &mut Side) {
    to.region(begin(from, 5)).expect("begun");
    let all = chunks(from, 5);
    let (number, digest) = (all.len() as u64, from.stage.state.digest());
    for chunk in all {
        to.region(RegionVerb::SeedChunk(chunk)).expect("taken");
    }
    let attachment = ATTACHMENT;
    to.region(RegionVerb::SeedCommit { attachment, id: 5, chunks: number, digest }).expect("given");
}
