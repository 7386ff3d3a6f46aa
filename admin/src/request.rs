//! What a request carries, refused in our own words where it cannot be read.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::StatusCode;
use axum::{Json, extract};
use quorate::{BrokerId, NodeId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::fault::Fault;

/// Where a read may be answered from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadQuery {
    /// From the asked node's own image, however old; not through the leader.
    #[serde(default)]
    pub(crate) local: bool,
}

/// The id of a node.
pub(crate) fn node_id(number: u64) -> Result<NodeId, Fault> {
    NodeId::new(number).ok_or_else(|| {
        let message = "node id 0 means none: use one from 1 up, `members ls` names them";
        Fault::bad_request(StatusCode::BAD_REQUEST, message)
    })
}

/// The id of a broker. Whatever is no broker id is no registered broker either.
pub(crate) fn broker_id(number: u64) -> BrokerId {
    BrokerId(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Lists of brokers, one a partition.
pub(crate) fn assignment(partitions: &[Vec<u64>]) -> Vec<Vec<BrokerId>> {
    partitions.iter().map(|replicas| brokers(replicas)).collect()
}

/// A list of brokers.
pub(crate) fn brokers(numbers: &[u64]) -> Vec<BrokerId> {
    numbers.iter().copied().map(broker_id).collect()
}

/// A JSON body, refused in our own words.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Fault> {
        let Json(value) = Json::<T>::from_request(request, state).await.map_err(|rejection| {
            let message = match &rejection {
                JsonRejection::MissingJsonContentType(_) => return Fault::not_json(),
                JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => {
                    format!("{}: correct the body", rejection.body_text())
                }
                _ => format!(
                    "{}: send a complete body, and a long one in several requests",
                    rejection.body_text()
                ),
            };
            Fault::bad_request(as_bad_request(rejection.status()), message)
        })?;
        Ok(Self(value))
    }
}

/// What is wrong with a body is a bad request, whether it is its syntax or its fields.
fn as_bad_request(status: StatusCode) -> StatusCode {
    if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status }
}

/// The query, refused in our own words.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Fault> {
        let query = extract::Query::<T>::from_request_parts(parts, state).await;
        let extract::Query(value) = query.map_err(|rejection: QueryRejection| {
            let message = format!("{}: correct the query", rejection.body_text());
            Fault::bad_request(rejection.status(), message)
        })?;
        Ok(Self(value))
    }
}

/// The variable part of the path, refused in our own words.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Fault;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Fault> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await;
        let extract::Path(value) = path.map_err(|rejection: PathRejection| {
            let message = format!("{}: correct the path", rejection.body_text());
            Fault::bad_request(rejection.status(), message)
        })?;
        Ok(Self(value))
    }
}
