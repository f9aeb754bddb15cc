//! The queues of a run, and what each is for.
//!
//! Laws: what a queue allows that a check relies on never changes in a run; only queues that
//! nothing relies on are deleted for good, cleared or paused. A queue that comes back is made
//! once, and after that its name is only taken from it and given back.

/// The account of those who name none.
pub const USUAL_ACCOUNT: &str = "default";
/// An account of which the quota changes.
pub const TENANT: &str = "tenant";
/// Microseconds for which a queue can come back where its plan says nothing.
pub const USUAL_WINDOW: u64 = 3_600_000_000;
/// Messages that one peek shows at most.
pub const PEEKED_AT_ONCE: u32 = 20;
/// Microseconds that a redriven message lives: its target's usual time.
pub const USUAL_TTL: u64 = 7 * 24 * 3_600_000_000;

/// A queue, and what may be done to it.
#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub account: &'static str,
    /// How often it is chosen, beside others.
    pub share: u64,
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
    /// Deleted, and always brought back.
    pub comes_back: bool,
    /// Microseconds for which it can come back.
    pub undelete_window: u64,
    /// Its dead letters are sent back, and where that may be besides where each came from.
    pub redriven: bool,
    /// Metadata and settings are replaced.
    pub is_set: bool,
    /// Clients use streams, so of some receives nobody knows whether they took something.
    pub streams: bool,
}

/// A queue of which nothing in particular is known.
const PLAIN: Plan = Plan {
    name: "",
    account: USUAL_ACCOUNT,
    share: 2,
    dead_letters: None,
    window: None,
    quota: None,
    priorities: false,
    groups: false,
    is_sent_to: true,
    is_paused: false,
    is_cleared: false,
    is_deleted: false,
    comes_back: false,
    undelete_window: USUAL_WINDOW,
    redriven: false,
    is_set: false,
    streams: false,
};

/// All queues; one stands behind those that its dead letters go to, as it is created after them,
/// and one to which dead letters are sent back behind those that they are sent back from.
pub const ALL: [Plan; 12] = [
    Plan { name: "gamma-grave", is_sent_to: false, redriven: true, ..PLAIN },
    Plan {
        name: "gamma-dead",
        share: 3,
        dead_letters: Some(("gamma-grave", 2)),
        is_sent_to: false,
        is_set: true,
        redriven: true,
        ..PLAIN
    },
    Plan { name: "alpha", priorities: true, is_paused: true, is_set: true, ..PLAIN },
    Plan { name: "beta", window: Some(4_000_000), is_cleared: true, ..PLAIN },
    Plan { name: "gamma", share: 4, dead_letters: Some(("gamma-dead", 3)), groups: true, ..PLAIN },
    Plan {
        name: "delta",
        quota: Some(20),
        is_deleted: true,
        undelete_window: 1_000_000,
        priorities: true,
        ..PLAIN
    },
    Plan { name: "sigma", comes_back: true, priorities: true, ..PLAIN },
    Plan { name: ASIDE, share: 1, quota: Some(6), is_sent_to: false, ..PLAIN },
    Plan { name: "omega", streams: true, ..PLAIN },
    Plan { name: "tau", share: 1, account: TENANT, ..PLAIN },
    Plan { name: "upsilon", share: 1, account: TENANT, window: Some(4_000_000), ..PLAIN },
    Plan { name: SHORT, share: 0, ..PLAIN },
];

/// A small queue to which dead letters may be sent, wherever they came from.
pub const ASIDE: &str = "aside";

/// A queue that a few clients of its own call, a few times each, and nobody else: of all these
/// calls an order is searched for that explains them.
pub const SHORT: &str = "short";

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

/// Whether messages of this queue may be dead letters that were sent back.
pub fn takes_redriven(name: &str) -> bool {
    let from = |plan: &Plan| plan.dead_letters.is_some_and(|(to, _)| self::plan(to).redriven);
    name == ASIDE || from(plan(name))
}
