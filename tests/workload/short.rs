//! Clients of the short queue: a few calls, close together, and those of all clients at once, again
//! and again in the course of a run.
//!
//! Laws: leases and messages last longer than a run, and each call is about one message, so that
//! the order of the calls alone decides what is answered. How many calls there are is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Worker;
use crate::history::{After, Micros, New, Standing};
use crate::queues::SHORT;

/// How often they come, and how far apart.
const ROUNDS: u64 = 6;
const APART: Micros = 5_000_000;
/// Calls of one client each time.
const CALLS: usize = 4;
/// Seven days: the longest there is.
const LEASE: u64 = 7 * 24 * 3_600_000_000;
/// How long it sleeps before it looks again whether it is to stop.
const NAP: Micros = 500_000;

impl Worker {
    /// Works on the short queue until its calls are done, or it is told to stop.
    pub async fn work_shortly(mut self, stop: Arc<AtomicBool>) {
        self.enter().await;
        let stops = || stop.load(Ordering::Relaxed);
        for round in 0..ROUNDS {
            while self.now() < round * APART && !stops() {
                let left = (round * APART).saturating_sub(self.now());
                tokio::time::sleep(Duration::from_micros(left.clamp(1_000, NAP))).await;
            }
            for _ in 0..CALLS {
                if stops() {
                    return;
                }
                self.short_turn().await;
                let pause = self.dice.below(8);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    async fn short_turn(&mut self) {
        match self.dice.below(24) {
            0..9 => {
                let new = New { tag: self.tag(), ..New::default() };
                self.send_messages(SHORT, vec![new]).await;
            }
            9..16 => {
                let given = self.receive_for(SHORT, 1, LEASE, 0).await;
                self.hold(given);
            }
            16..18 => {
                if let Some(held) = self.take_held() {
                    self.delete(SHORT, vec![held.clone()]).await;
                    self.remember_old(held);
                }
            }
            18 => {
                if let Some(held) = self.take_held() {
                    self.release(vec![held], After::Now).await;
                }
            }
            19 => {
                if let Some(held) = self.take_held() {
                    self.update(held, Some(LEASE), None).await;
                }
            }
            20 => {
                let at = self.dice.below(self.old.len() as u64) as usize;
                if let Some(old) = self.old.get(at).cloned() {
                    self.delete(SHORT, vec![old]).await;
                }
            }
            _ => self.look_at_short().await,
        }
    }

    async fn look_at_short(&mut self) {
        self.choose_node();
        match self.dice.below(3) {
            0 => _ = self.look(SHORT, None).await,
            1 => self.peek_at(SHORT.to_owned(), Standing::Visible, None).await,
            _ => {
                let known = self.known_of(SHORT);
                let at = self.dice.below(known.len() as u64) as usize;
                if let Some(id) = known.get(at).cloned() {
                    self.get_one(SHORT.to_owned(), id, None).await;
                }
            }
        }
    }
}
