//! Batches whose work is too much for one entry of the secondary.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::geo::batch::{self, Reach};
use crate::geo::wire;
use crate::proto::geo::v1::geo_service_client::GeoServiceClient;
use crate::queue::authority::Head;

/// Messages of a send.
const MESSAGES: usize = 500;

/// Sends more messages than one entry may remove, and waits until all have expired and are gone.
async fn come_and_go(east: &Region) -> Head {
    let short = NewMessage { ttl: TimeToLive::For(Span(1)), ..NewMessage::default() };
    for _ in 0..3 {
        let (queue, messages) = ("orders".to_owned(), vec![short.clone(); MESSAGES]);
        east.propose(Command::Send { queue, messages }).await.expect("sent");
    }
    east.until_applied("all is gone", |east| east.total() == 0).await;
    let standing = east.group.standing().expect("in a pair");
    Head { position: standing.applied, log_time: standing.log_time }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_are_too_much_for_one_entry_are_applied_by_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address().await, free_address().await];
    // East reaches nobody: what comes to west comes from here.
    let east = Region::start(dir.path(), "east", &at[0], &free_address().await).await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    east.create().await;
    pair_up(&east, &west).await;
    let mut heads = Vec::new();
    for _ in 0..4 {
        heads.push(come_and_go(&east).await);
    }

    let (requests, queued) = mpsc::channel(8);
    requests.send(wire::hello(7, 70, "east")).await.expect("taken");
    let mut west_client = GeoServiceClient::connect(format!("http://{}", at[1])).await.unwrap();
    let answered = west_client.ship(ReceiverStream::new(queued)).await.expect("a stream");
    let mut answers = answered.into_inner();
    let greeting = answers.message().await.expect("answered").expect("a greeting");
    let mut copy = wire::copy_end(&greeting).expect("an end");
    let entries = || west.group.applied().borrow().position.map_or(0, |it| it.index);
    let before = entries();
    let mut ends = Vec::new();
    for head in heads {
        let reach = Reach { through: Some(head), bytes: usize::MAX };
        let batch = batch::next(&east.group, &copy, reach).expect("read").expect("a batch");
        copy = batch.end();
        ends.push(copy.clone());
        requests.send(wire::batch(batch)).await.expect("taken");
    }
    for end in ends {
        let answer = answers.message().await.expect("not refused").expect("an answer");
        assert_eq!(wire::copy_end(&answer).expect("an end"), end);
    }
    assert_eq!(west.total(), 0);
    assert!(entries() >= before + 8, "each of the four took more than one entry");
    east.stop().await;
    west.stop().await;
}
