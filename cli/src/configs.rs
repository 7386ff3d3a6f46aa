//! `quorate configs`.

use quorate_admin::views::{ConfigEntry, ConfigsAltered};

use crate::args::{ConfigTarget, Configs, Global};
use crate::client::path_segment;
use crate::failure::Failure;
use crate::output;
use crate::query::{client, list};

/// `quorate configs`, all of it.
pub(crate) fn run(global: &Global, command: &Configs) -> Result<(), Failure> {
    match command {
        Configs::Describe(target) => {
            list::<ConfigEntry>(global, "/v1/configs", Some(filter(target)))
        }
        Configs::Alter(args) => {
            let altered: ConfigsAltered = client(global)?.post("/v1/configs", &args.request()?)?;
            let fields = [
                ("index", altered.index.to_string()),
                ("partitions_changed", altered.partitions_changed.to_string()),
            ];
            output::print_fields(global.output(), &altered, &fields)
        }
    }
}

fn filter(target: &ConfigTarget) -> String {
    match (&target.topic, target.broker) {
        (Some(topic), _) => format!("topic={}", path_segment(topic)),
        (None, Some(broker)) => format!("broker={broker}"),
        (None, None) => format!("default={}", target.default),
    }
}
