//! Asks the other region whether it was promoted, when callers say so.
//!
//! Laws: one question is under way, and one a second begins, however many want to know. The word
//! of any node of the other region deposes this one, by the ledger that it shows; that it was not
//! promoted is believed only when all of its nodes have said so, for one that is behind does not
//! know yet. Clusters of other lineages know nothing of this pair.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::herald::{News, news};
use super::other::OtherRegion;
use super::wire;
use crate::consensus::group::Group;

/// Between the beginnings of two questions.
const EVERY: Duration = Duration::from_secs(1);
/// The nodes of the other region have this long to answer.
const WITHIN: Duration = Duration::from_secs(1);

/// Runs until the group ends.
pub async fn run(group: Group, other: OtherRegion) {
    let mut leadership = group.leadership();
    let mut asked = 0;
    loop {
        asked = tokio::select! {
            wishes = group.until_asked(asked) => wishes,
            () = async { while leadership.changed().await.is_ok() {} } => return,
        };
        let begun = Instant::now();
        let is_answered = ask(&group, &other).await;
        group.end_inquiry(asked, is_answered, begun + EVERY);
        tokio::time::sleep_until(begun + EVERY).await;
    }
}

/// Whether the other region answered: that it was promoted, which is kept then, or with all of its
/// nodes that it was not.
async fn ask(group: &Group, other: &OtherRegion) -> bool {
    let Some(own) = group.standing().map(|standing| standing.authority) else { return true };
    let deadline = Instant::now() + WITHIN;
    let endpoints = other.endpoints().iter();
    let mut words: FuturesUnordered<_> =
        endpoints.map(|endpoint| other.word_of(endpoint, deadline)).collect();
    let mut is_answered = other.is_configured();
    while let Some(word) = words.next().await {
        match word {
            Some(word) if word.lineage == wire::wide(own.lineage) => {
                if let News::ForUs(ledger) = news(&own, &word) {
                    group.keep_heard(own.lineage, &ledger).await;
                    return true;
                }
            }
            Some(_) => {}
            None => is_answered = false,
        }
    }
    is_answered
}
