//! `quorate topics`.

use quorate_admin::views::{
    AlterConfigs, ConfigsAltered, CreatedTopic, CreatedTopics, DeletedTopic, NewTopics,
    PartitionsCreated, Topic, TopicDescription,
};
use serde::Serialize;

use crate::args::{AlterTopicArgs, Global, Output, Topics};
use crate::client::path_segment;
use crate::failure::Failure;
use crate::output::{self, fields_table, rows_table};
use crate::query::{client, list, read};

/// `quorate topics`, all of it.
pub(crate) fn run(global: &Global, command: &Topics) -> Result<(), Failure> {
    match command {
        Topics::Create(args) => create(global, &args.request()?),
        Topics::Ls => list::<Topic>(global, "/v1/topics", None),
        Topics::Describe { name } => describe(global, name),
        Topics::Alter(args) => alter(global, args),
        Topics::Delete { name } => {
            let deleted: DeletedTopic = client(global)?.delete(&path(name)?)?;
            let fields = [("deleted", deleted.name.clone()), ("index", deleted.index.to_string())];
            output::print_fields(global.output(), &deleted, &fields)
        }
    }
}

/// The path of one topic. Without a name it would be that of all.
fn path(name: &str) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::Usage("the topic's name is empty: name the topic".to_owned()));
    }
    Ok(format!("/v1/topics/{}", path_segment(name)))
}

fn create(global: &Global, wanted: &NewTopics) -> Result<(), Failure> {
    let client = client(global)?;
    if let NewTopics::Many(_) = wanted {
        let created: CreatedTopics = client.post("/v1/topics", wanted)?;
        return match global.output() {
            Output::Json => output::print_json(&created),
            Output::Table => output::print_rows(Output::Table, &created.topics),
        };
    }
    let created: CreatedTopic = client.post("/v1/topics", wanted)?;
    let fields = [
        ("created", created.name.clone()),
        ("topic_id", created.topic_id.to_string()),
        ("index", created.index.to_string()),
    ];
    output::print_fields(global.output(), &created, &fields)
}

fn describe(global: &Global, name: &str) -> Result<(), Failure> {
    let described: TopicDescription = read(global, &path(name)?, None)?;
    if global.output() == Output::Json {
        return output::print_json(&described);
    }
    let topic = &described.topic;
    let fields = [
        ("name", topic.name.clone()),
        ("topic_id", topic.topic_id.to_string()),
        ("partitions", topic.partitions.to_string()),
        ("replication_factor", topic.replication_factor.to_string()),
    ];
    let parts = [
        fields_table(&fields),
        rows_table(&described.effective_configs),
        rows_table(&described.partition_list),
    ];
    output::print_text(&parts.join("\n\n"))
}

/// What became of a topic.
#[derive(Debug, Serialize)]
struct Altered<'a> {
    name: &'a str,
    /// Whether its configs were to be changed, and are.
    configs_altered: bool,
    /// How many partitions it has, if it was to have more.
    partitions: Option<u32>,
    index: u64,
}

/// Configs first: whether they are allowed is known at once, and partitions are never taken back.
fn alter(global: &Global, args: &AlterTopicArgs) -> Result<(), Failure> {
    let (path, changes, growth) = (path(&args.name)?, args.changes()?, args.growth());
    let client = client(global)?;
    let mut altered =
        Altered { name: &args.name, configs_altered: false, partitions: None, index: 0 };
    if !changes.is_empty() {
        let topic = Some(args.name.clone());
        let request = AlterConfigs { topic, changes, ..AlterConfigs::default() };
        let answer: ConfigsAltered = client.post("/v1/configs", &request)?;
        (altered.configs_altered, altered.index) = (true, answer.index);
    }
    if let Some(growth) = growth {
        let grown = client.post::<PartitionsCreated>(&format!("{path}/partitions"), &growth);
        let grown = grown.map_err(|error| match altered.configs_altered {
            true => Failure::Failed(format!("the configs were changed, then: {error}")),
            false => error.into(),
        })?;
        (altered.partitions, altered.index) = (Some(grown.partitions), grown.index);
    }
    let fields = [
        ("altered", args.name.clone()),
        ("configs_altered", altered.configs_altered.to_string()),
        ("partitions", output::dash(altered.partitions)),
        ("index", altered.index.to_string()),
    ];
    output::print_fields(global.output(), &altered, &fields)
}
