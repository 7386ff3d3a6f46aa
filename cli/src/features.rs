//! `quorate features`.

use quorate_admin::views::{FeatureLevelSet, Features as Described, SetFeatureLevel};

use crate::args::{Features, Global, Output};
use crate::failure::Failure;
use crate::output::{self, fields_table, rows_table};
use crate::query::{client, read};

/// `quorate features`, all of it.
pub(crate) fn run(global: &Global, command: &Features) -> Result<(), Failure> {
    match command {
        Features::Describe => describe(global),
        Features::Set { level } => {
            let request = SetFeatureLevel { level: *level };
            let set: FeatureLevelSet = client(global)?.post("/v1/features", &request)?;
            let fields = [("level", set.level.to_string()), ("index", set.index.to_string())];
            output::print_fields(global.output(), &set, &fields)
        }
    }
}

fn describe(global: &Global) -> Result<(), Failure> {
    let features: Described = read(global, "/v1/features", None)?;
    if global.output() == Output::Json {
        return output::print_json(&features);
    }
    let supported = features.supported;
    let fields = [
        ("level", features.level.to_string()),
        ("supported", format!("{} to {}", supported.min, supported.max)),
    ];
    output::print_text(&[fields_table(&fields), rows_table(&features.brokers)].join("\n\n"))
}
