//! Accounts: what each may hold and holds.

use std::time::Duration;

use super::builder::Client;
use super::call::run;
use super::error::ClientError;
use super::types::{self, Durability};
use super::verbs::{call, service};
use crate::proto::queue::v1 as pb;

/// How much the queues of an account may hold together; `None` = no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountQuota {
    pub max_messages: Option<u64>,
    /// Bodies and headers.
    pub max_bytes: Option<u64>,
    pub max_queues: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub quota: AccountQuota,
    pub queues: u64,
    /// Deleted, and kept to come back; they count against no quota.
    pub deleted_queues: u64,
    pub messages: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountPage {
    pub accounts: Vec<Account>,
    /// `None` on the last page.
    pub next_page_token: Option<String>,
}

impl Client {
    /// Replaces what this client's account may hold. What is there stays, however small it is.
    pub async fn set_account_quota(&self, quota: AccountQuota) -> Result<Durability, ClientError> {
        let request = pb::SetAccountQuotaRequest {
            account: self.shared.account.clone(),
            quota: Some(pb::AccountQuota {
                max_messages: quota.max_messages.unwrap_or(0),
                max_bytes: quota.max_bytes.unwrap_or(0),
                max_queues: quota.max_queues.unwrap_or(0),
            }),
            session: None,
        };
        let answer = call!(self, self.write_plan(), set_account_quota, session request)?;
        Ok(types::durability(answer.durability))
    }

    /// What this client's account may hold and holds.
    pub async fn account_holdings(&self) -> Result<Account, ClientError> {
        self.account_holdings_within(None).await
    }

    /// As [`Client::account_holdings`]; any node may answer, from a state at most this old. `None`
    /// = the newest.
    pub async fn account_holdings_within(
        &self,
        max_staleness: Option<Duration>,
    ) -> Result<Account, ClientError> {
        let request = pb::GetAccountRequest {
            account: self.shared.account.clone(),
            max_staleness: types::wire_some(max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), get_account, request)?;
        Ok(answer.account.map(Account::from).unwrap_or_default())
    }

    /// One page of the accounts that have queues or a quota, by name: 1 to 1000, 0 = 100.
    pub async fn accounts(
        &self,
        page_size: u32,
        page_token: Option<String>,
        max_staleness: Option<Duration>,
    ) -> Result<AccountPage, ClientError> {
        let request = pb::ListAccountsRequest {
            page_size,
            page_token: page_token.unwrap_or_default(),
            max_staleness: types::wire_some(max_staleness)?,
        };
        let answer = call!(self, self.read_plan(), list_accounts, request)?;
        Ok(AccountPage {
            accounts: answer.accounts.into_iter().map(Account::from).collect(),
            next_page_token: types::token(answer.next_page_token),
        })
    }
}

impl From<pb::Account> for Account {
    fn from(account: pb::Account) -> Account {
        let quota = account.quota.unwrap_or_default();
        let some = |most: u64| (most > 0).then_some(most);
        Account {
            name: account.name,
            quota: AccountQuota {
                max_messages: some(quota.max_messages),
                max_bytes: some(quota.max_bytes),
                max_queues: some(quota.max_queues),
            },
            queues: account.queues,
            deleted_queues: account.deleted_queues,
            messages: account.messages,
            bytes: account.bytes,
        }
    }
}
