//! Contents that rot on a node's disk, and what the others give for them.

use super::*;
use crate::consensus::error::Fate;
use crate::queue::ids::ContentId;
use crate::queue::outcome::Reply;

const BODY: &str = "of which a bit flips";

/// A message whose body lies in a segment of the leader and rotted there; and who leads.
async fn rotten(dir: &Path, nodes: &[TestNode]) -> usize {
    let first = leader(nodes).await;
    let group = &nodes[first].group;
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    group.propose(send(BODY), soon()).await.unwrap().outcome.unwrap();
    group.store().commit().await.unwrap();
    assert_eq!(rot(&dir.join(format!("node-{}", first + 1))), 1);
    first
}

/// Flips a bit of the body wherever it lies in a body segment below this folder.
fn rot(folder: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count += rot(&path);
        } else if path.extension().is_some_and(|it| it == "bodies") {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(BODY.len()).position(|part| part == BODY.as_bytes());
            let Some(at) = at else { continue };
            bytes[at] ^= 1;
            // In place: the node has the file open.
            std::fs::write(&path, bytes).unwrap();
            count += 1;
        }
    }
    count
}

fn granted(done: &Done) -> ContentId {
    let Ok(Reply::Received { messages, .. }) = &done.outcome else { panic!("{done:?}") };
    messages[0].content
}

#[tokio::test]
async fn a_received_content_that_rotted_comes_from_another_node_and_is_whole_here_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = cluster(dir.path()).await;
    let first = rotten(dir.path(), &nodes).await;
    let group = nodes[first].group.clone();
    let done = group.receive("default", &receive(1), None, Duration::ZERO, soon()).await;
    let done = done.unwrap().expect("a message");
    assert_eq!(bodies(&done), [BODY]);
    group.store().commit().await.unwrap();
    let alone = nodes.swap_remove(first);
    for node in nodes {
        node.stop().await;
    }
    let content = group.store().read().content(granted(&done)).expect("whole").expect("there");
    assert_eq!(content.body, BODY);
    alone.stop().await;
}

#[tokio::test]
async fn what_a_reader_found_rotten_is_mended_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let first = rotten(dir.path(), &nodes).await;
    let group = &nodes[first].group;
    group.store().commit().await.unwrap();
    let read_all = || {
        let view = group.store().read().view().unwrap();
        let mut reader = view.reader();
        loop {
            match reader.next_chunk() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    assert!(!read_all(), "a snapshot finds it");
    let mended = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !read_all() {
            looks.tick().await;
            group.store().commit().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), mended).await.expect("it is mended");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_rotten_content_that_nobody_else_gives_is_not_now() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = cluster(dir.path()).await;
    let first = rotten(dir.path(), &nodes).await;
    let alone = nodes.swap_remove(first);
    let found = {
        let store = alone.group.store().read();
        let (page, _) = store.state().tail(crate::queue::ids::Number(0), None, 1);
        store.find(page[0].shown.content).expect("there")
    };
    for node in nodes {
        node.stop().await;
    }
    let until = Instant::now() + Duration::from_secs(1);
    let error = alone.group.content(&found, until, Fate::NotApplied).await.unwrap_err();
    let GroupError::NotNow { reason, fate, .. } = error else { panic!("{error}") };
    assert_eq!((reason, fate), (Reason::Rotten, Fate::NotApplied));
    alone.stop().await;
}
