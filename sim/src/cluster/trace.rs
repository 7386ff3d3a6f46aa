//! [`Trace`]: what happened, as a hash that must come out the same each time, and as lines to read.

use std::fmt::{Display, Write as _};

use super::queue::Micros;

/// Who is told what happens, a line at a time.
pub type Lines = Box<dyn FnMut(&str)>;

/// What happened so far.
pub(super) struct Trace {
    hash: u64,
    /// Where the lines go, if anybody reads them.
    lines: Option<Lines>,
}

impl Trace {
    pub(super) fn new(lines: Option<Lines>) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines }
    }

    /// Something happens; `numbers` are what tells it from others like it.
    pub(super) fn saw(&mut self, now: Micros, numbers: &[u64], line: impl FnOnce() -> String) {
        for number in [now].iter().chain(numbers) {
            self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        if let Some(lines) = &mut self.lines {
            lines(&stamped(now, &line()));
        }
    }

    /// A line for people, of which nothing depends.
    pub(super) fn note(&mut self, now: Micros, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines(&stamped(now, &line()));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

fn stamped(now: Micros, line: &dyn Display) -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = write!(text, "{:>6}.{:06} {line}", now / 1_000_000, now % 1_000_000);
    text
}
