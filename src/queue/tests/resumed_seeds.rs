//! A state that several give, one after the other, each from a later view.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::pair::{ATTACHMENT, Side, protect, protected};
use super::regions::{begin, chunks};
use super::reseeds::bodies;
use super::stage::{QUEUE, create, delete, plain, secs, send, text};
use crate::queue::authority::Role;
use crate::queue::authority::command::{RegionReply, RegionVerb, SeedChunk};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::seed::contents_of;
use crate::queue::command::{Command, Update};
use crate::queue::ids::{ContentId, Epoch};
use crate::queue::rows::{Row, RowKey};

/// West with messages, of which some wait to be freed; east is empty and follows it.
fn west_and_an_empty_east() -> (Side, Side) {
    let (_, mut west) = protected();
    west.region(RegionVerb::Promote {
        number: Epoch(2),
        accepted: true,
        stopped: None,
        loss: None,
    })
    .expect("promoted");
    for name in [QUEUE, "second", "third"] {
        west.commit(secs(1), vec![plain(create(name))]);
    }
    for at in 0..20 {
        change(&mut west, at);
    }
    let mut east = Side::new("east");
    protect(&mut west, &mut east);
    (west, east)
}

/// One of a few things that happen to messages and queues.
fn change(west: &mut Side, what: u8) {
    let now = secs(2 + u64::from(what));
    let command = match what % 9 {
        0..=2 => send(vec![text(&format!("message {what}")); 4]),
        3 => {
            let granted = west.stage.receive(3, None);
            delete(granted.iter().take(2).map(|it| (it.id, it.receipt)).collect())
        }
        4 => {
            let granted = west.stage.receive(1, None);
            let Some(it) = granted.first() else { return };
            let content = Some(text("updated").content);
            let (queue, visibility) = (QUEUE.to_owned(), None);
            Command::Update(Update { queue, id: it.id, receipt: it.receipt, visibility, content })
        }
        5 => Command::Send { queue: "second".to_owned(), messages: vec![text("second"); 300] },
        6 => Command::Clear { queue: "second".to_owned() },
        7 => Command::DeleteQueue { name: "third".to_owned() },
        _ => create("third"),
    };
    west.commit(now, vec![plain(command)]);
    if what.is_multiple_of(4) {
        let freed = west.stage.state.reclaim(100);
        west.stage.record(&freed);
    }
}

fn resume(west: &Side, id: u128, of: u128) -> RegionVerb {
    let mut verb = begin(west, id);
    if let RegionVerb::SeedBegin { resumes, .. } = &mut verb {
        *resumes = Some(of);
    }
    verb
}

/// What the seed under way lacks of west's state: contents, rows, and keys that are no more.
fn lacking(east: &Side, west: &Side, id: u128) -> SeedChunk {
    let mut has: BTreeMap<RowKey, Row> = BTreeMap::new();
    let under_way = east.stage.state.seed_under_way(|row| {
        has.insert(row.key(), row.clone());
    });
    let (seeding, given) = under_way.expect("a seed is under way");
    let given: BTreeSet<ContentId> = given.into_iter().collect();
    let shared =
        |key: &RowKey| !matches!(key, RowKey::Authority | RowKey::Audit(_) | RowKey::Seed(_));
    let keys = west.stage.state.row_keys().into_iter().filter(shared);
    let wanted: BTreeMap<RowKey, Row> =
        keys.map(|key| (key, west.stage.state.row(&key).expect("a row"))).collect();
    let contents = wanted.values().flat_map(contents_of).filter(|id| !given.contains(id));
    SeedChunk {
        attachment: ATTACHMENT,
        id,
        number: seeding.next,
        contents: contents.map(|id| (id, west.stage.contents[&id].clone())).collect(),
        rows: wanted.values().filter(|row| has.get(&row.key()) != Some(row)).cloned().collect(),
        removed: has.keys().filter(|key| !wanted.contains_key(key)).copied().collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_several_give_one_after_the_other_is_the_state_of_the_last(
        first in 0..12_usize,
        rounds in prop::collection::vec(
            (prop::collection::vec(0..45_u8, 0..8), 0..40_usize, 0..40_usize, any::<bool>()),
            1..4,
        ),
    ) {
        let (mut west, mut east) = west_and_an_empty_east();
        east.region(begin(&west, 1)).expect("begun");
        for chunk in chunks(&west, 1).into_iter().take(first) {
            east.region(RegionVerb::SeedChunk(chunk)).expect("taken");
        }
        let mut id = 1;
        for (changes, contents, rows, restart) in rounds {
            for what in changes {
                change(&mut west, what);
            }
            let before = id;
            id += 1;
            east.region(resume(&west, id, before)).expect("gone on with");
            let all = lacking(&east, &west, id);
            let mut part = all.clone();
            part.contents.truncate(contents);
            part.rows.truncate(rows);
            let late = SeedChunk { id: before, ..part.clone() };
            prop_assert_eq!(
                east.region(RegionVerb::SeedChunk(late)), Err(RegionRefusal::OtherSeed)
            );
            east.region(RegionVerb::SeedChunk(part)).expect("taken");
            east.stage.check();
            if restart {
                east.stage.state = east.stage.reload();
            }
        }
        let last = lacking(&east, &west, id);
        let (chunks, digest) = (last.number + 1, west.stage.state.digest());
        let lacks_contents = !last.contents.is_empty();
        let commit = RegionVerb::SeedCommit { attachment: ATTACHMENT, id, chunks, digest };
        let mut bare = last.clone();
        bare.contents.clear();
        let mut other = Side::new("east");
        other.stage.state = east.stage.state.clone();
        let rest = east.region(RegionVerb::SeedChunk(last));
        prop_assert_eq!(rest, Ok(RegionReply::Seeded { next: chunks }));
        prop_assert_eq!(east.region(commit.clone()), Ok(RegionReply::Seeded { next: chunks }));
        prop_assert_eq!(east.stage.state.digest(), digest);
        prop_assert_eq!(east.role(), Role::Secondary);
        east.stage.check();
        prop_assert_eq!(bodies(&east), bodies(&west));
        prop_assert!(east.stage.beside.is_empty());
        // Without a body that it names the state is not taken.
        other.stage.state.apply(&entry_of(&other, RegionVerb::SeedChunk(bare)));
        let applied = other.stage.state.apply(&entry_of(&other, commit));
        prop_assert_eq!(applied.outcomes[0].is_err(), lacks_contents, "{:?}", applied.outcomes);
    }
}

fn entry_of(side: &Side, verb: RegionVerb) -> crate::queue::command::Entry {
    let position = crate::queue::ids::Position { term: 9, node: 1, index: 1_000 };
    let (stamp, epoch) = (secs(0), side.stage.state.epoch());
    crate::queue::command::Entry {
        position,
        stamp,
        epoch,
        commands: vec![super::pair::region(verb)],
    }
}

#[test]
fn only_a_state_of_the_same_history_and_base_is_gone_on_with() {
    let (west, mut east) = west_and_an_empty_east();
    assert_eq!(east.region(resume(&west, 2, 1)), Err(RegionRefusal::OtherSeed), "none is");
    east.region(begin(&west, 1)).expect("begun");
    east.region(RegionVerb::SeedChunk(chunks(&west, 1)[0].clone())).expect("taken");
    assert_eq!(east.region(resume(&west, 2, 9)), Err(RegionRefusal::OtherSeed));
    let mut verb = resume(&west, 2, 1);
    if let RegionVerb::SeedBegin { ledger, .. } = &mut verb {
        ledger.last_mut().expect("a line").next_number += 1;
    }
    let refused = east.region(verb).expect_err("another history");
    assert!(matches!(refused, RegionRefusal::Mismatch { .. }), "{refused}");
    let mut verb = resume(&west, 2, 1);
    if let RegionVerb::SeedBegin { base, .. } = &mut verb {
        *base = Some(east.stage.state.digest());
    }
    let refused = east.region(verb).expect_err("its chunks are all");
    assert!(matches!(refused, RegionRefusal::Mismatch { .. }), "{refused}");
    for _ in 0..2 {
        let resumed = east.region(resume(&west, 2, 1));
        assert_eq!(resumed, Ok(RegionReply::Seeded { next: 1 }), "once, or twice");
    }
    let chunk = chunks(&west, 1)[1].clone();
    assert_eq!(east.region(RegionVerb::SeedChunk(chunk)), Err(RegionRefusal::OtherSeed));
}
