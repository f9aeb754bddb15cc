//! Copies that no log goes on from: they are given a state, and are what they were until then.

use super::pair::{ATTACHMENT, LINEAGE, Side, protected};
use super::regions::{begin, chunks};
use super::reseeds::{AGAIN, bodies, with_attachment};
use super::stage::{QUEUE, create, plain, secs, send, text};
use crate::queue::authority::command::{Attach, RegionReply, RegionVerb};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{RegionEpoch, Role};
use crate::queue::ids::{Epoch, Position, Span};

fn ship_all(from: &Side, to: &mut Side) {
    while let Some(batch) = from.batch(&to.copy_end(), 100).expect("it ships") {
        to.apply_batch(batch).expect("applied");
    }
}

/// West has what east sent first, and nothing of what it sent since.
fn far_behind() -> (Side, Side) {
    let (mut east, mut west) = protected();
    east.commit(secs(1), vec![plain(create(QUEUE))]);
    east.commit(secs(1), vec![plain(send(vec![text("old")]))]);
    ship_all(&east, &mut west);
    east.commit(secs(2), vec![plain(send(vec![text("new one"), text("new two")]))]);
    (east, west)
}

/// Gives all but the commit, with a restart after each chunk; answers the commit.
fn give(from: &Side, to: &mut Side, with: fn(RegionVerb) -> RegionVerb) -> RegionVerb {
    to.region(with(begin(from, 5))).expect("begun");
    let all = chunks(from, 5);
    let count = all.len() as u64;
    for chunk in all {
        to.region(with(RegionVerb::SeedChunk(chunk))).expect("taken");
        to.stage.check();
        to.stage.state = to.stage.reload();
    }
    let digest = from.stage.state.digest();
    RegionVerb::SeedCommit { attachment: ATTACHMENT, id: 5, chunks: count, digest }
}

fn promote() -> RegionVerb {
    RegionVerb::Promote { number: Epoch(2), accepted: false, stopped: None, loss: None }
}

#[test]
fn a_copy_that_is_far_behind_is_given_a_state_and_goes_on_from_there() {
    let (mut east, mut west) = far_behind();
    let lease = Some(Span::from_secs(5));
    let accept = RegionVerb::AcceptLease { attachment: ATTACHMENT, epoch: Epoch(1), lease };
    west.region(accept).expect("agreed");
    let commit = give(&east, &mut west, |verb| verb);
    assert_eq!(bodies(&west), ["old"], "until all is there it is what it was");
    let late = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    assert_eq!(west.apply_batch(late), Err(RegionRefusal::Seeding));
    west.region(commit).expect("taken");
    west.stage.check();
    assert_eq!(bodies(&west), ["old", "new one", "new two"]);
    assert_eq!(west.stage.state.digest(), east.stage.state.digest());
    let authority = west.stage.state.authority().expect("in a pair").clone();
    assert_eq!((authority.role, authority.is_complete), (Role::Secondary, true));
    assert_eq!(authority.leasing.longest, lease, "what was granted in the epoch may still run");
    east.commit(secs(3), vec![plain(send(vec![text("after")]))]);
    ship_all(&east, &mut west);
    assert_eq!(bodies(&west), bodies(&east));
    west.stage.check();
}

#[test]
fn a_copy_can_be_promoted_while_a_state_is_under_way_to_it() {
    let (east, mut west) = far_behind();
    let commit = give(&east, &mut west, |verb| verb);
    west.region(promote()).expect("promoted");
    west.stage.check();
    let authority = west.stage.state.authority().expect("in a pair").clone();
    assert_eq!((authority.role, authority.seeding), (Role::Standalone, None));
    assert_eq!(bodies(&west), ["old"]);
    west.region(commit).expect_err("it follows nobody any more");
    west.commit(secs(3), vec![plain(send(vec![text("of west")]))]);
    west.stage.check();
    west.stage.state = west.stage.reload();
    assert_eq!(bodies(&west), ["old", "of west"]);
}

#[test]
fn no_state_takes_a_copy_back() {
    let (mut east, mut west) = far_behind();
    let early = begin(&east, 5);
    east.commit(secs(3), vec![plain(send(vec![text("after")]))]);
    ship_all(&east, &mut west);
    let refused = west.region(early).expect_err("the copy has more");
    assert!(matches!(refused, RegionRefusal::Mismatch { .. }), "{refused}");
    // Nor does one of an epoch that is over.
    let RegionVerb::SeedBegin { mut ledger, .. } = begin(&east, 6) else { panic!("no beginning") };
    ledger[0].epoch.number = Epoch(0);
    let RegionVerb::SeedBegin { attachment, id, position, replayed, base, resumes, .. } =
        begin(&east, 6)
    else {
        panic!("no beginning")
    };
    let stale = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    let refused = west.region(stale).expect_err("an old epoch");
    assert!(matches!(refused, RegionRefusal::StaleEpoch { .. }), "{refused}");
}

/// East has handed over to west, which stood alone before east followed it.
fn heir_alone() -> (Side, Side, Position) {
    let (mut east, mut west) = far_behind();
    let Ok(RegionReply::At(seal)) = east.region(RegionVerb::Seal) else { panic!("not sealed") };
    let to = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    let release = RegionVerb::Release { to, seal, acknowledged: seal };
    let Ok(RegionReply::At(end)) = east.region(release) else { panic!("not released") };
    let last = east.batch(&west.copy_end(), 100).expect("it ships").expect("a batch");
    west.apply_batch(last).expect("applied");
    assert_eq!(west.role(), Role::Primary);
    west.region(RegionVerb::Unprotect).expect("alone");
    west.commit(secs(3), vec![plain(send(vec![text("of the heir")]))]);
    let (region, peer) = ("west".to_owned(), "east".to_owned());
    let protect = RegionVerb::Protect { region, lineage: LINEAGE, attachment: AGAIN, peer };
    west.region(protect).expect("protected");
    (east, west, end)
}

fn attach(heir: &Side) -> Attach {
    let ledger = heir.stage.state.authority().expect("in a pair").ledger.clone();
    let (region, attachment) = ("east".to_owned(), AGAIN);
    Attach { region, lineage: LINEAGE, attachment, ledger, ..Attach::default() }
}

#[test]
fn who_has_handed_over_is_attached_to_its_heir_though_that_stood_alone() {
    let (mut east, west, end) = heir_alone();
    for _ in 0..2 {
        east.region(RegionVerb::Attach(attach(&west))).expect("attached");
    }
    assert!(matches!(east.role(), Role::Released { at, .. } if at == end));
    ship_all(&west, &mut east);
    assert_eq!((east.role(), bodies(&east)), (Role::Secondary, bodies(&west)));
    east.stage.check();
}

#[test]
fn who_has_handed_over_is_attached_to_nobody_else() {
    let (mut east, west, _) = heir_alone();
    let mut other = attach(&west);
    other.ledger.last_mut().expect("a line").previous = None;
    let refused = east.region(RegionVerb::Attach(other)).expect_err("it begins elsewhere");
    assert!(matches!(refused, RegionRefusal::WrongRole { .. }), "{refused}");
    let RegionVerb::SeedBegin { attachment, id, position, mut ledger, replayed, base, resumes } =
        begin(&west, 5)
    else {
        panic!("no beginning")
    };
    ledger.last_mut().expect("a line").previous = None;
    let begin = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    let refused = east.region(begin).expect_err("nor is it given the state of another");
    assert!(matches!(refused, RegionRefusal::Mismatch { .. }), "{refused}");
}

#[test]
fn who_has_handed_over_is_given_the_state_of_its_heir_or_takes_back_without_it() {
    let with = |verb| match verb {
        RegionVerb::SeedCommit { id, chunks, digest, .. } => {
            RegionVerb::SeedCommit { attachment: AGAIN, id, chunks, digest }
        }
        other => with_attachment(other),
    };
    let (mut east, west, _) = heir_alone();
    east.region(RegionVerb::Attach(attach(&west))).expect("attached");
    let commit = give(&west, &mut east, with);
    east.region(with(commit)).expect("taken");
    assert_eq!((east.role(), bodies(&east)), (Role::Secondary, bodies(&west)));
    assert!(east.stage.state.authority().expect("in a pair").is_complete);
    east.stage.check();

    let (mut east, west, _) = heir_alone();
    east.region(RegionVerb::Attach(attach(&west))).expect("attached");
    give(&west, &mut east, with);
    east.region(RegionVerb::TakeBack { number: Epoch(3) }).expect("taken back");
    let authority = east.stage.state.authority().expect("in a pair").clone();
    assert_eq!((authority.role, authority.seeding), (Role::Primary, None));
    assert_eq!(bodies(&east), ["old", "new one", "new two"]);
    east.stage.check();
}
