//! Consumers of two regions, one of which takes no writes.

use std::time::Duration;

use tokio::time::Instant;
use zoneq::client::{Client, ReceiveOptions, StreamOptions};

use super::regions::Pair;

const LONG: Duration = Duration::from_secs(25);
/// What is there is given out within this, where a wait of [`LONG`] would show.
const SOON: Duration = Duration::from_secs(8);

async fn received(client: &Client) -> Vec<u8> {
    let options = ReceiveOptions { wait: LONG, ..ReceiveOptions::default() };
    let received = client.receive("orders", options).await.expect("received");
    let message = received.messages.into_iter().next().expect("a message");
    client.delete("orders", &message.id, &message.pop_receipt).await.expect("deleted");
    message.body.to_vec()
}

#[test]
fn a_consumer_that_waits_finds_the_region_that_has_messages_and_follows_a_failover() {
    let pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The region that takes no writes is asked first.
    let both = pair.client(&pair.west, &pair.east);
    let began = Instant::now();
    pair.ok(&pair.east, "send orders first");
    assert_eq!(runtime.block_on(received(&both)), b"first");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    // One that knows the secondary alone stands by there, and one on a stream as well.
    let alone = pair.client(&pair.west, &pair.west);
    let stands_by = runtime.spawn(async move { received(&alone).await });
    let alone = pair.client(&pair.west, &pair.west);
    let mut stream = {
        let _context = runtime.enter();
        alone.receive_stream("orders", StreamOptions::default()).expect("a stream")
    };
    let streams = runtime.spawn(async move {
        let message = stream.next().await.expect("it goes on").expect("a message");
        stream.delete(&message).await.expect("deleted");
        message.body.to_vec()
    });
    pair.fail_over(&pair.east, "west");
    let began = Instant::now();
    pair.ok(&pair.west, "send orders second");
    pair.ok(&pair.west, "send orders third");
    let mut found = [
        runtime.block_on(stands_by).expect("it ends"),
        runtime.block_on(streams).expect("it ends"),
    ];
    found.sort();
    assert_eq!(found, [b"second".to_vec(), b"third".to_vec()]);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // Who received at the old primary goes on at the new one.
    pair.ok(&pair.west, "send orders fourth");
    assert_eq!(runtime.block_on(received(&both)), b"fourth");
}
