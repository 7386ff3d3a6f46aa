//! The settings of an engine, and what is wrong with them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of one engine. Unknown keys are errors; nothing is clamped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Memory for recent entries of all groups together, in bytes.
    ///
    /// Default 64 MiB, 0 to 64 GiB. What the cache lacks is read from disk when a follower is
    /// behind. Entries that are not yet both applied and on disk are kept above this, since Raft
    /// reads them without waiting: the loop bounds those of each group.
    pub cache_bytes_max: u64,
    /// Size at which a log file is closed and the next one begun, in bytes.
    ///
    /// Default 32 MiB, 4 KiB to 1 GiB. Space is given back by whole files: small files give it
    /// back sooner, and cost a directory sync more often.
    pub target_file_size_bytes: u64,
    /// Log bytes on disk beyond which a purge works, counted in whole files.
    ///
    /// Default 256 MiB, at least `target_file_size_bytes`, at most 1 TiB. Until then compacted
    /// entries stay on disk. Disk use stays around this value as long as groups follow the
    /// request for a snapshot that a purge returns.
    pub purge_threshold_bytes: u64,
    /// Requests that may wait for the log reader.
    ///
    /// Default 1024, 1 to 1,048,576. Beyond it a fetch is refused with `ReadError::Overloaded`
    /// and Raft asks again with the next heartbeat.
    pub reader_queue_max: usize,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Bounds of [`EngineConfig::cache_bytes_max`].
const CACHE_BYTES: (u64, u64) = (0, 64 * GIB);
/// Bounds of [`EngineConfig::target_file_size_bytes`]: below, every write would begin a file;
/// above, a purge could not give space back for hours.
const FILE_BYTES: (u64, u64) = (4 * KIB, GIB);
/// Upper bound of [`EngineConfig::purge_threshold_bytes`].
const PURGE_BYTES_MAX: u64 = 1024 * GIB;
/// Bounds of [`EngineConfig::reader_queue_max`].
const READER_QUEUE: (u64, u64) = (1, 1 << 20);

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_bytes_max: 64 * MIB,
            target_file_size_bytes: 32 * MIB,
            purge_threshold_bytes: 256 * MIB,
            reader_queue_max: 1024,
        }
    }
}

/// One fault of an [`EngineConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// A value is outside its limits.
    #[error("{field} is {value}: set it between {min} and {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
}

impl EngineConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// All faults, not only the first.
    pub fn validate(&self) -> Result<(), Vec<ConfigFault>> {
        let purge = (self.target_file_size_bytes.max(FILE_BYTES.0), PURGE_BYTES_MAX);
        let fields = [
            ("cache_bytes_max", self.cache_bytes_max, CACHE_BYTES),
            ("target_file_size_bytes", self.target_file_size_bytes, FILE_BYTES),
            ("purge_threshold_bytes", self.purge_threshold_bytes, purge),
            ("reader_queue_max", self.reader_queue_max as u64, READER_QUEUE),
        ];
        let faults: Vec<_> = fields
            .into_iter()
            .filter(|(_, value, (min, max))| value < min || value > max)
            .map(|(field, value, (min, max))| ConfigFault::OutOfRange { field, value, min, max })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(EngineConfig::default().validate(), Ok(()));
    }

    #[test]
    fn every_fault_is_reported() {
        let config = EngineConfig {
            cache_bytes_max: u64::MAX,
            target_file_size_bytes: 1,
            purge_threshold_bytes: 0,
            reader_queue_max: 0,
        };
        let faults = config.validate().unwrap_err();
        assert_eq!(faults.len(), 4);
        assert_eq!(
            faults[2].to_string(),
            "purge_threshold_bytes is 0: set it between 4096 and 1099511627776"
        );
    }

    #[test]
    fn unknown_keys_are_errors_and_missing_ones_defaults() {
        let config: EngineConfig = serde_json::from_str(r#"{"cache_bytes_max": 5}"#).unwrap();
        assert_eq!(config, EngineConfig { cache_bytes_max: 5, ..EngineConfig::default() });
        assert!(serde_json::from_str::<EngineConfig>(r#"{"cache_bytes": 5}"#).is_err());
    }
}
