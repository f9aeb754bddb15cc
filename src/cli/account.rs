//! `zoneq account`: what accounts may hold and hold.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{Exit, Usage};
use super::output::{self, durability_json, durability_text};
use super::{Context, parse_span};
use crate::client::{Account, AccountQuota};

#[derive(Debug, Subcommand)]
pub enum AccountVerb {
    /// Show what an account may hold and holds: that of `--account`
    #[command(after_help = "Example:\n  zoneq account show --account shop")]
    Show(Show),
    /// List the accounts that have queues or a quota, by name
    #[command(after_help = "Example:\n  zoneq account list")]
    List(List),
    /// Change what an account may hold; limits not given stay as they are
    #[command(
        after_help = "Example:\n  zoneq account set-quota --account shop --max-messages 1000000"
    )]
    SetQuota(SetQuota),
}

#[derive(Debug, Args)]
pub struct Show {
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_ACCOUNT_SHOW_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_ACCOUNT_LIST_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct SetQuota {
    /// Messages that its queues may hold together; 0 takes the limit away
    #[arg(long, env = "ZONEQ_ACCOUNT_SET_QUOTA_MAX_MESSAGES")]
    max_messages: Option<u64>,
    /// Bytes of bodies and headers that its queues may hold together; 0 takes the limit away
    #[arg(long, env = "ZONEQ_ACCOUNT_SET_QUOTA_MAX_BYTES")]
    max_bytes: Option<u64>,
    /// Queues; 0 takes the limit away, and 100,000 stay the most
    #[arg(long, env = "ZONEQ_ACCOUNT_SET_QUOTA_MAX_QUEUES")]
    max_queues: Option<u64>,
}

const HEAD: [&str; 5] = ["account", "queues", "deleted", "messages", "bytes"];

impl AccountVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            AccountVerb::Show(verb) => verb.run(context).await,
            AccountVerb::List(verb) => verb.run(context).await,
            AccountVerb::SetQuota(verb) => verb.run(context).await,
        }
    }
}

impl Show {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let account = context.client()?.account_holdings_within(self.max_staleness).await?;
        context.out.table(&HEAD, vec![row(&account)])?;
        let quota = account.quota;
        let limits = [
            ("messages", quota.max_messages),
            ("bytes", quota.max_bytes),
            ("queues", quota.max_queues),
        ];
        let most =
            |most: Option<u64>| most.map_or_else(|| "none".to_owned(), |most| most.to_string());
        let limits = limits.map(|(what, limit)| vec![format!("quota of {what}"), most(limit)]);
        context.out.table(&["quota", "value"], limits.to_vec())?;
        let value = json!({ "ok": true, "account": account_json(&account) });
        let text = format!("account {} holds {}", account.name, output::messages(account.messages));
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl List {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let (mut token, mut count) = (None, 0);
        loop {
            let page = client.accounts(1_000, token, self.max_staleness).await?;
            count += page.accounts.len();
            for account in &page.accounts {
                context.out.item(&account_json(account))?;
            }
            context.out.table(&HEAD, page.accounts.iter().map(row).collect())?;
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        let value = json!({ "ok": true, "accounts": count });
        context.out.result(&value, &format!("{count} accounts"))?;
        Ok(Exit::Done)
    }
}

impl SetQuota {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let given = [self.max_messages, self.max_bytes, self.max_queues];
        if given.iter().all(Option::is_none) {
            let text = "nothing to change: give at least one limit";
            return Err(Usage(text.to_owned()).into());
        }
        let client = context.client()?;
        let before = client.account_holdings().await?;
        let quota = AccountQuota {
            max_messages: self.max_messages.or(before.quota.max_messages),
            max_bytes: self.max_bytes.or(before.quota.max_bytes),
            max_queues: self.max_queues.or(before.quota.max_queues),
        };
        let durability = client.set_account_quota(quota).await?;
        let value = json!({
            "ok": true, "account": before.name, "durability": durability_json(&durability),
        });
        let text = durability_text(&durability);
        context
            .out
            .result(&value, &format!("account {} given a new quota; {text}", before.name))?;
        Ok(Exit::Done)
    }
}

fn row(account: &Account) -> Vec<String> {
    let numbers = [account.queues, account.deleted_queues, account.messages, account.bytes];
    let mut row = vec![account.name.clone()];
    row.extend(numbers.iter().map(u64::to_string));
    row
}

fn account_json(account: &Account) -> Value {
    json!({
        "name": account.name,
        "queues": account.queues,
        "deleted_queues": account.deleted_queues,
        "messages": account.messages,
        "bytes": account.bytes,
        "quota": {
            "max_messages": account.quota.max_messages,
            "max_bytes": account.quota.max_bytes,
            "max_queues": account.quota.max_queues,
        },
    })
}
