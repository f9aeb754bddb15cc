//! Who waits for messages while the leader is lost: calls and streams wait on at the next one.

use std::collections::BTreeSet;
use std::time::Duration;

use zoneq::client::{Client, ReceiveOptions, StreamOptions};
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;

use super::stage::{Lab, PATIENCE, PEERS_ARE_LOST};

const LONG: Duration = Duration::from_secs(50);
const CALLS: usize = 30;
const STREAMS: usize = 6;

/// A client that asks another node first for each `turn`.
fn client(lab: &Lab, turn: usize) -> Client {
    let mut urls = lab.urls();
    urls.rotate_left(turn % 3);
    Client::builder().endpoints(urls).deadline(PATIENCE).build().expect("a client")
}

/// The body that one call waits for.
async fn call(client: Client) -> String {
    let options = ReceiveOptions { wait: LONG, ..ReceiveOptions::default() };
    let received = client.receive("orders", options).await.expect("received");
    String::from_utf8(received.messages[0].body.to_vec()).expect("text")
}

/// The first body that comes on a stream.
async fn stream(client: Client) -> String {
    let options = StreamOptions { max_batch: 1, credit: 1, ..StreamOptions::default() };
    let mut stream = client.receive_stream("orders", options).expect("a stream");
    let message = stream.next().await.expect("a message").expect("received");
    String::from_utf8(message.body.to_vec()).expect("text")
}

/// One call under a session to one node, made once: the node goes on with it.
async fn asked_once(url: String) -> String {
    let mut service = QueueServiceClient::connect(url).await.expect("connected");
    let session = pb::Session { client_id: vec![9; 16].into(), sequence: 1, lowest_unanswered: 1 };
    let request = pb::ReceiveRequest {
        queue: "orders".to_owned(),
        wait: prost_types::Duration::try_from(LONG).ok(),
        session: Some(session),
        ..pb::ReceiveRequest::default()
    };
    let received = service.receive(request).await.expect("received").into_inner();
    String::from_utf8(received.messages[0].body.to_vec()).expect("text")
}

#[test]
fn who_waits_waits_on_when_the_leader_is_lost_and_each_gets_a_message() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let leader = lab.leader();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut waits: Vec<_> =
        (0..CALLS).map(|turn| runtime.spawn(call(client(&lab, turn)))).collect();
    waits.extend((0..STREAMS).map(|turn| runtime.spawn(stream(client(&lab, turn)))));
    let follower = usize::from(leader == 1);
    waits.push(runtime.spawn(asked_once(lab.urls()[follower].clone())));
    // All are answered by the leader; some of them through a follower.
    assert_eq!(lab.ok("receive orders --wait 300ms")["received"], 0);
    assert!(waits.iter().all(|wait| !wait.is_finished()), "there is nothing to receive");

    lab.ok(&format!("lab kill {leader}"));
    assert_ne!(lab.leader(), leader);
    let bodies: Vec<String> = (0..waits.len()).map(|n| format!("m{n}")).collect();
    lab.ok(&format!("send orders {}", bodies.join(" ")));
    let got: BTreeSet<String> = waits
        .into_iter()
        .map(|wait| {
            let got = runtime.block_on(async { tokio::time::timeout(PATIENCE, wait).await });
            got.expect("in time").expect("no panic")
        })
        .collect();
    assert_eq!(got, bodies.into_iter().collect(), "each got another message");
    lab.ok("lab start all");
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    lab.warned_only_of(PEERS_ARE_LOST);
}
