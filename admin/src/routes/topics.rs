//! Topics: how they are, how they come, grow and go.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use quorate::{Placement, Quorum, TopicSpec};

use crate::fault::Fault;
use crate::render;
use crate::request::{Body, Path, Query, ReadQuery, assignment};
use crate::routes::image;
use crate::turns::Turns;
use crate::views::{
    CreatePartitions, CreateTopic, CreateTopics, CreatedTopic, CreatedTopics, DeletedTopic,
    NewTopics, PartitionsCreated,
};

pub(super) async fn list(
    State(quorum): State<Quorum>,
    Extension(turns): Extension<Turns>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    let turn = turns.next().await;
    turn.answer(move || Ok(render::topics(&snapshot.image))).await
}

pub(super) async fn describe(
    State(quorum): State<Quorum>,
    Extension(turns): Extension<Turns>,
    Path(name): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Fault> {
    let snapshot = image(&quorum, query.local).await?;
    let turn = turns.about_topic(&snapshot.image, &name).await;
    turn.answer(move || Ok(render::described(&snapshot.image, &name)?)).await
}

pub(super) async fn create(
    State(quorum): State<Quorum>,
    Body(wish): Body<NewTopics>,
) -> Result<Response, Fault> {
    match wish {
        NewTopics::One(topic) => {
            let created = quorum.create_topic(spec(topic)?).await?;
            Ok(Json(shown(created)).into_response())
        }
        NewTopics::Many(CreateTopics { topics }) => {
            let specs = topics.into_iter().map(spec).collect::<Result<_, Fault>>()?;
            let created = quorum.create_topics(specs).await?;
            let topics = created.into_iter().map(shown).collect();
            Ok(Json(CreatedTopics { topics }).into_response())
        }
    }
}

fn spec(wish: CreateTopic) -> Result<TopicSpec, Fault> {
    let placement = placement(&wish)?;
    let CreateTopic { name, configs, .. } = wish;
    Ok(TopicSpec { name, placement, configs })
}

fn shown(quorate::CreatedTopic { name, id, index }: quorate::CreatedTopic) -> CreatedTopic {
    CreatedTopic { name, topic_id: id.0, index }
}

/// Where the partitions go. An assignment says how many there are, and so do two numbers: who means it
/// says the same with both.
fn placement(wish: &CreateTopic) -> Result<Placement, Fault> {
    let CreateTopic { partitions, replication_factor, .. } = *wish;
    if wish.assignment.is_empty() {
        return Ok(Placement::Planned { partitions, replication_factor });
    }
    let is = |len: usize, number: u32| u32::try_from(len) == Ok(number);
    let fits = is(wish.assignment.len(), partitions)
        && wish.assignment.iter().all(|replicas| is(replicas.len(), replication_factor));
    if !fits {
        return Err(Fault::bad_request(
            StatusCode::BAD_REQUEST,
            format!(
                "the assignment of topic {} is not of {partitions} partitions with \
                 {replication_factor} replicas each: mend it, or the numbers",
                wish.name.escape_debug()
            ),
        ));
    }
    Ok(Placement::Assigned(assignment(&wish.assignment)))
}

pub(super) async fn create_partitions(
    State(quorum): State<Quorum>,
    Path(name): Path<String>,
    Body(wish): Body<CreatePartitions>,
) -> Result<Json<PartitionsCreated>, Fault> {
    let assignment = assignment(&wish.assignment);
    let grown = quorum.create_partitions(&name, wish.total, assignment).await?;
    let quorate::GrownTopic { name, id, partitions, index } = grown;
    Ok(Json(PartitionsCreated { name, topic_id: id.0, partitions, index }))
}

pub(super) async fn delete(
    State(quorum): State<Quorum>,
    Path(name): Path<String>,
) -> Result<Json<DeletedTopic>, Fault> {
    let quorate::DeletedTopic { name, index, .. } = quorum.delete_topic(&name).await?;
    Ok(Json(DeletedTopic { name, index }))
}
