//! The client against scripted nodes: what is tried again, under which sequence, and what is not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;
use crate::proto::epoch::{self, KnownEpoch};
use crate::proto::queue::v1 as pb;
use pb::queue_service_server::{QueueService, QueueServiceServer};

/// What a node does with its next write.
#[derive(Clone, Copy, Debug)]
enum Step {
    Accept,
    Refuse(Code, &'static str),
    /// Says nothing, as a stopped process.
    Silent,
    /// Ends the stream before it answers.
    Cut,
}

#[derive(Debug, Default)]
struct Seen {
    script: VecDeque<Step>,
    sessions: Vec<pb::Session>,
    credit: Vec<u32>,
    updates: u32,
    unary_sends: u32,
}

/// What the callers of a node knew, one after the other.
type Said = Arc<Mutex<Vec<Option<KnownEpoch>>>>;

/// A node that follows a script, then accepts everything.
#[derive(Clone, Debug, Default)]
struct Node(Arc<Mutex<Seen>>);

impl Node {
    fn following(script: impl IntoIterator<Item = Step>) -> Node {
        let seen = Seen { script: script.into_iter().collect(), ..Seen::default() };
        Node(Arc::new(Mutex::new(seen)))
    }

    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(QueueServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }

    /// Starts it as a node of a pair, which tells an epoch in all answers; what it was told is
    /// noted.
    async fn start_telling(&self, tells: KnownEpoch, said: Said) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tell = move |mut answer: http::Response<tonic::body::Body>| {
            answer.headers_mut().insert(epoch::HEADER, tells.to_string().parse().unwrap());
            answer
        };
        let note = move |request: Request<()>| -> Result<Request<()>, Status> {
            let known = request.metadata().get(epoch::HEADER);
            let known = known.and_then(|text| KnownEpoch::read(text.as_bytes()));
            said.lock().unwrap().push(known);
            Ok(request)
        };
        let server = tonic::transport::Server::builder()
            .layer(tonic::service::InterceptorLayer::new(note))
            .layer(tower::util::MapResponseLayer::new(tell))
            .add_service(QueueServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }

    fn sessions(&self) -> Vec<pb::Session> {
        self.0.lock().unwrap().sessions.clone()
    }

    /// Notes the write; says what to do with it.
    fn step(&self, session: Option<pb::Session>) -> Step {
        let mut seen = self.0.lock().unwrap();
        let step = seen.script.pop_front().unwrap_or(Step::Accept);
        if let Some(session) = session {
            seen.sessions.push(session);
        }
        step
    }

    async fn answer<T>(
        &self,
        session: Option<pb::Session>,
        body: T,
    ) -> Result<Response<T>, Status> {
        match self.step(session) {
            Step::Accept => Ok(Response::new(body)),
            Step::Refuse(code, reason) => Err(refusal(code, reason)),
            Step::Silent => std::future::pending().await,
            Step::Cut => Err(Status::unavailable("connection reset")),
        }
    }
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "zoneq", std::collections::HashMap::new());
    Status::with_error_details(code, format!("scripted {reason}"), details)
}

const NOT_NOW: Step = Step::Refuse(Code::Unavailable, "NOT_NOW");
const UNKNOWN: Step = Step::Refuse(Code::Unavailable, "OUTCOME_UNKNOWN");
const READ_ONLY: Step = Step::Refuse(Code::FailedPrecondition, "READ_ONLY");

fn not_scripted<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the script"))
}

#[async_trait::async_trait]
impl QueueService for Node {
    type SendStreamStream = ReceiverStream<Result<pb::SendStreamResponse, Status>>;
    type ReceiveStreamStream = ReceiverStream<Result<pb::ReceiveStreamResponse, Status>>;

    async fn clear(
        &self,
        request: Request<pb::ClearRequest>,
    ) -> Result<Response<pb::ClearResponse>, Status> {
        let answer = pb::ClearResponse { removed: 7, durability: None };
        self.answer(request.into_inner().session, answer).await
    }

    async fn receive(
        &self,
        request: Request<pb::ReceiveRequest>,
    ) -> Result<Response<pb::ReceiveResponse>, Status> {
        let request = request.into_inner();
        let one = pb::Message { id: "m".to_owned(), ..Default::default() };
        let messages = if request.queue == "empty" { vec![] } else { vec![one] };
        let answer = pb::ReceiveResponse { messages, more: false, durability: None };
        self.answer(request.session, answer).await
    }

    async fn update(
        &self,
        request: Request<pb::UpdateRequest>,
    ) -> Result<Response<pb::UpdateResponse>, Status> {
        let updates = {
            let mut seen = self.0.lock().unwrap();
            seen.updates += 1;
            seen.updates
        };
        let answer =
            pb::UpdateResponse { pop_receipt: format!("r{updates}"), ..Default::default() };
        self.answer(request.into_inner().session, answer).await
    }

    async fn peek(
        &self,
        _request: Request<pb::PeekRequest>,
    ) -> Result<Response<pb::PeekResponse>, Status> {
        self.answer(None, pb::PeekResponse::default()).await
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<pb::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (out, answers) = mpsc::channel(16);
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = requests.message().await {
                let mut results = Vec::new();
                for item in frame.items {
                    let send = item.send.unwrap();
                    let result = match node.step(send.session) {
                        Step::Accept => pb::send_stream_result::Result::Sent(pb::SendResponse {
                            messages: vec![pb::SentMessage::default(); send.messages.len()],
                            durability: None,
                        }),
                        Step::Refuse(code, reason) => {
                            pb::send_stream_result::Result::Error(pb::ItemError {
                                code: code as i32,
                                message: format!("scripted {reason}"),
                                reason: reason.to_owned(),
                                retry_after: None,
                            })
                        }
                        Step::Silent => continue,
                        Step::Cut => return,
                    };
                    results.push(pb::SendStreamResult { tag: item.tag, result: Some(result) });
                }
                if out.send(Ok(pb::SendStreamResponse { results })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn receive_stream(
        &self,
        request: Request<Streaming<pb::ReceiveStreamRequest>>,
    ) -> Result<Response<Self::ReceiveStreamStream>, Status> {
        use pb::receive_stream_request::Request as R;
        let mut requests = request.into_inner();
        let (out, answers) = mpsc::channel(16);
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = requests.message().await {
                let mut answer = pb::ReceiveStreamResponse::default();
                match frame.request.unwrap() {
                    R::Open(open) if open.queue == "none" => {
                        let _ = out.send(Err(refusal(Code::NotFound, "QUEUE_NOT_FOUND"))).await;
                        return;
                    }
                    R::Open(_) => continue,
                    R::Credit(credit) => {
                        node.0.lock().unwrap().credit.push(credit.messages);
                        answer.messages = (0..credit.messages)
                            .map(|n| pb::Message { id: n.to_string(), ..Default::default() })
                            .collect();
                    }
                    R::Delete(delete) => {
                        if matches!(node.step(delete.session), Step::Cut) {
                            return;
                        }
                        let outcome = pb::DeleteOutcome::Deleted.into();
                        let deleted = pb::DeleteResponse {
                            outcomes: vec![outcome; delete.items.len()],
                            durability: None,
                        };
                        answer.deleted.push(pb::ReceiveStreamDeleted {
                            tag: delete.tag,
                            result: Some(pb::receive_stream_deleted::Result::Deleted(deleted)),
                        });
                    }
                }
                if out.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn create_queue(
        &self,
        _: Request<pb::CreateQueueRequest>,
    ) -> Result<Response<pb::CreateQueueResponse>, Status> {
        not_scripted()
    }
    async fn delete_queue(
        &self,
        _: Request<pb::DeleteQueueRequest>,
    ) -> Result<Response<pb::DeleteQueueResponse>, Status> {
        not_scripted()
    }
    async fn get_queue(
        &self,
        _: Request<pb::GetQueueRequest>,
    ) -> Result<Response<pb::GetQueueResponse>, Status> {
        not_scripted()
    }
    async fn list_queues(
        &self,
        _: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        not_scripted()
    }
    async fn set_queue_metadata(
        &self,
        _: Request<pb::SetQueueMetadataRequest>,
    ) -> Result<Response<pb::SetQueueMetadataResponse>, Status> {
        not_scripted()
    }
    async fn set_queue_settings(
        &self,
        _: Request<pb::SetQueueSettingsRequest>,
    ) -> Result<Response<pb::SetQueueSettingsResponse>, Status> {
        not_scripted()
    }
    async fn pause_queue(
        &self,
        _: Request<pb::PauseQueueRequest>,
    ) -> Result<Response<pb::PauseQueueResponse>, Status> {
        not_scripted()
    }
    async fn resume_queue(
        &self,
        _: Request<pb::ResumeQueueRequest>,
    ) -> Result<Response<pb::ResumeQueueResponse>, Status> {
        not_scripted()
    }
    async fn send(
        &self,
        request: Request<pb::SendRequest>,
    ) -> Result<Response<pb::SendResponse>, Status> {
        let request = request.into_inner();
        self.0.lock().unwrap().unary_sends += 1;
        let messages = vec![pb::SentMessage::default(); request.messages.len()];
        self.answer(request.session, pb::SendResponse { messages, durability: None }).await
    }
    async fn release(
        &self,
        _: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        not_scripted()
    }
    async fn transact(
        &self,
        _: Request<pb::TransactRequest>,
    ) -> Result<Response<pb::TransactResponse>, Status> {
        not_scripted()
    }
    async fn delete(
        &self,
        _: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        not_scripted()
    }
    async fn get_message(
        &self,
        _: Request<pb::GetMessageRequest>,
    ) -> Result<Response<pb::GetMessageResponse>, Status> {
        not_scripted()
    }
    async fn undelete_queue(
        &self,
        _: Request<pb::UndeleteQueueRequest>,
    ) -> Result<Response<pb::UndeleteQueueResponse>, Status> {
        not_scripted()
    }
    async fn start_redrive(
        &self,
        _: Request<pb::StartRedriveRequest>,
    ) -> Result<Response<pb::StartRedriveResponse>, Status> {
        not_scripted()
    }
    async fn cancel_redrive(
        &self,
        _: Request<pb::CancelRedriveRequest>,
    ) -> Result<Response<pb::CancelRedriveResponse>, Status> {
        not_scripted()
    }
    async fn list_redrives(
        &self,
        _: Request<pb::ListRedrivesRequest>,
    ) -> Result<Response<pb::ListRedrivesResponse>, Status> {
        not_scripted()
    }
    async fn set_account_quota(
        &self,
        _: Request<pb::SetAccountQuotaRequest>,
    ) -> Result<Response<pb::SetAccountQuotaResponse>, Status> {
        not_scripted()
    }
    async fn get_account(
        &self,
        _: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        not_scripted()
    }
    async fn list_accounts(
        &self,
        _: Request<pb::ListAccountsRequest>,
    ) -> Result<Response<pb::ListAccountsResponse>, Status> {
        not_scripted()
    }
    async fn get_durability(
        &self,
        _: Request<pb::GetDurabilityRequest>,
    ) -> Result<Response<pb::GetDurabilityResponse>, Status> {
        not_scripted()
    }
}

fn quick(endpoints: Vec<String>) -> Builder {
    Client::builder()
        .endpoints(endpoints)
        .deadline(Duration::from_secs(5))
        .attempt_timeout(Duration::from_millis(300))
}

/// An address that refuses connections.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn place(session: &pb::Session) -> (bytes::Bytes, u64) {
    (session.client_id.clone(), session.sequence)
}

#[tokio::test]
async fn a_write_goes_to_the_next_node_under_the_same_sequence() {
    for first in [NOT_NOW, UNKNOWN, Step::Cut, Step::Silent] {
        let (one, two) = (Node::following([first]), Node::default());
        let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
        assert_eq!(client.clear("q").await.unwrap().removed, 7, "{first:?}");
        assert_eq!(one.sessions().len(), 1, "{first:?}");
        assert_eq!(place(&one.sessions()[0]), place(&two.sessions()[0]), "{first:?}");
    }
}

#[tokio::test]
async fn without_sessions_only_what_was_not_applied_is_tried_again() {
    let (one, two) = (Node::following([NOT_NOW]), Node::default());
    let endpoints = vec![one.start().await, two.start().await];
    let client = quick(endpoints).sessions(false).build().unwrap();
    assert!(client.clear("q").await.is_ok());

    for first in [UNKNOWN, Step::Cut, Step::Silent] {
        let node = Node::following([first]);
        let client = quick(vec![node.start().await]).sessions(false).build().unwrap();
        let error = client.clear("q").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{first:?}: {error}");
        assert_eq!(node.sessions(), []);
        client.clear("q").await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_names_its_reason() {
    let node = Node::following([Step::Refuse(Code::NotFound, "QUEUE_NOT_FOUND")]);
    let client = quick(vec![node.start().await]).build().unwrap();
    let error = client.clear("q").await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::QueueNotFound));
    assert!(error.is_not_applied());
    assert_eq!(node.sessions().len(), 1);
}

#[tokio::test]
async fn what_a_lost_primary_may_have_run_is_unknown_though_every_node_is_read_only_then() {
    for lost in [Step::Cut, Step::Silent, UNKNOWN] {
        let script = || std::iter::once(lost).chain([READ_ONLY; 100]);
        let (one, two) = (Node::following(script()), Node::following([READ_ONLY; 100]));
        let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
        let error = client.clear("q").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{lost:?}: {error}");

        let (one, two) = (Node::following(script()), Node::following([READ_ONLY; 100]));
        let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
        let error = client.send("q", "m").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{lost:?}: {error}");
    }
}

#[tokio::test]
async fn a_write_waits_for_the_promotion_while_the_primary_is_not_reached() {
    // It says it more often than there are nodes.
    let secondary = Node::following([READ_ONLY; 5]);
    let endpoints = vec![nobody().await, secondary.start().await];
    let client = quick(endpoints).build().unwrap();
    assert_eq!(client.clear("q").await.unwrap().removed, 7);

    let all = [Node::following([READ_ONLY; 100]), Node::following([READ_ONLY; 100])];
    let endpoints = vec![all[0].start().await, all[1].start().await];
    let error = quick(endpoints).build().unwrap().clear("q").await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::ReadOnly), "every node says so");
}

#[tokio::test]
async fn a_consumer_stands_by_while_every_node_is_read_only() {
    let nodes = [Node::following([READ_ONLY; 7]), Node::following([READ_ONLY; 7])];
    let endpoints = vec![nodes[0].start().await, nodes[1].start().await];
    let client = quick(endpoints).build().unwrap();
    let wait = Duration::from_secs(20);
    let options = ReceiveOptions { wait, ..ReceiveOptions::default() };
    let received = client.receive("q", options).await.unwrap();
    assert_eq!(received.messages.len(), 1);

    let node = Node::following([READ_ONLY; 100]);
    let client = quick(vec![node.start().await]).build().unwrap();
    let error = client.receive("q", ReceiveOptions::default()).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::ReadOnly), "who does not wait is told at once");
}

#[tokio::test]
async fn reads_are_tried_again_after_anything() {
    let (one, two) = (Node::following([Step::Cut]), Node::default());
    let endpoints = vec![one.start().await, two.start().await];
    let client = quick(endpoints).sessions(false).build().unwrap();
    assert!(client.peek("q", PeekOptions::default()).await.is_ok());
}

#[tokio::test]
async fn a_refused_connection_costs_nothing_and_nobody_at_all_is_not_now() {
    let node = Node::default();
    let client = quick(vec![nobody().await, node.start().await]).sessions(false).build().unwrap();
    assert!(client.clear("q").await.is_ok(), "nothing was sent to the first, so this is safe");

    let client = quick(vec![nobody().await]).deadline(Duration::from_millis(500)).build().unwrap();
    let error = client.clear("q").await.unwrap_err();
    assert!(matches!(error, ClientError::NotNow { .. }), "{error}");
    let error = client.send("q", "m").await.unwrap_err();
    assert!(matches!(error, ClientError::NotNow { .. }), "{error}");
}

#[tokio::test]
async fn an_ended_session_is_replaced_when_nothing_was_sent_before() {
    let node = Node::following([Step::Refuse(Code::Aborted, "SESSION_ENDED")]);
    let client = quick(vec![node.start().await]).build().unwrap();
    client.clear("q").await.unwrap();
    let sessions = node.sessions();
    assert_ne!(sessions[0].client_id, sessions[1].client_id);
    assert_eq!(sessions[1].sequence, 1);

    let node = Node::following([UNKNOWN, Step::Refuse(Code::Aborted, "SESSION_ENDED")]);
    let client = quick(vec![node.start().await]).build().unwrap();
    let error = client.clear("q").await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert_eq!(node.sessions().len(), 2, "it never runs under another sequence");
}

#[tokio::test]
async fn a_receive_keeps_its_session_only_when_the_cluster_recorded_it() {
    let node = Node::default();
    let client = quick(vec![node.start().await]).build().unwrap();
    for queue in ["full", "full", "empty", "empty"] {
        client.receive(queue, ReceiveOptions::default()).await.unwrap();
    }
    let seen: Vec<_> = node.sessions().iter().map(|s| s.sequence).collect();
    assert_eq!(seen, [1, 2, 3, 4], "a recorded session goes on");

    let client = quick(vec![node.start().await]).build().unwrap();
    for _ in 0..2 {
        client.receive("empty", ReceiveOptions::default()).await.unwrap();
    }
    let sessions = node.sessions().split_off(4);
    assert_ne!(sessions[0].client_id, sessions[1].client_id);
    assert_eq!((sessions[0].sequence, sessions[1].sequence), (1, 1));
}

#[tokio::test]
async fn sends_in_flight_share_a_stream_and_survive_its_end_without_running_twice() {
    // Each node loses its stream now and then, with answers of writes that it had run.
    let script =
        |n: usize| (0..40).map(move |at| if at % 9 == n { Step::Cut } else { Step::Accept });
    let (one, two) = (Node::following(script(3)), Node::following(script(5)));
    let endpoints = vec![one.start().await, two.start().await];
    let client = quick(endpoints).connections(2).build().unwrap();
    let sends: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.send("q", format!("{n}").into_bytes()).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().unwrap();
    }
    let mut places: Vec<_> = one.sessions().iter().chain(&two.sessions()).map(place).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 100, "one place for each send, however often it was written");
}

#[tokio::test]
async fn a_send_moves_on_from_a_node_that_says_not_now_or_nothing() {
    for first in [NOT_NOW, UNKNOWN, Step::Silent, Step::Cut] {
        let (one, two) = (Node::following([first]), Node::default());
        let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
        client.send("q", "m").await.unwrap();
        assert_eq!(place(&one.sessions()[0]), place(&two.sessions()[0]), "{first:?}");
    }
}

#[tokio::test]
async fn a_unary_send_is_a_call_of_its_own_and_is_tried_again_under_the_same_sequence() {
    for first in [NOT_NOW, UNKNOWN, Step::Silent, Step::Cut] {
        let (one, two) = (Node::following([first]), Node::default());
        let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
        let sent = client.send_batch_unary("q", vec!["a".into(), "b".into()]).await.unwrap();
        assert_eq!(sent.messages.len(), 2, "{first:?}");
        assert_eq!(place(&one.sessions()[0]), place(&two.sessions()[0]), "{first:?}");
        let calls = |node: &Node| node.0.lock().unwrap().unary_sends;
        assert_eq!((calls(&one), calls(&two)), (1, 1), "{first:?}");
        client.send("q", "m").await.unwrap();
        assert_eq!(calls(&one) + calls(&two), 2, "a plain send rides on the stream");
    }
}

#[tokio::test]
async fn what_any_node_told_is_said_to_all_by_every_clone() {
    let epoch = |number, region| KnownEpoch::new(number, region, 7).unwrap();
    let (west, east) = (epoch(2, "west"), epoch(1, "east"));
    let (one, two) = (Node::following([NOT_NOW]), Node::default());
    let (by_one, by_two) = (Said::default(), Said::default());
    let endpoints = vec![
        one.start_telling(west, by_one.clone()).await,
        two.start_telling(east, by_two.clone()).await,
    ];
    let client = quick(endpoints).build().unwrap();
    // A refusal tells too, and a call that is made again knows it already.
    client.clear("q").await.unwrap();
    assert_eq!(*by_one.lock().unwrap(), [None], "it knew nothing at first");
    assert_eq!(*by_two.lock().unwrap(), [Some(west)]);
    client.clone().clear("q").await.unwrap();
    // On a stream.
    client.send("q", "m").await.unwrap();
    let knew = by_two.lock().unwrap().clone();
    assert_eq!(knew, [Some(west); 3], "the lower one that it tells changes nothing");
}

#[tokio::test]
async fn a_refused_send_is_final_and_the_stream_goes_on() {
    let node = Node::following([Step::Refuse(Code::NotFound, "QUEUE_NOT_FOUND")]);
    let client = quick(vec![node.start().await]).build().unwrap();
    let error = client.send("q", "m").await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::QueueNotFound));
    client.send("q", "m").await.unwrap();
    let sequences: Vec<_> =
        node.sessions().iter().map(|s| (s.sequence, s.lowest_unanswered)).collect();
    assert_eq!(sequences, [(1, 1), (2, 2)]);
}

#[tokio::test]
async fn a_node_that_only_refuses_ends_in_not_now_at_the_deadline() {
    let node = Node::following([NOT_NOW; 10_000]);
    let client =
        quick(vec![node.start().await]).deadline(Duration::from_millis(400)).build().unwrap();
    let error = client.send("q", "m").await.unwrap_err();
    assert!(matches!(error, ClientError::NotNow { .. }), "{error}");
    assert!(node.sessions().len() < 100, "it backed off");
}

#[tokio::test]
async fn a_receive_stream_asks_by_credit_deletes_on_the_stream_and_resumes() {
    let (one, two) = (Node::following([Step::Accept, Step::Cut]), Node::default());
    let client = quick(vec![one.start().await, two.start().await]).build().unwrap();
    let options = StreamOptions { credit: 4, ..StreamOptions::default() };
    let mut stream = client.receive_stream("q", options).unwrap();
    let first = stream.next().await.unwrap().unwrap();
    stream.delete(&first).await.unwrap();
    let second = stream.next().await.unwrap().unwrap();
    stream.delete(&second).await.unwrap();
    assert_eq!(place(&one.sessions()[1]), place(&two.sessions()[0]), "written again, not anew");
    for _ in 0..20 {
        stream.next().await.unwrap().unwrap();
    }
    let credit = two.0.lock().unwrap().credit.clone();
    assert!(credit.iter().all(|asked| (1..=4).contains(asked)), "{credit:?}");
}

#[tokio::test]
async fn a_receive_stream_with_a_limit_asks_for_no_more_and_ends() {
    let node = Node::default();
    let client = quick(vec![node.start().await]).build().unwrap();
    let options = StreamOptions { credit: 4, limit: Some(9), ..StreamOptions::default() };
    let mut stream = client.receive_stream("q", options).unwrap();
    let mut came = 0;
    while let Some(message) = stream.next().await {
        // Deletes go on, also of the last message.
        stream.delete(&message.unwrap()).await.unwrap();
        came += 1;
    }
    assert_eq!(came, 9);
    assert_eq!(node.0.lock().unwrap().credit.iter().sum::<u32>(), 9, "no more was asked for");
    let nothing = StreamOptions { limit: Some(0), ..StreamOptions::default() };
    assert!(matches!(client.receive_stream("q", nothing), Err(ClientError::Invalid(_))));
}

#[tokio::test]
async fn a_receive_stream_that_is_finished_hands_out_what_it_held_and_takes_no_deletes() {
    let client = quick(vec![Node::default().start().await]).build().unwrap();
    let options = StreamOptions { credit: 4, ..StreamOptions::default() };
    let mut stream = client.receive_stream("q", options).unwrap();
    let first = stream.next().await.unwrap().unwrap();
    let acks = stream.acks();
    acks.delete(&first).await.unwrap();
    let held: Vec<_> = stream.finish().await.into_iter().map(|message| message.id).collect();
    assert_eq!((first.id.as_str(), held), ("0", vec!["1".into(), "2".into(), "3".into()]));
    assert!(matches!(acks.delete(&first).await, Err(ClientError::NotNow { .. })));

    let nobody = quick(vec![nobody().await]).build().unwrap();
    let stream = nobody.receive_stream("q", options).unwrap();
    assert!(stream.finish().await.is_empty(), "a node that is away holds nobody up");
}

#[tokio::test]
async fn a_receive_stream_ends_with_a_refusal() {
    let client = quick(vec![Node::default().start().await]).build().unwrap();
    let mut stream = client.receive_stream("none", StreamOptions::default()).unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::QueueNotFound));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_kept_lease_is_extended_and_the_newest_receipt_comes_back() {
    let node = Node::default();
    let client = quick(vec![node.start().await]).build().unwrap();
    let message = Message { id: "m".into(), pop_receipt: "r0".into(), ..Message::default() };
    let second = Duration::from_secs(1);
    let keeper = client.keep_alive("q", &message, second, 60 * second).unwrap();
    assert_eq!(keeper.pop_receipt(), "r0");
    while keeper.pop_receipt() == "r0" {
        tokio::task::yield_now().await;
    }
    let newest = keeper.finish().await.unwrap();
    assert_eq!(newest, format!("r{}", node.0.lock().unwrap().updates));

    let refuse = Step::Refuse(Code::FailedPrecondition, "RECEIPT_MISMATCH");
    let client = quick(vec![Node::following([refuse]).start().await]).build().unwrap();
    let keeper = client.keep_alive("q", &message, second, 60 * second).unwrap();
    assert_eq!(keeper.lost().await.reason(), Some(&Reason::ReceiptMismatch));

    let short = client.keep_alive("q", &message, second, second / 10).unwrap();
    assert!(matches!(short.lost().await, ClientError::NotNow { .. }), "the bound");
    assert!(client.keep_alive("q", &message, second / 2, second).is_err());
}

#[tokio::test]
async fn no_write_is_tried_until_its_session_may_be_forgotten() {
    let hour = Duration::from_secs(3_600);
    let client = quick(vec![nobody().await]).deadline(hour).build().unwrap();
    let now = tokio::time::Instant::now();
    let within = Duration::from_secs(301);
    assert!(client.write_plan().deadline < now + within, "a retry later than that could run twice");
    assert!(client.shared.write_deadline() < within, "nor on a stream");
    assert!(client.read_plan().deadline > now + within, "a read may");
}
