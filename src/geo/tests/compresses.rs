//! What goes to the other region is made smaller on the way, where that is set.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Carries connections to an address, and counts the bytes that go there.
async fn counted(to: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&bytes);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(&to).await else { continue };
            tokio::spawn(carry(near, far, Arc::clone(&counter)));
        }
    });
    (at, bytes)
}

async fn carry(near: TcpStream, far: TcpStream, bytes: Arc<AtomicU64>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let there = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
            bytes.fetch_add(read as u64, Ordering::Relaxed);
            if to_far.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let _ = tokio::join!(there, tokio::io::copy(&mut from_far, &mut to_near));
}

/// Bytes that go over the line, and those that were shipped, for messages that compress well.
async fn over_the_line(compression: Compression) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (east_at, west_at) = (free_address().await, free_address().await);
    let (line, bytes) = counted(west_at.clone()).await;
    let east = Region::start_with(dir.path(), "east", &east_at, &line, compression).await;
    // What the other side says of itself does not matter.
    let west = Region::start(dir.path(), "west", &west_at, &east_at).await;
    east.create().await;
    pair_up(&east, &west).await;
    east.until_known("live", |mark| mark.status == GeoStatus::Live).await;
    let before = bytes.load(Ordering::Relaxed);
    let body = "all the same, ".repeat(2_000);
    for _ in 0..30 {
        east.send(&body).await.expect("sent");
    }
    west.until_applied("all is there", |west| west.total() == 30).await;
    let sent = bytes.load(Ordering::Relaxed) - before;
    let wanted = 30 * body.len() as u64;
    east.until_known("counted", |mark| mark.shipped_bytes > wanted).await;
    let shipped = east.watermark.borrow().shipped_bytes;
    west.until_applied("equal", |west| digests_are_equal(&east, west)).await;
    east.stop().await;
    west.stop().await;
    (sent, shipped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_line_carries_a_part_of_what_is_shipped() {
    let (plain, shipped) = over_the_line(Compression::None).await;
    assert!(plain >= 30 * 28_000, "{plain} bytes");
    // Framing, and what an idle pair says, come to little.
    assert!(shipped <= plain, "{shipped} of {plain}");
    assert!(shipped < 31 * 28_000 + 100_000, "{shipped}: no batch was counted twice");
    let (compressed, shipped) = over_the_line(Compression::Zstd).await;
    assert!(compressed < plain / 10, "{compressed} of {plain} bytes");
    assert!(shipped >= 30 * 28_000, "counted before it is compressed: {shipped}");
}
