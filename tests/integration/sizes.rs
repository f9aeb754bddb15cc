//! Requests and answers that are as large as they may be, and larger: what is refused, and that
//! nobody else is disturbed.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::client::{Client, ClientError, NewMessage, QueueSettings, Transaction};
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;
use zoneq::server::Node;

use super::embedding::{client, config};

const MIB: usize = 1 << 20;

/// A node alone, and the folder it lives in.
struct Alone {
    node: Node,
    _home: tempfile::TempDir,
}

impl Alone {
    /// With the queue `orders`, whose messages may be as large as any.
    async fn start() -> (Alone, Client) {
        let home = tempfile::tempdir().expect("a folder");
        let node = Node::start(config(home.path())).await.expect("a node");
        let client = client(&node);
        let settings =
            QueueSettings { max_message_bytes: Some(1 << 20), ..QueueSettings::default() };
        client.create_queue("orders", Default::default(), settings).await.expect("created");
        (Alone { node, _home: home }, client)
    }

    /// A client as it is generated: it takes answers of 4 MiB, and sends what it is told to.
    async fn raw(&self) -> QueueServiceClient<tonic::transport::Channel> {
        let url = format!("http://{}", self.node.addresses().grpc);
        QueueServiceClient::connect(url).await.expect("connected")
    }
}

fn large(count: usize) -> Vec<NewMessage> {
    (0..count).map(|_| NewMessage::from(vec![7; MIB])).collect()
}

fn raw_send(count: usize, bytes: usize) -> pb::SendRequest {
    let message = pb::NewMessage { body: vec![7; bytes].into(), ..Default::default() };
    pb::SendRequest {
        queue: "orders".to_owned(),
        messages: vec![message; count],
        ..Default::default()
    }
}

async fn held(client: &Client) -> u64 {
    client.queue("orders").await.expect("the queue").counts.total
}

#[track_caller]
fn is_too_large<T: std::fmt::Debug>(answer: Result<T, ClientError>) {
    match answer {
        Err(ClientError::Invalid(said)) => {
            assert!(said.contains("allowed: 0 to 4194240"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_above_four_mebibytes_is_refused_before_it_is_sent_and_disturbs_no_neighbour() {
    let (_alone, client) = Alone::start().await;
    // Ten are larger than a frame of the transport may be, five are not.
    for count in [5, 10] {
        let (refused, sent) =
            tokio::join!(client.send_batch("orders", large(count)), client.send("orders", "small"));
        is_too_large(refused);
        sent.expect("the neighbour was sent");
        is_too_large(client.send_batch_unary("orders", large(count)).await);
        let transaction = Transaction {
            sends: [("orders".to_owned(), large(count))].into(),
            ..Transaction::default()
        };
        is_too_large(client.transact(transaction).await);
    }
    assert_eq!(held(&client).await, 2, "the neighbours alone");
    client.send_batch("orders", large(3)).await.expect("3 MiB go");
    client.send_batch_unary("orders", large(3)).await.expect("3 MiB go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_client_is_refused_above_four_mebibytes_in_a_call_and_in_one_item_of_a_stream() {
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    let refused = raw.send(raw_send(5, MIB)).await.expect_err("too large");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("allowed: 0 to 4194304 bytes"), "{refused}");

    let item = |tag, send| pb::SendStreamItem { tag, send: Some(send) };
    let items =
        vec![item(1, raw_send(1, 5)), item(2, raw_send(5, MIB)), item(3, raw_send(3, MIB - 100))];
    let frames = tokio_stream::iter([pb::SendStreamRequest { items }]);
    let mut answers = raw.send_stream(frames).await.expect("a stream").into_inner();
    let mut ended = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        for result in answer.results {
            ended.insert(result.tag, result.result.expect("a result"));
        }
    }
    use pb::send_stream_result::Result as Sent;
    assert!(matches!(ended[&1], Sent::Sent(_)) && matches!(ended[&3], Sent::Sent(_)), "{ended:?}");
    match &ended[&2] {
        Sent::Error(error) => {
            assert_eq!(error.reason, "INVALID_ARGUMENT");
            assert!(error.message.contains("allowed: 0 to 4194304 bytes"), "{}", error.message);
        }
        sent => panic!("{sent:?}"),
    }
    assert_eq!(held(&client).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_above_what_the_transport_takes_ends_its_stream_and_nothing_of_it_is_applied() {
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    let refused = raw.send(raw_send(9, MIB)).await.expect_err("too large");
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert!(refused.details().is_empty(), "the transport knows no reasons: {refused:?}");

    let item = |tag, send| pb::SendStreamItem { tag, send: Some(send) };
    let small = pb::SendStreamRequest { items: vec![item(1, raw_send(1, 5))] };
    let items = vec![item(2, raw_send(1, 5)), item(3, raw_send(9, MIB))];
    let frames = tokio_stream::iter([small, pb::SendStreamRequest { items }]);
    let mut answers = raw.send_stream(frames).await.expect("a stream").into_inner();
    let mut answered = Vec::new();
    let refused = loop {
        match answers.message().await {
            Ok(answer) => {
                answered.extend(answer.expect("a refusal first").results.iter().map(|it| it.tag));
            }
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert_eq!(answered, [1], "what came before is answered");
    assert_eq!(held(&client).await, 1);
}

/// Fills the queue anew with so many messages of so many bytes.
async fn fill(client: &Client, count: usize, bytes: usize) {
    client.clear("orders").await.expect("cleared");
    let mut left = count;
    while left > 0 {
        let some = left.min((3 << 20) / bytes);
        let batch = (0..some).map(|_| NewMessage::from(vec![7; bytes])).collect();
        client.send_batch("orders", batch).await.expect("sent");
        left -= some;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_four_mebibytes_receives_everything() {
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    for (count, bytes, most) in
        [(1_000, 4_200, 1_000), (64, 64 << 10, 64), (5, MIB, 5), (1_000, 1_024, 1_000)]
    {
        fill(&client, count, bytes).await;
        let mut taken = 0;
        while taken < count {
            let request = pb::ReceiveRequest {
                queue: "orders".to_owned(),
                max_messages: most,
                ..Default::default()
            };
            let answer = raw.receive(request).await.expect("it is small enough").into_inner();
            assert!(!answer.messages.is_empty(), "{taken} of {count} of {bytes} bytes came");
            taken += answer.messages.len();
            assert_eq!(answer.more, taken < count, "of {count} of {bytes} bytes {taken} came");
        }
        assert_eq!(taken, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_four_mebibytes_streams_everything() {
    use pb::receive_stream_request::Request;
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    for (count, bytes) in [(1_000, 4_200), (64, 64 << 10), (5, MIB)] {
        fill(&client, count, bytes).await;
        let open = pb::ReceiveStreamOpen {
            queue: "orders".to_owned(),
            max_batch: 1_000,
            ..Default::default()
        };
        let credit = pb::ReceiveStreamCredit { messages: 1_000 };
        let (ask, asked) = tokio::sync::mpsc::channel(2);
        for request in [Request::Open(open), Request::Credit(credit)] {
            let request = Some(request);
            ask.send(pb::ReceiveStreamRequest { request }).await.expect("room for two");
        }
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let mut frames = raw.receive_stream(asked).await.expect("a stream").into_inner();
        let mut taken = 0;
        while taken < count {
            let frame = frames.message().await.expect("it is small enough").expect("a frame");
            taken += frame.messages.len();
        }
        assert_eq!(taken, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_four_mebibytes_peeks_at_everything() {
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    for (count, bytes) in [(1_000, 4_200), (64, 64 << 10), (5, MIB)] {
        fill(&client, count, bytes).await;
        let (mut seen, mut pages, mut token) = (BTreeSet::new(), 0, String::new());
        loop {
            let request = pb::PeekRequest {
                queue: "orders".to_owned(),
                max_messages: 1_000,
                page_token: token,
                ..Default::default()
            };
            let page = raw.peek(request).await.expect("it is small enough").into_inner();
            pages += 1;
            for message in page.messages {
                assert!(seen.insert(message.id), "each once");
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((seen.len(), pages), (count, 2), "pages of {bytes} bytes each are filled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_four_mebibytes_lists_queues_with_much_metadata() {
    const QUEUES: usize = 600;
    let (alone, client) = Alone::start().await;
    let mut raw = alone.raw().await;
    let metadata = BTreeMap::from([("k".to_owned(), "v".repeat((8 << 10) - 1))]);
    for n in 0..QUEUES {
        let settings = QueueSettings::default();
        client.create_queue(&format!("q-{n}"), metadata.clone(), settings).await.expect("created");
    }
    let whole = client.list_queues(zoneq::client::ListQueues {
        prefix: "q-".to_owned(),
        page_size: 1_000,
        ..Default::default()
    });
    assert!(whole.await.expect("a page").next_page_token.is_some(), "it ends early");
    let (mut seen, mut pages, mut token) = (BTreeSet::new(), 0, String::new());
    loop {
        let request = pb::ListQueuesRequest {
            prefix: "q-".to_owned(),
            page_size: 1_000,
            page_token: token,
            ..Default::default()
        };
        let page = raw.list_queues(request).await.expect("it is small enough").into_inner();
        pages += 1;
        for queue in page.queues {
            assert!(seen.insert(queue.name), "each once");
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (QUEUES, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_try_again() {
    let (_alone, client) = Alone::start().await;
    let settings = QueueSettings { max_messages: Some(1), ..QueueSettings::default() };
    client.set_settings("orders", settings).await.expect("set");
    client.send("orders", "one").await.expect("sent");
    let by_stream = client.send("orders", "two").await.expect_err("it is full");
    let unary = client.send_batch_unary("orders", vec!["two".into()]).await;
    for full in [by_stream, unary.expect_err("it is full")] {
        assert_eq!(full.reason(), Some(&zoneq::client::Reason::Full), "{full}");
        assert!(full.is_not_applied());
        assert_eq!(full.retry_after(), Some(std::time::Duration::from_secs(1)), "{full:?}");
    }
}
