//! What clients and operators say to nodes, and what those answer.

use std::time::SystemTime;

use zoneq::api::grpc::{questions, requests, wishes};
use zoneq::client::{
    Account, Deleted, Message, Queue, QueueSettings, Redrive, Released, SentBatch,
};
use zoneq::proto::admin::v1 as admin;
use zoneq::proto::queue::v1 as queue;
use zoneq::queue::authority::command::RegionVerb;
use zoneq::queue::ids::Span;

use super::{bytes, commit, kinds, of_kind, region, stocked};

/// The first byte is the place of a message in `requests::MESSAGES`.
pub fn client_request(data: &[u8]) -> bool {
    let Some(read) = requests::read(&bytes(data)) else { return false };
    commit(stocked().0, read);
    true
}

/// The first byte is the place of a message in `questions::MESSAGES`.
pub fn client_question(data: &[u8]) -> bool {
    let (state, _) = stocked();
    let found = questions::look(&bytes(data), &state);
    assert!(found.is_none_or(|count| count <= 2), "there is no more of anything");
    found.is_some()
}

/// The first byte is the place of a message in `wishes::MESSAGES`.
pub fn operator_request(data: &[u8]) -> bool {
    let Some(settings) = wishes::read(&bytes(data)) else { return false };
    for elapsed in [0, 1_000_000, 3_600_000_000, u64::MAX] {
        let _ = settings.shape.weather(Span(elapsed));
    }
    commit(stocked().0, vec![region(RegionVerb::Configure(settings), "an operator".to_owned())]);
    true
}

kinds! {
    /// Every message of an operator that has fields. What is made of some is in `wishes`.
    OPERATORS:
    admin.AddLearnerRequest,
    admin.ChangeVotersRequest,
    admin.ReplaceNodeRequest,
    admin.RemoveNodeRequest,
    admin.SetRedundancyRequest,
    admin.TransferLeaderRequest,
    admin.DrainRequest,
    admin.SetFaultsRequest,
    admin.AcceptLossRequest,
    admin.ProtectRequest,
    admin.UnprotectRequest,
    admin.FailOverRequest,
    admin.ForceFailOverRequest,
    admin.TakeBackRequest,
    admin.ResolveConflictRequest,
    admin.SetReadAccessRequest,
    admin.ShapeLineRequest,
    admin.SetLagLimitRequest,
    admin.SetRegionLeaseRequest,
    admin.AwaitWritableRequest,
    admin.ReplayTailRequest,
    admin.SettleTailRequest,
    admin.FailBackRequest,
    admin.GetStatusRequest,
    admin.AcceptClockRequest,
    admin.PromoteCopyRequest,
}

/// The first byte says which message follows.
pub fn operator_message(data: &[u8]) -> bool {
    of_kind(OPERATORS, data)
}

kinds! {
    /// Every answer to a client or an operator that has fields.
    ANSWERS:
    queue.CreateQueueResponse => |it: queue::CreateQueueResponse| queue_said(it.queue),
    queue.DeleteQueueResponse,
    queue.GetQueueResponse => |it: queue::GetQueueResponse| {
        queue_said(it.queue) && time_said(it.log_time)
    },
    queue.ListQueuesResponse => |it: queue::ListQueuesResponse| {
        it.queues.into_iter().all(|queue| queue_said(Some(queue)))
    },
    queue.SetQueueMetadataResponse,
    queue.SetQueueSettingsResponse,
    queue.PauseQueueResponse,
    queue.ResumeQueueResponse,
    queue.SendResponse => sent,
    queue.SendStreamResponse => |it: queue::SendStreamResponse| {
        use queue::send_stream_result::Result;
        it.results.into_iter().all(|one| match one.result {
            Some(Result::Sent(given)) => sent(given),
            Some(Result::Error(_)) | None => true,
        })
    },
    queue.ReceiveResponse => |it: queue::ReceiveResponse| {
        it.messages.into_iter().all(|one| message_said(Some(one)))
    },
    queue.ReceiveStreamResponse => |it: queue::ReceiveStreamResponse| {
        use queue::receive_stream_deleted::Result;
        let results = it.deleted.into_iter().filter_map(|one| one.result);
        let mut read = results.map(|one| match one {
            Result::Deleted(given) => deleted(given),
            Result::Error(_) => true,
        });
        read.all(|known| known) && it.messages.into_iter().all(|one| message_said(Some(one)))
    },
    queue.UpdateResponse => |it: queue::UpdateResponse| time_said(it.visible_at),
    queue.DeleteResponse => deleted,
    queue.ReleaseResponse => |it: queue::ReleaseResponse| {
        let count = it.results.len();
        Released::from(it).results.len() == count
    },
    queue.TransactResponse => |it: queue::TransactResponse| {
        sent(queue::SendResponse { messages: it.messages, durability: it.durability })
    },
    queue.PeekResponse => |it: queue::PeekResponse| {
        it.messages.into_iter().all(|one| message_said(Some(one)))
    },
    queue.GetMessageResponse => |it: queue::GetMessageResponse| message_said(it.message),
    queue.ClearResponse,
    queue.UndeleteQueueResponse,
    queue.StartRedriveResponse => |it: queue::StartRedriveResponse| redrive_said(it.redrive),
    queue.CancelRedriveResponse,
    queue.ListRedrivesResponse => |it: queue::ListRedrivesResponse| {
        it.redrives.into_iter().all(|one| redrive_said(Some(one)))
    },
    queue.SetAccountQuotaResponse,
    queue.GetAccountResponse => |it: queue::GetAccountResponse| {
        it.account.is_none_or(|one| Account::from(one.clone()).name == one.name)
    },
    queue.ListAccountsResponse,
    queue.GetDurabilityResponse,
    admin.GetStatusResponse => |it: admin::GetStatusResponse| time_said(it.log_time),
    admin.SetRedundancyResponse,
    admin.TransferLeaderResponse,
    admin.TakeSnapshotResponse,
    admin.VerifyDigestsResponse,
    admin.GetMendingResponse,
    admin.GetRegionResponse => |it: admin::GetRegionResponse| {
        time_said(it.log_time) && time_said(it.last_sync_time)
    },
    admin.ListAuditResponse => |it: admin::ListAuditResponse| {
        it.entries.into_iter().all(|one| time_said(one.at))
    },
    admin.ForceFailOverResponse,
    admin.SetRegionLeaseResponse,
    admin.VerifyRegionsResponse,
    admin.AwaitWritableResponse,
    admin.ListTailResponse => |it: admin::ListTailResponse| {
        use admin::list_tail_response::Item;
        match it.item {
            Some(Item::Message(one)) => time_said(one.inserted_at) && time_said(one.expires_at),
            Some(Item::Deleted(one)) => time_said(one.at),
            Some(Item::Removed(one)) => time_said(one.at),
            Some(Item::Head(_)) | None => true,
        }
    },
    admin.ReplayTailResponse,
    admin.FailBackResponse,
    admin.AcceptClockResponse => |it: admin::AcceptClockResponse| {
        time_said(it.log_time) && time_said(it.wall_time)
    },
}

/// The first byte says which message follows.
pub fn answer(data: &[u8]) -> bool {
    of_kind(ANSWERS, data)
}

/// A time as the library takes it and as the command line shows it.
fn time_said<T: Copy + ToString>(at: Option<T>) -> bool
where
    SystemTime: TryFrom<T>,
{
    at.is_none_or(|at| {
        let _ = SystemTime::try_from(at);
        !at.to_string().is_empty()
    })
}

fn queue_said(given: Option<queue::Queue>) -> bool {
    let Some(given) = given else { return true };
    let settings = given.settings.clone().map(QueueSettings::from);
    let name = given.name.clone();
    let read = Queue::from(given);
    read.name == name && settings.is_none_or(|settings| settings == read.settings)
}

fn message_said(given: Option<queue::Message>) -> bool {
    given.is_none_or(|given| {
        let id = given.id.clone();
        Message::from(given).id == id
    })
}

fn redrive_said(given: Option<queue::Redrive>) -> bool {
    given.is_none_or(|given| {
        let id = given.id.clone();
        Redrive::from(given).id == id
    })
}

fn sent(given: queue::SendResponse) -> bool {
    let count = given.messages.len();
    SentBatch::from(given).messages.len() == count
}

fn deleted(given: queue::DeleteResponse) -> bool {
    let count = given.outcomes.len();
    Deleted::from(given).outcomes.len() == count
}
