//! The election timeout, for a driver that must be able to repeat itself.

use super::Core;

impl<P, R> Core<P, R> {
    /// Sets the randomized election timeout to the `draw`-th value of its range, over and over.
    ///
    /// raft-rs draws it from the thread's random numbers whenever term or role changes (trap R12).
    /// A simulator calls this after every step, with a number that follows from its seed; in
    /// production nobody does.
    pub fn draw_election_timeout(&mut self, draw: u64) {
        let ticks = u64::from(self.config.election_ticks);
        let timeout = ticks + draw % ticks.max(1);
        self.raw.raft.set_randomized_election_timeout(timeout as usize);
    }
}
