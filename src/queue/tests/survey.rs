//! A walk over the queues meets each once, in bounded steps, and sums to what the totals say.

use super::stage::{QUEUE, Stage, create, receive, send, text};
use crate::queue::command::{Command, DeadLetters, Settings};
use crate::queue::ids::Span;
use crate::queue::limits::PAGE;

fn settings(name: &str, settings: Settings) -> Command {
    Command::SetSettings { name: name.to_owned(), settings: Box::new(settings) }
}

#[test]
fn a_walk_meets_every_queue_once_and_a_page_at_a_time() {
    let mut stage = Stage::with_queue();
    for number in 0..PAGE + 1 {
        stage.run(create(&format!("queue-{number}"))).expect("created");
    }
    let dead_letters = Some(DeadLetters { queue: "queue-7".to_owned(), max_deliveries: 3 });
    stage.run(settings(QUEUE, Settings { dead_letters, ..Settings::default() })).expect("set");
    stage.run(send(vec![text("a"), text("b"), text("c")])).expect("sent");
    stage.run(receive(2, Some(Span::from_secs(30)))).expect("received");
    stage.run(Command::DeleteQueue { name: "queue-9".to_owned() }).expect("deleted");

    let (mut seen, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let before = seen.len();
        after = stage.state.survey(after, &mut |queue| {
            seen.push((queue.name.to_owned(), queue.counts, queue.takes_dead_letters));
        });
        pages += 1;
        assert!(seen.len() - before <= PAGE, "a step is bounded");
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, 2);
    let (queues, messages, bytes) = stage.state.totals();
    assert_eq!(seen.len() as u64, queues, "one that was deleted is passed over");
    assert_eq!(seen.iter().map(|(_, counts, _)| counts.total).sum::<u64>(), messages);
    assert_eq!(seen.iter().map(|(_, counts, _)| counts.bytes).sum::<u64>(), bytes);
    let orders = seen.iter().find(|(name, ..)| name == QUEUE).expect("it is there");
    assert_eq!((orders.1.visible, orders.1.leased), (1, 2));
    let targets: Vec<&str> = seen.iter().filter(|it| it.2).map(|it| it.0.as_str()).collect();
    assert_eq!(targets, ["queue-7"]);
}
