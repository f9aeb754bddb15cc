//! How far the log may be purged. Pure: who holds it back, within which budget.
//!
//! Laws: nothing after the position that is durable in the tables is ever purged. Everyone else
//! who needs old entries holds them within a budget of bytes; when it is spent the log goes,
//! and the answer names who must be seeded by a snapshot instead.

/// Who needs old entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The voter that is furthest behind.
    SlowestVoter,
    /// The other region: entries not yet acknowledged there.
    Shipping,
    /// Where two regions parted, until they are protected again.
    Fork,
    /// A snapshot in flight, whose receiver goes on from the log.
    Snapshot,
}

/// Entries after `after` are needed, as long as keeping them costs at most `budget_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub holder: Holder,
    /// `None` needs all from the first entry on.
    pub after: Option<u64>,
    pub budget_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Purge up to and with this index; `None` purges nothing.
    pub through: Option<u64>,
    /// Claims that are given up, for a metric and `doctor`.
    pub spent: Vec<Claim>,
}

/// Decides. `durable` is the last index whose effect is durable in the tables; `bytes_after`
/// says what the log after an index takes on disk.
pub fn horizon(
    durable: Option<u64>,
    claims: &[Claim],
    bytes_after: impl Fn(Option<u64>) -> u64,
) -> Horizon {
    let (held, spent): (Vec<&Claim>, Vec<&Claim>) = claims
        .iter()
        // What the tables need stays anyway, and costs nobody's budget.
        .partition(|claim| {
            claim.after >= durable || bytes_after(claim.after) <= claim.budget_bytes
        });
    let through = held.iter().map(|claim| claim.after).fold(durable, Option::min);
    Horizon { through, spent: spent.into_iter().copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of entries 0..1000, each of 10 bytes.
    fn bytes_after(index: Option<u64>) -> u64 {
        10 * (999 - index.map_or(0, |index| index.min(999)))
    }

    fn claim(holder: Holder, after: u64, budget_bytes: u64) -> Claim {
        Claim { holder, after: Some(after), budget_bytes }
    }

    #[test]
    fn the_log_is_kept_for_the_one_furthest_behind() {
        let voter = claim(Holder::SlowestVoter, 700, 5000);
        let shipping = claim(Holder::Shipping, 600, 5000);
        let found = horizon(Some(900), &[voter, shipping], bytes_after);
        assert_eq!(found, Horizon { through: Some(600), spent: vec![] });
        assert_eq!(horizon(Some(500), &[voter], bytes_after).through, Some(500));
        assert_eq!(horizon(Some(900), &[], bytes_after).through, Some(900));
    }

    #[test]
    fn what_is_not_durable_in_the_tables_is_never_purged() {
        let ahead = claim(Holder::SlowestVoter, 999, 0);
        assert_eq!(horizon(None, &[ahead], bytes_after).through, None);
        let found = horizon(Some(10), &[ahead], bytes_after);
        assert_eq!(found, Horizon { through: Some(10), spent: vec![] });
    }

    #[test]
    fn each_holder_has_its_own_budget_and_a_spent_one_is_named() {
        let slow = claim(Holder::SlowestVoter, 100, 5000);
        let shipping = claim(Holder::Shipping, 300, 7000);
        let found = horizon(Some(900), &[slow, shipping], bytes_after);
        assert_eq!(found, Horizon { through: Some(300), spent: vec![slow] });
        let exactly = claim(Holder::Fork, 499, 5000);
        assert_eq!(horizon(Some(900), &[exactly], bytes_after).through, Some(499));
    }

    #[test]
    fn one_that_needs_all_holds_all_within_its_budget() {
        let all = Claim { holder: Holder::Snapshot, after: None, budget_bytes: 1 << 20 };
        assert_eq!(horizon(Some(900), &[all], bytes_after).through, None);
        let poor = Claim { budget_bytes: 1, ..all };
        assert_eq!(horizon(Some(900), &[poor], bytes_after).through, Some(900));
    }
}
