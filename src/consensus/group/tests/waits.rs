//! Who waits: woken by what happens, sent on when leadership moves, and never ended early.

use super::*;
use crate::consensus::error::Fate;
use crate::queue::command::{SessionTag, Transact};
use crate::queue::outcome::Reply;

const LONG: Duration = Duration::from_secs(30);

/// A leader with an empty queue.
async fn led(dir: &Path) -> (Vec<TestNode>, Group) {
    let (nodes, _) = cluster(dir).await;
    let group = nodes[leader(&nodes).await].group.clone();
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    (nodes, group)
}

async fn until_waiting(group: &Group, count: usize) {
    let waiting = async {
        while group.inner.waiting.count() < count {
            tokio::task::yield_now().await;
        }
    };
    // Where leadership moves by itself, on a machine that stalls, nobody waits here any more.
    tokio::time::timeout(LONG, waiting).await.expect("all wait at the leader");
}

fn tag(sequence: u64) -> SessionTag {
    SessionTag { client: 7, sequence, lowest_unanswered: 1 }
}

#[tokio::test]
async fn a_receive_under_a_session_that_came_too_late_goes_on_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (_nodes, group) = led(dir.path()).await;
    let sent = group.propose(send("taken away"), soon()).await.unwrap().outcome.unwrap();
    let Reply::Sent(sent) = sent else { panic!("{sent:?}") };
    let items = vec![(sent[0].id, sent[0].receipt)];
    let delete = envelope(Command::Delete { queue: "orders".into(), items });
    // The delete is on its way: the receive sees the message still, and comes behind it.
    let deleted = group.submit(delete, soon()).unwrap();
    let one = receive(1);
    let waits = group.receive("default", &one, Some(tag(1)), LONG, soon());
    let then = async {
        deleted.await.unwrap().outcome.unwrap();
        group.propose(send("later"), soon()).await.unwrap().outcome.unwrap();
    };
    let (done, ()) = tokio::join!(waits, then);
    assert_eq!(bodies(&done.unwrap().expect("long before its wait is over")), ["later"]);
}

#[tokio::test]
async fn whoever_waits_is_told_when_leadership_moves_and_waits_on_at_the_next_leader() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, group) = led(dir.path()).await;
    let waits: Vec<_> = (1..=20)
        .map(|sequence| {
            let group = group.clone();
            let tag = (sequence % 2 == 0).then(|| tag(sequence));
            tokio::spawn(async move {
                group.receive("default", &receive(1), tag, LONG, Instant::now() + LONG).await
            })
        })
        .collect();
    until_waiting(&group, waits.len()).await;
    let heir = group.hand_over(None).await.unwrap();
    for waited in waits {
        let error = waited.await.unwrap().unwrap_err();
        assert!(matches!(error, GroupError::NotNow { fate: Fate::NotApplied, .. }), "{error}");
    }
    assert_eq!(group.inner.waiting.count(), 0);

    let heir = &nodes.iter().find(|node| node.group.node() == heir).unwrap().group;
    heir.leadership().wait_for(|now| now.is_me).await.unwrap();
    let one = receive(1);
    let waits = heir.receive("default", &one, Some(tag(2)), LONG, soon());
    let sends = async { heir.propose(send("for the second"), soon()).await.unwrap() };
    let (done, _) = tokio::join!(waits, sends);
    assert_eq!(bodies(&done.unwrap().expect("a message")), ["for the second"]);
}

#[tokio::test]
async fn a_receiver_that_waits_receives_in_the_entry_that_sends() {
    let dir = tempfile::tempdir().unwrap();
    let (_nodes, group) = led(dir.path()).await;
    let receiver = group.clone();
    let waits = tokio::spawn(async move {
        receiver.receive("default", &receive(1), Some(tag(1)), LONG, soon()).await
    });
    until_waiting(&group, 1).await;
    let sent = group.propose(send("at once"), soon()).await.unwrap();
    let received = waits.await.unwrap().unwrap().expect("it was sent");
    assert_eq!(bodies(&received), ["at once"]);
    assert_eq!(received.position, sent.position);
}

#[tokio::test]
async fn who_was_given_a_turn_for_a_send_that_came_to_nothing_waits_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_nodes, group) = led(dir.path()).await;
    let gone = group.propose(send("gone"), soon()).await.unwrap().outcome.unwrap();
    let Reply::Sent(gone) = gone else { panic!("{gone:?}") };
    let items = vec![(gone[0].id, gone[0].receipt)];
    let delete = envelope(Command::Delete { queue: "orders".into(), items });
    group.propose(delete, soon()).await.unwrap().outcome.unwrap();
    let waits = async {
        let one = receive(1);
        group.receive("default", &one, Some(tag(1)), LONG, soon()).await.unwrap().expect("sent")
    };
    let sends = async {
        until_waiting(&group, 1).await;
        // Refused when it is applied: what it deletes is not there.
        let deletes = vec![("orders".to_owned(), gone[0].id, gone[0].receipt)];
        let sends = vec![("orders".to_owned(), vec![NewMessage::default()])];
        let refused = envelope(Command::Transact(Transact { deletes, sends }));
        group.propose(refused, soon()).await.unwrap().outcome.unwrap_err();
        until_waiting(&group, 1).await;
        group.propose(send("after it"), soon()).await.unwrap().outcome.unwrap();
    };
    let (received, ()) = tokio::join!(waits, sends);
    assert_eq!(bodies(&received), ["after it"]);
}

#[tokio::test]
async fn a_message_that_stops_waiting_wakes_its_receiver_though_nothing_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (_nodes, group) = led(dir.path()).await;
    let mut delayed = send("in a moment");
    if let Command::Send { messages, .. } = &mut delayed.command {
        messages[0].delay = crate::queue::ids::Span(200_000);
    }
    group.propose(delayed, soon()).await.unwrap().outcome.unwrap();
    let none = group.receive("default", &receive(1), None, Duration::ZERO, soon()).await.unwrap();
    assert!(none.is_none(), "it is delayed");
    let done = group.receive("default", &receive(1), None, LONG, soon()).await.unwrap();
    assert_eq!(bodies(&done.expect("a message")), ["in a moment"]);
}

#[tokio::test]
async fn waits_that_end_together_need_a_majoritys_word_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_nodes, group) = led(dir.path()).await;
    let before = Instant::now();
    assert!(!group.inner.confirmer.has_confirmed_since(before));
    let none = group.receive("default", &receive(1), None, Duration::ZERO, soon()).await.unwrap();
    assert!(none.is_none());
    assert!(group.inner.confirmer.has_confirmed_since(before));
    assert!(!group.inner.confirmer.has_confirmed_since(Instant::now()), "not for a later asker");
}
