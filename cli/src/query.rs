//! The online commands: ask the cluster, print what it says.

use quorate_admin::views::{
    Broker, CreateTopic, CreatedTopic, DeletedTopic, Member, Partition, Status, Topic,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{CreateArgs, Global};
use crate::client::{Client, RequestError, path_segment};
use crate::credentials::Credentials;
use crate::failure::Failure;
use crate::hostport::HostPort;
use crate::output::{self, Rows};

/// A client for the addresses of the command line.
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    let addrs = if global.addr.is_empty() { addrs_of_environment()? } else { global.addr.clone() };
    if addrs.is_empty() {
        return Err(Failure::Usage(
            "no node to ask: name admin addresses with --addr HOST:PORT[,..] or QUORATE_ADDR"
                .to_owned(),
        ));
    }
    let credentials = Credentials::of(&global.files, &addrs)?;
    Ok(Client::with(addrs, global.timeout(), credentials))
}

/// What `QUORATE_ADDR` names. Read only by commands that ask a node: what it says must not keep
/// the others from running.
fn addrs_of_environment() -> Result<Vec<HostPort>, Failure> {
    let text = std::env::var("QUORATE_ADDR").unwrap_or_default();
    let parse = |addr: &str| {
        addr.parse().map_err(|error| {
            Failure::Usage(format!("QUORATE_ADDR names `{addr}`, which is no address: {error}"))
        })
    };
    text.split(',').map(str::trim).filter(|addr| !addr.is_empty()).map(parse).collect()
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// `quorate status`: what the first node that answers knows of itself.
pub(crate) fn status(global: &Global) -> Result<(), Failure> {
    let status: Status = client(global)?.get("/status")?;
    output::print_fields(global.output(), &status, &output::status_fields(&status))
}

/// `quorate brokers ls`.
pub(crate) fn brokers(global: &Global) -> Result<(), Failure> {
    list::<Broker>(global, "/v1/brokers", None)
}

/// `quorate members ls`.
pub(crate) fn members(global: &Global) -> Result<(), Failure> {
    list::<Member>(global, "/v1/members", None)
}

/// `quorate topics ls`.
pub(crate) fn topics(global: &Global) -> Result<(), Failure> {
    list::<Topic>(global, "/v1/topics", None)
}

/// `quorate partitions ls`.
pub(crate) fn partitions(global: &Global, topic: Option<&str>) -> Result<(), Failure> {
    let topic = topic.map(|name| format!("topic={}", path_segment(name)));
    list::<Partition>(global, "/v1/partitions", topic)
}

fn list<T: Rows + Serialize + DeserializeOwned>(
    global: &Global,
    path: &str,
    filter: Option<String>,
) -> Result<(), Failure> {
    let local = global.local.then(|| "local=true".to_owned());
    let query: Vec<String> = filter.into_iter().chain(local).collect();
    let path = match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", query.join("&")),
    };
    let rows: Vec<T> = client(global)?.get(&path)?;
    output::print_rows(global.output(), &rows)
}

/// `quorate topics create`.
pub(crate) fn create_topic(global: &Global, args: &CreateArgs) -> Result<(), Failure> {
    let request = CreateTopic {
        name: args.name.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        configs: args.configs()?,
    };
    let created: CreatedTopic = client(global)?.post("/v1/topics", &request)?;
    output::print_fields(
        global.output(),
        &created,
        &[
            ("created", created.name.clone()),
            ("topic_id", created.topic_id.to_string()),
            ("index", created.index.to_string()),
        ],
    )
}

/// `quorate topics delete`.
pub(crate) fn delete_topic(global: &Global, name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::Usage("the topic's name is empty: name the topic to delete".into()));
    }
    let path = format!("/v1/topics/{}", path_segment(name));
    let deleted: DeletedTopic = client(global)?.delete(&path)?;
    output::print_fields(
        global.output(),
        &deleted,
        &[("deleted", deleted.name.clone()), ("index", deleted.index.to_string())],
    )
}
