//! The way to the other region: its nodes, asked one after the other.
//!
//! Laws: a node that does not lead says so, and the next is asked; what one node refused for good
//! is not asked of another. Every call has an end.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::error::PairError;
use super::wire;
use crate::consensus::error::Fate;
use crate::consensus::group::Group;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::geo_service_client::GeoServiceClient;
use crate::queue::authority::{LedgerLine, Role};
use crate::storage::codec;

/// One node has this long to answer.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Between two rounds over all nodes.
const PAUSE: Duration = Duration::from_millis(100);

/// How what goes to the other region, and what it answers, is made smaller on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    /// Each message by itself, at the library's usual level. Taken by every node that knows the
    /// setting, whatever its own says; one that does not answers that it cannot.
    Zstd,
}

impl Compression {
    /// Of a name: `none` or `zstd`.
    #[must_use]
    pub fn of(name: &str) -> Option<Compression> {
        match name {
            "none" => Some(Compression::None),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// The other region as this node reaches it. Cheap to clone.
#[derive(Clone)]
pub struct OtherRegion {
    group: Group,
    /// Peer listeners of its nodes, `host:port` each.
    endpoints: Vec<String>,
    compression: Compression,
}

type Client = GeoServiceClient<Channel>;

impl OtherRegion {
    #[must_use]
    pub fn new(group: Group, endpoints: Vec<String>, compression: Compression) -> OtherRegion {
        OtherRegion { group, endpoints, compression }
    }

    /// Speaks over a channel to one of its nodes, compressed as it is set.
    #[must_use]
    pub fn client(&self, channel: Channel) -> GeoServiceClient<Channel> {
        let client = GeoServiceClient::new(channel)
            .max_encoding_message_size(wire::MESSAGE_BYTES)
            .max_decoding_message_size(wire::MESSAGE_BYTES);
        match self.compression {
            Compression::None => client,
            Compression::Zstd => client
                .send_compressed(CompressionEncoding::Zstd)
                .accept_compressed(CompressionEncoding::Zstd),
        }
    }

    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.endpoints.is_empty()
    }

    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Asks node after node, round after round, until one answers or refuses.
    ///
    /// # Errors
    /// [`PairError::Refused`] as the other region says it; [`PairError::NotNow`] at the deadline,
    /// with an unknown fate when a node may have done what was asked.
    pub async fn ask<T, F>(
        &self,
        deadline: Instant,
        call: impl Fn(Client) -> F,
    ) -> Result<T, PairError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_patiently(deadline, ATTEMPT, call).await
    }

    /// As [`OtherRegion::ask`], where one node may take this long to answer.
    ///
    /// # Errors
    /// As there.
    pub async fn ask_patiently<T, F>(
        &self,
        deadline: Instant,
        attempt: Duration,
        call: impl Fn(Client) -> F,
    ) -> Result<T, PairError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        if !self.is_configured() {
            return Err(PairError::NotConfigured);
        }
        let mut doubt = Fate::NotApplied;
        let mut last = "it did not answer".to_owned();
        loop {
            for endpoint in &self.endpoints {
                let channel = match self.group.peers().channel(endpoint) {
                    Ok(channel) => channel,
                    Err(error) => {
                        last = error.to_string();
                        continue;
                    }
                };
                let until = deadline.min(Instant::now() + attempt);
                let asked = call(self.client(channel));
                match tokio::time::timeout_at(until, asked).await {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) if is_final(status.code()) => {
                        return Err(PairError::Refused(status.message().to_owned()));
                    }
                    Ok(Err(status)) => {
                        // Who does not lead has done nothing.
                        if status.code() != Code::Unavailable {
                            doubt = Fate::Unknown;
                        }
                        last = status.message().to_owned();
                    }
                    Err(_) => {
                        doubt = Fate::Unknown;
                        last = format!("{endpoint} did not answer in time");
                    }
                }
            }
            if Instant::now() + PAUSE >= deadline {
                let why = format!("the other region cannot be reached: {last}");
                return Err(PairError::NotNow { why, fate: doubt });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What the other region is, by the word of the first node that answers.
    ///
    /// # Errors
    /// As [`OtherRegion::ask`].
    pub async fn status(&self, deadline: Instant) -> Result<pb::GetStatusResponse, PairError> {
        let question = self.question();
        self.ask(deadline, |mut client| {
            let question = question.clone();
            async move { client.get_status(question).await }
        })
        .await
    }

    /// What one node of the other region says that it is; `None` = it did not answer by then.
    pub(super) async fn word_of(
        &self,
        endpoint: &str,
        deadline: Instant,
    ) -> Option<pb::GetStatusResponse> {
        let mut client = self.client(self.group.peers().channel(endpoint).ok()?);
        let asked = client.get_status(self.question());
        Some(tokio::time::timeout_at(deadline, asked).await.ok()?.ok()?.into_inner())
    }

    /// Where the copy ends, so that its primary says what lies behind that; empty where this is
    /// none.
    fn question(&self) -> pb::GetStatusRequest {
        let store = self.group.store().read();
        let copy = store.state().authority().filter(|it| it.role == Role::Secondary);
        copy.map_or_else(pb::GetStatusRequest::default, |it| pb::GetStatusRequest {
            next_message: store.state().next_message(),
            epoch: Some(codec::epoch_to(&it.epoch)),
            applied_through: it.applied_through.map(wire::position),
        })
    }

    /// Tells the other region of this one's epochs.
    ///
    /// # Errors
    /// As [`OtherRegion::ask`].
    pub async fn fence(
        &self,
        lineage: u128,
        ledger: &[LedgerLine],
        deadline: Instant,
    ) -> Result<pb::FenceResponse, PairError> {
        let request =
            pb::FenceRequest { lineage: wire::wide(lineage), ledger: wire::ledger_to(ledger) };
        self.ask(deadline, |mut client| {
            let request = request.clone();
            async move { client.fence(request).await }
        })
        .await
    }
}

/// The other region has looked and refused.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::DataLoss
    )
}
