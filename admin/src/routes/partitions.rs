//! Partitions: how they are, who leads them, where they go.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use quorate::{ElectionScope, ElectionType, Quorum, TopicPartition};
use serde::Deserialize;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::limits::request_max;
use crate::render;
use crate::request::{Body, Query, brokers};
use crate::routes::image;
use crate::turns::{Turn, Turns};
use crate::views::{
    CancelReassignments, ElectLeaders, Election, PartitionName, PartitionResults,
    ReassignPartitions, Reassignment,
};

/// The version of a plan that this one understands.
const PLAN_VERSION: u32 = 1;

/// The log directory of a replica, where its broker chooses it.
const ANY_DIRECTORY: &str = "any";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartitionsQuery {
    topic: Option<String>,
    #[serde(default)]
    local: bool,
}

pub(super) async fn list(
    State(quorum): State<Quorum>,
    Extension(turns): Extension<Turns>,
    Query(query): Query<PartitionsQuery>,
) -> Result<Response, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    let turn = match &query.topic {
        Some(name) => turns.about_topic(&snapshot.image, name).await,
        None => turns.next().await,
    };
    turn.answer(move || Ok(render::partitions(&snapshot.image, query.topic.as_deref())?)).await
}

pub(super) async fn elect(
    State(quorum): State<Quorum>,
    Extension(turns): Extension<Turns>,
    Body(wish): Body<ElectLeaders>,
) -> Result<Response, Fault> {
    let election = match wish.election {
        Election::Preferred => ElectionType::Preferred,
        Election::Unclean => ElectionType::Unclean,
    };
    let scope = match (wish.partitions, wish.topic, wish.all) {
        (Some(partitions), None, false) => ElectionScope::Partitions(names(partitions)),
        (None, Some(topic), false) => ElectionScope::Topic(topic),
        (None, None, true) => ElectionScope::All,
        _ => {
            return Err(bad("which partitions are meant is not clear: name one of partitions, \
                            topic and all"));
        }
    };
    let patience = quorum.config().operation_timeout();
    let turn = match &scope {
        ElectionScope::Partitions(_) => Turn::small(),
        ElectionScope::Topic(name) => {
            turns.election_of(&quorum.image().image, name, patience).await?
        }
        ElectionScope::All => turns.election(patience).await?,
    };
    let elected = timeout(request_max(patience), quorum.elect_leaders(election, scope)).await;
    let elected = elected.map_err(|_| Fault::change_timed_out())??;
    // From here on it is known what was done, and nothing keeps it from being told.
    turn.answer(move || Ok(render::partition_results(elected))).await
}

pub(super) async fn reassign(
    State(quorum): State<Quorum>,
    Body(wish): Body<ReassignPartitions>,
) -> Result<Json<PartitionResults>, Fault> {
    if wish.version != PLAN_VERSION {
        let version = wish.version;
        return Err(bad(&format!("a plan of version {version} is not known: use {PLAN_VERSION}")));
    }
    let targets = wish.partitions.into_iter().map(target).collect::<Result<_, Fault>>()?;
    Ok(Json(render::partition_results(quorum.reassign_partitions(targets).await?)))
}

pub(super) async fn cancel(
    State(quorum): State<Quorum>,
    Body(wish): Body<CancelReassignments>,
) -> Result<Json<PartitionResults>, Fault> {
    let cancelled = quorum.cancel_reassignments(names(wish.partitions)).await?;
    Ok(Json(render::partition_results(cancelled)))
}

fn target(wish: Reassignment) -> Result<(TopicPartition, Vec<quorate::BrokerId>), Fault> {
    let Reassignment { topic, partition, replicas, log_dirs } = wish;
    if log_dirs.iter().any(|directory| directory != ANY_DIRECTORY) {
        return Err(bad(&format!(
            "log directories are chosen by their brokers: leave log_dirs out, or write \
             \"{ANY_DIRECTORY}\" for each"
        )));
    }
    Ok((TopicPartition { topic, partition }, brokers(&replicas)))
}

fn names(partitions: Vec<PartitionName>) -> Vec<TopicPartition> {
    let name = |PartitionName { topic, partition }| TopicPartition { topic, partition };
    partitions.into_iter().map(name).collect()
}

fn bad(message: &str) -> Fault {
    Fault::bad_request(StatusCode::BAD_REQUEST, message)
}
