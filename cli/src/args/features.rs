//! What may be written of the feature level.

use clap::Subcommand;

/// What can be done with the feature level.
#[derive(Debug, Subcommand)]
pub(crate) enum Features {
    /// Show the feature level, and who supports which
    Describe,
    /// Finalize a feature level; there is no way back
    ///
    /// All nodes must run a version that supports it: one that does not stops.
    Set {
        /// The level
        level: u32,
    },
}
