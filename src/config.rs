//! [`QuorumConfig`]: where a node lives and how patient it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quorate_engine::EngineConfig;
use quorate_loop::LoopConfig;
use serde::{Deserialize, Serialize};

/// The shortest heartbeat interval that can be set, in milliseconds: below it a busy machine mistakes
/// its own scheduling for a dead broker.
const HEARTBEAT_MS_MIN: u64 = 10;

/// The longest session that can be set, in milliseconds: one day.
const SESSION_MS_MAX: u64 = 86_400_000;

/// The longest operation timeout that can be set, in milliseconds: ten minutes.
const UPKEEP_MS_MIN: u64 = 10;

const UPKEEP_MS_MAX: u64 = 3_600_000;

const BALANCE_MS_MAX: u64 = 86_400_000;

const OPERATION_TIMEOUT_MS_MAX: u64 = 600_000;

/// How one node takes part in the quorum.
///
/// A plain value, to be built in code or read from a file. Unknown keys are errors.
/// [`QuorumConfig::validate`] reports every fault at once, and nothing is ever clamped.
///
/// ```
/// let config = quorate::QuorumConfig::new("/var/lib/quorate", "127.0.0.1:9001".parse()?);
/// assert!(config.validate().is_empty());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuorumConfig {
    /// The directory that was formatted for this node. It is never created or formatted here: an
    /// empty directory is an error, so that a wiped disk is noticed.
    pub data_dir: PathBuf,
    /// The address on which the peers reach this node. Port 0 takes a free one, which suits a
    /// cluster of one only: the others know each other by the addresses they were formatted with.
    pub listen: SocketAddr,
    /// Milliseconds between two heartbeats of a broker that is registered here. Default 500, from 10
    /// to half of `session_ms`. Smaller notices a failure no sooner (that is the session) but lets
    /// fewer lost heartbeats pass for one, and costs messages.
    #[serde(default = "default_heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which this node, when it leads the quorum, takes a broker for
    /// dead: fences it, and moves its partitions' leaders. One that ran in the process of a node is
    /// fenced as soon as that process is found to be gone; this is for hosts and networks that are
    /// silent. Default 3,000, from twice `heartbeat_ms`
    /// to 86,400,000. Smaller moves leaders sooner, and moves them for a mere hiccup too. Set it to
    /// the same value on all nodes: whichever leads decides.
    #[serde(default = "default_session_ms")]
    pub session_ms: u64,
    /// Milliseconds that an operation may take, from the call to the answer: finding the leader,
    /// committing, and this node's image showing it. Default 10,000, from 100 to 600,000. Smaller
    /// ends more operations with an error while the quorum elects a leader (1 to 2 s, where the last
    /// one has fallen silent).
    #[serde(default = "default_operation_timeout_ms")]
    pub operation_timeout_ms: u64,
    /// Milliseconds between two looks of the leading node at partitions that nobody leads and at the
    /// replicas' states. Default 5,000, from 10 to 3,600,000. Smaller elects sooner where a topic allows
    /// unclean elections. A look passes over all partitions, where anything has changed.
    #[serde(default = "default_upkeep_ms")]
    pub upkeep_ms: u64,
    /// Milliseconds between two runs in which the leading node gives partitions back to their preferred
    /// leaders, of brokers that lead a tenth less than they should. Default 300,000, to 86,400,000; 0:
    /// never.
    #[serde(default = "default_balance_ms")]
    pub balance_ms: u64,
    /// The ready loop and its transport. `forward` has no effect here: operations always find their
    /// way to the leader, by the quorum's own requests.
    #[serde(default, rename = "loop")]
    pub group: LoopConfig,
    /// The log on disk: its cache and its files.
    #[serde(default)]
    pub engine: EngineConfig,
}

fn default_heartbeat_ms() -> u64 {
    500
}

fn default_session_ms() -> u64 {
    3_000
}

fn default_operation_timeout_ms() -> u64 {
    10_000
}

fn default_upkeep_ms() -> u64 {
    5_000
}

fn default_balance_ms() -> u64 {
    300_000
}

impl QuorumConfig {
    /// The defaults, for a node that lives in `data_dir` and listens on `listen`.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            heartbeat_ms: default_heartbeat_ms(),
            session_ms: default_session_ms(),
            operation_timeout_ms: default_operation_timeout_ms(),
            upkeep_ms: default_upkeep_ms(),
            balance_ms: default_balance_ms(),
            group: LoopConfig::default(),
            engine: EngineConfig::default(),
        }
    }

    /// Every fault, one sentence each with the setting's name and its limits; empty when there is
    /// none.
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.data_dir.as_os_str().is_empty() {
            faults.push("data_dir is empty: name the directory that was formatted".to_owned());
        }
        if self.heartbeat_ms < HEARTBEAT_MS_MIN {
            faults.push(format!(
                "heartbeat_ms is {}: use at least {HEARTBEAT_MS_MIN}",
                self.heartbeat_ms
            ));
        }
        let session_ms_min = self.heartbeat_ms.saturating_mul(2);
        if self.session_ms < session_ms_min {
            faults.push(format!(
                "session_ms is {}: use at least {session_ms_min}, twice heartbeat_ms",
                self.session_ms
            ));
        }
        if self.session_ms > SESSION_MS_MAX {
            faults.push(format!("session_ms is {}: use at most {SESSION_MS_MAX}", self.session_ms));
        }
        if !(100..=OPERATION_TIMEOUT_MS_MAX).contains(&self.operation_timeout_ms) {
            faults.push(format!(
                "operation_timeout_ms is {}: use a value from 100 to {OPERATION_TIMEOUT_MS_MAX}",
                self.operation_timeout_ms
            ));
        }
        if !(UPKEEP_MS_MIN..=UPKEEP_MS_MAX).contains(&self.upkeep_ms) {
            faults.push(format!(
                "upkeep_ms is {}: use a value from {UPKEEP_MS_MIN} to {UPKEEP_MS_MAX}",
                self.upkeep_ms
            ));
        }
        if self.balance_ms > BALANCE_MS_MAX {
            faults.push(format!(
                "balance_ms is {}: use at most {BALANCE_MS_MAX}, or 0 for never",
                self.balance_ms
            ));
        }
        faults.extend(self.group.validate().into_iter().map(|fault| format!("loop.{fault}")));
        let engine = self.engine.validate().err().unwrap_or_default();
        faults.extend(engine.into_iter().map(|fault| format!("engine.{fault}")));
        faults
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    pub(crate) fn session(&self) -> Duration {
        Duration::from_millis(self.session_ms)
    }

    pub(crate) fn upkeep(&self) -> Duration {
        Duration::from_millis(self.upkeep_ms)
    }

    /// `None`: never.
    pub(crate) fn balance(&self) -> Option<Duration> {
        (self.balance_ms > 0).then(|| Duration::from_millis(self.balance_ms))
    }

    /// How long the voters wait for a leader at least before they elect another.
    pub(crate) fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.group.tick_ms) * self.group.election_ticks
    }

    /// `operation_timeout_ms` as a duration.
    pub fn operation_timeout(&self) -> Duration {
        Duration::from_millis(self.operation_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> QuorumConfig {
        QuorumConfig::new("/data", "127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(config().validate(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_reported_and_nothing_is_clamped() {
        let mut bad = config();
        bad.data_dir = PathBuf::new();
        bad.heartbeat_ms = 0;
        bad.session_ms = SESSION_MS_MAX + 1;
        bad.operation_timeout_ms = 1;
        bad.upkeep_ms = 9;
        bad.balance_ms = BALANCE_MS_MAX + 1;
        bad.group.tick_ms = 0;
        bad.engine.reader_queue_max = 0;
        let faults = bad.validate();
        for name in [
            "data_dir",
            "heartbeat_ms",
            "session_ms",
            "operation_timeout_ms",
            "upkeep_ms",
            "balance_ms",
            "loop.tick_ms",
            "engine.reader_queue_max",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(name)), "{name}: {faults:?}");
        }
        assert_eq!(bad.session_ms, SESSION_MS_MAX + 1);

        let short = QuorumConfig { session_ms: 999, ..config() };
        assert_eq!(short.validate().len(), 1);
    }
}
