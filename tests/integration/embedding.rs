//! The server as a library: a node inside this process, used by the client library.

use std::time::Duration;

use zoneq::client::{Client, DeleteItem, QueueSettings, ReceiveOptions};
use zoneq::server::config::ElectionMs;
use zoneq::server::{Config, ErrorClass, Node};

pub fn config(dir: &std::path::Path) -> Config {
    let mut config = Config::new(1, "embedded", "z1", dir.join("data"));
    // Any free port: the node says which.
    config.grpc_listen = "127.0.0.1:0".parse().expect("an address");
    config.peer_listen = "127.0.0.1:0".parse().expect("an address");
    config.heartbeat_ms = 80;
    config.election_ms = ElectionMs { min: 200, max: 400 };
    config
}

pub fn client(node: &Node) -> Client {
    let url = format!("http://{}", node.addresses().grpc);
    Client::builder().endpoints([url]).deadline(Duration::from_secs(30)).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_inside_another_program_and_keeps_its_data() {
    let home = tempfile::tempdir().expect("a folder");
    let node = Node::start(config(home.path())).await.expect("a node");
    let first = client(&node);
    let made = first
        .create_queue("orders", Default::default(), QueueSettings::default())
        .await
        .expect("created");
    assert!(made.created);
    first.send("orders", "kept").await.expect("sent");

    let second = Node::start(config(home.path())).await.expect_err("the folder is taken");
    assert_eq!(second.class(), ErrorClass::DataDir, "{second}");

    node.shutdown().await.expect("stopped");
    let node = Node::start(config(home.path())).await.expect("a node again");
    let again = client(&node);
    let options = ReceiveOptions { wait: Duration::from_secs(20), ..ReceiveOptions::default() };
    let received = again.receive("orders", options).await.expect("received");
    assert_eq!(received.messages[0].body, "kept");
    let items = received.messages.iter().map(DeleteItem::from).collect();
    again.delete_batch("orders", items).await.expect("deleted");
    node.shutdown().await.expect("stopped");
}

#[tokio::test]
async fn a_wrong_configuration_is_an_error_and_not_a_panic() {
    let home = tempfile::tempdir().expect("a folder");
    let mut config = config(home.path());
    config.zone = String::new();
    let error = Node::start(config).await.expect_err("a zone is needed");
    assert_eq!(error.class(), ErrorClass::Config);
    assert!(error.to_string().contains("zone"), "{error}");
}
