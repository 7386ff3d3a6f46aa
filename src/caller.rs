//! Owns the way of a request to the quorum leader, and what may be tried again on that way.
//!
//! A request is sent again only while it surely had no effect: no leader was known, the node was not
//! reached, or it answered that it does not lead. As soon as a leader may have taken it, its outcome
//! is the leader's answer or *unknown*, and nothing is sent again, unless sending it twice is the
//! same as sending it once.

use std::time::Duration;

use prost::Message as _;
use quorate_engine::NodeId;
use quorate_loop::{CallError, Node, Role};
use quorate_statemachine::{ErrorCode, Metadata, Outcome, Rejection, Reply};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::desk::Desk;
use crate::error::{ReadError, Unavailable, UnknownReason, WriteError};
use crate::wire::{
    Doubt, Empty, MembersResponse, Refusal, Request, RequestKind, Response, ResponseKind,
};

/// The first and the longest pause before a request is sent again. A new leader is noticed at once;
/// the pause is for what no event announces, such as a leader that is getting ready.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long a leader that was succeeded may still take to answer.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// Whether a request may be sent again although a leader may have taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It must not: twice is not the same as once.
    Never,
    /// It may: twice is the same as once.
    Harmless,
}

/// What was applied, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) index: u64,
    pub(crate) reply: Reply,
}

/// The ways of a request: to the desk of this node, or to that of another.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) node: &'a Node<Metadata>,
    pub(crate) desk: &'a Desk,
}

impl Way<'_> {
    /// Asks the desk of a node; that of this one as it is, without bytes in between. An answer that cannot
    /// be read says nothing.
    async fn call(self, to: NodeId, request: &Request) -> Result<Response, CallError> {
        if to == self.node.identity().node_id {
            return Ok(self.desk.answer(request.clone()).await);
        }
        let answer = self.node.call(to, request.encode_to_vec().into()).await?;
        Ok(Response::decode(answer).unwrap_or_default())
    }
}

/// Sends a request to the leader until it is answered, and waits until this node has applied the
/// index that the answer names: whoever gets a reply, or a rejection, finds it in the own image.
pub(crate) async fn write(
    way: Way<'_>,
    kind: RequestKind,
    repeat: Repeat,
    timeout: Duration,
) -> Result<Done, WriteError> {
    Ok(decide(way, kind, repeat, timeout).await??)
}

/// As [`write()`], and tells what the log rejected (within) from what the leader did not propose.
pub(crate) async fn decide(
    way: Way<'_>,
    kind: RequestKind,
    repeat: Repeat,
    timeout: Duration,
) -> Result<Result<Done, Rejection>, WriteError> {
    let started = Instant::now();
    let deadline = started + timeout;
    refuse_if_full(way.node)?;
    match ask(way, kind, repeat, started, deadline).await? {
        ResponseKind::Applied(applied) => {
            let outcome = Outcome::decode(&applied.outcome)
                .map_err(|_| WriteError::Unknown { reason: UnknownReason::Unreadable })?;
            let seen = seen_here(way.node, applied.index, deadline).await;
            match outcome {
                Outcome::Accepted(reply) => seen.map(|()| Ok(Done { index: applied.index, reply })),
                // Final, with or without the image that explains it.
                Outcome::Rejected(rejection) => Ok(Err(rejection)),
            }
        }
        ResponseKind::Rejected(rejected) => {
            let code = i16::try_from(rejected.code).ok().and_then(ErrorCode::from_code);
            let code = code.unwrap_or(ErrorCode::UnknownServerError);
            // A rejection is final with or without the image that explains it.
            let _ = seen_here(way.node, rejected.index, deadline).await;
            Err(Rejection::new(code, rejected.message).into())
        }
        _ => Err(WriteError::Unknown { reason: UnknownReason::Unreadable }),
    }
}

/// Refuses a change while this node cannot write. Another node might take it; this one could not
/// see what became of it.
pub(crate) fn refuse_if_full(node: &Node<Metadata>) -> Result<(), WriteError> {
    match node.is_storage_full() {
        true => Err(WriteError::Unavailable {
            reason: Unavailable::StorageFull,
            waited: Duration::ZERO,
        }),
        false => Ok(()),
    }
}

/// A barrier: what this node has applied when it returns holds all that was acknowledged anywhere
/// before it was called.
pub(crate) async fn read_index(way: Way<'_>, timeout: Duration) -> Result<u64, ReadError> {
    let deadline = Instant::now() + timeout;
    match read(way, RequestKind::ReadIndex(Empty {}), timeout).await? {
        ResponseKind::ReadIndex(index) => {
            seen_here(way.node, index, deadline).await.map_err(|error| {
                // It takes no entries while it has no room for them.
                let full = refuse_if_full(way.node).err();
                read_failed(full.unwrap_or(error), timeout)
            })?;
            Ok(index)
        }
        _ => Err(ReadError::TimedOut { waited: timeout }),
    }
}

/// What the leader knows of the members, once it was confirmed that it leads.
pub(crate) async fn members(way: Way<'_>, timeout: Duration) -> Result<MembersResponse, ReadError> {
    match read(way, RequestKind::Progress(Empty {}), timeout).await? {
        ResponseKind::Progress(members) => Ok(members),
        _ => Err(ReadError::TimedOut { waited: timeout }),
    }
}

async fn read(
    way: Way<'_>,
    kind: RequestKind,
    timeout: Duration,
) -> Result<ResponseKind, ReadError> {
    let started = Instant::now();
    ask(way, kind, Repeat::Harmless, started, started + timeout)
        .await
        .map_err(|error| read_failed(error, timeout))
}

fn read_failed(error: WriteError, timeout: Duration) -> ReadError {
    match error {
        WriteError::Unavailable { reason, waited } => ReadError::Unavailable { reason, waited },
        WriteError::Stopped { fatal } => ReadError::Stopped { fatal },
        _ => ReadError::TimedOut { waited: timeout },
    }
}

/// Sends a request to the leader until it is answered.
pub(crate) async fn ask(
    way: Way<'_>,
    kind: RequestKind,
    repeat: Repeat,
    started: Instant,
    deadline: Instant,
) -> Result<ResponseKind, WriteError> {
    let (node, request) = (way.node, Request::from(kind));
    let mut pause = PAUSE_MIN;
    // Once a leader may have taken it, no failure to reach another says that nothing was changed.
    let mut doubt = None;
    let ended = |doubt: Option<UnknownReason>, error: WriteError| match (doubt, &error) {
        (Some(reason), WriteError::Unavailable { .. } | WriteError::Stopped { .. }) => {
            WriteError::Unknown { reason }
        }
        _ => error,
    };
    loop {
        let leader = leader(node, started, deadline).await.map_err(|error| ended(doubt, error))?;
        let reason = match once(way, leader, &request, deadline).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Final(error)) => return Err(ended(doubt, error)),
            Err(Failure::NoEffect(reason)) => reason,
            Err(Failure::Doubtful(reason)) => {
                if repeat == Repeat::Never || Instant::now() >= deadline {
                    return Err(WriteError::Unknown { reason });
                }
                doubt = Some(reason);
                Unavailable::NotLeader
            }
        };
        let again_at = Instant::now() + pause;
        if again_at >= deadline {
            let waited = started.elapsed();
            return Err(ended(doubt, WriteError::Unavailable { reason, waited }));
        }
        pause = (pause * 2).min(PAUSE_MAX);
        pause_until_leader_changes(node, leader, again_at).await;
    }
}

enum Failure {
    /// Surely without effect: to be sent again.
    NoEffect(Unavailable),
    /// A leader may have taken it.
    Doubtful(UnknownReason),
    /// No use in trying again.
    Final(WriteError),
}

async fn once(
    way: Way<'_>,
    leader: NodeId,
    request: &Request,
    deadline: Instant,
) -> Result<ResponseKind, Failure> {
    let answer = tokio::select! {
        answer = timeout_at(deadline, way.call(leader, request)) => answer,
        () = deposed(way.node, leader) => {
            return Err(Failure::Doubtful(UnknownReason::LeadershipLost));
        }
    };
    let answer = match answer {
        Err(_) => return Err(Failure::Doubtful(UnknownReason::TimedOut)),
        Ok(Err(CallError::Unreachable(node))) => {
            return Err(Failure::NoEffect(Unavailable::Unreachable(node)));
        }
        Ok(Err(CallError::TooLarge { .. })) => return Err(Failure::Final(WriteError::TooLarge)),
        Ok(Err(_)) => return Err(Failure::Doubtful(UnknownReason::ConnectionLost)),
        Ok(Ok(answer)) => answer,
    };
    match answer.kind {
        None => Err(Failure::Doubtful(UnknownReason::Unreadable)),
        Some(ResponseKind::Refused(refusal)) => Err(refused(refusal)),
        Some(ResponseKind::Unknown(doubt)) => Err(Failure::Doubtful(doubtful(doubt))),
        Some(kind) => Ok(kind),
    }
}

/// Waits until somebody else leads, and a little longer: a leader that handed over in order still
/// answers what it has committed. One that hangs answers nothing, and must not be waited for.
async fn deposed(node: &Node<Metadata>, leader: NodeId) {
    let mut watch = node.watch_leader();
    let changed = watch.wait_for(|known| known.leader.is_some_and(|now| now != leader));
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(LAST_ANSWER).await;
}

fn refused(refusal: i32) -> Failure {
    match Refusal::try_from(refusal) {
        Ok(Refusal::NotLeader) => Failure::NoEffect(Unavailable::NotLeader),
        // It hands over to one that has room, if there is one.
        Ok(Refusal::StorageFull) => Failure::NoEffect(Unavailable::StorageFull),
        Ok(Refusal::Overtaken) => Failure::NoEffect(Unavailable::Overtaken),
        Ok(Refusal::ChangePending) => Failure::NoEffect(Unavailable::ChangePending),
        // Sending it again at once is the last thing that helps: it is for the caller to decide.
        Ok(Refusal::Overloaded) => Failure::Final(WriteError::Unavailable {
            reason: Unavailable::Overloaded,
            waited: Duration::ZERO,
        }),
        Ok(Refusal::TooLarge) => Failure::Final(WriteError::TooLarge),
        Ok(Refusal::Unsupported) => Failure::Final(WriteError::Rejected(Rejection::new(
            ErrorCode::UnsupportedVersion,
            "the quorum leader does not take this request: run the same version on all nodes",
        ))),
        Err(_) => Failure::Doubtful(UnknownReason::Unreadable),
    }
}

fn doubtful(doubt: i32) -> UnknownReason {
    match Doubt::try_from(doubt) {
        Ok(Doubt::TimedOut) => UnknownReason::TimedOut,
        Ok(Doubt::LeadershipLost) => UnknownReason::LeadershipLost,
        Ok(Doubt::ConnectionLost) => UnknownReason::ConnectionLost,
        Ok(Doubt::Stopped) => UnknownReason::Stopped,
        Err(_) => UnknownReason::Unreadable,
    }
}

/// Waits until this node knows a leader.
async fn leader(
    node: &Node<Metadata>,
    started: Instant,
    deadline: Instant,
) -> Result<NodeId, WriteError> {
    let mut watch = node.watch_status();
    loop {
        {
            // The last status of a node that has stopped may still name a leader.
            let stopped = watch.has_changed().is_err();
            let status = watch.borrow_and_update();
            // It has stopped for that reason, or is about to.
            if status.serving && status.role == Role::Removed {
                let (reason, waited) = (Unavailable::Removed, started.elapsed());
                return Err(WriteError::Unavailable { reason, waited });
            }
            if let Some(fatal) = &status.fatal {
                return Err(WriteError::Stopped { fatal: Some(fatal.clone()) });
            }
            if let (Some(leader), true) = (status.leader, !stopped) {
                return Ok(leader);
            }
        }
        match timeout_at(deadline, watch.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(WriteError::Stopped { fatal: None }),
            Err(_) => {
                let waited = started.elapsed();
                return Err(WriteError::Unavailable { reason: Unavailable::NoLeader, waited });
            }
        }
    }
}

/// Pauses, but not longer than the leader that refused is the one that is known.
async fn pause_until_leader_changes(node: &Node<Metadata>, refused: NodeId, until: Instant) {
    let mut watch = node.watch_leader();
    let changed = watch.wait_for(|known| known.leader != Some(refused));
    let stopped = matches!(timeout_at(until, changed).await, Ok(Err(_)));
    if stopped {
        sleep_until(until).await;
    }
}

/// Waits until this node has applied `index`.
async fn seen_here(node: &Node<Metadata>, index: u64, deadline: Instant) -> Result<(), WriteError> {
    match timeout_at(deadline, node.wait_applied(index)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(WriteError::NotSeenYet { index }),
    }
}

#[cfg(test)]
mod tests {
    use quorate_statemachine::{BrokerId, DirectoryId};

    use super::*;
    use crate::error::ErrorKind;
    use crate::registration::Registration;

    #[test]
    fn trap_I18_only_what_surely_had_no_effect_is_sent_again() {
        assert!(matches!(
            refused(Refusal::NotLeader as i32),
            Failure::NoEffect(Unavailable::NotLeader)
        ));
        assert!(matches!(
            refused(Refusal::StorageFull as i32),
            Failure::NoEffect(Unavailable::StorageFull)
        ));
        assert!(matches!(
            refused(Refusal::ChangePending as i32),
            Failure::NoEffect(Unavailable::ChangePending)
        ));
        assert!(matches!(
            refused(Refusal::Overtaken as i32),
            Failure::NoEffect(Unavailable::Overtaken)
        ));
        for (refusal, kind) in [
            (Refusal::Overloaded as i32, ErrorKind::Retryable),
            (Refusal::TooLarge as i32, ErrorKind::Rejected),
            (Refusal::Unsupported as i32, ErrorKind::Rejected),
        ] {
            assert!(matches!(refused(refusal), Failure::Final(error) if error.kind() == kind));
        }
        // From a later version: nobody knows what it means.
        assert!(matches!(refused(99), Failure::Doubtful(UnknownReason::Unreadable)));
        assert_eq!(doubtful(99), UnknownReason::Unreadable);
        assert_eq!(doubtful(Doubt::LeadershipLost as i32), UnknownReason::LeadershipLost);
    }

    /// Both are of the same code. To see it fail: have `decide` answer the two alike.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_log_rejects_is_told_from_what_the_leader_does() {
        let (_dir, quorum) = crate::tests::alone().await;
        let register = async |directories: Vec<DirectoryId>| {
            let own = quorum.identity().directory_id;
            let whole = Registration::without_data_plane(BrokerId(1), own);
            let request = Registration { directories, ..whole }.to_request();
            let request = RequestKind::Register(request);
            decide(quorum.way(), request, Repeat::Harmless, Duration::from_secs(30)).await
        };
        let nil = DirectoryId(uuid::Uuid::nil());
        let Err(WriteError::Rejected(leader)) = register(vec![nil]).await else { panic!() };
        let Ok(Err(log)) = register(Vec::new()).await else { panic!() };
        assert_eq!([leader.code, log.code], [ErrorCode::InvalidRegistration; 2]);
    }
}
