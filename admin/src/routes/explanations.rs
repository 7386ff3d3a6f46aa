//! Why a partition is as it is, and how partitions would be.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use quorate::{BrokerId, ErrorCode, MetadataImage, PartitionKey, Quorum, Rejection};
use serde::Deserialize;

use crate::fault::Fault;
use crate::render;
use crate::request::{Query, broker_id};
use crate::routes::image;
use crate::turns::Turns;
use crate::views::{Explanation, PartitionChange};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartitionQuery {
    topic: String,
    partition: u32,
    #[serde(default)]
    local: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhatIfQuery {
    /// Ids of brokers, with commas between them.
    kill: String,
    #[serde(default)]
    local: bool,
}

/// From the log of the asked node.
pub(super) async fn history(
    State(quorum): State<Quorum>,
    Query(query): Query<PartitionQuery>,
) -> Result<Json<Vec<PartitionChange>>, Fault> {
    let key = partition(&quorum, &query).await?;
    Ok(Json(render::history(&quorum.partition_history(key).await?)))
}

/// From the image and the log of the asked node.
pub(super) async fn explain(
    State(quorum): State<Quorum>,
    Query(query): Query<PartitionQuery>,
) -> Result<Json<Explanation>, Fault> {
    let key = partition(&quorum, &query).await?;
    let explained = quorum.explain_partition(key).await?;
    let explained = explained.ok_or_else(|| no_partition(&query))?;
    Ok(Json(render::explanation(explained)))
}

pub(super) async fn what_if(
    State(quorum): State<Quorum>,
    Extension(turns): Extension<Turns>,
    Query(query): Query<WhatIfQuery>,
) -> Result<Response, Fault> {
    let ids: Result<BTreeSet<u64>, _> = query.kill.split(',').map(str::parse).collect();
    let ids = ids.map_err(|_| {
        let message = "kill names no brokers: write their ids with commas between them";
        Fault::bad_request(StatusCode::BAD_REQUEST, message)
    })?;
    let killed: BTreeSet<BrokerId> = ids.into_iter().map(broker_id).collect();
    let snapshot = image(&quorum, query.local).await?;
    if let Some(id) = killed.iter().find(|id| snapshot.image.broker(**id).is_none()) {
        return Err(Fault::from(Rejection::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {id} is not registered: name ones that `brokers ls` shows"),
        )));
    }
    let turn = turns.next().await;
    turn.answer(move || Ok(render::what_if(&snapshot.image, &killed))).await
}

async fn partition(quorum: &Quorum, query: &PartitionQuery) -> Result<PartitionKey, Fault> {
    let snapshot = image(quorum, query.local).await?;
    key_of(&snapshot.image, query).ok_or_else(|| no_partition(query))
}

fn key_of(image: &MetadataImage, query: &PartitionQuery) -> Option<PartitionKey> {
    let topic = image.topic_by_name(&query.topic)?;
    topic.partition(query.partition)?;
    Some(PartitionKey { topic: topic.id, partition: query.partition })
}

fn no_partition(query: &PartitionQuery) -> Fault {
    let (topic, partition) = (query.topic.escape_debug(), query.partition);
    let message =
        format!("there is no partition {partition} of topic `{topic}`: see `partitions ls`");
    Rejection::new(ErrorCode::UnknownTopicOrPartition, message).into()
}
