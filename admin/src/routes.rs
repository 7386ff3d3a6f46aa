//! Owns the routes: which request is answered from what.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, extract};
use quorate::{
    BrokerId, ErrorCode, NodeId, Placement, Quorum, Rejection, Snapshot, TopicSpec, WriteError,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::access::Access;
use crate::connection::Caller;
use crate::fault::Fault;
use crate::limits::{BODY_BYTES_MAX, request_max};
use crate::views::{
    AllocateProducerIds, Broker, ChangeKind, ChangeMembers, CreateTopic, CreatedTopic,
    DeletedTopic, Health, LeaderTransferred, Member, MemberChange, MembersChanged, Partition,
    ProducerIdBlock, ProducerIds, SetAddress, Status, Topic, TransferLeader,
};
use crate::{metrics, render};

/// Everything that is served.
pub(crate) fn router(quorum: Quorum, access: Access) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/v1/brokers", get(brokers))
        .route("/v1/members", get(members).post(change_members))
        .route("/v1/members/{node_id}/address", post(set_address))
        .route("/v1/leader/transfer", post(transfer_leader))
        .route("/v1/topics", get(topics).post(create_topic))
        .route("/v1/topics/{name}", delete(delete_topic))
        .route("/v1/partitions", get(partitions))
        .route("/v1/producer-ids", get(producer_ids).post(allocate_producer_ids))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(quorum.clone(), in_time))
        // The last layer is the first that a request meets.
        .layer(middleware::from_fn_with_state(access, authorized))
        .with_state(quorum)
}

/// Lets in what only reads, and of the rest what comes from somebody who may change something.
async fn authorized(
    State(access): State<Access>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: extract::Request,
    next: Next,
) -> Result<Response, Fault> {
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let bearer = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
    if only_reads || access.may_change(caller, bearer) {
        return Ok(next.run(request).await);
    }
    Err(Fault::unauthorized())
}

/// Ends what takes longer than any operation may.
async fn in_time(
    State(quorum): State<Quorum>,
    request: extract::Request,
    next: Next,
) -> Result<Response, Fault> {
    timeout(request_max(quorum.config().operation_timeout()), next.run(request))
        .await
        .map_err(|_| Fault::timed_out())
}

async fn no_such_path() -> Fault {
    Fault::bad_request(
        StatusCode::NOT_FOUND,
        "there is nothing at this path: see /status, /metrics, /health/live, /health/ready, \
         /v1/brokers, /v1/members, /v1/leader/transfer, /v1/topics, /v1/partitions and \
         /v1/producer-ids",
    )
}

async fn no_such_method() -> Fault {
    Fault::bad_request(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method: use GET to read, POST to create or change, DELETE to \
         delete",
    )
}

/// Where a read may be answered from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadQuery {
    /// From the asked node's own image, however old; not through the leader.
    #[serde(default)]
    local: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionsQuery {
    topic: Option<String>,
    #[serde(default)]
    local: bool,
}

async fn image(quorum: &Quorum, local: bool) -> Result<Snapshot, Fault> {
    if !local {
        quorum.read_index().await?;
    }
    Ok(quorum.image())
}

/// Runs what may take a while with much metadata where it delays no other request.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Fault::bad_request(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
    })
}

async fn status(State(quorum): State<Quorum>) -> Result<Json<Status>, Fault> {
    beside(move || {
        let (status, image, metrics) = (quorum.status(), quorum.image(), quorum.metrics());
        Json(render::status(quorum.identity(), &status, &image, &metrics))
    })
    .await
}

async fn metrics(State(quorum): State<Quorum>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&quorum.status(), &quorum.metrics()))
}

async fn live(State(quorum): State<Quorum>) -> Response {
    // A node that has stopped for good is to be restarted; every other trouble may pass.
    let reasons: Vec<_> = quorum.status().fatal.into_iter().collect();
    health(reasons)
}

async fn ready(State(quorum): State<Quorum>) -> Response {
    let reasons = quorum.readiness().err().unwrap_or_default();
    health(reasons.iter().map(ToString::to_string).collect())
}

fn health(reasons: Vec<String>) -> Response {
    let ok = reasons.is_empty();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { ok, reasons })).into_response()
}

async fn brokers(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<Broker>>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    Ok(Json(render::brokers(&snapshot.image)))
}

async fn topics(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<Topic>>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    beside(move || Json(render::topics(&snapshot.image))).await
}

async fn partitions(
    State(quorum): State<Quorum>,
    Query(query): Query<PartitionsQuery>,
) -> Result<Json<Vec<Partition>>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    beside(move || {
        let topic = query.topic.as_deref();
        render::partitions(&snapshot.image, topic).map(Json).ok_or_else(|| {
            let topic = topic.unwrap_or_default().escape_debug();
            let message = format!("there is no topic `{topic}`: see the names with `topics ls`");
            WriteError::from(Rejection::new(ErrorCode::UnknownTopicOrPartition, message)).into()
        })
    })
    .await?
}

async fn members(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<Member>>, Fault> {
    let members = if query.local { quorum.members_here() } else { quorum.members().await? };
    Ok(Json(render::members(members)))
}

/// The id of a node, from a request.
fn node_id(number: u64) -> Result<NodeId, Fault> {
    NodeId::new(number).ok_or_else(|| {
        let message = "node id 0 means none: use one from 1 up, `members ls` names them";
        Fault::bad_request(StatusCode::BAD_REQUEST, message)
    })
}

async fn change_members(
    State(quorum): State<Quorum>,
    Body(wish): Body<ChangeMembers>,
) -> Result<Json<MembersChanged>, Fault> {
    let change = |wish: &MemberChange| {
        let node = node_id(wish.node_id)?;
        Ok(match wish.change {
            ChangeKind::Add => quorate::MemberChange::Add(node),
            ChangeKind::Promote => quorate::MemberChange::Promote(node),
            ChangeKind::Demote => quorate::MemberChange::Demote(node),
            ChangeKind::Remove => quorate::MemberChange::Remove(node),
        })
    };
    let changes = wish.changes.iter().map(change).collect::<Result<Vec<_>, Fault>>()?;
    let changed = quorum.change_members(changes, wish.dry_run).await?;
    Ok(Json(render::members_changed(changed, wish.dry_run)))
}

async fn set_address(
    State(quorum): State<Quorum>,
    Path(node): Path<u64>,
    Body(wish): Body<SetAddress>,
) -> Result<Json<MembersChanged>, Fault> {
    let changed = quorum.set_address(node_id(node)?, &wish.addr).await?;
    Ok(Json(render::members_changed(changed, false)))
}

async fn transfer_leader(
    State(quorum): State<Quorum>,
    Body(wish): Body<TransferLeader>,
) -> Result<Json<LeaderTransferred>, Fault> {
    let to = wish.to.map(node_id).transpose()?;
    let leader = quorum.transfer_leadership(to).await?;
    Ok(Json(LeaderTransferred { leader_id: leader.get() }))
}

async fn producer_ids(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<ProducerIds>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    Ok(Json(render::producer_ids(&snapshot.image)))
}

async fn create_topic(
    State(quorum): State<Quorum>,
    Body(wish): Body<CreateTopic>,
) -> Result<Json<CreatedTopic>, Fault> {
    let CreateTopic { name, partitions, replication_factor, configs } = wish;
    let placement = Placement::Planned { partitions, replication_factor };
    let created = quorum.create_topic(TopicSpec { name, placement, configs }).await?;
    let quorate::CreatedTopic { name, id, index } = created;
    Ok(Json(CreatedTopic { name, topic_id: id.0, index }))
}

async fn delete_topic(
    State(quorum): State<Quorum>,
    Path(name): Path<String>,
) -> Result<Json<DeletedTopic>, Fault> {
    let quorate::DeletedTopic { name, index, .. } = quorum.delete_topic(&name).await?;
    Ok(Json(DeletedTopic { name, index }))
}

async fn allocate_producer_ids(
    State(quorum): State<Quorum>,
    Body(wish): Body<AllocateProducerIds>,
) -> Result<Json<ProducerIdBlock>, Fault> {
    // Whatever is no broker id is no registered broker either.
    let broker = BrokerId(u32::try_from(wish.broker_id).unwrap_or(u32::MAX));
    let block = quorum.allocate_producer_ids(broker).await?;
    let quorate::ProducerIdBlock { first, len, index } = block;
    Ok(Json(ProducerIdBlock { first: first.get(), len: u64::from(len), index }))
}

/// A JSON body, refused in our own words.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Fault> {
        let Json(value) = Json::<T>::from_request(request, state).await.map_err(|rejection| {
            let message = match &rejection {
                JsonRejection::MissingJsonContentType(_) => {
                    "the body is not marked as JSON: send the header `content-type: \
                         application/json`"
                        .to_owned()
                }
                JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => {
                    format!("{}: correct the body", rejection.body_text())
                }
                _ => format!(
                    "{}: send a complete body of at most {BODY_BYTES_MAX} bytes",
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
struct Query<T>(T);

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
struct Path<T>(T);

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
