//! What one client may cost: every bound of the server, with its reason.

use std::time::Duration;

/// Connections that are open at a time; more wait in the system's queue until one is closed. A node is
/// asked by a few operators and probes.
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// How long a client may take to begin TLS.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The longest body of any other request: a topic with all of its configs has a few hundred bytes.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest body that names partitions: 10,000 of them, each with a topic's name of the longest and
/// some replicas.
pub(crate) const PLAN_BYTES_MAX: usize = 4 << 20;

/// How long a connection may be silent beyond the time of a request. It ends idle connections, and
/// requests that never become complete, so that they do not keep others out.
pub(crate) const SILENCE_SLACK: Duration = Duration::from_secs(10);

/// How long a client may take no byte of an answer that waits for it.
pub(crate) const STUCK_MAX: Duration = Duration::from_secs(30);

/// How long an answer may be on its way to a client that takes it slowly: for as long it holds its memory. 200 MB
/// take that long at 14 Mbit/s. The server is handed no more of it then, and what it holds may take as long again.
pub(crate) const SENDING_MAX: Duration = Duration::from_secs(120);

/// What a request may take beyond the time of its operation, whose own answer says more.
const REQUEST_SLACK: Duration = Duration::from_secs(2);

/// The longest that a request may take when an operation may take this long. What is named is
/// looked up by a read before it is changed.
pub(crate) fn request_max(operation_timeout: Duration) -> Duration {
    2 * operation_timeout + REQUEST_SLACK
}

/// The partitions of an answer that takes no turn.
pub(crate) const SMALL_ANSWER_MAX: usize = 10_000;

/// Answers about the whole state that are made at a time: one of a million partitions has some 200 MB. An
/// election over everything makes one more.
pub(crate) const WHOLE_ANSWERS_MAX: usize = 2;

/// Bytes of such answers that are on their way at a time: two of the largest, and some small ones. What came of
/// an election over everything waits for no room: one such answer may be on its way beyond that.
pub(crate) const ON_THE_WAY_MAX: usize = 512 << 20;

/// The bytes of such an answer that are sent, and let go of, together. What the server holds of one is
/// some 400 KiB more.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// The bytes a second that a reader takes of such an answer where others need its room: 8 Mbit/s.
pub(crate) const PACE_MIN: u64 = 1 << 20;

/// How far behind that pace it may be before its answer gives way. It is not ahead for having been fast before: who
/// takes nothing more gives way after that time.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(5);

/// How long the answer to elections may take to be made, beside all that the processors do else. There is no other
/// limit for it: what was elected is told.
const TELLING_MAX: Duration = Duration::from_secs(60);

/// The longest that a request for elections may take when an operation may take this long: it waits for another
/// one no longer than an operation takes, and is held as any request.
pub(crate) fn election_max(operation_timeout: Duration) -> Duration {
    operation_timeout + request_max(operation_timeout) + TELLING_MAX
}

/// How long open requests may go on when the server is told to stop.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(2);
