//! Brokers, and what operators do to them.

use axum::Json;
use axum::extract::State;
use quorate::Quorum;

use crate::fault::Fault;
use crate::render;
use crate::request::{Path, Query, ReadQuery, broker_id};
use crate::routes::image;
use crate::views::{Broker, BrokerChanged};

pub(super) async fn list(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<Broker>>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    Ok(Json(render::brokers(&snapshot.image)))
}

pub(super) async fn fence(
    State(quorum): State<Quorum>,
    Path(id): Path<u64>,
) -> Result<Json<BrokerChanged>, Fault> {
    Ok(Json(changed(id, quorum.fence_broker(broker_id(id)).await?)))
}

pub(super) async fn unregister(
    State(quorum): State<Quorum>,
    Path(id): Path<u64>,
) -> Result<Json<BrokerChanged>, Fault> {
    Ok(Json(changed(id, quorum.unregister_broker(broker_id(id)).await?)))
}

fn changed(id: u64, changed: quorate::BrokerChanged) -> BrokerChanged {
    let quorate::BrokerChanged { partitions_changed, index, .. } = changed;
    BrokerChanged { id, partitions_changed, index }
}
