//! A node that is cut off from the others says so, and nothing that it cannot know.

use super::*;

async fn alone() -> (tempfile::TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let alone = nodes.swap_remove(first);
    alone.group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    for node in nodes {
        node.stop().await;
    }
    (dir, alone)
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

#[tokio::test]
async fn a_leader_without_a_majority_does_not_say_that_a_queue_is_missing() {
    let (_dir, alone) = alone().await;
    let receive = Receive { queue: "made-elsewhere".into(), ..receive(1) };
    let answer = alone.group.receive("default", &receive, None, Duration::ZERO, shortly()).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, GroupError::NotNow { .. }), "{error}");
}

#[tokio::test]
async fn a_leader_without_a_majority_does_not_say_that_a_queue_is_empty() {
    let (_dir, alone) = alone().await;
    let answer = alone.group.receive("default", &receive(1), None, Duration::ZERO, shortly()).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, GroupError::NotNow { .. }), "{error}");
}

#[tokio::test]
async fn with_a_majority_a_missing_queue_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let group = &nodes[leader(&nodes).await].group;
    let receive = Receive { queue: "never-made".into(), ..receive(1) };
    let answer = group.receive("default", &receive, None, Duration::from_secs(60), soon()).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, GroupError::Rejected(Rejection::QueueNotFound(_))), "{error}");
}

#[tokio::test]
async fn stale_reads_end_when_the_node_has_heard_of_nobody_for_longer_than_they_allow() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let at = (first + 1) % nodes.len();
    let follower = nodes.swap_remove(at);
    let bound = Freshness::Stale(Duration::from_millis(500));
    let read = || follower.group.read(bound, soon(), |_, _| ());
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let heard = async {
        while read().await.is_err() {
            looks.tick().await;
        }
        for node in nodes {
            node.stop().await;
        }
        while read().await.is_ok() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the bound holds");
}

#[tokio::test]
async fn many_readers_at_once_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let group = &nodes[leader(&nodes).await].group;
    let reads = (0..500).map(|_| group.read(Freshness::Linearizable, soon(), |_, _| ()));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
}

#[tokio::test]
async fn a_new_cluster_has_the_true_time_from_its_first_write() {
    let dir = tempfile::tempdir().unwrap();
    let before = SystemClock::default().wall_us();
    let (nodes, _) = cluster(dir.path()).await;
    let group = &nodes[leader(&nodes).await].group;
    let done = group.propose(create("orders"), soon()).await.unwrap();
    assert!(done.log_time >= LogTime(before), "{:?}", done.log_time);
}
