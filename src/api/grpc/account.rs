//! Accounts over gRPC: what each may hold and holds.
//!
//! Laws: as in `queue.rs`.

use super::call::Call;
use super::convert;
use super::questions::{self, Accounts};
use super::queue::{Answer, QueueFace, other_write};
use super::requests;
use super::sizes::Filling;
use crate::proto::queue::v1 as pb;
use crate::queue::AccountView;
use crate::queue::outcome::Reply;

impl QueueFace {
    pub(super) async fn set_account_quota_here(
        &self,
        call: &Call,
        request: pb::SetAccountQuotaRequest,
    ) -> Answer<pb::SetAccountQuotaResponse> {
        let envelope = requests::set_account_quota(request)?;
        let (Reply::AccountQuotaSet, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(pb::SetAccountQuotaResponse { durability: Some(durability) })
    }

    pub(super) async fn get_account_here(
        &self,
        call: &Call,
        request: pb::GetAccountRequest,
    ) -> Answer<pb::GetAccountResponse> {
        let (staleness, name) = questions::one_account(request)?;
        let (view, at) = self.look(call, staleness, |store| store.state().account(&name)).await?;
        let log_time = Some(convert::timestamp(at));
        Ok(pb::GetAccountResponse { account: Some(account_out(view)), log_time })
    }

    pub(super) async fn list_accounts_here(
        &self,
        call: &Call,
        request: pb::ListAccountsRequest,
    ) -> Answer<pb::ListAccountsResponse> {
        let asked = Accounts::of(request)?;
        let look = self.look(call, asked.staleness, |store| asked.look(store.state()));
        let ((views, more), at) = look.await?;
        let (count, mut filling) = (views.len(), Filling::new());
        let accounts = views.into_iter().map(account_out);
        let accounts: Vec<_> = accounts.take_while(|account| filling.takes(account)).collect();
        let more = more || accounts.len() < count;
        let last = accounts.last().map(|account| account.name.clone()).filter(|_| more);
        Ok(pb::ListAccountsResponse {
            accounts,
            next_page_token: last.unwrap_or_default(),
            log_time: Some(convert::timestamp(at)),
        })
    }
}

fn account_out(view: AccountView) -> pb::Account {
    pb::Account {
        name: view.name,
        quota: Some(pb::AccountQuota {
            max_messages: view.quota.messages.unwrap_or(0),
            max_bytes: view.quota.bytes.unwrap_or(0),
            max_queues: view.quota.queues.unwrap_or(0),
        }),
        queues: view.queues,
        deleted_queues: view.deleted_queues,
        messages: view.held.messages,
        bytes: view.held.bytes,
    }
}
