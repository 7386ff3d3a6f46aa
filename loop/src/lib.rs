//! # quorate-loop: the ready loop, and the transport under it
//!
//! The only code that drives raft-rs. It turns a formatted data directory, a state machine and a
//! listening address into a [`Node`]: a member of Raft groups whose loop runs, that proposes, reads
//! and watches.
//!
//! ```text
//!  propose ─► inbox ─► loop thread ─────► log writer ──fsync──┐
//!                        │  Core::step        Durable receipt │
//!                        │  Core::effects ◄───────────────────┘
//!                        │        │
//!                        │        └─► transport ─► peers         (only what is durable)
//!                        └─► apply thread ─► image, watchers, callers
//! ```
//!
//! # The contract
//!
//! - **Storage first.** No message leaves, and no caller is answered, before the batch it speaks
//!   of is durable. Heartbeats and their answers speak of the term only, and wait for the last
//!   batch that changed term or vote; with [`AppendMode::Parallel`] so do a leader's appends, whose
//!   entries it counts as its own only when they are durable. That a forwarded command was given a position is said at
//!   once: it promises nothing, and no position is given twice, even if a crash forgets it.
//! - **One answer.** Every proposal and read ends exactly once: applied, refused (surely without
//!   effect), or unknown. See [`ProposeError`].
//! - **Once.** A command of a [`Session`] is applied at most once, however often it is proposed, and every
//!   try is given the same outcome.
//! - **Your own writes.** A proposal is answered after this node has applied it.
//! - **Fatal is final.** After a failure of its state machine or of an invariant a group answers every
//!   caller, sends nothing more, and says so in its [`GroupStatus`]; after one of the disk all groups
//!   do. The other groups, and the process, go on.
//!
//! # What never happens
//!
//! - The RawNode is never behind a lock, and never touched between `ready` and `advance`.
//! - The loop never waits for the disk or the network, nor for a lock that is held across either.
//! - raft-rs never forwards a proposal or a read, and never sees an unchecked message of a peer.
//!
//! [`Core`] is all of this without thread, socket, clock or file, for simulators.

mod apply;
mod bootstrap;
mod campaigns;
mod catalogue;
mod catalogue_change;
mod change;
mod config;
mod contacts;
mod context;
mod core;
mod driver;
mod drops;
mod entrances;
mod error;
mod founding;
mod frame;
mod front;
pub mod fuzz;
mod genesis;
mod group;
mod groups;
mod guard;
mod head;
mod heartbeat;
mod heartbeats;
mod histogram;
mod inbox;
mod join_wire;
mod joining;
mod log_writer;
mod logger;
mod machine;
mod meaning;
mod members;
mod membership;
mod message;
mod meters;
mod node;
mod proposal;
mod publish;
mod purges;
mod quiescence;
mod reconcile;
mod recovered;
mod registry;
mod renewal;
mod replay;
mod replica;
mod session;
mod slot;
mod snapshot_worker;
mod status;
mod transport;
mod turnover;
mod wait;

pub use self::catalogue::{Catalogue, FIRST_GROUP};
pub use self::catalogue_change::{CatalogueChange, CatalogueError, CatalogueRequest};
pub use self::change::Step;
pub use self::config::{AppendMode, LoopConfig};
pub use self::context::ContextError;
pub use self::core::{Apply, Committed, Core, Effects, Input};
pub use self::drops::{CloseCause, DropCause};
pub use self::error::{CallError, OpenError, ProposeError, ReadError, Stopped};
pub use self::front::{CALLS_MAX, VITAL_CALLS_MAX};
pub use self::group::Group;
pub use self::histogram::Distribution;
pub use self::inbox::Applied;
pub use self::meaning::{catalogue_change_of, session_step_of, steps_of};
pub use self::members::{Binding, Member, MemberRole, Members, MembersError, Promotion};
pub use self::membership::{
    Join, MemberChange, MembershipChanged, MembershipError, MembershipRequest,
};
pub use self::message::{Envelope, PeerMessage, Refused};
pub use self::meters::{Metrics, PeerMetrics};
pub use self::node::Node;
pub use self::proposal::{Proposal, SessionStep};
pub use self::publish::{Published, Update, Updates};
pub use self::replay::{Picked, ReplayError, Replayed};
pub use self::replica::{Done, Draft, Replica, RestoreFailure, TakeFailure};
pub use self::session::{Session, SessionProposeError};
pub use self::status::{CoreStatus, GroupStatus, LastAnswer, Leadership, Liveness, Role};
pub use self::transport::{Service, TlsConfig, TlsError};
pub use self::wait::{Wait, WaitError};
pub use quorate_statemachine::{CommandId, SessionError};
