//! What may be written of configs.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::{Args, Subcommand};
use quorate_admin::views::{AlterConfigs, ConfigChange, ConfigOperation};

use super::brokers::broker_id;
use crate::failure::Failure;

/// What can be done with configs.
#[derive(Debug, Subcommand)]
pub(crate) enum Configs {
    /// Show every config with the value that holds, and where it stands
    Describe(Target),
    /// Change configs, all or none
    Alter(AlterArgs),
}

/// Whose configs are meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// Those of this topic
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Those of this broker
    #[arg(long, value_name = "ID", value_parser = broker_id())]
    pub(crate) broker: Option<u64>,
    /// Those that hold where there are no others
    #[arg(long)]
    pub(crate) default: bool,
}

/// The options of `configs alter`.
#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    #[command(flatten)]
    target: Target,
    /// A config to set
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
    /// A config to have the default again
    #[arg(long, value_name = "KEY")]
    delete: Vec<String>,
    /// Values to append to a list
    #[arg(long, value_name = "KEY=VALUE,..")]
    append: Vec<Setting>,
    /// Values to take out of a list
    #[arg(long, value_name = "KEY=VALUE,..")]
    subtract: Vec<Setting>,
}

impl AlterArgs {
    /// What is wanted, each key once.
    pub(crate) fn request(&self) -> Result<AlterConfigs, Failure> {
        let with = |settings: &[Setting], operation| -> Vec<ConfigChange> {
            settings.iter().map(|it| ConfigChange { operation, ..it.to_change() }).collect()
        };
        let delete = |key: &String| ConfigChange {
            key: key.clone(),
            operation: ConfigOperation::Delete,
            value: None,
        };
        let changes = once_each(
            with(&self.set, ConfigOperation::Set)
                .into_iter()
                .chain(self.delete.iter().map(delete))
                .chain(with(&self.append, ConfigOperation::Append))
                .chain(with(&self.subtract, ConfigOperation::Subtract)),
        )?;
        if changes.is_empty() {
            return Err(Failure::Usage(
                "nothing is to be altered: give --set, --delete, --append or --subtract".into(),
            ));
        }
        let Target { topic, broker, default } = &self.target;
        Ok(AlterConfigs { topic: topic.clone(), broker: *broker, default: *default, changes })
    }
}

/// One `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    key: String,
    value: String,
}

impl Setting {
    /// The change that gives the key this value.
    pub(crate) fn to_change(&self) -> ConfigChange {
        ConfigChange {
            key: self.key.clone(),
            operation: ConfigOperation::Set,
            value: Some(self.value.clone()),
        }
    }
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Setting { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("a config is KEY=VALUE, such as min.insync.replicas=2"),
        }
    }
}

/// Changes of configs; a key that is given twice is a mistake, not a choice.
pub(crate) fn once_each(
    changes: impl Iterator<Item = ConfigChange>,
) -> Result<Vec<ConfigChange>, Failure> {
    let mut keys = BTreeSet::new();
    let mut all = Vec::new();
    for change in changes {
        if !keys.insert(change.key.clone()) {
            let key = &change.key;
            return Err(Failure::Usage(format!("config {key} is given twice: give it once")));
        }
        all.push(change);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::testing::{parse, usage_of};
    use crate::args::{Command, Configs};

    fn alter(options: &str) -> Result<AlterConfigs, Failure> {
        match parse(&format!("configs alter {options}"))?.command {
            Command::Configs(Configs::Alter(args)) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_operation_names_its_key_once() {
        let all = "--topic t --set a=1 --delete b --append c=x,y --subtract d=z";
        let request = alter(all).unwrap();
        assert_eq!(request.topic.as_deref(), Some("t"));
        let operations: Vec<_> = request.changes.iter().map(|it| it.operation).collect();
        use ConfigOperation::{Append, Delete, Set, Subtract};
        assert_eq!(operations, [Set, Delete, Append, Subtract]);
        assert_eq!(request.changes[2].value.as_deref(), Some("x,y"));
        assert!(alter("--default --delete a").unwrap().default);
        assert_eq!(alter("--broker 0 --set a=").unwrap().broker, Some(0));
        for (options, sentence) in [
            ("--set a=1", "required arguments were not provided"),
            ("--topic t --default --set a=1", "cannot be used with"),
            ("--topic t", "nothing is to be altered: give --set"),
            ("--topic t --set a=1 --subtract a=1", "config a is given twice"),
            ("--topic t --set a", "a config is KEY=VALUE"),
            ("--broker 2147483648 --set a=1", "2147483648"),
        ] {
            let said = usage_of(alter(options));
            assert!(said.contains(sentence), "{options}: {said}");
        }
        assert!(usage_of(parse("configs describe")).contains("required arguments"));
    }
}
