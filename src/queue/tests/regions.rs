//! Bounds and refusals of what comes from the other region.

use super::pair::{Side, protected};
use super::stage::{QUEUE, create, plain, secs, send, text};
use crate::queue::authority::command::{Attach, Reconfigure, RegionReply, RegionVerb, SeedChunk};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{Authority, Fork, LedgerLine, RegionEpoch, RegionSettings, Role};
use crate::queue::command::{Command, NewMessage, TimeToLive};
use crate::queue::ids::{Epoch, LogTime, Position, Span};
use crate::queue::limits::{BATCH, WORK_PER_ENTRY};
use crate::queue::rows::{Row, RowKey};
use crate::queue::rules;

/// East with as many short-lived messages as five pulses expire, and those pulses.
fn expired(east: &mut Side) {
    east.commit(LogTime(1_000), vec![plain(create(QUEUE))]);
    let short = NewMessage { ttl: TimeToLive::For(Span::from_secs(1)), ..NewMessage::default() };
    for _ in 0..5 * WORK_PER_ENTRY / BATCH {
        east.commit(LogTime(1_000), vec![plain(send(vec![short.clone(); BATCH]))]);
    }
    for _ in 0..5 {
        east.commit(secs(100), vec![plain(Command::Pulse)]);
    }
}

#[test]
fn a_batch_does_no_more_of_what_is_due_than_an_entry_and_says_how_far_it_came() {
    let (mut east, mut west) = protected();
    expired(&mut east);
    let mut batches = 0;
    loop {
        let copy = west.copy_end();
        let Some(batch) = east.batch(&copy, 1_000).expect("it ships") else { break };
        let end = batch.through;
        let before = total(&west);
        let RegionReply::Shipped { through, .. } = west.apply_batch(batch).expect("applied") else {
            panic!("shipped entries are answered so");
        };
        assert_eq!(west.copy_end().through, Some(through));
        assert!(before.saturating_sub(total(&west)) <= WORK_PER_ENTRY as u64, "too much at once");
        assert_eq!(west.stage.state.digest(), east.digests[through.index as usize]);
        let whole = west.stage.state.authority().expect("in a pair").is_complete;
        assert_eq!(whole, through == end, "complete only with all");
        batches += 1;
    }
    assert!(batches >= 5, "{batches} batches");
    assert_eq!(west.stage.state.digest(), east.stage.state.digest());
}

fn total(side: &Side) -> u64 {
    side.stage.state.queue(super::stage::ACCOUNT, QUEUE).map_or(0, |view| view.counts.total)
}

#[test]
fn a_release_counts_only_with_the_whole_batch() {
    let (mut east, mut west) = protected();
    expired(&mut east);
    let RegionReply::At(seal) = east.region(RegionVerb::Seal).expect("sealed") else {
        panic!("a seal has a place")
    };
    let to = RegionEpoch { number: Epoch(2), region: "west".into() };
    // Told too early, as only a leader in error would.
    let released = RegionVerb::Release { to, seal, acknowledged: seal };
    east.region(released).expect("released");
    while west.role() == Role::Secondary {
        let batch = east.batch(&west.copy_end(), 1_000).expect("it ships").expect("more");
        let end = batch.through;
        let promoted = west.apply_batch(batch).expect("applied");
        let RegionReply::Shipped { through, promoted } = promoted else { panic!("not shipped") };
        assert_eq!(promoted, through == end);
    }
    assert_eq!(west.role(), Role::Primary);
    assert_eq!(west.stage.state.digest(), east.stage.state.digest());
}

#[test]
fn a_batch_that_raises_the_rules_beyond_what_is_known_is_refused_whole() {
    let (mut east, mut west) = protected();
    east.commit(LogTime(1_000), vec![plain(create(QUEUE))]);
    let version = rules::KNOWN + 1;
    east.commit(LogTime(1_000), vec![plain(Command::RaiseRules { version })]);
    let batch = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    let (before, end) = (west.stage.state.digest(), west.copy_end());
    let refused = west.apply_batch(batch).expect_err("refused");
    assert_eq!(refused, RegionRefusal::UnknownRules { asked: version, known: rules::KNOWN });
    assert_eq!((west.stage.state.digest(), west.copy_end()), (before, end));
}

#[test]
fn nothing_is_released_that_was_not_acknowledged_through_the_seal() {
    let (mut east, _) = protected();
    let RegionReply::At(seal) = east.region(RegionVerb::Seal).expect("sealed") else {
        panic!("a seal has a place")
    };
    let to = RegionEpoch { number: Epoch(2), region: "west".into() };
    let before = Position { index: seal.index - 1, ..seal };
    let other = Position { term: seal.term + 1, ..seal };
    for acknowledged in [before, other] {
        let verb = RegionVerb::Release { to: to.clone(), seal, acknowledged };
        assert_eq!(east.region(verb), Err(RegionRefusal::NotAcknowledged));
        assert_eq!(east.role(), Role::Sealed { at: seal });
    }
}

#[test]
fn who_handed_over_is_fenced_by_a_promotion_that_never_got_the_release() {
    let (mut east, mut west) = protected();
    east.commit(LogTime(1_000), vec![plain(create(QUEUE))]);
    let RegionReply::At(seal) = east.region(RegionVerb::Seal).expect("sealed") else {
        panic!("a seal has a place")
    };
    let batch = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    west.apply_batch(batch).expect("applied");
    let to = RegionEpoch { number: Epoch(2), region: "west".into() };
    let verb = RegionVerb::Release { to: to.clone(), seal, acknowledged: seal };
    let RegionReply::At(end) = east.region(verb).expect("released") else {
        panic!("a release has a place")
    };
    let ledger_of = |side: &Side| side.stage.state.authority().expect("in a pair").ledger.clone();
    // The one it handed over to begins at the release, and is no stranger.
    let mut heir = ledger_of(&east);
    let (previous, first) = (Some(end), Some(seal));
    heir.push(LedgerLine { epoch: to.clone(), previous, first, next_number: 1 });
    let told = |ledger| RegionVerb::Fence { lineage: super::pair::LINEAGE, ledger };
    east.region(told(heir)).expect("told");
    assert_eq!(east.role(), Role::Released { to: to.clone(), at: end });
    // The same number by force begins where the copy was.
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: false,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    let ledger = ledger_of(&west);
    east.region(told(ledger)).expect("told");
    let fork = Some(Fork { after: Some(seal), next_number: 1 });
    assert_eq!(east.role(), Role::Fenced { by: to, fork, at: end });
    assert_eq!(east.commit(LogTime(0), vec![plain(send(vec![text("late")]))]).outcomes.len(), 1);
}

/// The chunks of a seed of this side's state, a few rows or contents each.
pub(super) fn chunks(side: &Side, id: u128) -> Vec<SeedChunk> {
    let chunk = |number: usize| SeedChunk {
        attachment: super::pair::ATTACHMENT,
        id,
        number: number as u64,
        rows: Vec::new(),
        contents: Vec::new(),
        removed: Vec::new(),
    };
    let shared = |key: &RowKey| !matches!(key, RowKey::Authority | RowKey::Audit(_));
    let rows: Vec<Row> = side
        .stage
        .table
        .iter()
        .filter(|(key, _)| shared(key))
        .map(|(_, row)| row.clone())
        .collect();
    let contents: Vec<_> = side.stage.contents.iter().map(|(id, it)| (*id, it.clone())).collect();
    let mut all: Vec<SeedChunk> = rows
        .chunks(3)
        .map(|rows| SeedChunk { rows: rows.to_vec(), ..chunk(0) })
        .chain(contents.chunks(5).map(|it| SeedChunk { contents: it.to_vec(), ..chunk(0) }))
        .collect();
    for (number, chunk) in all.iter_mut().enumerate() {
        chunk.number = number as u64;
    }
    all
}

/// West, promoted by force, is protected by a new east that is empty.
fn promoted_and_protected_anew() -> (Side, Side) {
    let (mut east, mut west) = protected();
    east.commit(LogTime(1_000), vec![plain(create(QUEUE))]);
    for body in ["one", "two", "three"] {
        east.commit(LogTime(1_000), vec![plain(send(vec![text(body)]))]);
    }
    let batch = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    west.apply_batch(batch).expect("applied");
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: false,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    west.commit(LogTime(2_000), vec![plain(send(vec![text("four")]))]);
    west.stage.receive(1, None);
    let mut east = Side::new("east");
    super::pair::protect(&mut west, &mut east);
    assert!(west.batch(&east.copy_end(), 100).is_err(), "the log does not reach back");
    (west, east)
}

pub(super) fn begin(west: &Side, id: u128) -> RegionVerb {
    RegionVerb::SeedBegin {
        attachment: super::pair::ATTACHMENT,
        id,
        position: west.log.last().expect("a log").0,
        ledger: west.stage.state.authority().expect("in a pair").ledger.clone(),
        replayed: west.stage.state.authority().expect("in a pair").replayed.clone(),
        base: None,
        resumes: None,
    }
}

#[test]
fn an_empty_secondary_is_given_a_whole_state_and_goes_on_from_there() {
    let (mut west, mut east) = promoted_and_protected_anew();
    let attachment = super::pair::ATTACHMENT;
    let (first, last) = (begin(&west, 5), chunks(&west, 5));
    assert_eq!(east.region(first.clone()), Ok(RegionReply::Seeded { next: 0 }));
    let digest = west.stage.state.digest();
    // The primary serves on meanwhile.
    west.commit(LogTime(3_000), vec![plain(send(vec![text("five")]))]);
    let commit = |chunks| RegionVerb::SeedCommit { attachment, id: 5, chunks, digest };
    let gap = Err(RegionRefusal::SeedGap { expected: 0 });
    assert_eq!(east.region(RegionVerb::SeedChunk(last[1].clone())), gap);
    for chunk in &last {
        let next = chunk.number + 1;
        for _ in 0..2 {
            let reply = east.region(RegionVerb::SeedChunk(chunk.clone()));
            assert_eq!(reply, Ok(RegionReply::Seeded { next }), "once, or twice");
        }
        assert_eq!(east.region(first.clone()), Ok(RegionReply::Seeded { next }), "resumed");
        east.stage.check();
        east.stage.state = east.stage.reload();
    }
    // Nothing is served or promoted from what is not whole.
    let promote =
        RegionVerb::Promote { number: Epoch(3), accepted: false, stopped: None, loss: None };
    assert_eq!(east.region(promote), Err(RegionRefusal::Seeding));
    assert_eq!(east.region(begin(&west, 6)), Err(RegionRefusal::OtherSeed));
    let next = last.len() as u64;
    assert_eq!(east.region(commit(next - 1)), Err(RegionRefusal::SeedGap { expected: next }));
    assert_eq!(east.region(commit(next)), Ok(RegionReply::Seeded { next }));
    assert_eq!(east.stage.state.digest(), digest, "the state as of the seed");
    east.stage.check();
    let batch = west.batch(&east.copy_end(), 100).expect("it ships").expect("a batch");
    east.apply_batch(batch).expect("applied");
    assert_eq!(east.stage.state.digest(), west.stage.state.digest());
    east.stage.check();
    assert!(east.stage.state.authority().expect("in a pair").is_complete);
}

/// East, which had nothing, was given a part of the state of west.
fn half_seeded() -> (Side, Side) {
    let (west, mut east) = promoted_and_protected_anew();
    east.region(begin(&west, 5)).expect("begun");
    let first = chunks(&west, 5).remove(0);
    east.region(RegionVerb::SeedChunk(first)).expect("taken");
    (west, east)
}

#[test]
fn who_accepts_it_promotes_a_copy_that_has_nothing_yet_and_all_else_is_the_tail() {
    let (mut west, mut east) = half_seeded();
    let promote =
        RegionVerb::Promote { number: Epoch(3), accepted: true, stopped: None, loss: None };
    east.region(promote).expect("promoted");
    assert_eq!((east.role(), east.stage.state.is_empty()), (Role::Standalone, true));
    assert_eq!(east.region(RegionVerb::SeedFree), Ok(RegionReply::Seeded { next: 0 }));
    east.stage.check();
    east.stage.state = east.stage.reload();
    // West, which has not heard of it, is followed by nobody any more, and then is fenced.
    let theirs = west.stage.state.authority().expect("in a pair").ledger.clone();
    let attachment = super::pair::ATTACHMENT;
    let (region, lineage) = ("east".to_owned(), super::pair::LINEAGE);
    let attach = Attach { region, lineage, attachment, ledger: theirs, ..Attach::default() };
    let stale = east.region(RegionVerb::Attach(attach));
    assert!(matches!(stale, Err(RegionRefusal::StaleEpoch { .. })), "{stale:?}");
    let ledger = east.stage.state.authority().expect("in a pair").ledger.clone();
    let lineage = super::pair::LINEAGE;
    west.region(RegionVerb::Fence { lineage, ledger }).expect("fenced");
    let (tail, _) = west.stage.state.tail(crate::queue::ids::Number(0), None, 100);
    let Role::Fenced { fork: Some(fork), .. } = west.role() else { panic!("{:?}", west.role()) };
    assert!(tail.iter().all(|it| it.shown.id.number.0 >= fork.next_number), "all is its tail");
    assert!(!tail.is_empty());
}

#[test]
fn a_copy_that_is_let_go_while_it_is_given_a_state_can_be_wiped_or_go_its_own_way() {
    for verb in [RegionVerb::Wipe, RegionVerb::Renew { lineage: 99 }] {
        let (_, mut east) = half_seeded();
        assert!(east.region(verb.clone()).is_err(), "not while it follows");
        east.region(RegionVerb::Detach).expect("let go");
        east.region(verb).expect("done");
        assert_eq!(east.role(), Role::Standalone);
        while east.stage.state.has_abandoned_seed() {
            east.region(RegionVerb::SeedFree).expect("freed");
        }
        assert!(east.stage.state.is_empty());
        east.stage.check();
    }
}

#[test]
fn a_seed_that_is_given_up_is_freed_and_one_that_is_not_whole_is_not_taken() {
    let (west, mut east) = promoted_and_protected_anew();
    let attachment = super::pair::ATTACHMENT;
    let all = chunks(&west, 5);
    east.region(begin(&west, 5)).expect("begun");
    for chunk in &all {
        east.region(RegionVerb::SeedChunk(chunk.clone())).expect("taken");
    }
    let digest = crate::queue::ids::Digest(1);
    let chunks_there = all.len() as u64;
    let commit = RegionVerb::SeedCommit { attachment, id: 5, chunks: chunks_there, digest };
    let refused = east.region(commit).expect_err("refused");
    assert!(matches!(refused, RegionRefusal::SeedBroken { .. }), "{refused}");
    east.stage.check();
    for left in (0..chunks_there).rev() {
        let dropped = east.region(RegionVerb::SeedDrop { attachment });
        assert_eq!(dropped, Ok(RegionReply::Seeded { next: left }));
        east.stage.check();
    }
    assert!(east.stage.state.is_empty());
    assert!(east.stage.contents.is_empty());
    assert_eq!(east.region(begin(&west, 6)), Ok(RegionReply::Seeded { next: 0 }));
}

#[test]
fn a_change_of_settings_that_are_others_by_now_changes_nothing() {
    let (_, mut west) = protected();
    let before = west.stage.state.authority().expect("in a pair").settings.clone();
    let read = RegionSettings { read_access: true, ..before.clone() };
    let leased = RegionSettings { lease: Some(Span::from_secs(5)), ..before.clone() };
    let change = |before: &RegionSettings, after: &RegionSettings| {
        let (before, after) = (before.clone(), after.clone());
        RegionVerb::Reconfigure(Box::new(Reconfigure { before, after }))
    };
    west.region(change(&before, &read)).expect("they are what they were");
    let refused = west.region(change(&before, &leased)).expect_err("reads are on");
    assert!(matches!(refused, RegionRefusal::Mismatch { .. }), "{refused}");
    let settings = |side: &Side| side.stage.state.authority().expect("in a pair").settings.clone();
    assert_eq!(settings(&west), read);
    let both = RegionSettings { lease: leased.lease, ..read.clone() };
    west.region(change(&read, &both)).expect("read again");
    assert_eq!(settings(&west), both);
}

#[test]
fn a_copy_that_was_given_nothing_yet_is_not_read() {
    let (mut east, mut west) = protected();
    east.commit(LogTime(1_000), vec![plain(create(QUEUE))]);
    let settings = RegionSettings { read_access: true, ..RegionSettings::default() };
    west.region(RegionVerb::Configure(settings)).expect("set");
    let may_read = |side: &Side| side.stage.state.authority().expect("in a pair").check_read();
    let refusal = RegionRefusal::NothingYet { primary: "east".into() };
    assert_eq!(may_read(&west), Err(refusal), "the queue is there, and here it is not");
    let batch = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    west.apply_batch(batch).expect("applied");
    assert_eq!(may_read(&west), Ok(()));
}

#[test]
fn a_state_is_read_by_its_age_wherever_another_region_may_have_newer() {
    let of = |role| {
        let epoch = RegionEpoch { number: Epoch(3), region: "east".to_owned() };
        let applied_through = Some(Position::default());
        let settings = RegionSettings { read_access: true, ..RegionSettings::default() };
        Authority { role, epoch, applied_through, settings, ..Authority::default() }
    };
    let by = RegionEpoch { number: Epoch(4), region: "east".to_owned() };
    let at = Position::default();
    let secondary = of(Role::Secondary);
    let read = |side: &Authority, now| side.check_age(secs(100), now, Span::from_secs(5));
    assert_eq!(read(&secondary, secs(105)), Ok(()));
    // Its primary's clock is ahead of this one.
    assert_eq!(read(&secondary, secs(90)), Ok(()));
    for side in [
        secondary.clone(),
        of(Role::Released { to: by.clone(), at }),
        of(Role::Fenced { by, fork: None, at }),
        of(Role::Conflict { with: "east".to_owned(), fork: None, at }),
    ] {
        let behind = Span(5_000_001);
        let newer = "east".to_owned();
        let too_old = RegionRefusal::TooOld { newer, behind, allowed: Span::from_secs(5) };
        assert_eq!(read(&side, LogTime(105_000_001)), Err(too_old), "{:?}", side.role);
        assert!(side.check_newest().is_err(), "{:?}", side.role);
    }
    for role in [Role::Standalone, Role::Primary, Role::Sealed { at }, Role::Detached] {
        let side = of(role);
        assert_eq!((read(&side, secs(10_000)), side.check_newest()), (Ok(()), Ok(())));
    }
    let mut closed = secondary;
    closed.settings.read_access = false;
    let no_reads = RegionRefusal::NoReads { primary: "east".to_owned() };
    assert_eq!(closed.check_newest(), Err(no_reads.clone()));
    assert_eq!(read(&closed, secs(100)), Err(no_reads));
}
