//! HTTP for a Quorate node: status, health and the JSON API.
//!
//! [`Admin::bind`] takes the address, [`Admin::serve`] answers for a running [`quorate::Quorum`]. The
//! shapes of all bodies are in [`views`], which the program `quorate` reads back.
//!
//! ```text
//!  GET    /status             the asked node, with the hash of its state
//!  GET    /health/live        503 when the node has stopped for good
//!  GET    /health/ready       503 when the node cannot be given work
//!  GET    /metrics            the same numbers for Prometheus, and the log's bytes on disk
//!  GET    /v1/brokers         ┐
//!  GET    /v1/topics          │ linearizable, through the leader;
//!  GET    /v1/partitions      │ with ?local=true from the asked node's own image;
//!  GET    /v1/members         │ partitions also ?topic=NAME
//!  GET    /v1/producer-ids    │
//!  GET    /v1/topics/{name}   │ with configs and partitions
//!  GET    /v1/configs         │ ?topic=NAME, ?broker=N or ?default=true
//!  GET    /v1/features        │
//!  GET    /v1/partitions/history   │ ?topic=NAME&partition=N: with the log of the asked node
//!  GET    /v1/partitions/explain   │
//!  GET    /v1/partitions/what-if   ┘ ?kill=ID,ID
//!  POST   /v1/topics          committed and visible on the asked node when answered
//!  DELETE /v1/topics/{name}
//!  POST   /v1/topics/{name}/partitions
//!  POST   /v1/partitions/elect     ┐
//!  POST   /v1/partitions/reassign  │ each partition has its own result
//!  POST   /v1/partitions/cancel    ┘
//!  POST   /v1/configs         all or none
//!  POST   /v1/features        the feature level
//!  POST   /v1/brokers/{id}/fence
//!  POST   /v1/brokers/{id}/unregister
//!  POST   /v1/producer-ids    for a broker that the asked node registered
//!  POST   /v1/members         roles of members, all at once; with dry_run nothing is changed
//!  POST   /v1/members/{node_id}/address
//!  POST   /v1/leader/transfer answered when leadership has moved
//! ```
//!
//! # What holds
//!
//! - Any node takes any request; the quorum finds its leader.
//! - `applied_index`, `feature_level` and `state_hash` of one status are of one image.
//! - An answer that is no success is a [`views::ApiError`]: it says whether anything may have changed.
//!   Unknown fields of a request are errors.
//! - Everything is bounded: connections, their silence, how long a request takes to arrive, bodies,
//!   the time of a request, the two minutes in which an answer is to be taken, and of answers about
//!   the whole state (all topics, all partitions, `what-if`) how many are made at a time, and the bytes
//!   that are on their way: a reader that is slow gives way to the next one. What is told of the log
//!   grows with it.
//!
//! - An address that is not loopback is served over TLS 1.3 only, and whatever is no `GET` needs a
//!   client certificate or a bearer token there: see [`Access`]. Reading is open to whoever reaches
//!   the address.
//! - A page in a browser changes nothing, also where everybody of the machine may: a change has no
//!   `Origin`, a `POST` is marked as JSON, and over plain HTTP a `Host` is an address, `localhost`
//!   or [`AccessConfig::host`].

mod access;
mod connection;
mod fault;
mod limits;
mod metrics;
mod render;
mod request;
mod room;
mod routes;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod turns;
pub mod views;

pub use access::{Access, AccessConfig, AccessError};
pub use server::{Admin, BindError};
