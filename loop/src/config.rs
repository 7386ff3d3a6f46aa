//! [`LoopConfig`]: every number that shapes the loop, with its unit, default and consequence.

use serde::{Deserialize, Serialize};

use crate::transport::TlsConfig;

/// When a leader sends new entries to the others.
///
/// In both modes an entry counts as held by a node only once it is durable there, the leader
/// included, so that what is committed is on the disks of a majority in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppendMode {
    /// When its own write of them is durable. A commit takes two fsyncs in sequence, and no node
    /// ever holds an entry that the leader of its term could forget.
    #[default]
    AfterWrite,
    /// While it writes them itself (Raft thesis, 10.2.1): a commit takes one fsync less. The
    /// appends of a leader still wait for the write of its term and vote. A leader that crashes
    /// can find fewer entries on its disk than the others hold, committed ones among them; it
    /// then is not elected before it has them again, as any voter that lags.
    Parallel,
}

/// Settings of the ready loop and its transport.
///
/// All times are wall-clock durations measured with a monotonic clock. [`LoopConfig::validate`]
/// reports every fault at once and clamps nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoopConfig {
    /// Milliseconds between two ticks of the Raft clock; default 100, from 10 to 10,000. An idle
    /// node wakes up once a tick and at no other time.
    pub tick_ms: u64,
    /// Ticks without a leader before a follower campaigns; default 10, above `heartbeat_ticks`.
    /// The actual timeout is drawn from `[election_ticks, 2 * election_ticks)`. Shorter finds a
    /// silent leader sooner, and mistakes a busy one for dead more often. A leader whose process has
    /// ended is found by refused connections, long before.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of the leader; default 2, at least 1.
    pub heartbeat_ticks: u32,
    /// Milliseconds after which a proposal or a linearizable read ends with `TimedOut`; default
    /// 10,000, at least one election timeout. The outcome of such a proposal is unknown.
    pub request_timeout_ms: u64,
    /// Longest command in bytes; default 4 MiB, from 1 KiB to 16 MiB. A longer one is refused
    /// before it reaches the log.
    pub command_bytes_max: usize,
    /// Bytes of entries in one append message; default 1 MiB, from 4 KiB to 8 MiB. Larger messages
    /// catch a follower up faster and delay its heartbeats more.
    pub append_bytes_max: u64,
    /// Append messages in flight to one follower; default 256, at least 1.
    pub append_inflight_max: usize,
    /// When a leader sends new entries to the others: `"after-write"`, the default, or
    /// `"parallel"`, while it writes them itself. See [`AppendMode`]. Nodes of a cluster may differ.
    pub append_mode: AppendMode,
    /// Bytes of entries a leader holds that are not committed yet; default 64 MiB, at least
    /// `command_bytes_max` and `append_bytes_max`. Beyond it proposals end with `Overloaded`. Each
    /// group may hold as much: nothing else bounds those of all groups together, so where many are
    /// busy at a time, divide the memory there is by their number.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed to the state machine at a time; default 1 MiB, at least
    /// 4 KiB.
    pub apply_bytes_max: u64,
    /// Entries committed and not yet applied beyond which a node takes no more: a leader's proposals
    /// end with `Overloaded`, and a follower whose state machine is slower than the leader's falls
    /// behind in the log instead; default 65,536, at least 1.
    pub apply_lag_max: u64,
    /// Bytes of those entries, whichever is less; default 64 MiB, at least 1. They are held in
    /// memory, those of each group.
    pub apply_lag_bytes_max: u64,
    /// Proposals and reads of all groups that wait in the inbox; default 16,384, at least 1. Beyond it callers
    /// get `Overloaded`.
    pub inbox_max: usize,
    /// Bytes of messages of one connection that wait for the loop; default 32 MiB, at least 20 MiB, so
    /// that a frame of the largest size is read while another is stepped. Beyond it the connection is not read, and the peer
    /// feels it. A peer has two connections: the one that it made, and the one that this node made.
    pub peer_inbox_bytes_max: usize,
    /// Messages that wait for one peer's connection; default 16,384, at least 16. Requests and answers among
    /// them that are longer than 1 KiB take 64 MiB together at most. Beyond it they
    /// are dropped and counted; Raft sends them again. At an election each group of the node may
    /// have one at the same time: with more groups, have it above their number.
    pub peer_queue_max: usize,
    /// Applied entries after which a snapshot is taken; default 10,000, at least 1. In any case not
    /// before a quarter of the last snapshot's bytes were applied: a large state is written seldom.
    pub snapshot_entries: u64,
    /// Bytes of applied entries after which a snapshot is taken; default 64 MiB, at least 1. As
    /// above.
    pub snapshot_bytes: u64,
    /// Bytes of snapshots that this node sends in a second at most, to all peers together; default 64 MiB,
    /// at least 8 MiB. Proposals that go on meanwhile would wait for what a faster transfer takes. Have it
    /// well above what the log grows in a second, or a follower does not catch up under load; and 4 MiB
    /// have to leave within `connect_timeout_ms`.
    pub snapshot_bytes_per_second: u64,
    /// Entries kept behind a snapshot for followers that lag a little, or are away for a moment;
    /// default 1,000. A leader keeps also what members lack that answer, or what follows the
    /// snapshot on its way to them. Who lags more is sent the snapshot.
    pub tail_entries: u64,
    /// Bytes of all those entries, whichever is less; default 64 MiB. More of them than the engine's
    /// `purge_threshold_bytes` are not kept in any case.
    pub tail_bytes: u64,
    /// Milliseconds for a connection attempt, a handshake, or a peer's silence during a snapshot
    /// transfer; default 5,000, at least 100. A peer that has nothing to say sends a sign of life
    /// in half of it; one that is mute for twice as long is disconnected. All nodes need about the
    /// same value.
    pub connect_timeout_ms: u64,
    /// Whether a follower forwards proposals and reads to the leader; default true. Without it
    /// proposals end with `NotLeader` there, and reads with `TimedOut`.
    pub forward: bool,
    /// Where peers reach this node, `HOST:PORT`, if that is not where it listens; default none. A
    /// member's address changes to it when it is not what the others know.
    pub advertise: Option<String>,
    /// Whether a damaged group, or directory, is set aside and becomes another member, where the
    /// cluster can do without it; default true. Without it the node does not start.
    pub replace_damaged: bool,
    /// Allows peers on addresses that are not loopback although nothing is encrypted; default
    /// false. Only for networks in which every host is trusted, and only without `tls`.
    pub allow_plaintext: bool,
    /// The certificates for connections between nodes; default none. With them every connection is
    /// encrypted and both ends are verified; without them only loopback addresses are allowed. All
    /// nodes of a cluster have them, or none.
    pub tls: Option<TlsConfig>,
}

impl Default for LoopConfig {
    fn default() -> Self {
        LoopConfig {
            tick_ms: 100,
            election_ticks: 10,
            heartbeat_ticks: 2,
            request_timeout_ms: 10_000,
            command_bytes_max: 4 << 20,
            append_bytes_max: 1 << 20,
            append_inflight_max: 256,
            append_mode: AppendMode::AfterWrite,
            uncommitted_bytes_max: 64 << 20,
            apply_bytes_max: 1 << 20,
            apply_lag_max: 65_536,
            apply_lag_bytes_max: 64 << 20,
            inbox_max: 16_384,
            peer_inbox_bytes_max: 32 << 20,
            peer_queue_max: 16_384,
            snapshot_entries: 10_000,
            snapshot_bytes: 64 << 20,
            snapshot_bytes_per_second: 64 << 20,
            tail_entries: 1_000,
            tail_bytes: 64 << 20,
            connect_timeout_ms: 5_000,
            forward: true,
            advertise: None,
            replace_damaged: true,
            allow_plaintext: false,
            tls: None,
        }
    }
}

/// Longest command that any configuration allows, in bytes; frames are sized by it.
pub(crate) const COMMAND_BYTES_LIMIT: usize = 16 << 20;

/// Most bytes of entries in one append: what raft-rs does not count (tags and lengths of many
/// small entries) must fit into a frame beside them.
const APPEND_BYTES_LIMIT: u64 = 8 << 20;

impl LoopConfig {
    /// Lists every setting that is out of its range, one sentence each; empty when all is well.
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                faults.push(text);
            }
        };
        let election_ms = self.tick_ms.saturating_mul(u64::from(self.election_ticks));
        check(
            (10..=10_000).contains(&self.tick_ms),
            format!("tick_ms is {}: use a value from 10 to 10000", self.tick_ms),
        );
        check(
            self.heartbeat_ticks >= 1,
            format!("heartbeat_ticks is {}: use at least 1", self.heartbeat_ticks),
        );
        check(
            self.election_ticks > self.heartbeat_ticks,
            format!(
                "election_ticks is {}: use more than heartbeat_ticks ({})",
                self.election_ticks, self.heartbeat_ticks
            ),
        );
        check(
            self.request_timeout_ms >= election_ms,
            format!(
                "request_timeout_ms is {}: use at least one election timeout ({election_ms})",
                self.request_timeout_ms
            ),
        );
        check(
            (1 << 10..=COMMAND_BYTES_LIMIT).contains(&self.command_bytes_max),
            format!(
                "command_bytes_max is {}: use a value from 1024 to {COMMAND_BYTES_LIMIT}",
                self.command_bytes_max
            ),
        );
        check(
            !(self.allow_plaintext && self.tls.is_some()),
            "allow_plaintext is set beside tls: leave one of them out".to_owned(),
        );
        let least = self.append_bytes_max.max(self.command_bytes_max as u64);
        check(
            self.uncommitted_bytes_max >= least,
            format!(
                "uncommitted_bytes_max is {}: use at least command_bytes_max and append_bytes_max \
                 ({least})",
                self.uncommitted_bytes_max
            ),
        );
        check(
            self.append_bytes_max <= APPEND_BYTES_LIMIT,
            format!(
                "append_bytes_max is {}: use at most {APPEND_BYTES_LIMIT}",
                self.append_bytes_max
            ),
        );
        for (name, value, least) in [
            ("append_bytes_max", self.append_bytes_max, 4 << 10),
            ("append_inflight_max", self.append_inflight_max as u64, 1),
            ("apply_bytes_max", self.apply_bytes_max, 4 << 10),
            ("apply_lag_max", self.apply_lag_max, 1),
            ("apply_lag_bytes_max", self.apply_lag_bytes_max, 1),
            ("inbox_max", self.inbox_max as u64, 1),
            ("peer_inbox_bytes_max", self.peer_inbox_bytes_max as u64, 20 << 20),
            ("peer_queue_max", self.peer_queue_max as u64, 16),
            ("snapshot_entries", self.snapshot_entries, 1),
            ("snapshot_bytes", self.snapshot_bytes, 1),
            ("snapshot_bytes_per_second", self.snapshot_bytes_per_second, 8 << 20),
            ("connect_timeout_ms", self.connect_timeout_ms, 100),
        ] {
            check(value >= least, format!("{name} is {value}: use at least {least}"));
        }
        // Several transfers take turns, and none of their receivers may take the others' turns for silence.
        let in_silence =
            self.snapshot_bytes_per_second.saturating_mul(self.connect_timeout_ms) / 1_000;
        check(
            in_silence >= 4 << 20,
            format!(
                "snapshot_bytes_per_second is {} and connect_timeout_ms {}: 4 MiB of snapshots must be \
                 sent in that time",
                self.snapshot_bytes_per_second, self.connect_timeout_ms
            ),
        );
        faults
    }

    /// The same for raft-rs: of the member `id`, whose state machine has applied that much.
    pub(crate) fn raft(&self, id: u64, applied: u64) -> raft::Config {
        raft::Config {
            id,
            election_tick: self.election_ticks as usize,
            heartbeat_tick: self.heartbeat_ticks as usize,
            applied,
            max_size_per_msg: self.append_bytes_max,
            max_inflight_msgs: self.append_inflight_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            batch_append: false,
            max_uncommitted_size: self.uncommitted_bytes_max,
            max_committed_size_per_ready: self.apply_bytes_max,
            ..raft::Config::default()
        }
    }

    /// Ticks after which a request ends with `TimedOut`.
    pub(crate) fn request_ticks(&self) -> u64 {
        self.request_timeout_ms.div_ceil(self.tick_ms).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_no_fault() {
        assert_eq!(LoopConfig::default().validate(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let config = LoopConfig {
            tick_ms: 0,
            heartbeat_ticks: 0,
            election_ticks: 0,
            inbox_max: 0,
            ..LoopConfig::default()
        };
        let faults = config.validate();
        for name in ["tick_ms", "heartbeat_ticks", "election_ticks", "inbox_max"] {
            assert!(faults.iter().any(|f| f.starts_with(name)), "{name} in {faults:?}");
        }
    }
}
