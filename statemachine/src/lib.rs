//! Partition metadata as a deterministic state machine: brokers, topics, leaders, ISR, epochs.
//!
//! Three things are here. The **contract** between the ready loop and any replicated state
//! ([`StateMachine`], [`Image`]); the table of **client sessions** that stands between the log and any
//! of them ([`ClientSessions`]); and the one state machine that Quorate runs, [`Metadata`], in the
//! terms of Kafka's KRaft controller (KIP-500, 631, 841, 853, 966). Nothing in this crate does I/O,
//! reads a clock or draws a random number.
//!
//! # The way of a command
//!
//! ```text
//!              bytes from the log
//!                      |
//!   Command::decode    |   unknown or malformed: ApplyError, the replica stops
//!                      v
//!   Metadata::apply -> a handler per noun: register, liveness, topics, alter_partition, ...
//!                      |   every precondition is checked first; else Rejected, nothing changed
//!                      v
//!                   change()    the one way a partition changes; runs the election, steps epochs
//!                      |
//!                      v
//!          (Outcome to the proposer, Delta to the watchers)
//!
//!   Metadata::image -> MetadataImage: O(1), read without locks, written as snapshot, hashed
//! ```
//!
//! The leader of the quorum plans before it proposes: [`placement::plan`] chooses replicas from an
//! image, and its choice is carried in the command.
//!
//! # Invariants
//!
//! [`MetadataImage::check`] and [`MetadataImage::check_step`] assert them; tests and the simulation
//! call both after every command.
//!
//! - Same commands at the same indexes, same state: equal bytes of the snapshot, equal
//!   [`StateHash`].
//! - `isr`, `elr`, `adding` and `removing` are within `replicas`; `isr` and `elr` are disjoint, and so
//!   are `adding` and `removing`; nobody is named twice.
//! - A leader is in the ISR and active. Without a leader the ISR is empty. No fenced broker, and none
//!   that shuts down, is in an ISR.
//! - With |isr| >= min(min.insync.replicas, replication factor) the ELR is empty. A partition that is
//!   recovering has one in-sync replica at most.
//! - Epochs never decrease. A change is a step of the partition epoch, another leader one of the
//!   leader epoch. Broker epochs are unique and increase.
//!
//! What is absent: no partition changes but in `change.rs`, no hash map is iterated, no error is
//! swallowed, and no state is reachable from which a dead leader would be elected to succeed itself.

mod alter_configs;
mod alter_partition;
mod broker;
mod brokers;
pub mod canonical;
mod change;
mod check;
mod checkpoints;
mod client_sessions;
mod command;
mod command_wire;
#[cfg(test)]
mod compat;
mod contract;
mod delta;
mod description;
mod elect;
mod elect_leaders;
mod error;
mod explain;
mod feature_level;
mod history;
mod ids;
mod image;
mod liveness;
mod machine;
mod outcome;
mod partition;
mod partitions;
pub mod placement;
mod producer_ids;
#[cfg(test)]
mod random;
mod reassign;
mod record;
mod register;
mod snapshot;
mod state_sum;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;
mod topic;
mod topic_config;
pub mod topic_name;
mod topics;
mod what_if;
pub mod wire;

pub use broker::{ActiveBrokers, Broker, FeatureRange, Listener};
pub use brokers::Brokers;
pub use change::{Target, change};
pub use check::Violation;
pub use checkpoints::{CHECKPOINT_EVERY, CHECKPOINTS_MAX};
pub use client_sessions::{
    Admission, ClientSessions, CommandId, OUTCOME_BYTES_MAX, SESSION_BYTES_MAX, SESSIONS_BYTES_MAX,
    SESSIONS_MAX, SessionError, WINDOW,
};
pub use command::{
    AlterPartition, BrokerSession, Checkpoint, Command, ConfigChange, ConfigOperation,
    ConfigResource, CreatePartitions, ElectLeaders, ElectionType, NewTopic, Reassignment,
    RegisterBroker,
};
pub use contract::{
    Applied, ApplyError, Cause, Changes, Image, RestoreError, StateHash, StateMachine,
};
pub use delta::Delta;
pub use elect::{Ballot, Elected, Election};
pub use error::{ErrorCode, Rejection};
pub use explain::{Explanation, MissingReplica, explain};
pub use history::PartitionChange;
pub use ids::{
    BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, Incarnation, LeaderEpoch, PartitionEpoch,
    PartitionKey, ProducerId, TopicId,
};
pub use image::MetadataImage;
pub use machine::Metadata;
pub use outcome::{Outcome, PartitionAltered, PartitionResult, Reply};
pub use partition::{EPOCH_MAX, EPOCHS_RESERVED, Partition, Recovery};
pub use producer_ids::PRODUCER_IDS_PER_BLOCK;
pub use register::{BROKER_TEXT_BYTES_MAX, DIRECTORIES_MAX, LISTENERS_MAX};
pub use snapshot::RECORD_BYTES_MAX;
pub use topic::Topic;
pub use topic_config::{CONFIG_LIST_BYTES_MAX, TopicConfigKey, TopicConfigs};
pub use topics::REPLICATION_FACTOR_MAX;
pub use what_if::{WhatIf, what_if};
pub use wire::DecodeError;
