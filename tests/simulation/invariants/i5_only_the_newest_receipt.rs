//! I5: only the newest receipt works. A send, a grant and an update each give one, and each
//! makes all earlier ones of that message void. A receipt that nobody gave never works.

use crate::history::{Answer, Call, Life, LogTime, Op, Outcome, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        let issued = issued(life);
        let used = life.updates.iter().chain(&life.deletes);
        for change in used {
            let Some(receipt) = receipt_of(change.op, id) else { continue };
            let Some((_, given)) = issued.iter().find(|(given, _)| *given == receipt) else {
                continue;
            };
            let newer = issued
                .iter()
                .find(|(other, at)| *other != receipt && at > given && *at < change.mark.at);
            if let Some((_, newer)) = newer {
                wrong.push(format!(
                    "{id}: a receipt given at T {given} worked at {:?}, though a newer one was \
                     given at T {newer}",
                    change.mark
                ));
            }
        }
    }
    wrong
}

/// Every receipt that an acknowledged call gave, with its T. A send that was tried again is
/// answered from its session, at a later mark than that of its effect.
fn issued<'a>(life: &Life<'a>) -> Vec<(&'a str, LogTime)> {
    let sent = life.sent.iter().map(|sent| (&*sent.what.receipt, sent.what.inserted_at));
    let granted = life.grants.iter().map(|grant| (&*grant.what.receipt, grant.mark.at));
    let updated = life.updates.iter().filter_map(|update| match &update.op.outcome {
        Outcome::Ok(Answer::Updated { receipt, .. }) => Some((&**receipt, update.mark.at)),
        _ => None,
    });
    sent.chain(granted).chain(updated).collect()
}

fn receipt_of<'a>(op: &'a Op, id: &str) -> Option<&'a str> {
    match &op.call {
        Call::Update { receipt, .. } => Some(receipt),
        Call::Delete { items, .. } => {
            items.iter().find(|(of, _)| of == id).map(|(_, receipt)| &**receipt)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::Sample;

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn received_twice() -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 4, 1);
        sample.receive("m", 5, 8, 2);
        sample
    }

    #[test]
    fn the_newest_receipt_may_delete() {
        let mut sample = received_twice();
        sample.delete("m", "r5", 6);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_receipt_from_before_the_newest_grant_is_found() {
        let mut sample = received_twice();
        sample.delete("m", "r2", 6);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_receipt_that_an_update_replaced_is_found() {
        let mut sample = received_twice();
        sample.update("m", "r5", 6, 20);
        sample.update("m", "r5", 7, 20);
        assert_eq!(broken(sample), 1);
    }
}
