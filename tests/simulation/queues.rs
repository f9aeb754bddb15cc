//! The queues of a run, and what each is for.
//!
//! Laws: what a queue allows that a check relies on never changes in a run; only queues that
//! nothing relies on are deleted, cleared or paused.

/// A queue, and what may be done to it.
#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    /// Where its dead letters go, and after how many deliveries.
    pub dead_letters: Option<(&'static str, u32)>,
    /// Microseconds for which a deduplication key counts; `None`: messages have no keys.
    pub window: Option<u64>,
    /// How many messages it may hold.
    pub quota: Option<u64>,
    pub priorities: bool,
    pub groups: bool,
    /// Clients send to it; what stands in the others died elsewhere.
    pub is_sent_to: bool,
    pub is_paused: bool,
    pub is_cleared: bool,
    pub is_deleted: bool,
    /// Metadata and settings are replaced.
    pub is_set: bool,
    /// Clients use streams, so of some receives nobody knows whether they took something.
    pub streams: bool,
}

/// A queue of which nothing in particular is known.
const PLAIN: Plan = Plan {
    name: "",
    dead_letters: None,
    window: None,
    quota: None,
    priorities: false,
    groups: false,
    is_sent_to: true,
    is_paused: false,
    is_cleared: false,
    is_deleted: false,
    is_set: false,
    streams: false,
};

/// All queues; one stands behind those that its dead letters go to, as it is created after them.
pub const ALL: [Plan; 7] = [
    Plan { name: "gamma-grave", is_sent_to: false, ..PLAIN },
    Plan {
        name: "gamma-dead",
        dead_letters: Some(("gamma-grave", 2)),
        is_sent_to: false,
        is_set: true,
        ..PLAIN
    },
    Plan { name: "alpha", priorities: true, is_paused: true, is_set: true, ..PLAIN },
    Plan { name: "beta", window: Some(4_000_000), is_cleared: true, ..PLAIN },
    Plan { name: "gamma", dead_letters: Some(("gamma-dead", 3)), groups: true, ..PLAIN },
    Plan { name: "delta", quota: Some(20), is_deleted: true, priorities: true, ..PLAIN },
    Plan { name: "omega", streams: true, ..PLAIN },
];

/// What is known of a queue by its name.
pub fn plan(name: &str) -> &'static Plan {
    static NONE: Plan = PLAIN;
    ALL.iter().find(|plan| plan.name == name).unwrap_or(&NONE)
}

/// How often a message of a queue is given out before it dies.
pub fn max_deliveries(name: &str) -> Option<u32> {
    plan(name).dead_letters.map(|(_, most)| most)
}

/// Whether messages of this queue may have come from another.
pub fn takes_dead_letters(name: &str) -> bool {
    ALL.iter().any(|plan| plan.dead_letters.is_some_and(|(target, _)| target == name))
}
