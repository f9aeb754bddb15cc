//! What regions agree on about region leases.

use super::pair::{ATTACHMENT, LINEAGE, Side, protected};
use crate::queue::authority::command::{Attach, RegionReply, RegionVerb};
use crate::queue::authority::lease::Leasing;
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::authority::{RegionSettings, Role};
use crate::queue::ids::{Epoch, Position, Span};

fn accept(side: &mut Side, seconds: Option<u64>) -> Result<RegionReply, RegionRefusal> {
    let lease = seconds.map(Span::from_secs);
    side.region(RegionVerb::AcceptLease { attachment: ATTACHMENT, epoch: Epoch(1), lease })
}

fn rely(side: &mut Side, seconds: Option<u64>) -> Result<RegionReply, RegionRefusal> {
    let lease = seconds.map(Span::from_secs);
    side.region(RegionVerb::RelyOnLease { attachment: ATTACHMENT, lease })
}

fn set(side: &mut Side, seconds: u64) -> Result<RegionReply, RegionRefusal> {
    let lease = Some(Span::from_secs(seconds));
    side.region(RegionVerb::Configure(RegionSettings { lease, ..RegionSettings::default() }))
}

fn promote(side: &mut Side, stopped: Option<Position>) -> Result<RegionReply, RegionRefusal> {
    side.region(RegionVerb::Promote { number: Epoch(2), accepted: true, stopped, loss: None })
}

fn leasing(side: &Side) -> Leasing {
    side.stage.state.authority().expect("in a pair").leasing
}

fn stop(side: &mut Side) -> Position {
    match side.region(RegionVerb::SetGranting { on: false }).expect("stopped") {
        RegionReply::At(at) => at,
        other => panic!("a stop has a place: {other:?}"),
    }
}

#[test]
fn each_side_does_its_part_of_an_agreement_and_no_other() {
    let (mut east, mut west) = protected();
    assert!(matches!(set(&mut east, 31), Err(RegionRefusal::BadField { .. })));
    assert!(matches!(rely(&mut east, Some(5)), Err(RegionRefusal::Mismatch { .. })), "not set");
    set(&mut east, 5).expect("set");
    assert!(matches!(accept(&mut east, Some(5)), Err(RegionRefusal::WrongRole { .. })));
    assert!(matches!(rely(&mut west, Some(5)), Err(RegionRefusal::WrongRole { .. })));
    assert_eq!(leasing(&east).in_force, None, "the other side has not agreed");
    let lease = Some(Span::from_secs(5));
    let stale = RegionVerb::AcceptLease { attachment: ATTACHMENT, epoch: Epoch(2), lease };
    assert!(matches!(west.region(stale), Err(RegionRefusal::Mismatch { .. })));
    accept(&mut west, Some(5)).expect("agreed");
    rely(&mut east, Some(5)).expect("relied on");
    assert_eq!((leasing(&east).in_force, leasing(&west).longest), (lease, lease));
    let granted = |side: &Side, seconds| {
        let authority = side.stage.state.authority().expect("in a pair");
        authority.check_grant(ATTACHMENT, Epoch(1), Span::from_secs(seconds)).is_ok()
    };
    assert!(granted(&west, 5) && granted(&west, 4));
    assert!(!granted(&west, 6) && !granted(&east, 5));
}

#[test]
fn who_relies_on_a_lease_does_not_stand_alone() {
    let (mut east, mut west) = protected();
    set(&mut east, 5).expect("set");
    accept(&mut west, Some(5)).expect("agreed");
    rely(&mut east, Some(5)).expect("relied on");
    let refused = east.region(RegionVerb::Unprotect);
    assert_eq!(refused, Err(RegionRefusal::ReliesOnLease));
    assert_eq!(east.role(), Role::Primary);
    let none = RegionSettings::default();
    east.region(RegionVerb::Configure(none)).expect("not wanted any more");
    rely(&mut east, None).expect("ended");
    east.region(RegionVerb::Unprotect).expect("alone");
}

#[test]
fn a_copy_that_was_let_go_and_follows_again_waits_for_what_its_primary_was_granted_before() {
    let long = Some(Span::from_secs(20));
    for wiped in [false, true] {
        let (mut east, mut west) = protected();
        for seconds in [20, 5] {
            set(&mut east, seconds).expect("set");
            accept(&mut west, Some(seconds)).expect("agreed");
            rely(&mut east, Some(seconds)).expect("relied on");
        }
        assert_eq!(leasing(&east).longest, long, "the primary remembers it, too");
        west.region(RegionVerb::Detach).expect("let go");
        if wiped {
            west.region(RegionVerb::Wipe).expect("wiped");
        }
        let ledger = east.stage.state.authority().expect("in a pair").ledger.clone();
        let (region, lease) = ("west".to_owned(), leasing(&east).longest);
        let (lineage, attachment) = (LINEAGE, ATTACHMENT);
        let attach = Attach { region, lineage, attachment, ledger, lease, ..Attach::default() };
        west.region(RegionVerb::Attach(attach)).expect("it follows again");
        assert_eq!(promote(&mut west, None), Err(RegionRefusal::StillGranting));
        let stopped = stop(&mut west);
        assert_eq!(leasing(&west).wait(), Some(Span(22_250_000)));
        promote(&mut west, Some(stopped)).expect("promoted");
    }
}

#[test]
fn a_promotion_waits_for_the_longest_lease_of_its_epoch() {
    let (_, mut west) = protected();
    assert_eq!(leasing(&west).wait(), None);
    accept(&mut west, Some(10)).expect("agreed");
    accept(&mut west, Some(1)).expect("agreed");
    accept(&mut west, None).expect("agreed");
    assert_eq!(leasing(&west).wait(), Some(Span(11_250_000)), "a grant of 10 s may still run");
    assert_eq!(promote(&mut west, None), Err(RegionRefusal::StillGranting));
}

#[test]
fn a_promotion_names_the_stop_that_it_waited_for() {
    let (_, mut west) = protected();
    accept(&mut west, Some(5)).expect("agreed");
    let first = stop(&mut west);
    assert_eq!(stop(&mut west), first, "it is so since then");
    assert_eq!(accept(&mut west, Some(5)), Err(RegionRefusal::StoppedGranting));
    assert_eq!(accept(&mut west, None), Err(RegionRefusal::StoppedGranting));
    // Taken back, and begun again: who waited after the first stop has not waited long enough.
    west.region(RegionVerb::SetGranting { on: true }).expect("granted again");
    assert_eq!(promote(&mut west, Some(first)), Err(RegionRefusal::StillGranting));
    let second = stop(&mut west);
    assert_eq!(promote(&mut west, Some(first)), Err(RegionRefusal::StillGranting));
    assert_eq!(promote(&mut west, None), Err(RegionRefusal::StillGranting));
    promote(&mut west, Some(second)).expect("promoted");
    let authority = west.stage.state.authority().expect("in a pair");
    assert_eq!((&authority.role, authority.leasing), (&Role::Standalone, Leasing::default()));
}
