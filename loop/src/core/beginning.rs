//! How a core begins: it hands out what it knows to be committed, before anything else happens to it.
//!
//! Changes of the membership are among that, and a node must neither campaign nor acknowledge as what it was
//! before them. So nothing is stepped until all of it was handed out. A log may hold a million such
//! entries, and the state machine takes longer for them than the core: they come in parts, each with a call
//! of [`Core::effects`], for it to apply while the next are taken. Nobody is told of the members and groups
//! in between, which are those of some time ago.

use super::{Core, Effects};

/// Entries handed out in one go.
pub(super) const HANDED_MAX: usize = 8_192;

impl<P, R, M> Core<P, R, M> {
    /// Whether there is more that was known to be committed at the start.
    pub(crate) fn is_beginning(&self) -> bool {
        self.beginning
    }

    /// Hands out a part of what was known to be committed, of about so many entries, and tells whether that
    /// was the last.
    pub(super) fn begin(&mut self, entries_max: usize) -> bool {
        while self.beginning {
            if self.effects.fatal.is_some() || !self.raw.has_ready() {
                self.beginning = false;
                self.show_catalogue();
                self.begin_alone();
            } else if self.effects.handed() < entries_max {
                self.take_ready();
            } else {
                return false;
            }
        }
        true
    }

    /// What the state machine can go on with; the rest waits for the end of the beginning.
    pub(super) fn part_of_beginning(&mut self) -> Effects<P, R, M> {
        Effects { apply: std::mem::take(&mut self.effects.apply), ..Effects::default() }
    }
}
