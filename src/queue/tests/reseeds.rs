//! A whole state in the place of one that went another way.

use std::collections::{BTreeMap, BTreeSet};

use super::pair::{ATTACHMENT, LINEAGE, Side, protected};
use super::regions::{begin, chunks};
use super::stage::{QUEUE, create, plain, secs, send, text};
use crate::queue::authority::command::{Attach, RegionReply, RegionVerb, SeedChunk};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::seed::contents_of;
use crate::queue::authority::{LedgerLine, RegionEpoch, Role, TailFate};
use crate::queue::command::{Command, Content};
use crate::queue::ids::{ContentId, Epoch, LogTime, Number};
use crate::queue::limits::WORK_PER_ENTRY;
use crate::queue::outcome::Applied;
use crate::queue::rows::{Row, RowKey};

pub(super) const AGAIN: u128 = 71;

/// East is fenced, with a tail and with cleared messages that wait to be freed; west goes on.
fn parted() -> (Side, Side) {
    let (mut east, mut west) = protected();
    east.commit(secs(1), vec![plain(create(QUEUE)), plain(create("old"))]);
    let to_old = Command::Send { queue: "old".to_owned(), messages: vec![text("old"); 300] };
    east.commit(secs(1), vec![plain(to_old), plain(send(vec![text("shared")]))]);
    while let Some(batch) = east.batch(&west.copy_end(), 100).expect("it ships") {
        west.apply_batch(batch).expect("applied");
    }
    // Both give the same numbers to messages of their own.
    east.commit(secs(2), vec![plain(send(vec![text("of east"); 3]))]);
    east.commit(secs(2), vec![plain(Command::Clear { queue: "old".to_owned() })]);
    east.commit(secs(2), vec![plain(create("alone"))]);
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: false,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    west.commit(secs(2), vec![plain(send(vec![text("of west"); 5]))]);
    let ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    east.region(RegionVerb::Fence { lineage: LINEAGE, ledger }).expect("fenced");
    let (region, peer) = ("west".to_owned(), "east".to_owned());
    let protect = RegionVerb::Protect { region, lineage: LINEAGE, attachment: AGAIN, peer };
    west.region(protect).expect("protected");
    assert!(east.stage.state.has_garbage());
    (east, west)
}

fn attach(east: &mut Side, west: &Side, discard_tail: bool) -> Result<RegionReply, RegionRefusal> {
    let ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    east.region(RegionVerb::Attach(Attach {
        region: "east".to_owned(),
        lineage: LINEAGE,
        attachment: AGAIN,
        ledger,
        reseed: true,
        discard_tail,
        lease: None,
    }))
}

pub(super) fn bodies(side: &Side) -> Vec<String> {
    let (found, _) = side.stage.state.tail(Number(0), None, 1_000);
    let body = |id| String::from_utf8(side.stage.contents[&id].body.to_vec()).expect("text");
    let mut all: Vec<_> =
        found.iter().map(|it| (it.shown.id.number, body(it.shown.content))).collect();
    all.sort_unstable();
    all.into_iter().map(|(_, body)| body).collect()
}

pub(super) fn with_attachment(mut verb: RegionVerb) -> RegionVerb {
    match &mut verb {
        RegionVerb::SeedBegin { attachment, .. } => *attachment = AGAIN,
        RegionVerb::SeedChunk(chunk) => chunk.attachment = AGAIN,
        _ => {}
    }
    verb
}

#[test]
fn what_a_fenced_side_has_is_whole_until_the_new_state_is_and_then_gone() {
    let (mut east, mut west) = parted();
    let unsettled = RegionRefusal::TailUnsettled { region: "east".to_owned() };
    assert_eq!(attach(&mut east, &west, false), Err(unsettled));
    let epoch = east.stage.state.authority().unwrap().epoch.clone();
    let fate = TailFate::Exported;
    east.region(RegionVerb::SettleTail { epoch, fate }).expect("noted");
    for _ in 0..2 {
        attach(&mut east, &west, false).expect("attached");
    }
    let (before, digest) = (bodies(&east), west.stage.state.digest());
    let own = east.stage.state.digest();
    east.region(with_attachment(begin(&west, 5))).expect("begun");
    west.commit(secs(3), vec![plain(send(vec![text("meanwhile")]))]);
    let all = chunks(&west, 5);
    let count = all.len() as u64;
    for chunk in all {
        east.region(with_attachment(RegionVerb::SeedChunk(chunk))).expect("taken");
        east.stage.check();
        east.stage.state = east.stage.reload();
        assert!(matches!(east.role(), Role::Fenced { .. }));
        assert_eq!((bodies(&east), east.stage.state.digest()), (before.clone(), own));
    }
    let commit = RegionVerb::SeedCommit { attachment: AGAIN, id: 5, chunks: count, digest };
    east.region(commit.clone()).expect_err("the state went on: what was given is a later one");
    assert_eq!(bodies(&east), before, "a refusal leaves no trace");
    east.stage.check();
}

#[test]
fn a_state_that_is_whole_takes_the_place_of_the_one_that_went_another_way() {
    let (mut east, mut west) = parted();
    attach(&mut east, &west, true).expect("the tail is given up");
    east.region(with_attachment(begin(&west, 5))).expect("begun");
    let (all, digest) = (chunks(&west, 5), west.stage.state.digest());
    let chunks = all.len() as u64;
    for chunk in all {
        east.region(with_attachment(RegionVerb::SeedChunk(chunk))).expect("taken");
    }
    let commit = RegionVerb::SeedCommit { attachment: AGAIN, id: 5, chunks, digest };
    assert_eq!(east.region(commit), Ok(RegionReply::Seeded { next: chunks }));
    assert_eq!((east.role(), east.stage.state.digest()), (Role::Secondary, digest));
    east.stage.check();
    assert!(!east.stage.state.has_garbage(), "what waited to be freed is gone too");
    east.stage.state = east.stage.reload();
    // What it writes from here on is beside nothing.
    west.commit(secs(3), vec![plain(send(vec![text("after")]))]);
    while let Some(batch) = west.batch(&east.copy_end(), 100).expect("it ships") {
        east.apply_batch(batch).expect("applied");
    }
    east.stage.check();
    assert_eq!(bodies(&east), bodies(&west));
    assert_eq!(east.stage.state.digest(), west.stage.state.digest());
    assert!(east.stage.state.authority().unwrap().is_complete);
}

/// What of west differs from east, as a chunk laid over it.
fn difference(east: &Side, west: &Side) -> SeedChunk {
    let live = |side: &Side| -> BTreeMap<RowKey, Row> {
        let shared =
            |key: &RowKey| !matches!(key, RowKey::Authority | RowKey::Audit(_) | RowKey::Seed(_));
        let keys = side.stage.state.row_keys().into_iter().filter(shared);
        keys.map(|key| (key, side.stage.state.row(&key).expect("a row"))).collect()
    };
    let (has, wanted) = (live(east), live(west));
    let ids = |rows: &BTreeMap<RowKey, Row>| -> BTreeSet<ContentId> {
        rows.values().flat_map(contents_of).collect()
    };
    let Role::Fenced { fork: Some(fork), .. } = east.role() else { panic!("not fenced") };
    let known = ids(&has);
    let lacks = |id: &ContentId| id.0 >= fork.next_number || !known.contains(id);
    let contents = ids(&wanted).into_iter().filter(lacks);
    let rows: Vec<Row> = wanted
        .iter()
        .filter(|(key, row)| has.get(key) != Some(row))
        .map(|(_, row)| row.clone())
        .collect();
    SeedChunk {
        attachment: AGAIN,
        id: 5,
        number: 0,
        rows,
        contents: contents.map(|id| (id, west.stage.contents[&id].clone())).collect(),
        removed: has.keys().filter(|key| !wanted.contains_key(key)).copied().collect(),
    }
}

#[test]
fn what_differs_is_laid_over_the_state_that_went_another_way() {
    let (mut east, mut west) = parted();
    attach(&mut east, &west, true).expect("attached");
    let chunk = difference(&east, &west);
    assert!(!chunk.removed.is_empty() && !chunk.rows.is_empty());
    let base = Some(east.stage.state.digest());
    let mut verb = with_attachment(begin(&west, 5));
    if let RegionVerb::SeedBegin { base: over, .. } = &mut verb {
        *over = Some(crate::queue::ids::Digest(1));
    }
    let wrong = RegionRefusal::Mismatch { what: "the state to be patched".to_owned() };
    assert_eq!(east.region(verb.clone()), Err(wrong), "it is for another state");
    if let RegionVerb::SeedBegin { base: over, .. } = &mut verb {
        *over = base;
    }
    east.region(verb).expect("begun");
    let digest = west.stage.state.digest();
    east.region(RegionVerb::SeedChunk(chunk)).expect("taken");
    east.stage.check();
    east.stage.state = east.stage.reload();
    let commit = |digest| RegionVerb::SeedCommit { attachment: AGAIN, id: 5, chunks: 1, digest };
    let before = (bodies(&east), east.role());
    let other = commit(crate::queue::ids::Digest(1));
    assert!(matches!(east.region(other), Err(RegionRefusal::SeedBroken { .. })));
    assert_eq!((bodies(&east), east.role()), before, "a refusal leaves no trace");
    assert_eq!(east.region(commit(digest)), Ok(RegionReply::Seeded { next: 1 }));
    assert_eq!((east.role(), east.stage.state.digest()), (Role::Secondary, digest));
    east.stage.check();
    assert_eq!(bodies(&east), bodies(&west), "of numbers that both gave, the new primary's");
    west.commit(secs(3), vec![plain(send(vec![text("after")]))]);
    while let Some(batch) = west.batch(&east.copy_end(), 100).expect("it ships") {
        east.apply_batch(batch).expect("applied");
    }
    east.stage.reclaim_all();
    east.stage.check();
    assert_eq!(bodies(&east), bodies(&west));
}

#[test]
fn who_waits_for_a_state_may_be_let_go_and_another_one_begun() {
    let (mut east, west) = parted();
    attach(&mut east, &west, true).expect("attached");
    let (before, own) = (bodies(&east), east.stage.state.digest());
    east.region(with_attachment(begin(&west, 5))).expect("begun");
    let all = chunks(&west, 5);
    for chunk in &all[..2] {
        east.region(with_attachment(RegionVerb::SeedChunk(chunk.clone()))).expect("taken");
    }
    east.region(RegionVerb::Detach).expect("let go");
    let stranger = east.region(with_attachment(RegionVerb::SeedChunk(all[2].clone())));
    assert_eq!(stranger, Err(RegionRefusal::Mismatch { what: "the attachment".to_owned() }));
    attach(&mut east, &west, false).expect("its tail was given up before");
    let other = east.region(with_attachment(begin(&west, 6)));
    assert_eq!(other, Err(RegionRefusal::OtherSeed), "what is left of the first goes before");
    assert_eq!(east.region(RegionVerb::SeedFree), Ok(RegionReply::Seeded { next: 0 }));
    east.stage.check();
    assert_eq!((bodies(&east), east.stage.state.digest()), (before, own));
    let begun = east.region(with_attachment(begin(&west, 6)));
    assert_eq!(begun, Ok(RegionReply::Seeded { next: 0 }));
}

/// Contents that only a seed has.
fn contents_of_a_seed(ids: std::ops::Range<u64>) -> Vec<(ContentId, Content)> {
    ids.map(|id| (ContentId(1_000_000 + id), text("of a seed").content)).collect()
}

fn chunk_of(number: u64, contents: Vec<(ContentId, Content)>) -> RegionVerb {
    let (rows, removed) = (Vec::new(), Vec::new());
    let attachment = ATTACHMENT;
    RegionVerb::SeedChunk(SeedChunk { attachment, id: 5, number, rows, contents, removed })
}

/// West follows east, and a state in the place of its copy is begun.
fn copy_that_is_given_a_state() -> (Side, Side) {
    let (mut east, mut west) = protected();
    east.commit(secs(1), vec![plain(create(QUEUE)), plain(send(vec![text("shared")]))]);
    while let Some(batch) = east.batch(&west.copy_end(), 100).expect("it ships") {
        west.apply_batch(batch).expect("applied");
    }
    east.commit(secs(2), vec![plain(send(vec![text("later")]))]);
    west.region(begin(&east, 5)).expect("begun");
    (east, west)
}

fn touched(applied: &Applied) -> usize {
    applied.changes.rows.len() + applied.changes.contents.len()
}

#[test]
fn what_a_promoted_side_was_given_of_a_state_is_freed_in_bounded_steps() {
    const CHUNKS: u64 = 20_000;
    let (_, mut west) = copy_that_is_given_a_state();
    for number in 0..CHUNKS {
        west.region(chunk_of(number, contents_of_a_seed(number..number + 1))).expect("taken");
    }
    // One of many contents is freed alone.
    let many = contents_of_a_seed(CHUNKS..CHUNKS + WORK_PER_ENTRY as u64 + 5);
    west.region(chunk_of(CHUNKS, many)).expect("taken");
    let promote =
        RegionVerb::Promote { number: Epoch(2), accepted: true, stopped: None, loss: None };
    let promoted = west.commit(LogTime(0), vec![super::pair::region(promote)]);
    assert!(touched(&promoted) < 10, "{} at once", touched(&promoted));
    assert!(west.stage.state.has_abandoned_seed() && west.stage.state.is_writable());
    let mut steps = 0;
    while west.stage.state.has_abandoned_seed() {
        let freed = west.commit(LogTime(0), vec![super::pair::region(RegionVerb::SeedFree)]);
        assert!(touched(&freed) <= 2 * WORK_PER_ENTRY, "{} at once", touched(&freed));
        steps += 1;
        if steps % 10 == 0 {
            // A restart, or another leader, goes on with it.
            west.stage.check();
            west.stage.state = west.stage.reload();
            west.commit(secs(9), vec![plain(send(vec![text("meanwhile")]))]);
        }
    }
    assert!((CHUNKS / WORK_PER_ENTRY as u64..CHUNKS / 100).contains(&steps), "{steps} steps");
    assert!(west.stage.beside.is_empty(), "all is freed");
    assert_eq!(bodies(&west)[..2], ["shared".to_owned(), "meanwhile".to_owned()]);
    west.stage.check();
    let nothing = west.commit(LogTime(0), vec![super::pair::region(RegionVerb::SeedFree)]);
    assert_eq!(touched(&nothing), 0);
}

#[test]
fn a_state_that_is_under_way_is_not_freed_and_none_begins_over_what_is_left_of_one() {
    let (mut east, mut west) = copy_that_is_given_a_state();
    for number in 0..3 {
        let many = contents_of_a_seed(number * 1_000..(number + 1) * 1_000);
        west.region(chunk_of(number, many)).expect("taken");
    }
    assert_eq!(west.region(RegionVerb::SeedFree), Ok(RegionReply::Seeded { next: 3 }));
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: true,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    assert_eq!(west.region(RegionVerb::SeedFree), Ok(RegionReply::Seeded { next: 2 }));
    // Fenced before all was freed: what is left must go before another state comes.
    let ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    east.region(RegionVerb::Fence { lineage: LINEAGE, ledger }).expect("fenced");
    let mut ledger = west.stage.state.authority().expect("in a pair").ledger.clone();
    let epoch = RegionEpoch { number: Epoch(3), region: "east".to_owned() };
    ledger.push(LedgerLine { epoch, ..LedgerLine::default() });
    let told = RegionVerb::Fence { lineage: LINEAGE, ledger: ledger.clone() };
    west.region(told).expect("fenced");
    west.region(RegionVerb::Attach(Attach {
        region: "west".to_owned(),
        lineage: LINEAGE,
        attachment: AGAIN,
        ledger: ledger.clone(),
        reseed: true,
        discard_tail: true,
        lease: None,
    }))
    .expect("attached");
    let mut verb = with_attachment(begin(&east, 6));
    if let RegionVerb::SeedBegin { ledger: asked, .. } = &mut verb {
        *asked = ledger;
    }
    assert_eq!(west.region(verb.clone()), Err(RegionRefusal::OtherSeed));
    for left in [1, 0] {
        // In any role: nothing else frees it here.
        assert_eq!(west.region(RegionVerb::SeedFree), Ok(RegionReply::Seeded { next: left }));
        west.stage.check();
    }
    assert_eq!(west.region(verb), Ok(RegionReply::Seeded { next: 0 }));
}
