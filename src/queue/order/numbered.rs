//! The messages of a queue from a number on, wherever they stand.

use super::Lineup;
use crate::queue::ids::Number;
use crate::queue::message::Message;

impl Lineup {
    /// At most `max` messages with this number or higher ones, in the order of numbers.
    #[must_use]
    pub fn numbered_from(&self, first: Number, max: usize) -> Vec<Message> {
        let mut found: Vec<Message> =
            self.touched.range(first..).map(|it| *it.1).take(max).collect();
        for (priority, band) in self.bands.iter() {
            let slots = band.chunks.from(first).flat_map(|(_, chunk)| {
                chunk.slots.iter().map(|slot| slot.message(chunk.epoch, priority))
            });
            found.extend(slots.filter(|message| message.number >= first).take(max));
        }
        found.sort_unstable_by_key(|message| message.number);
        found.truncate(max);
        found
    }

    /// How many messages have this number or a higher one.
    #[must_use]
    pub fn count_from(&self, first: Number) -> u64 {
        let mut count = self.touched.range(first..).count();
        for (priority, band) in self.bands.iter() {
            // The first one may have begun before the number, and reach beyond it.
            for (at, chunk) in band.chunks.from(first) {
                count += if at >= first {
                    chunk.slots.len()
                } else {
                    let messages = chunk.slots.iter().map(|it| it.message(chunk.epoch, priority));
                    messages.filter(|message| message.number >= first).count()
                };
            }
        }
        count as u64
    }
}
