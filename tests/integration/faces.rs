//! The gRPC faces beside the queue's own: health and reflection.

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::serving::{Serving, alone};
use super::stage::{wait, zoneq};

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.map_or(ServingStatus::Unknown, |answer| answer.into_inner().status())
}

async fn services(channel: Channel) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection")
        .into_inner();
    match answers.message().await.expect("an answer").and_then(|a| a.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn health_is_serving_until_the_node_drains_and_reflection_names_the_services() {
    let home = tempfile::tempdir().expect("a folder");
    let node = Serving::start(home.path(), &alone(home.path()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let channel = {
        let _inside = runtime.enter();
        Channel::from_shared(node.url()).expect("an address").connect_lazy()
    };
    let is = |service: &'static str, wanted: ServingStatus| {
        wait(&format!("health of {service:?} is {wanted:?}"), || {
            (runtime.block_on(health(&channel, service)) == wanted).then_some(())
        });
    };
    is("", ServingStatus::Serving);
    is("zoneq.queue.v1.QueueService", ServingStatus::Serving);

    let names = runtime.block_on(services(channel.clone()));
    for name in ["zoneq.queue.v1.QueueService", "zoneq.admin.v1.ClusterService"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }

    let url = node.url();
    zoneq(home.path(), &format!("cluster drain --json -e {url}")).exits(0);
    is("", ServingStatus::NotServing);
    zoneq(home.path(), &format!("cluster drain --off --json -e {url}")).exits(0);
    is("", ServingStatus::Serving);
    assert_eq!(node.stop().exits(0)["ok"], true);
}
