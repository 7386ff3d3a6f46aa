//! How the online commands ask the cluster; and those that only do that.

use quorate_admin::views::{Member, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::client::{Client, RequestError};
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

/// `quorate members ls`.
pub(crate) fn members(global: &Global) -> Result<(), Failure> {
    list::<Member>(global, "/v1/members", None)
}

/// Prints the rows at this path.
pub(crate) fn list<T: Rows + Serialize + DeserializeOwned>(
    global: &Global,
    path: &str,
    filter: Option<String>,
) -> Result<(), Failure> {
    let rows: Vec<T> = read(global, path, filter)?;
    output::print_rows(global.output(), &rows)
}

/// Reads what is at this path; with a filter, a part of it.
pub(crate) fn read<T: DeserializeOwned>(
    global: &Global,
    path: &str,
    filter: Option<String>,
) -> Result<T, Failure> {
    let local = global.local.then(|| "local=true".to_owned());
    let query: Vec<String> = filter.into_iter().chain(local).collect();
    let path = match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", query.join("&")),
    };
    Ok(client(global)?.get(&path)?)
}
