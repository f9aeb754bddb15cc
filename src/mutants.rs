//! Deliberate breaks, which the simulator must catch: a check that never failed proves nothing.
//!
//! Without the feature `mutants` every question here is answered *no* by the compiler. The
//! feature needs debug assertions, so that it cannot ship. One break at a time, named by the
//! environment variable `ZONEQ_MUTANT`.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` breaks promises on purpose: build it with debug assertions");

/// Every break of one cluster by its name, and what it does.
pub const OF_CLUSTERS: [(&str, &str); 21] = [
    ("no-fsync", "a record of the log counts as durable when it is written"),
    ("vote-unsynced", "a vote counts as durable when it is written"),
    ("no-directory-fsync", "the name of a log segment counts as durable when it is given"),
    ("stale-suffix", "after a restart the log still holds the suffix that was cut from it"),
    (
        "acknowledge-before-quorum",
        "a leader applies and answers an entry when it enters its own log",
    ),
    ("stale-leader-read", "a node that thinks it leads answers without asking a majority"),
    ("old-receipt", "any receipt of a message opens it"),
    ("sessions-forgotten", "a write that is tried again runs again"),
    ("groups-ignored", "of a group not only the first message is given out"),
    ("keys-forgotten", "a deduplication key is kept and never found again"),
    ("pause-ignored", "a paused queue gives out messages"),
    ("spent-given-out", "a message is given out more often than its queue allows"),
    ("released-receipt-kept", "a release leaves the receipt valid that it was made with"),
    ("redrive-copies", "a dead letter that is sent back stays where it was"),
    ("undelete-empties", "a queue that comes back has lost its messages"),
    ("account-quota-ignored", "an account is sent more than it may hold"),
    ("checksum-off", "a record of the log counts as whole whatever its checksum says"),
    ("local-clock", "each node applies an entry at the time of its own clock"),
    ("unordered-map", "messages are given out in the order of a hash map"),
    ("wiped-joins", "a voter that lost its disk takes part again under its id"),
    ("rows-without-sessions", "a node that starts again has forgotten the sessions"),
];

/// Every break of a pair of regions.
pub const OF_REGIONS: [(&str, &str); 8] = [
    ("last-sync-early", "the last sync time is the primary's own time"),
    ("newest-sync-on-reads", "a read at the secondary carries the primary's time, not its state's"),
    ("hole-in-shipping", "some entries are not shipped"),
    ("epoch-at-receiver-only", "entries of an epoch that is over are applied once they are let in"),
    ("no-fencing", "a primary that hears of a higher epoch goes on"),
    ("lease-ignored", "a primary that relies on a region lease acknowledges without a grant"),
    ("unseal-after-release", "what was handed over is taken back without asking"),
    (
        "replay-forgotten",
        "a tail that was sent to the new primary is sent again when that is asked",
    ),
];

/// Breaks nothing. Under every break some guards are off that would end a broken node before its
/// loss is seen from outside; under this they are off and nothing else is. What is caught under a
/// break is owed to the break only if nothing is caught under this.
pub const CONTROL: (&str, &str) = ("guards-off", "nothing is broken, only the guards are off");

/// Whether this break is chosen.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_chosen(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("ZONEQ_MUTANT").ok());
    chosen.as_deref() == Some(name)
}

/// Nothing is broken on purpose.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline]
pub const fn is_chosen(_name: &str) -> bool {
    false
}

/// Whether any break is chosen, or none with the guards off: those that end a node whose log, or a
/// peer's, ends earlier than it did.
#[must_use]
pub fn is_any_chosen() -> bool {
    OF_CLUSTERS.iter().chain(&OF_REGIONS).chain([&CONTROL]).any(|(name, _)| is_chosen(name))
}

/// The same in an order that is another one in each process.
#[must_use]
pub fn without_order<T>(items: Vec<T>) -> Vec<T> {
    let numbered: std::collections::HashMap<usize, T> = items.into_iter().enumerate().collect();
    numbered.into_values().collect()
}
