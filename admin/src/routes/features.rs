//! The feature level.

use axum::Json;
use axum::extract::State;
use quorate::{FeatureLevel, Quorum};

use crate::fault::Fault;
use crate::render;
use crate::request::{Body, Query, ReadQuery};
use crate::routes::image;
use crate::views::{FeatureLevelSet, Features, SetFeatureLevel};

pub(super) async fn get(
    State(quorum): State<Quorum>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Features>, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    Ok(Json(render::features(&quorate::Features::of(&snapshot))))
}

pub(super) async fn set(
    State(quorum): State<Quorum>,
    Body(wish): Body<SetFeatureLevel>,
) -> Result<Json<FeatureLevelSet>, Fault> {
    let set = quorum.set_feature_level(FeatureLevel(wish.level)).await?;
    Ok(Json(FeatureLevelSet { level: set.level.get(), index: set.index }))
}
