//! What an account may hold, set and looked at.

use std::time::Duration;

use zoneq::proto::queue::v1 as pb;

use super::{Client, Worker, wire};
use crate::history::{Answer, Call};
use crate::queues::TENANT;

impl Worker {
    pub(super) async fn account(&mut self) {
        match self.dice.below(8) {
            0..5 => self.limit_for_a_while().await,
            5..7 => self.look_at_account().await,
            _ => self.list_accounts().await,
        }
    }

    /// Lets an account hold little for a while, and then more, or as much as there is.
    async fn limit_for_a_while(&mut self) {
        let few = 2 + self.dice.below(20);
        self.set_quota(Some(few)).await;
        let pause = 200 + self.dice.below(2_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let more = self.one_in(2).then(|| few + 5 + self.dice.below(20));
        self.set_quota(more).await;
    }

    async fn set_quota(&mut self, messages: Option<u64>) {
        let quota = pb::AccountQuota { max_messages: messages.unwrap_or(0), ..Default::default() };
        let request = |session| pb::SetAccountQuotaRequest {
            account: TENANT.to_owned(),
            quota: Some(quota),
            session: Some(session),
        };
        let ask = |mut node: Client, r| async move { node.set_account_quota(r).await };
        let read = |answer: pb::SetAccountQuotaResponse| wire::done(answer.durability.as_ref());
        let call = Call::SetQuota { account: TENANT.to_owned(), messages };
        self.write(call, request, ask, read).await;
    }

    async fn look_at_account(&mut self) {
        self.choose_node();
        let max_staleness = self.staleness();
        let (account, stale) = (TENANT.to_owned(), max_staleness.is_some());
        let op = self.begin_read(Call::LookAtAccount { account: account.clone(), stale });
        let request = pb::GetAccountRequest { account, max_staleness };
        let asked = self.ask(request, |mut node, r| async move { node.get_account(r).await });
        let told = asked.await.map(|answer| Answer::Account {
            at: wire::moment(answer.log_time.as_ref()),
            account: answer.account.as_ref().map(wire::tenant).unwrap_or_default(),
        });
        self.end(op, 1, told);
    }

    async fn list_accounts(&mut self) {
        self.choose_node();
        let max_staleness = self.staleness();
        let op = self.begin_read(Call::ListAccounts { stale: max_staleness.is_some() });
        let request = pb::ListAccountsRequest { max_staleness, ..Default::default() };
        let asked = self.ask(request, |mut node, r| async move { node.list_accounts(r).await });
        let told = asked.await.map(|answer| Answer::Accounts {
            at: wire::moment(answer.log_time.as_ref()),
            names: answer.accounts.into_iter().map(|account| account.name).collect(),
        });
        self.end(op, 1, told);
    }
}
