//! `quorate brokers`.

use quorate_admin::views::{Broker, BrokerChanged};
use serde_json::json;

use crate::args::{Brokers, Global};
use crate::failure::Failure;
use crate::output;
use crate::query::{client, list};

/// `quorate brokers`, all of it.
pub(crate) fn run(global: &Global, command: &Brokers) -> Result<(), Failure> {
    match command {
        Brokers::Ls => list::<Broker>(global, "/v1/brokers", None),
        Brokers::Fence { id } => change(global, *id, "fence"),
        Brokers::Unregister { id } => change(global, *id, "unregister"),
    }
}

fn change(global: &Global, id: u64, what: &str) -> Result<(), Failure> {
    let path = format!("/v1/brokers/{id}/{what}");
    let changed: BrokerChanged = client(global)?.post(&path, &json!({}))?;
    let fields = [
        ("id", changed.id.to_string()),
        ("partitions_changed", changed.partitions_changed.to_string()),
        ("index", changed.index.to_string()),
    ];
    output::print_fields(global.output(), &changed, &fields)
}
