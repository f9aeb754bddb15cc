//! The verbs that show or change a queue as a whole: create, get, list, delete, metadata,
//! settings, pause, clear.
//!
//! Laws: as in `queue.rs`; nothing here touches a single message.

use std::time::Duration;

use prost::Message as _;

use super::call::Call;
use super::convert;
use super::questions::{Listing, OneQueue};
use super::queue::{Answer, QueueFace, other_write};
use super::requests;
use super::sizes::Filling;
use crate::proto::queue::v1 as pb;
use crate::queue::command::{Command, Envelope};
use crate::queue::error::Rejection;
use crate::queue::outcome::Reply;

impl QueueFace {
    pub(super) async fn create_here(
        &self,
        call: &Call,
        request: pb::CreateQueueRequest,
    ) -> Answer<pb::CreateQueueResponse> {
        let bytes = request.encoded_len();
        let envelope = requests::create_queue(request.clone())?;
        let settings = match &envelope.command {
            Command::CreateQueue { settings, .. } => Some(convert::settings_out(settings)),
            _ => None,
        };
        let account = envelope.account.clone();
        let (reply, durability) = self.write(call, envelope, bytes).await?;
        let Reply::QueueCreated { created } = reply else { return Err(other_write()) };
        // This node has applied the write, so its state has the queue, unless it is gone again.
        let name = request.name.clone();
        let fresh_enough = Some(Duration::from_secs(60));
        let found = self.look(call, fresh_enough, |store| store.state().queue(&account, &name));
        let queue = match found.await {
            Ok((Some(view), _)) => convert::queue_out(view),
            _ => pb::Queue {
                name: request.name,
                metadata: request.metadata,
                settings,
                counts: None,
                created_at: durability.log_time,
                paused: false,
                dead_letters_refused_since: None,
                id: 0,
                deleted_at: None,
                kept_until: None,
            },
        };
        Ok(pb::CreateQueueResponse { queue: Some(queue), created, durability: Some(durability) })
    }

    pub(super) async fn get_queue_here(
        &self,
        call: &Call,
        request: pb::GetQueueRequest,
    ) -> Answer<pb::GetQueueResponse> {
        let asked = OneQueue::of(request.account, request.name, request.max_staleness)?;
        let OneQueue { staleness, account, name } = asked;
        let (found, at) =
            self.look(call, staleness, |store| store.state().queue(&account, &name)).await?;
        let view = found.ok_or(Rejection::QueueNotFound(name))?;
        let log_time = Some(convert::timestamp(at));
        Ok(pb::GetQueueResponse { queue: Some(convert::queue_out(view)), log_time })
    }

    pub(super) async fn list_here(
        &self,
        call: &Call,
        request: pb::ListQueuesRequest,
    ) -> Answer<pb::ListQueuesResponse> {
        let asked = Listing::of(request)?;
        let look = self.look(call, asked.staleness, |store| asked.look(store.state()));
        let ((views, more), at) = look.await?;
        let (count, mut filling) = (views.len(), Filling::new());
        let queues = views.into_iter().map(convert::queue_out);
        let queues: Vec<pb::Queue> = queues.take_while(|queue| filling.takes(queue)).collect();
        let more = more || queues.len() < count;
        let last = queues.last().map(|queue| asked.token(queue)).filter(|_| more);
        Ok(pb::ListQueuesResponse {
            queues,
            next_page_token: last.unwrap_or_default(),
            log_time: Some(convert::timestamp(at)),
        })
    }

    pub(super) async fn delete_queue_here(
        &self,
        call: &Call,
        request: pb::DeleteQueueRequest,
    ) -> Answer<pb::DeleteQueueResponse> {
        let envelope = requests::delete_queue(request)?;
        let (Reply::QueueDeleted, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(pb::DeleteQueueResponse { durability: Some(durability) })
    }

    pub(super) async fn set_metadata_here(
        &self,
        call: &Call,
        request: pb::SetQueueMetadataRequest,
    ) -> Answer<pb::SetQueueMetadataResponse> {
        let bytes = request.encoded_len();
        let envelope = requests::set_metadata(request)?;
        let (Reply::MetadataSet, durability) = self.write(call, envelope, bytes).await? else {
            return Err(other_write());
        };
        Ok(pb::SetQueueMetadataResponse { durability: Some(durability) })
    }

    pub(super) async fn set_settings_here(
        &self,
        call: &Call,
        request: pb::SetQueueSettingsRequest,
    ) -> Answer<pb::SetQueueSettingsResponse> {
        let envelope = requests::set_settings(request)?;
        let (Reply::SettingsSet, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(pb::SetQueueSettingsResponse { durability: Some(durability) })
    }

    pub(super) async fn clear_here(
        &self,
        call: &Call,
        request: pb::ClearRequest,
    ) -> Answer<pb::ClearResponse> {
        let envelope = requests::clear(request)?;
        let (Reply::Cleared { removed }, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(pb::ClearResponse { removed, durability: Some(durability) })
    }

    pub(super) async fn pause_here(
        &self,
        call: &Call,
        request: pb::PauseQueueRequest,
    ) -> Answer<pb::PauseQueueResponse> {
        let durability = self.pause(call, requests::pause(request)?);
        Ok(pb::PauseQueueResponse { durability: Some(durability.await?) })
    }

    pub(super) async fn resume_here(
        &self,
        call: &Call,
        request: pb::ResumeQueueRequest,
    ) -> Answer<pb::ResumeQueueResponse> {
        let durability = self.pause(call, requests::resume(request)?);
        Ok(pb::ResumeQueueResponse { durability: Some(durability.await?) })
    }

    async fn pause(&self, call: &Call, envelope: Envelope) -> Answer<pb::Durability> {
        let (Reply::PausedSet, durability) = self.write(call, envelope, 0).await? else {
            return Err(other_write());
        };
        Ok(durability)
    }
}
