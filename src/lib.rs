//! Durable metadata for message brokers: topics, partitions, replicas, ISR, leaders, epochs and the
//! liveness of brokers, committed by Raft before anyone acts on them, and still there after `kill -9`.
//!
//! A broker embeds a [`Quorum`]: one node of the quorum, with its loop running. It registers itself and
//! gets a [`BrokerSession`]; from then on its liveness is the quorum's business. What it leads and follows
//! is told by its [`Assignments`], and everything else by a [`Watch`].
//!
//! ```no_run
//! use quorate::{BrokerId, Quorum, QuorumConfig, Registration, TopicSpec};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = QuorumConfig::new("/var/lib/quorate", "127.0.0.1:9001".parse()?);
//! let quorum = Quorum::open(config).await?; // the loop runs; it does not wait for a leader
//!
//! let directory = quorum.identity().directory_id;
//! let me = Registration::without_data_plane(BrokerId(1), directory);
//! let session = quorum.register_broker(me).await?; // heartbeats are sent for you
//! session.active().await.map_err(|end| format!("{end:?}"))?;
//!
//! let mut watch = quorum.watch(); // gap-free; collapsed if you lag
//! let topic = quorum.create_topic(TopicSpec::new("orders", 3, 1)).await?; // committed, or an error
//! let update = watch.next().await?;
//! assert!(update.delta.topics_created.contains(&topic.id));
//!
//! let partition = quorum.image().image.topic_by_name("orders").and_then(|t| t.partition(0).cloned());
//! println!("led by {:?}", partition.and_then(|partition| partition.leader));
//!
//! session.shut_down().await?; // leaders move first
//! quorum.shut_down().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The way of an operation
//!
//! ```text
//!  any node                                         the node that leads the quorum
//!  ────────                                         ──────────────────────────────
//!  Quorum::create_topic, ...
//!    └─ caller  ── request (wire) ───────────────►  desk ── plans what only the leader may decide
//!         ▲                                          │  └─ duties ── sessions: who is alive
//!         │                                          │      ▲ └── fence, unfence: by its own accord
//!         │                                          ▼      │ heartbeats, registrations
//!         │                                       Node::propose: log, fsync, majority, apply
//!         │                                          │
//!         ├── index and outcome  ◄───────────────────┘
//!         └── waits until its own node has applied that index; then the caller is answered
//! ```
//!
//! # What holds
//!
//! - An operation that succeeded is committed and applied, and the image of the node that was asked
//!   shows it. One that was rejected changed nothing.
//! - An operation whose outcome is unknown is never sent again by itself. [`ErrorKind`] tells it from
//!   what was rejected and from what may be tried again.
//! - A node decides as the leader only once it was confirmed in its term, on an image that holds all
//!   that was committed before. What it decided is proposed by itself or by nobody: a node that lost its
//!   leadership cannot have it forwarded.
//! - Heartbeats never reach the log; an idle cluster writes nothing.
//! - Only silence that the present leader watched itself ends a session. A broker that is fenced leads
//!   nothing from that log index on, and is never elected to succeed itself.
//! - [`Quorum::open`] returns with the loop running and waits for nobody, so that clusters can start in
//!   any order.
//!
//! What is absent: no lock is held over an await, nothing is polled but the deadlines of sessions and the leader's upkeep, and
//! no operation waits without a bound.
//!
//! # Where to read on
//!
//! `quorum.rs` is the surface, and beside it, by what is asked for, `topic.rs`, `partition.rs`,
//! `configs.rs`, `broker_control.rs` and `features.rs`; `caller.rs` the way to the leader and what may be
//! repeated on it; `desk.rs` what happens there, and `metadata_desk.rs` what only the leader decides;
//! `duties.rs` and `sessions.rs` who is alive; `upkeep.rs` what is put in order now and then;
//! `broker_session.rs` the other end of the heartbeats; `metadata_only.rs` what a broker without data plane
//! does as a leader; `watch.rs` what changes, and `assignments.rs` what of that concerns one broker;
//! `history.rs` how a partition came to be as it is; `membership.rs` and
//! `membership_desk.rs` who belongs to the quorum, on either end.

// Tests carry the number of the trap that they guard against.
#![cfg_attr(test, allow(non_snake_case))]

mod assignments;
mod broker_control;
mod broker_session;
mod caller;
mod comparison;
mod config;
mod configs;
mod departures;
mod desk;
mod duties;
mod error;
mod features;
mod history;
mod membership;
mod membership_desk;
mod metadata_desk;
mod metadata_only;
mod partition;
mod quorum;
mod readiness;
mod registration;
mod sessions;
#[cfg(test)]
mod sessions_tests;
#[cfg(test)]
mod tests;
mod topic;
mod upkeep;
mod watch;
mod wire;

/// The metadata itself: images, commands, outcomes, and their names.
pub use quorate_statemachine as metadata;

pub use assignments::{Assignment, AssignmentChange, AssignmentUpdate, Assignments, ReplicaRole};
pub use broker_control::BrokerChanged;
pub use broker_session::{BrokerSession, SessionEnd, SessionState};
pub use config::QuorumConfig;
pub use configs::{ConfigEntry, ConfigSource, ConfigTarget, ConfigsAltered};
pub use error::{
    ChangeMembersError, ErrorKind, OpenError, ReadError, RegisterError, ShutdownNotGranted,
    TransferError, Unavailable, UnknownReason, WatchEnded, WriteError,
};
pub use features::{FeatureLevelSet, Features};
pub use history::{HISTORY_MAX, HISTORY_TIME_MAX, PartitionHistory};
pub use membership::{MembersChanged, QuorumMember};
pub use metadata_only::MetadataOnly;
pub use partition::{ElectionScope, PartitionResults, TopicPartition};
pub use quorate_engine::{
    ClusterId, DirectoryId, EngineConfig, FormatError, Founding, Identity, IdentityError, NodeId,
    Voter, format,
};
pub use quorate_loop::{
    AppendMode, CloseCause, Distribution, DropCause, GroupStatus, LoopConfig, Member, MemberChange,
    MemberRole, Members, MembershipError, Metrics, PeerMetrics, ReplayError, Role, TlsConfig,
    TlsError, Wait, WaitError,
};
pub use quorate_statemachine::{
    AlterPartition, BrokerEpoch, BrokerId, BrokerSession as RegisteredBroker, ConfigChange,
    ConfigOperation, Delta, ElectionType, ErrorCode, Explanation, FeatureLevel, FeatureRange,
    Incarnation, LeaderEpoch, Listener, MetadataImage, MissingReplica, PartitionAltered,
    PartitionChange, PartitionKey, PartitionResult, Rejection, TopicConfigKey, TopicId, WhatIf,
    what_if,
};
pub use quorum::{ProducerIdBlock, Quorum};
pub use readiness::NotReady;
pub use registration::{Registration, Vouch};
pub use topic::{CreatedTopic, DeletedTopic, GrownTopic, Placement, TopicSpec};
pub use watch::{MetadataUpdate, Snapshot, Watch};

/// The README's example is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
