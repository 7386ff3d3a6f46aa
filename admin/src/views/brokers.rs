//! The shapes of what changes brokers.

use serde::{Deserialize, Serialize};

/// The answer to `POST /v1/brokers/{id}/fence` and `POST /v1/brokers/{id}/unregister`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerChanged {
    /// The broker.
    pub id: u64,
    /// How many partitions changed.
    pub partitions_changed: u64,
    /// The log index at which it was so.
    pub index: u64,
}
