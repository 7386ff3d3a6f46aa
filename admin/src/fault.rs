//! [`Fault`]: an answer that is not a success, from the kinds of error below it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use quorate::{
    ChangeMembersError, ErrorCode, ErrorKind, MembershipError, ReadError, Rejection, ReplayError,
    TransferError, Unavailable, WriteError,
};

use crate::views::{ApiError, FailureOutcome};

/// An answer that is not a success: the status line, and the body that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    status: StatusCode,
    body: ApiError,
}

impl Fault {
    /// A request that is wrong in itself: it was not even looked at by the quorum.
    pub(crate) fn bad_request(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "BAD_REQUEST", message, false, FailureOutcome::Rejected)
    }

    /// A change by somebody who may not change anything.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            "a change needs a client certificate or the bearer token of the node's admin API",
            false,
            FailureOutcome::Rejected,
        )
    }

    /// A request of somebody who is not to be answered, whatever he knows.
    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message, false, FailureOutcome::Rejected)
    }

    /// A change whose body is not marked as what it must be.
    pub(crate) fn not_json() -> Self {
        Self::bad_request(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is not marked as JSON: send the header `content-type: application/json`",
        )
    }

    /// The time for a whole request is up that only reads.
    pub(crate) fn read_timed_out() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "REQUEST_TIMED_OUT",
            "the node did not finish reading in time: try again, or ask another node",
            true,
            FailureOutcome::NeverApplied,
        )
    }

    /// The time for a whole request is up that was to change something.
    pub(crate) fn change_timed_out() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "REQUEST_TIMED_OUT",
            "the node did not finish in time: a change may have been made or not, look before you \
             try again",
            false,
            FailureOutcome::Unknown,
        )
    }

    /// An election over everything, or over a large topic, waited for another such one.
    pub(crate) fn election_goes_on() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "OVERLOADED",
            "another large election goes on, and nothing was changed by this one: try again, or name partitions",
            true,
            FailureOutcome::NeverApplied,
        )
    }

    fn new(
        status: StatusCode,
        error: &str,
        message: impl Into<String>,
        retryable: bool,
        outcome: FailureOutcome,
    ) -> Self {
        let (error, message) = (error.to_owned(), message.into());
        Self { status, body: ApiError { error, message, retryable, outcome } }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        let outcome = outcome_of(error.kind());
        let retryable = error.kind() == ErrorKind::Retryable;
        let (status, name, message) = match &error {
            WriteError::Rejected(rejection) => {
                (status_of(rejection.code), rejection.code.name(), rejection.message.clone())
            }
            WriteError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", error.to_string()),
            WriteError::Unavailable { reason, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, name_of(*reason), error.to_string())
            }
            WriteError::Stopped { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "STOPPED", error.to_string())
            }
            WriteError::NotSeenYet { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "NOT_SEEN_YET", error.to_string())
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "OUTCOME_UNKNOWN", error.to_string()),
        };
        Self::new(status, name, message, retryable, outcome)
    }
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        WriteError::from(rejection).into()
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        let name = match &error {
            ReadError::Unavailable { reason, .. } => name_of(*reason),
            ReadError::Stopped { .. } => "STOPPED",
            _ => "REQUEST_TIMED_OUT",
        };
        let retryable = !matches!(error, ReadError::Stopped { .. });
        let outcome = FailureOutcome::NeverApplied;
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, error.to_string(), retryable, outcome)
    }
}

impl From<ReplayError> for Fault {
    fn from(error: ReplayError) -> Self {
        // Of what can be tried again, another node has a log of its own.
        let (status, name, retryable) = match error {
            ReplayError::ShutDown => (StatusCode::SERVICE_UNAVAILABLE, "STOPPED", false),
            ReplayError::Panicked { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::UnknownServerError.name(), false)
            }
            ReplayError::TimedOut { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "REQUEST_TIMED_OUT", true)
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "LOG_UNREADABLE", true),
        };
        Self::new(status, name, error.to_string(), retryable, FailureOutcome::NeverApplied)
    }
}

impl From<ChangeMembersError> for Fault {
    fn from(error: ChangeMembersError) -> Self {
        let (status, name) = match &error {
            ChangeMembersError::Refused(refused) => refusal(refused),
            ChangeMembersError::Address { .. } => (StatusCode::BAD_REQUEST, "INVALID_ADDRESS"),
            ChangeMembersError::Unsupported => (StatusCode::BAD_REQUEST, "UNSUPPORTED_VERSION"),
            ChangeMembersError::Unavailable { reason, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, name_of(*reason))
            }
            ChangeMembersError::Stopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "STOPPED"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "OUTCOME_UNKNOWN"),
        };
        let (retryable, outcome) = (error.is_retryable(), outcome_of(error.kind()));
        Self::new(status, name, error.to_string(), retryable, outcome)
    }
}

/// What the leader refuses is in conflict with the members as they are, unless the request is wrong
/// in itself.
fn refusal(refused: &MembershipError) -> (StatusCode, &'static str) {
    match refused {
        MembershipError::NoMember(_) => (StatusCode::NOT_FOUND, "NO_MEMBER"),
        MembershipError::Unsound => (StatusCode::BAD_REQUEST, "UNSOUND_CHANGE"),
        MembershipError::NoChange(_) => (StatusCode::CONFLICT, "NO_CHANGE"),
        MembershipError::NotCaughtUp { .. } => (StatusCode::CONFLICT, "NOT_CAUGHT_UP"),
        MembershipError::WouldLoseQuorum { .. } => (StatusCode::CONFLICT, "WOULD_LOSE_QUORUM"),
        MembershipError::LastVoter => (StatusCode::CONFLICT, "LAST_VOTER"),
        MembershipError::Leads(_) => (StatusCode::CONFLICT, "MEMBER_LEADS"),
        MembershipError::StillActive(_) => (StatusCode::CONFLICT, "STILL_ACTIVE"),
        MembershipError::Retired(_) => (StatusCode::CONFLICT, "RETIRED"),
        _ => (StatusCode::CONFLICT, "REFUSED"),
    }
}

impl From<TransferError> for Fault {
    fn from(error: TransferError) -> Self {
        let (status, name) = match &error {
            TransferError::NoMember(_) => (StatusCode::NOT_FOUND, "NO_MEMBER"),
            TransferError::NoVote(_) => (StatusCode::CONFLICT, "NO_VOTE"),
            TransferError::Silent(_) => (StatusCode::CONFLICT, "MEMBER_SILENT"),
            TransferError::NoSuccessor => (StatusCode::CONFLICT, "NO_SUCCESSOR"),
            TransferError::NotTaken(_) => (StatusCode::CONFLICT, "NOT_TAKEN"),
            TransferError::AnotherLeads { .. } => (StatusCode::CONFLICT, "ANOTHER_LEADS"),
            TransferError::Unsupported => (StatusCode::BAD_REQUEST, "UNSUPPORTED_VERSION"),
            TransferError::Unavailable { reason, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, name_of(*reason))
            }
            TransferError::Stopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "STOPPED"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "OUTCOME_UNKNOWN"),
        };
        let (retryable, outcome) = (error.is_retryable(), outcome_of(error.kind()));
        Self::new(status, name, error.to_string(), retryable, outcome)
    }
}

fn outcome_of(kind: ErrorKind) -> FailureOutcome {
    match kind {
        ErrorKind::Rejected => FailureOutcome::Rejected,
        ErrorKind::Retryable | ErrorKind::Fatal => FailureOutcome::NeverApplied,
        ErrorKind::Unknown => FailureOutcome::Unknown,
    }
}

fn name_of(reason: Unavailable) -> &'static str {
    match reason {
        Unavailable::Overloaded => "OVERLOADED",
        Unavailable::StorageFull => "STORAGE_FULL",
        Unavailable::NotLeader => "NOT_LEADER",
        Unavailable::Unreachable(_) => "LEADER_UNREACHABLE",
        Unavailable::ChangePending => "CHANGE_PENDING",
        Unavailable::Overtaken => "OVERTAKEN",
        Unavailable::Leaving => "LEAVING",
        Unavailable::Removed => "REMOVED",
        _ => "NO_LEADER",
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::BrokerIdNotRegistered => StatusCode::NOT_FOUND,
        ErrorCode::TopicAlreadyExists
        | ErrorCode::StaleBrokerEpoch
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::InvalidUpdateVersion
        | ErrorCode::DuplicateBrokerRegistration => StatusCode::CONFLICT,
        ErrorCode::UnknownServerError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}
