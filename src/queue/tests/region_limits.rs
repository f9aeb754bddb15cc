//! What is kept about a pair of regions has an end, and so has what is asked about it.

use super::pair::{ATTACHMENT, LINEAGE, Side, answer, protected};
use super::stage::{create, plain, secs};
use crate::queue::authority::command::{Actor, Attach, RegionCommand, RegionReply, RegionVerb};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::replay::ReplayTail;
use crate::queue::authority::{Authority, LedgerLine, RegionEpoch, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::error::Rejection;
use crate::queue::ids::{Epoch, LogTime, Number};
use crate::queue::limits::{
    ACTOR, AUDIT_NOTE, AUDIT_ROWS, LEDGER_LINES, REPLAYED_EPOCHS, RESTS, SHIPPED_ENTRIES,
};

fn authority(side: &Side) -> &Authority {
    side.stage.state.authority().expect("in a pair")
}

fn asked_by(side: &mut Side, who: String, verb: RegionVerb) -> Result<RegionReply, RegionRefusal> {
    let by = Actor { who, at_us: 5 };
    let command = plain(Command::Region(Box::new(RegionCommand { by, verb })));
    answer(side.commit(LogTime(0), vec![command]).outcomes.remove(0))
}

fn note(length: usize) -> RegionVerb {
    RegionVerb::Note { what: "x".repeat(length) }
}

/// As many lines of a ledger, of which the last is of the east.
fn ledger(lines: usize) -> Vec<LedgerLine> {
    let line = |n| {
        let epoch = RegionEpoch { number: Epoch(n), region: "east".to_owned() };
        LedgerLine { epoch, ..LedgerLine::default() }
    };
    (1..).map(line).take(lines).collect()
}

fn attach(lines: usize) -> RegionVerb {
    RegionVerb::Attach(Attach {
        region: "west".to_owned(),
        lineage: LINEAGE,
        attachment: ATTACHMENT,
        ledger: ledger(lines),
        ..Attach::default()
    })
}

fn fence(lines: usize) -> RegionVerb {
    RegionVerb::Fence { lineage: LINEAGE, ledger: ledger(lines) }
}

#[test]
fn arguments_about_regions_that_are_too_long_name_their_field() {
    let anna = || "anna".to_owned();
    let cases = [
        ("who", "x".repeat(ACTOR), "x".repeat(ACTOR + 1), note(1), note(1)),
        ("what", anna(), anna(), note(AUDIT_NOTE), note(AUDIT_NOTE + 1)),
        ("ledger", anna(), anna(), attach(LEDGER_LINES), attach(LEDGER_LINES + 1)),
        ("ledger", anna(), anna(), fence(LEDGER_LINES), fence(LEDGER_LINES + 1)),
    ];
    for (expected, good_who, bad_who, good, bad) in cases {
        let mut side = match good {
            RegionVerb::Attach(_) => Side::new("west"),
            _ => protected().0,
        };
        let before = side.stage.state.digest();
        let refused = asked_by(&mut side, bad_who, bad).expect_err("refused");
        let RegionRefusal::BadField { field, problem } = &refused else { panic!("{refused}") };
        assert_eq!(field, expected, "{refused}");
        assert!(!problem.is_empty());
        assert_eq!(side.stage.state.digest(), before, "a refusal leaves no trace");
        asked_by(&mut side, good_who, good).expect(expected);
        side.stage.check();
    }
}

#[test]
fn the_audit_keeps_its_newest_rows() {
    let (mut east, _) = protected();
    let more = 5;
    for n in 0..AUDIT_ROWS + more {
        let what = format!("note {n}");
        east.region(RegionVerb::Note { what }).expect("noted");
    }
    let kept: Vec<&str> = east.stage.state.audit().map(|row| row.what.as_str()).collect();
    let first = format!("note {more}");
    assert_eq!((kept.len(), kept.first().copied()), (AUDIT_ROWS, Some(first.as_str())));
    east.stage.check();
}

/// The copy has applied all that there is.
fn record_all(side: &mut Side) {
    let (position, _) = *side.log.last().expect("an entry");
    let (attachment, epoch) = (ATTACHMENT, authority(side).epoch.number);
    side.region(RegionVerb::RecordShipped { attachment, epoch, position }).expect("recorded");
}

#[test]
fn no_more_failovers_are_begun_and_taken_back_than_the_copy_has_heard_of() {
    let (mut east, _) = protected();
    for _ in 0..RESTS {
        east.region(RegionVerb::Seal).expect("sealed");
        east.region(RegionVerb::Unseal).expect("taken back");
    }
    let what = "the number of seals that are not shipped".to_owned();
    let full = RegionRefusal::Limit { what, limit: RESTS as u64 };
    assert_eq!(east.region(RegionVerb::Seal), Err(full));
    assert_eq!((east.role(), authority(&east).rests.len()), (Role::Primary, RESTS));
    record_all(&mut east);
    assert_eq!(authority(&east).rests.len(), 0);
    east.region(RegionVerb::Seal).expect("there is room again");
    east.stage.check();
}

#[test]
fn the_ledger_keeps_its_newest_lines() {
    let (mut east, _) = protected();
    let begun = |side: &Side| authority(side).epoch.number.0;
    let mut turns = 0;
    while authority(&east).ledger.len() < LEDGER_LINES || turns < LEDGER_LINES + 3 {
        let RegionReply::At(seal) = east.region(RegionVerb::Seal).expect("sealed") else {
            panic!("a seal has a place")
        };
        let to = RegionEpoch { number: Epoch(begun(&east) + 1), region: "west".to_owned() };
        let release = RegionVerb::Release { to, seal, acknowledged: seal };
        east.region(release).expect("released");
        let number = Epoch(begun(&east) + 2);
        east.region(RegionVerb::TakeBack { number }).expect("taken back");
        record_all(&mut east);
        turns += 1;
    }
    let kept = &authority(&east).ledger;
    assert_eq!(kept.len(), LEDGER_LINES);
    let ends = (kept.first().map(|it| it.epoch.number.0), kept.last().map(|it| it.epoch.number.0));
    let newest = begun(&east);
    let oldest = newest - 2 * (LEDGER_LINES as u32 - 1);
    assert_eq!(ends, (Some(oldest), Some(newest)), "the oldest made way");
    east.stage.check();
}

/// The whole tail of an epoch of the east, in which nothing was sent.
fn empty_tail(number: u32, who: String) -> ReplayTail {
    ReplayTail {
        by: Actor { who, at_us: 5 },
        epoch: RegionEpoch { number: Epoch(number), region: "east".to_owned() },
        after: Number(0),
        through: Number(0),
        last: true,
        first: Number(1),
        ended_at: LogTime(0),
        all: false,
        queues: Vec::new(),
        units: Vec::new(),
    }
}

fn replay(side: &mut Side, tail: ReplayTail) -> Result<(), Rejection> {
    let command = Command::ReplayTail(Box::new(tail));
    let envelope = Envelope { account: String::new(), ..plain(command) };
    let now = side.stage.state.log_time();
    side.commit(now, vec![envelope]).outcomes.remove(0).map(drop)
}

#[test]
fn the_tails_of_so_many_epochs_are_taken_and_no_more() {
    let (_, mut west) = protected();
    let many = REPLAYED_EPOCHS as u32;
    let number = Epoch(2 * many);
    west.region(RegionVerb::Promote { number, accepted: true, stopped: None, loss: None })
        .expect("promoted");
    let refused = replay(&mut west, empty_tail(1, "x".repeat(ACTOR + 1))).expect_err("refused");
    assert!(matches!(&refused, Rejection::InvalidArgument { field, .. } if field == "who"));
    for n in 1..=many {
        replay(&mut west, empty_tail(n, "x".repeat(ACTOR))).expect("taken");
    }
    let refused = replay(&mut west, empty_tail(many + 1, "anna".to_owned()));
    let what = "the number of tails replayed".to_owned();
    let full = RegionRefusal::Limit { what, limit: REPLAYED_EPOCHS as u64 };
    assert_eq!(refused, Err(Rejection::Region(full)));
    assert_eq!(authority(&west).replayed.len(), REPLAYED_EPOCHS);
    replay(&mut west, empty_tail(7, "anna".to_owned())).expect("known, and answered again");
    west.stage.check();
}

#[test]
fn a_batch_of_more_entries_than_one_may_hold_is_refused_whole() {
    let (mut east, mut west) = protected();
    for n in 0..=SHIPPED_ENTRIES {
        east.commit(secs(1), vec![plain(create(&format!("queue-{n}")))]);
    }
    let copy = west.copy_end();
    let batch = |east: &Side, most| east.batch(&copy, most).expect("it ships").expect("a batch");
    let too_many = (SHIPPED_ENTRIES..)
        .map(|most| batch(&east, most))
        .find(|it| it.entries.len() == SHIPPED_ENTRIES + 1)
        .expect("one more");
    let before = west.stage.state.digest();
    let refused = west.apply_batch(too_many).expect_err("refused");
    let (field, problem) = ("batch".to_owned(), "has too many entries".to_owned());
    assert_eq!(refused, RegionRefusal::BadField { field, problem });
    assert_eq!((west.stage.state.digest(), west.copy_end()), (before, copy.clone()));
    let whole = (1..)
        .map(|less| batch(&east, SHIPPED_ENTRIES + 8 - less))
        .find(|it| it.entries.len() == SHIPPED_ENTRIES)
        .expect("as many as may be");
    let through = whole.through;
    let reply = RegionReply::Shipped { through, promoted: false };
    assert_eq!(west.apply_batch(whole), Ok(reply));
}
