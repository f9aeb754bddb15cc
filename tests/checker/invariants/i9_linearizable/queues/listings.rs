//! A listing of an account's queues shows all that were surely there and none that surely was not.
//!
//! Law: a listing is held against the queues that it shows and those that it must show. Which must
//! be shown is known from a walk through the listings and the queues in the order of T, so it takes
//! no longer than both are long.

use std::collections::{BTreeMap, BTreeSet};

use super::{Certain, States};
use crate::history::{Answer, Call, LogTime, Outcome};
use crate::queues::plan;
use crate::story::Story;

/// One listing.
struct Listing<'a> {
    number: usize,
    account: &'a str,
    deleted: bool,
    at: LogTime,
    shown: BTreeSet<&'a str>,
}

/// What is wrong with a listing: of which queue, by which call, and the words.
type Wrong<'a> = (&'a str, usize, String);

pub fn check<'a>(story: &'a Story<'_>, states: &BTreeMap<&'a str, States>) -> Vec<Wrong<'a>> {
    let mut all = listings(story);
    all.sort_by_key(|listing| listing.at);
    let mut there = Due::of(states.iter().map(|(name, state)| (*name, &state.there)));
    let comes_back = states.iter().filter(|(name, _)| plan(name).comes_back);
    let mut gone = Due::of(comes_back.map(|(name, state)| (*name, &state.gone)));
    let mut wrong = Vec::new();
    for listing in &all {
        let Listing { number, account, deleted, at, shown } = listing;
        let due = if *deleted { &mut gone } else { &mut there };
        let due = due.at(*at, account);
        for name in due.chain(shown.iter().copied()).collect::<BTreeSet<&str>>() {
            let Some((name, state)) = states.get_key_value(name) else { continue };
            if plan(name).account == *account {
                let words = state.listed(name, *at, shown.contains(name), *deleted);
                wrong.extend(words.map(|words| (*name, *number, words)));
            }
        }
    }
    wrong
}

fn listings<'a>(story: &'a Story<'_>) -> Vec<Listing<'a>> {
    let all = (0..).zip(&story.history.ops).filter_map(|(number, op)| {
        let (Call::List { account, deleted, .. }, Outcome::Ok(Answer::Listed { at, queues })) =
            (&op.call, &op.outcome)
        else {
            return None;
        };
        let shown = queues.iter().map(|name| &**name).collect();
        Some(Listing { number, account, deleted: *deleted, at: *at, shown })
    });
    all.collect()
}

/// The queues of which something is so without doubt, from one T to the next.
struct Due<'a> {
    /// From when through when it is so of which, the last first.
    coming: Vec<(LogTime, LogTime, &'a str)>,
    /// Through when it is so, of each that is begun.
    through: BTreeMap<&'a str, LogTime>,
    /// The same by account.
    open: BTreeMap<&'a str, BTreeSet<(LogTime, &'a str)>>,
}

impl<'a> Due<'a> {
    fn of<'s>(all: impl Iterator<Item = (&'a str, &'s Certain)>) -> Due<'a> {
        let times = all.flat_map(|(name, certain)| {
            certain.0.iter().map(move |(from, through)| (*from, *through, name))
        });
        let mut coming: Vec<(LogTime, LogTime, &str)> = times.collect();
        coming.sort_unstable_by(|one, other| other.cmp(one));
        Due { coming, through: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Those of an account of which it is so at this T, which is not below the one asked for before.
    fn at(&mut self, at: LogTime, account: &str) -> impl Iterator<Item = &'a str> {
        while let Some((_, through, name)) = self.coming.pop_if(|(from, _, _)| *from <= at) {
            let open = self.open.entry(plan(name).account).or_default();
            // Of one queue what began last counts.
            if let Some(before) = self.through.insert(name, through) {
                open.remove(&(before, name));
            }
            open.insert((through, name));
        }
        let open = self.open.get(account);
        let due = open.map(|open| open.range((at, "")..)).into_iter().flatten();
        due.map(|(_, name)| *name)
    }
}
