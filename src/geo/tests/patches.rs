//! A deposed primary of many messages is given what differs, and not all.

use super::*;
use crate::queue::ids::Number;
use crate::queue::outcome::Granted;

const MANY: usize = 100_000;
const BATCH: usize = 1_000;

async fn send_batch(region: &Region, name: &str, count: usize) {
    let message = |at: usize| {
        let body = Bytes::from(format!("{name} {at:06}"));
        NewMessage { content: Content { body, ..Content::default() }, ..NewMessage::default() }
    };
    let messages = (0..count).map(message).collect();
    let command = Command::Send { queue: "orders".to_owned(), messages };
    until("sent", async {
        let account = "default".to_owned();
        let envelope = Envelope { session: None, account, command };
        while region.group.propose(envelope.clone(), soon()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Receives so many messages, deletes the first half of them and keeps the rest.
async fn work(region: &Region, count: usize) {
    let command = Command::Receive(Receive {
        queue: "orders".to_owned(),
        max_messages: count as u32,
        max_bytes: 4 << 20,
        visibility: None,
    });
    let Ok(Reply::Received { messages, .. }) = region.propose(command).await else {
        panic!("not received");
    };
    let item = |it: &Granted| (it.id, it.receipt);
    let items = messages.iter().take(count / 2).map(item).collect();
    let queue = "orders".to_owned();
    region.propose(Command::Delete { queue, items }).await.expect("deleted");
}

/// The bodies of all messages, by number.
fn all(region: &Region) -> Vec<(Number, Bytes)> {
    let store = region.group.store().read();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = store.state().tail(Number(0), after, 1_000);
        found.extend(page.into_iter().map(|it| {
            let content = store.content(it.shown.content).expect("read").expect("there");
            (it.shown.id.number, content.body)
        }));
        after = next;
        if after.is_none() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protecting_again_copies_little_more_than_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    for _ in 0..MANY / BATCH {
        send_batch(&east, "shared", BATCH).await;
    }
    west.until_applied("all is there", |west| west.total() == MANY as u64).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.stop().await;
    // A part of the one per cent that changes changes here,
    work(&east, 200).await;
    send_batch(&east, "of east", 100).await;
    east.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.pair.force("anna", false).await.expect("promoted");
    // and the rest there, under the same numbers.
    send_batch(&west, "of west", 300).await;
    work(&west, 400).await;
    let east = Region::start_on_disk(dir.path(), "east", &at[0], &at[1]).await;
    east.pretend_free(Some(8 << 10));
    east.until_applied("fenced", |east| matches!(east.role(), Role::Fenced { .. })).await;
    west.pair.protect("anna", true).await.expect("protected");
    // Room is asked for what differs, and it is no reason to give all that there is none.
    let asked = west.until_no_room().await;
    assert!((9 << 10..256 << 10).contains(&asked), "{asked} bytes");
    east.pretend_free(None);
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    let copied = west.watermark.borrow().copied_bytes;
    println!("copied {copied} bytes");
    assert!(copied > 0 && copied < 256 << 10, "{copied} bytes for a thousand changes");
    let expected = all(&west);
    assert_eq!(expected.len(), MANY + 300 - 200);
    assert!(all(&east) == expected, "every body is there, and is the new primary's");
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    assert!(all(&east) == expected, "durable");
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    send_batch(&west, "after", 10).await;
    let total = west.total();
    east.until_applied("it follows", |east| east.total() == total).await;
    assert!(all(&east) == all(&west));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_whose_epoch_nothing_went_on_from_is_given_every_body_that_both_numbered_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("shared").await.expect("sent");
    west.until_applied("shared", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("of west").await;
    west.stop().await;
    // East never hears of that: it hands over to the same epoch, and takes it back by force.
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    let Ok(RegionReply::At(seal)) = east.region(RegionVerb::Seal).await else {
        panic!("not sealed")
    };
    let to = RegionEpoch { number: Epoch(2), region: "west".to_owned() };
    let release = RegionVerb::Release { to, seal, acknowledged: seal };
    east.region(release).await.expect("released");
    east.region(RegionVerb::TakeBack { number: Epoch(3) }).await.expect("taken back");
    east.send_patiently("of east").await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.until_applied("fenced", |west| matches!(west.role(), Role::Fenced { .. })).await;
    east.pair.protect("anna", true).await.expect("protected");
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    west.until_applied("equal", |west| digests_are_equal(&east, west)).await;
    let bodies = |of: Vec<(Number, Bytes)>| of.into_iter().map(|(_, body)| body).collect();
    let expected: Vec<Bytes> = ["shared", "of east"].map(Bytes::from).into();
    assert_eq!((bodies(all(&east)), bodies(all(&west))), (expected.clone(), expected));
    east.stop().await;
    west.stop().await;
}
