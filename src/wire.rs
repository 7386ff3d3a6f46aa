//! Owns the bytes of the requests that a node sends to the quorum leader.
//!
//! Field numbers are stable: nodes of neighbouring versions talk to each other. A request that a
//! leader does not know is refused, never guessed at.

use prost::{Message, Oneof};
use quorate_statemachine::{BrokerId, Brokers, Checkpoint, StateHash};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(oneof = "RequestKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub(crate) kind: Option<RequestKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum RequestKind {
    #[prost(message, tag = "1")]
    Heartbeat(HeartbeatRequest),
    /// The leader checks for a live session, completes the vouch, and proposes it.
    #[prost(message, tag = "2")]
    Register(RegisterRequest),
    /// The leader plans the placement and proposes it.
    #[prost(message, tag = "3")]
    CreateTopic(CreateTopicRequest),
    /// An encoded command, proposed as it is.
    #[prost(bytes = "bytes", tag = "4")]
    Propose(bytes::Bytes),
    #[prost(message, tag = "5")]
    ReadIndex(Empty),
    /// Who belongs to the quorum, and how far behind each member is.
    #[prost(message, tag = "6")]
    Progress(Empty),
    /// The leader checks the change against what it knows of the members, and proposes it.
    #[prost(message, tag = "7")]
    ChangeMembers(ChangeMembersRequest),
    #[prost(message, tag = "8")]
    SetAddress(SetAddressRequest),
    #[prost(message, tag = "9")]
    TransferLeadership(TransferRequest),
    /// The leader plans the placements and proposes the topics, all or none.
    #[prost(message, tag = "10")]
    CreateTopics(CreateTopicsRequest),
    /// The leader plans the placement of what the topic lacks and proposes it.
    #[prost(message, tag = "11")]
    CreatePartitions(CreatePartitionsRequest),
    /// The leader looks the epoch of this broker up and proposes that it is fenced.
    #[prost(uint32, tag = "12")]
    FenceBroker(u32),
    /// The leader checks that it supports this level and proposes it.
    #[prost(uint32, tag = "13")]
    SetFeatureLevel(u32),
    /// What the node that is asked noted of its own state. Any node answers.
    #[prost(message, tag = "14")]
    Checkpoints(Empty),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct HeartbeatRequest {
    #[prost(uint32, tag = "1")]
    pub(crate) broker: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) applied: u64,
    #[prost(bool, tag = "4")]
    pub(crate) want_fence: bool,
    #[prost(bool, tag = "5")]
    pub(crate) want_shutdown: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegisterRequest {
    /// The encoded command, without a vouch when `always_vouch` is set.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) command: bytes::Bytes,
    /// The broker stores nothing: vouch for whichever incarnation is registered.
    #[prost(bool, tag = "2")]
    pub(crate) always_vouch: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateTopicRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) partitions: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) replication_factor: u32,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) configs: std::collections::BTreeMap<String, String>,
    /// One list of brokers a partition; empty: the leader plans.
    #[prost(message, repeated, tag = "5")]
    pub(crate) assignment: Vec<Replicas>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateTopicsRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) topics: Vec<CreateTopicRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreatePartitionsRequest {
    /// The topic's id: never a topic of the same name that is made a moment later.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) topic: Vec<u8>,
    /// How many partitions it shall have.
    #[prost(uint32, tag = "2")]
    pub(crate) total: u32,
    /// One list of brokers a new partition; empty: the leader plans.
    #[prost(message, repeated, tag = "3")]
    pub(crate) assignment: Vec<Replicas>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Replicas {
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) brokers: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChangeMembersRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) changes: Vec<MemberChangeWire>,
    #[prost(bool, tag = "2")]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct MemberChangeWire {
    #[prost(enumeration = "ChangeKind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
}

/// What becomes of a member. Zero is none of them: nothing is removed by a field that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum ChangeKind {
    Unknown = 0,
    Add = 1,
    Promote = 2,
    Demote = 3,
    Remove = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetAddressRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) node: u64,
    #[prost(string, tag = "2")]
    pub(crate) addr: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct TransferRequest {
    /// Absent: whoever is most advanced.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) to: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(oneof = "ResponseKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(crate) kind: Option<ResponseKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ResponseKind {
    #[prost(message, tag = "1")]
    Applied(AppliedResponse),
    #[prost(message, tag = "2")]
    Beat(BeatResponse),
    /// Refused by the leader before it reached the log.
    #[prost(message, tag = "3")]
    Rejected(RejectedResponse),
    /// Surely without effect; may be sent again.
    #[prost(enumeration = "Refusal", tag = "4")]
    Refused(i32),
    /// The outcome is not known.
    #[prost(enumeration = "Doubt", tag = "5")]
    Unknown(i32),
    #[prost(uint64, tag = "6")]
    ReadIndex(u64),
    #[prost(message, tag = "7")]
    Progress(MembersResponse),
    /// The membership is changed, or would be.
    #[prost(message, tag = "8")]
    MembersChanged(MembersResponse),
    /// Refused by the leader before it reached the log.
    #[prost(message, tag = "9")]
    MembersRefused(MembersRefusedResponse),
    /// The node that leads now.
    #[prost(uint64, tag = "10")]
    Transferred(u64),
    #[prost(message, tag = "11")]
    TransferRefused(TransferRefusedResponse),
    #[prost(message, tag = "12")]
    Checkpoints(CheckpointsResponse),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointsResponse {
    /// In order of index.
    #[prost(message, repeated, tag = "1")]
    pub(crate) noted: Vec<CheckpointWire>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointWire {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) hash: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) algorithm: u32,
}

/// A command was applied at `index`, with this outcome.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppliedResponse {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) outcome: bytes::Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BeatResponse {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(bool, tag = "2")]
    pub(crate) fenced: bool,
    #[prost(bool, tag = "3")]
    pub(crate) in_shutdown: bool,
    #[prost(bool, tag = "4")]
    pub(crate) may_stop: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RejectedResponse {
    /// Kafka's number of the error.
    #[prost(sint32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    /// The image that the leader decided on.
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
}

/// The members as of one index of the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) members: Vec<MemberWire>,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberWire {
    #[prost(uint64, tag = "1")]
    pub(crate) member: u64,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) trails_leader_by: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) last_contact_ms: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub(crate) node: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) directory: Vec<u8>,
    #[prost(string, tag = "6")]
    pub(crate) addr: String,
    #[prost(enumeration = "RoleWire", tag = "7")]
    pub(crate) role: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum RoleWire {
    Unknown = 0,
    Voter = 1,
    Learner = 2,
    Observer = 3,
}

/// Why the leader does not change the membership; the numbers are of what the code speaks of.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct MembersRefusedResponse {
    #[prost(enumeration = "MembersRefusal", tag = "1")]
    pub(crate) code: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) behind: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) voters: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) live: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) needed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum MembersRefusal {
    Unknown = 0,
    NoMember = 1,
    NoChange = 2,
    Unsound = 3,
    NotCaughtUp = 4,
    WouldLoseQuorum = 5,
    LastVoter = 6,
    Leads = 7,
    StillActive = 8,
    Retired = 9,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct TransferRefusedResponse {
    #[prost(enumeration = "TransferRefusal", tag = "1")]
    pub(crate) code: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) node: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum TransferRefusal {
    Unknown = 0,
    NoMember = 1,
    NoVote = 2,
    Silent = 3,
    NoSuccessor = 4,
    NotTaken = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum Refusal {
    /// Not leading, not any more, or not yet ready to.
    NotLeader = 0,
    Overloaded = 1,
    TooLarge = 2,
    /// This version does not know the request.
    Unsupported = 3,
    /// The disk of the node asked is full. A version that does not know this takes the outcome for
    /// unknown.
    StorageFull = 4,
    /// No change of the membership can be begun yet: another is under way, or it is not known who is
    /// alive. Said only to who wants one.
    ChangePending = 5,
    /// What the leader planned came too late each time: other changes of the same topic came first.
    /// A version that does not know this takes the outcome for unknown.
    Overtaken = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum Doubt {
    TimedOut = 0,
    LeadershipLost = 1,
    Stopped = 2,
    ConnectionLost = 3,
}

impl Replicas {
    /// An assignment, one list of brokers a partition.
    pub(crate) fn all_of(assignment: &[Vec<BrokerId>]) -> Vec<Self> {
        let brokers = |replicas: &Vec<BrokerId>| replicas.iter().map(|id| id.get()).collect();
        assignment.iter().map(|replicas| Self { brokers: brokers(replicas) }).collect()
    }

    pub(crate) fn to_brokers(&self) -> Brokers {
        self.brokers.iter().copied().map(BrokerId).collect()
    }
}

impl CheckpointWire {
    pub(crate) fn of(noted: &Checkpoint) -> Self {
        let Checkpoint { algorithm, index, hash } = *noted;
        Self { index, hash: hash.to_bytes().to_vec(), algorithm }
    }

    /// `None` if the hash is none.
    pub(crate) fn to_checkpoint(&self) -> Option<Checkpoint> {
        let hash = StateHash::from_bytes(self.hash.as_slice().try_into().ok()?);
        Some(Checkpoint { algorithm: self.algorithm, index: self.index, hash })
    }
}

impl From<RequestKind> for Request {
    fn from(kind: RequestKind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<ResponseKind> for Response {
    fn from(kind: ResponseKind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        ResponseKind::Refused(refusal as i32).into()
    }
}

impl From<Doubt> for Response {
    fn from(doubt: Doubt) -> Self {
        ResponseKind::Unknown(doubt as i32).into()
    }
}
