//! Nodes that hold other data than they should.

use super::*;
use crate::queue::command::Entry;
use crate::queue::milestones::{Comparison, EVERY};

/// Applies at one node what the others know nothing of.
pub(super) fn spoil(group: &Group, command: Command) {
    let mut store = group.store().write();
    let position = store.applied().expect("something is applied");
    let (epoch, stamp) = (store.state().epoch(), store.state().log_time());
    let commands = vec![envelope(command)];
    let applied = store.apply(&Entry { position, epoch, stamp, commands });
    applied.outcomes[0].as_ref().expect("done");
}

async fn compared(nodes: &[TestNode], one: usize, other: usize) -> Comparison {
    let own = nodes[one].group.milestones();
    let status = nodes[one].group.status();
    let id = nodes[other].group.node();
    let member = status.nodes.iter().find(|it| it.id == id).expect("a member");
    let with = (id, member.member.peer_address.as_str());
    nodes[one].group.compare_with(with, &own).await.expect("answered")
}

/// Waits until all have applied what the leader has.
async fn settled(nodes: &[TestNode], first: usize) {
    let index = nodes[first].group.status().applied;
    for node in nodes {
        let mut applied = node.group.applied();
        let reached = applied.wait_for(|it| it.position.is_some_and(|at| at.index >= index));
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("in time").unwrap();
    }
}

#[tokio::test]
async fn the_queue_in_which_a_node_differs_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let group = &nodes[first].group;
    for name in ["orders", "others"] {
        group.propose(create(name), soon()).await.unwrap().outcome.unwrap();
    }
    group.propose(send("a message"), soon()).await.unwrap().outcome.unwrap();
    settled(&nodes, first).await;
    let other = (first + 1) % 3;
    assert!(matches!(compared(&nodes, first, other).await, Comparison::Equal(_)));
    let Command::Send { queue, messages } = send("that nobody sent").command else { panic!() };
    spoil(&nodes[other].group, Command::Send { queue, messages });
    let comparison = compared(&nodes, first, other).await;
    let Comparison::Differ { own, other: theirs, parts } = &comparison else {
        panic!("{comparison:?}")
    };
    assert_ne!(own.digest, *theirs);
    let names = group.part_names(parts);
    assert!(names.contains(&"queue \"orders\" of account \"default\"".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("others")), "{names:?}");
    group.note_comparison("node 9".to_owned(), &comparison);
    assert_eq!(group.agreed()["node 9"].differs, names);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn nodes_that_are_written_to_are_compared_at_a_fixed_position() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let group = &nodes[first].group;
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    while group.status().applied <= EVERY {
        group.propose(send("a message"), soon()).await.unwrap().outcome.unwrap();
    }
    settled(&nodes, first).await;
    let other = (first + 1) % 3;
    // What it says of its present is not that of the leader any more.
    let own = group.milestones();
    group.propose(send("one more"), soon()).await.unwrap().outcome.unwrap();
    settled(&nodes, first).await;
    let status = group.status();
    let id = nodes[other].group.node();
    let member = status.nodes.iter().find(|it| it.id == id).expect("a member");
    let with = (id, member.member.peer_address.as_str());
    let comparison = group.compare_with(with, &own).await.expect("answered");
    let Comparison::Equal(mark) = comparison else { panic!("{comparison:?}") };
    assert_eq!(mark.at.index, EVERY);
    for node in nodes {
        node.stop().await;
    }
}
