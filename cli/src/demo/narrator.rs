//! What people see while the demo runs: a progress bar and the story, on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Output;

/// Tells the story to people, and nothing to scripts.
pub(crate) struct Narrator {
    /// Only with a terminal, and only for people.
    bar: Option<ProgressBar>,
    silent: bool,
}

impl Narrator {
    /// A narrator that is silent when the output is for a program.
    pub(crate) fn new(output: Output) -> Narrator {
        let silent = output == Output::Json;
        let bar = (!silent && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{pos}/{len}] {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Narrator { bar, silent }
    }

    /// How many steps there will be.
    pub(crate) fn steps(&self, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
        }
    }

    /// The next step begins.
    pub(crate) fn step(&self, doing: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(doing.to_owned());
                bar.inc(1);
            }
            None => self.say(doing),
        }
    }

    /// Something happened that people should be able to read later, too.
    pub(crate) fn say(&self, what: &str) {
        if self.silent {
            return;
        }
        match &self.bar {
            Some(bar) => bar.println(what),
            // A stderr that nobody reads any more is no reason to stop.
            None => drop(writeln!(io::stderr(), "{what}")),
        }
    }

    /// The story is over.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
