//! Accounts: what each may hold, and what it holds.
//!
//! Laws: an account is there as long as it has queues, deleted ones that can come back, or a
//! quota; nobody creates it. Its quota is a row of its own, read by `apply`, so a change takes
//! effect with its entry. Messages and bytes are summed as queues settle: asking costs nothing.

use std::collections::BTreeMap;

use super::catalog::Catalog;
use super::check;
use super::command::AccountQuota;
use super::digest;
use super::error::Rejection;
use super::limits::{ACCOUNT_QUOTAS, PAGE};
use super::outcome::{Outcome, Reply};
use super::rows::{AccountName, AccountRow, RowKey};
use super::state::{State, Step};

/// What the queues of one account hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub messages: u64,
    pub bytes: u64,
}

/// Quotas and sums of all accounts.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    quotas: BTreeMap<String, AccountQuota>,
    /// None is empty.
    held: BTreeMap<String, Held>,
    sum: u128,
}

impl Accounts {
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    #[must_use]
    pub fn quota(&self, account: &str) -> AccountQuota {
        self.quotas.get(account).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn held(&self, account: &str) -> Held {
        self.held.get(account).copied().unwrap_or_default()
    }

    /// What the queues of an account hold has changed from `before` to `now`.
    pub fn change(&mut self, account: &str, before: Held, now: Held) {
        if before == now {
            return;
        }
        let Some(held) = self.held.get_mut(account) else {
            // Nothing was held before.
            self.held.insert(account.to_owned(), now);
            return;
        };
        held.messages = held.messages - before.messages + now.messages;
        held.bytes = held.bytes - before.bytes + now.bytes;
        if *held == Held::default() {
            self.held.remove(account);
        }
    }

    /// Sets a quota; one without limits is none.
    fn set(&mut self, account: &str, quota: AccountQuota) {
        let hash = |quota: &AccountQuota| digest::account(account, quota);
        if let Some(before) = self.quotas.remove(account) {
            self.sum = self.sum.wrapping_sub(hash(&before));
        }
        if quota != AccountQuota::default() {
            self.sum = self.sum.wrapping_add(hash(&quota));
            self.quotas.insert(account.to_owned(), quota);
        }
    }

    #[must_use]
    pub fn row(&self, name: AccountName) -> Option<AccountRow> {
        let quota = *self.quotas.get(name.as_str()?)?;
        Some(AccountRow { name, quota })
    }

    pub fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.quotas.keys().filter_map(|name| AccountName::new(name)).map(RowKey::Account)
    }

    /// Takes in a quota as it was stored; false when there is one already.
    #[must_use]
    pub fn load(&mut self, row: &AccountRow) -> bool {
        let Some(name) = row.name.as_str().filter(|name| !self.quotas.contains_key(*name)) else {
            return false;
        };
        self.set(name, row.quota);
        true
    }
}

/// Refuses a quota that lets nothing in.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn check_quota(quota: &AccountQuota) -> Result<(), Rejection> {
    let parts = [
        ("max_messages", quota.messages),
        ("max_bytes", quota.bytes),
        ("max_queues", quota.queues),
    ];
    match parts.iter().find(|(_, most)| *most == Some(0)) {
        None => Ok(()),
        Some((part, _)) => Err(Rejection::InvalidArgument {
            field: format!("quota.{part}"),
            problem: "is 0".to_owned(),
            allowed: "1 and more, or none".to_owned(),
        }),
    }
}

pub(super) fn set_quota(
    state: &mut State,
    account: &str,
    quota: AccountQuota,
    step: &mut Step,
) -> Outcome {
    check::account(account)?;
    let accounts = &mut state.catalog.accounts;
    if accounts.quotas.len() >= ACCOUNT_QUOTAS && !accounts.quotas.contains_key(account) {
        let what = "the number of accounts with a quota".to_owned();
        return Err(Rejection::LimitReached { what, limit: ACCOUNT_QUOTAS as u64 });
    }
    accounts.set(account, quota);
    step.changes.rows.extend(AccountName::new(account).map(RowKey::Account));
    Ok(Reply::AccountQuotaSet)
}

/// An account as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    pub name: String,
    pub quota: AccountQuota,
    pub queues: u64,
    /// Deleted, and kept to come back.
    pub deleted_queues: u64,
    pub held: Held,
}

impl State {
    /// What an account may hold and holds; one that nobody used holds nothing.
    #[must_use]
    pub fn account(&self, name: &str) -> AccountView {
        let catalog: &Catalog = &self.catalog;
        AccountView {
            name: name.to_owned(),
            quota: catalog.accounts.quota(name),
            queues: catalog.count_in(name) as u64,
            deleted_queues: catalog.count_deleted(name) as u64,
            held: catalog.accounts.held(name),
        }
    }

    /// Accounts behind the name `after`, by name; and whether there are more.
    #[must_use]
    pub fn accounts(&self, after: Option<&str>, max: usize) -> (Vec<AccountView>, bool) {
        use std::ops::Bound;
        let max = max.clamp(1, PAGE);
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        // Each kind gives its first ones: what is not among them is on no page before the next.
        let quotas = self.catalog.accounts.quotas.range::<str, _>(from).map(|(name, _)| name);
        let mut names: Vec<&str> = quotas.map(String::as_str).take(max + 1).collect();
        names.extend(self.catalog.accounts_after(from).take(max + 1));
        names.extend(self.catalog.accounts_with_deleted(after, max + 1));
        names.sort_unstable();
        names.dedup();
        let more = names.len() > max;
        (names.into_iter().take(max).map(|name| self.account(name)).collect(), more)
    }
}
