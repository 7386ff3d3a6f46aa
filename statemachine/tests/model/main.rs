//! The state machine against a naive model of its specification.
//!
//! The model is written from the text of the specification, and where that is silent from the rules at the
//! end of `docs/metadata.md`, in plain maps. Both are given the same random commands, and everything is compared after each: the
//! outcome, the whole state, the delta, the bytes and the hash of a second replica that is restored
//! from snapshots, and the invariants of both.
//!
//! ```text
//! QUORATE_MODEL_COMMANDS=1000000 \
//!     cargo test -p quorate-statemachine --test model --release -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod age;
mod brokers;
mod change;
mod configs;
mod coverage;
mod generator;
mod invariants;
mod partitions;
mod random;
mod rules;
mod run;
mod state;
mod topics;

use coverage::Coverage;
use run::Run;

/// How many commands are compared where nobody asks for more.
const COMMANDS: u64 = 40_000;
/// After so many commands all begins anew, with the next seed; the machine notes one checkpoint before.
const COMMANDS_PER_RUN: u64 = 1_200;

#[test]
fn the_machine_does_what_the_specification_says() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first_seed: u64 = number("QUORATE_MODEL_SEED").unwrap_or(1);
    let commands: u64 = number("QUORATE_MODEL_COMMANDS").unwrap_or(COMMANDS);
    let mut coverage = Coverage::default();
    let mut left = commands;
    for seed in first_seed.. {
        let count = left.min(COMMANDS_PER_RUN);
        Run::new(seed).go(count, &mut coverage);
        left -= count;
        if left == 0 {
            break;
        }
    }
    println!("{commands} commands from seed {first_seed}:\n{coverage}");
    // Less than the usual is a look at one failure.
    if commands >= COMMANDS {
        coverage.assert_all_met();
    }
}
