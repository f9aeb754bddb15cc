//! A state that was begun to be given is gone on with by whoever leads then.

use super::*;
use crate::geo::seed::{CHUNK_BYTES, Chunks};
use crate::queue::ids::Number;
use crate::queue::outcome::Granted;
use crate::storage::bodies::Half;

const MANY: usize = 8_000;
const BATCH: usize = 500;
const BODY: usize = 512;
const ATTACHMENT: u128 = 71;

async fn send_many(region: &Region, name: &str, count: usize) {
    let message = |at: usize| {
        let mut body = format!("{name} {at:06}").into_bytes();
        body.resize(BODY, b'x');
        NewMessage {
            content: Content { body: body.into(), ..Content::default() },
            ..NewMessage::default()
        }
    };
    for first in (0..count).step_by(BATCH) {
        let messages = (first..count.min(first + BATCH)).map(message).collect();
        region.propose(Command::Send { queue: "orders".to_owned(), messages }).await.expect("sent");
    }
}

/// Receives so many messages, and deletes half of them.
async fn work(region: &Region, count: u32) {
    let command = Command::Receive(Receive {
        queue: "orders".to_owned(),
        max_messages: count,
        max_bytes: 4 << 20,
        visibility: None,
    });
    let Ok(Reply::Received { messages, .. }) = region.propose(command).await else {
        panic!("not received");
    };
    let item = |it: &Granted| (it.id, it.receipt);
    let items = messages.iter().take(count as usize / 2).map(item).collect();
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

/// West has many messages and an epoch whose log does not go back to the beginning; east is empty
/// and is to follow it.
async fn west_and_an_empty_east(dir: &Path) -> (Region, Region, [String; 2]) {
    let (east, west, at) = protected(dir).await;
    east.send("one").await.expect("sent");
    west.until_applied("all is there", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.stop().await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("of west").await;
    send_many(&west, "of west", MANY).await;
    std::fs::remove_dir_all(dir.join("east")).unwrap();
    let east = Region::start(dir, "east", &at[0], &at[1]).await;
    let ledger = west.group.standing().unwrap().authority.ledger;
    let (region, attachment) = (east.name.to_owned(), ATTACHMENT);
    let attach = Attach { region, lineage: 7, attachment, ledger, ..Attach::default() };
    east.region(RegionVerb::Attach(attach)).await.expect("attached");
    (east, west, at)
}

async fn protect(west: &Region) {
    let (region, peer) = (west.name.to_owned(), "east".to_owned());
    let protect = RegionVerb::Protect { region, lineage: 7, attachment: ATTACHMENT, peer };
    west.region(protect).await.expect("protected");
}

/// Gives east the first chunks of west's state as a leader does that stops then; answers their
/// bytes of bodies, and how many chunks there would have been.
async fn give_a_part(west: &Region, east: &Region, chunks: usize) -> (usize, usize) {
    west.group.store().commit().await.expect("committed");
    let (view, authority) = {
        let store = west.group.store().read();
        (store.view().expect("a view"), store.state().authority().cloned().expect("in a pair"))
    };
    let begun = RegionVerb::SeedBegin {
        attachment: ATTACHMENT,
        id: 99,
        position: view.position(),
        ledger: authority.ledger,
        replayed: Vec::new(),
        base: None,
        resumes: None,
    };
    east.region(begun).await.expect("begun");
    let mut parts = Chunks::new(&view, Half { is_high: authority.high_contents });
    let (mut bytes, mut number) = (0, 0);
    while let Some((rows, contents)) = parts.next(CHUNK_BYTES).expect("read") {
        if number < chunks {
            bytes += contents.iter().map(|(_, content)| content.size()).sum::<usize>();
            let (attachment, id, removed) = (ATTACHMENT, 99, Vec::new());
            let number = number as u64;
            let chunk = SeedChunk { attachment, id, number, rows, contents, removed };
            east.region(RegionVerb::SeedChunk(chunk)).await.expect("taken");
        }
        number += 1;
    }
    (bytes, number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_another_leader_began_to_give_is_gone_on_with_from_a_later_view() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = west_and_an_empty_east(dir.path()).await;
    let (given, chunks) = give_a_part(&west, &east, 6).await;
    assert!(chunks > 6 && given > 2_000_000, "{given} bytes, {chunks} chunks");
    // Both sides lead anew, and the primary goes on serving meanwhile.
    east.stop().await;
    let east = Region::start_on_disk(dir.path(), "east", &at[0], &at[1]).await;
    east.pretend_free(Some(64 << 10));
    work(&west, 300).await;
    send_many(&west, "later", 100).await;
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    let (settings, metadata) = (Box::new(Settings::default()), StringMap::new());
    let name = "another".to_owned();
    west.propose(Command::CreateQueue { name, metadata, settings }).await.expect("created");
    protect(&west).await;
    // Room is asked for what is still to come.
    let whole = MANY * BODY;
    let asked = west.until_no_room().await as usize;
    let to_come = whole - given;
    assert!((to_come..to_come + whole / 4).contains(&asked), "{asked} of {to_come}");
    east.pretend_free(Some(asked as u64 + (64 << 10)));
    west.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    east.until_applied("equal", |east| digests_are_equal(east, &west)).await;
    let copied = west.watermark.borrow().copied_bytes as usize;
    println!("given before {given} of {} bytes, and {copied} by the next leader", MANY * BODY);
    assert!(copied < whole - given + whole / 4, "{copied} bytes, of {whole} and {given} before");
    let expected = all(&west);
    assert_eq!(expected.len(), MANY + 2 + 100 - 150);
    assert!(all(&east) == expected, "every body is there");
    east.stop().await;
    let east = Region::start(dir.path(), "east", &at[0], &at[1]).await;
    assert!(all(&east) == expected, "durable");
    west.send_patiently("after").await;
    let total = west.total();
    east.until_applied("it follows", |east| east.total() == total).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_of_a_state_is_freed_by_itself_once_the_copy_is_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west, at) = protected(dir.path()).await;
    east.send("one").await.expect("sent");
    west.until_applied("one is there", |west| west.total() == 1).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let (ledger, position) = {
        let standing = east.group.standing().unwrap();
        (standing.authority.ledger, standing.applied)
    };
    east.stop().await;
    let (attachment, id, replayed) = (70, 99, Vec::new());
    let (base, resumes) = (None, None);
    let begun = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    west.region(begun).await.expect("begun");
    for number in 0..40 {
        let content = |at| {
            let body = Bytes::from_static(b"of a seed");
            (crate::queue::ids::ContentId(at), Content { body, ..Content::default() })
        };
        let contents = (number * 600..(number + 1) * 600).map(content).collect();
        let (rows, removed) = (Vec::new(), Vec::new());
        let chunk = SeedChunk { attachment, id, number, rows, contents, removed };
        west.region(RegionVerb::SeedChunk(chunk)).await.expect("taken");
    }
    // A restart before the promotion, and one right after it.
    west.stop().await;
    let west = Region::start(dir.path(), "west", &at[1], &at[0]).await;
    west.pair.force("anna", false).await.expect("promoted");
    west.send_patiently("it serves at once").await;
    let west = {
        west.stop().await;
        Region::start(dir.path(), "west", &at[1], &at[0]).await
    };
    west.until_applied("freed", |west| !west.group.store().read().state().has_abandoned_seed())
        .await;
    assert_eq!(west.total(), 2);
    west.stop().await;
}
