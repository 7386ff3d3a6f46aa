//! What may be written of brokers.

use clap::Subcommand;

/// The highest id of a broker: Kafka sends it as a signed number of 32 bits.
const BROKER_ID_MAX: u64 = i32::MAX as u64;

/// What can be done with brokers.
#[derive(Debug, Subcommand)]
pub(crate) enum Brokers {
    /// List the brokers
    Ls,
    /// Take a broker out of every ISR, and have others lead its partitions
    ///
    /// It is let in again with its next heartbeat: this is for a broker that hangs.
    Fence {
        /// The broker
        #[arg(value_parser = broker_id())]
        id: u64,
    },
    /// Forget a broker that has stopped and will not come back
    ///
    /// One that is alive is refused: stop it first, and its session ends. Its partitions keep it as a
    /// replica until they are reassigned.
    Unregister {
        /// The broker
        #[arg(value_parser = broker_id())]
        id: u64,
    },
}

pub(super) fn broker_id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=BROKER_ID_MAX)
}
