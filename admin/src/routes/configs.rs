//! Configs of topics, of brokers and of all.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use quorate::{ConfigTarget, Quorum};
use serde::Deserialize;

use crate::fault::Fault;
use crate::render;
use crate::request::{Body, Query, broker_id};
use crate::routes::image;
use crate::views::{AlterConfigs, ConfigChange, ConfigEntry, ConfigOperation, ConfigsAltered};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigsQuery {
    topic: Option<String>,
    broker: Option<u64>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    local: bool,
}

pub(super) async fn describe(
    State(quorum): State<Quorum>,
    Query(query): Query<ConfigsQuery>,
) -> Result<Json<Vec<ConfigEntry>>, Fault> {
    let target = target(query.topic, query.broker, query.default)?;
    let snapshot = image(&quorum, query.local).await?;
    Ok(Json(render::config_entries(&snapshot.image, &target)?))
}

pub(super) async fn alter(
    State(quorum): State<Quorum>,
    Body(wish): Body<AlterConfigs>,
) -> Result<Json<ConfigsAltered>, Fault> {
    let target = target(wish.topic, wish.broker, wish.default)?;
    let changes = wish.changes.into_iter().map(change).collect::<Result<_, _>>()?;
    let quorate::ConfigsAltered { index, partitions_changed } =
        quorum.alter_configs(&target, changes).await?;
    Ok(Json(ConfigsAltered { index, partitions_changed }))
}

/// The one whose configs are meant.
fn target(topic: Option<String>, broker: Option<u64>, all: bool) -> Result<ConfigTarget, Fault> {
    match (topic, broker, all) {
        (Some(topic), None, false) => Ok(ConfigTarget::Topic(topic)),
        (None, Some(broker), false) => Ok(ConfigTarget::Broker(broker_id(broker))),
        (None, None, true) => Ok(ConfigTarget::Default),
        _ => {
            Err(bad("whose configs are meant is not clear: name one of topic, broker and default"))
        }
    }
}

fn change(change: ConfigChange) -> Result<quorate::ConfigChange, Fault> {
    let operation = match (change.operation, change.value) {
        (ConfigOperation::Set, Some(value)) => quorate::ConfigOperation::Set(value),
        (ConfigOperation::Append, Some(value)) => quorate::ConfigOperation::Append(value),
        (ConfigOperation::Subtract, Some(value)) => quorate::ConfigOperation::Subtract(value),
        (ConfigOperation::Delete, None) => quorate::ConfigOperation::Delete,
        (ConfigOperation::Delete, Some(_)) => {
            return Err(bad("a config is deleted without a value: leave the value out"));
        }
        (_, None) => return Err(bad("a change of a config has no value: give one")),
    };
    Ok(quorate::ConfigChange { key: change.key, operation })
}

fn bad(message: &str) -> Fault {
    Fault::bad_request(StatusCode::BAD_REQUEST, message)
}
