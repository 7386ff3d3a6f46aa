//! Owns the routes: which request is answered from what.

use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, extract};
use quorate::{HISTORY_TIME_MAX, Quorum, Snapshot};
use tokio::time::timeout;

use crate::access::{Access, only_reads};
use crate::connection::Caller;
use crate::fault::Fault;
use crate::limits::{BODY_BYTES_MAX, PLAN_BYTES_MAX, election_max, request_max};
use crate::request::{Body, Path, Query, ReadQuery, broker_id, node_id};
use crate::turns::{Turns, beside};
use crate::views::{
    AllocateProducerIds, ChangeKind, ChangeMembers, Health, LeaderTransferred, Member,
    MemberChange, MembersChanged, ProducerIdBlock, ProducerIds, SetAddress, Status, TransferLeader,
};
use crate::{metrics, render};

mod brokers;
mod configs;
mod explanations;
mod features;
mod partitions;
mod topics;

/// Everything that is served.
pub(crate) fn router(quorum: Quorum, access: Access, turns: Turns) -> Router {
    let operation_timeout = quorum.config().operation_timeout();
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/v1/brokers", get(brokers::list))
        .route("/v1/brokers/{id}/fence", post(brokers::fence))
        .route("/v1/brokers/{id}/unregister", post(brokers::unregister))
        .route("/v1/members", get(members).post(change_members))
        .route("/v1/members/{node_id}/address", post(set_address))
        .route("/v1/leader/transfer", post(transfer_leader))
        .route("/v1/topics", get(topics::list).post(topics::create).layer(plans()))
        .route("/v1/topics/{name}", get(topics::describe).delete(topics::delete))
        .route("/v1/topics/{name}/partitions", post(topics::create_partitions).layer(plans()))
        .route("/v1/partitions", get(partitions::list))
        .route("/v1/partitions/history", get(explanations::history))
        .route("/v1/partitions/explain", get(explanations::explain))
        .route("/v1/partitions/what-if", get(explanations::what_if))
        .route(ELECTIONS, post(partitions::elect).layer(plans()))
        .route("/v1/partitions/reassign", post(partitions::reassign).layer(plans()))
        .route("/v1/partitions/cancel", post(partitions::cancel).layer(plans()))
        .route("/v1/configs", get(configs::describe).post(configs::alter))
        .route("/v1/features", get(features::get).post(features::set))
        .route("/v1/producer-ids", get(producer_ids).post(allocate_producer_ids))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(Extension(turns))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(operation_timeout, in_time))
        // The last layer is the first that a request meets.
        .layer(middleware::from_fn_with_state(access, admitted))
        .with_state(quorum)
}

/// The bound of a body that names partitions.
fn plans() -> DefaultBodyLimit {
    DefaultBodyLimit::max(PLAN_BYTES_MAX)
}

/// Lets in who may ask for what is asked.
async fn admitted(
    State(access): State<Access>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: extract::Request,
    next: Next,
) -> Result<Response, Fault> {
    access.admit(&caller, request.method(), request.headers())?;
    Ok(next.run(request).await)
}

/// What reads the log of the node, which takes its time.
const LOG_READS: [&str; 2] = ["/v1/partitions/history", "/v1/partitions/explain"];

/// What has a time for its operation, and another one to tell what came of it.
const ELECTIONS: &str = "/v1/partitions/elect";

/// Ends what takes longer than any operation may, or any read of the log.
async fn in_time(
    State(operation_timeout): State<Duration>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: extract::Request,
    next: Next,
) -> Result<Response, Fault> {
    let operation_max = request_max(operation_timeout);
    let (limit, _waiting) = match request.uri().path() {
        path if LOG_READS.contains(&path) => {
            (operation_max.max(HISTORY_TIME_MAX), Some(caller.wait()))
        }
        ELECTIONS => (election_max(operation_timeout), Some(caller.wait())),
        _ => (operation_max, None),
    };
    let late = match only_reads(request.method()) {
        true => Fault::read_timed_out(),
        false => Fault::change_timed_out(),
    };
    timeout(limit, next.run(request)).await.map_err(|_| late)
}

async fn no_such_path() -> Fault {
    Fault::bad_request(
        StatusCode::NOT_FOUND,
        "there is nothing at this path: see /, /status, /metrics, /health/live, /health/ready, \
         /v1/brokers, /v1/members, /v1/leader/transfer, /v1/topics, /v1/partitions, /v1/configs, \
         /v1/features and /v1/producer-ids",
    )
}

async fn no_such_method() -> Fault {
    Fault::bad_request(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take this method: use GET to read, POST to create or change, DELETE to \
         delete",
    )
}

async fn image(quorum: &Quorum, local: bool) -> Result<Snapshot, Fault> {
    if !local {
        quorum.read_index().await?;
    }
    Ok(quorum.image())
}

/// The node in a few lines, for people.
async fn page(State(quorum): State<Quorum>) -> String {
    let (identity, status) = (quorum.identity(), quorum.status());
    let mut page =
        format!("Quorate: node {} of cluster {}\n\n", identity.node_id, identity.cluster_id);
    page += &format!("{status}\n");
    match quorum.readiness() {
        Ok(()) => page += "ready\n",
        Err(reasons) => {
            for reason in reasons {
                page += &format!("not ready: {reason}\n");
            }
        }
    }
    page + "\nas JSON: /status; for Prometheus: /metrics; for probes: /health/live and /health/ready\n"
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

async fn members(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<Member>>, Fault> {
    let members = if query.local { quorum.members_here() } else { quorum.members().await? };
    Ok(Json(render::members(members)))
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

async fn allocate_producer_ids(
    State(quorum): State<Quorum>,
    Body(wish): Body<AllocateProducerIds>,
) -> Result<Json<ProducerIdBlock>, Fault> {
    let block = quorum.allocate_producer_ids(broker_id(wish.broker_id)).await?;
    let quorate::ProducerIdBlock { first, len, index } = block;
    Ok(Json(ProducerIdBlock { first: first.get(), len: u64::from(len), index }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::Connections;
    use crate::views::{ApiError, FailureOutcome};

    /// A route that never answers, behind the layer that ends it.
    #[tokio::test]
    async fn what_only_reads_was_never_applied_when_its_time_is_up() {
        let never = || std::future::pending::<()>();
        let router = Router::new()
            .route("/", get(never).post(never))
            .layer(middleware::from_fn_with_state(Duration::ZERO, in_time));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Connections::new(listener, Duration::from_secs(60), Access::default());
        let service = router.into_make_service_with_connect_info::<Caller>();
        tokio::spawn(axum::serve(connections, service).into_future());
        let cases =
            [("GET", true, FailureOutcome::NeverApplied), ("POST", false, FailureOutcome::Unknown)];
        for (method, retryable, outcome) in cases {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request =
                format!("{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            let error: ApiError = serde_json::from_str(body).unwrap();
            assert_eq!((error.retryable, error.outcome), (retryable, outcome), "{method} {answer}");
        }
    }
}
