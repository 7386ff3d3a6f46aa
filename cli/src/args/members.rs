//! What may be written of the quorum's members and its leader.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use quorate_admin::views::{ChangeKind, MemberChange};

use crate::failure::Failure;
use crate::hostport::HostPort;

/// What can be done with the members of the quorum.
#[derive(Debug, Subcommand)]
pub(crate) enum Members {
    /// List the members with role, address and lag
    Ls,
    /// Make members voters as soon as they have caught up
    ///
    /// A node becomes a member when it is started with a directory of 'quorate format --join'; it
    /// observes until it is added.
    Add(Named),
    /// Make members voters now; they must have caught up
    Promote(Named),
    /// Take the vote from members; they go on observing
    Demote(Named),
    /// Remove members; their data directories cannot come back
    Remove(Named),
    /// Change several members at once, with no state in between
    Change(ChangeArgs),
    /// Change the address at which its peers reach a member
    SetAddress {
        /// The node
        #[arg(value_name = "NODE", value_parser = node_id())]
        node: u64,
        /// Where its peers reach it from now on
        #[arg(value_name = "HOST:PORT")]
        addr: HostPort,
    },
}

/// What can be done with the leader of the quorum.
#[derive(Debug, Subcommand)]
pub(crate) enum Leader {
    /// Hand leadership over, and wait until it has moved
    Transfer {
        /// The voter that shall lead [default: the most advanced one]
        #[arg(long, value_name = "NODE", value_parser = node_id())]
        to: Option<u64>,
    },
}

/// Members of whom the same is wanted.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The nodes
    #[arg(value_name = "NODE", required = true, value_delimiter = ',', value_parser = node_id())]
    nodes: Vec<u64>,
    /// Only ask whether it would be accepted
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Named {
    /// The same change for every node.
    pub(crate) fn changes(&self, change: ChangeKind) -> Result<Vec<MemberChange>, Failure> {
        once_each(self.nodes.iter().map(|node_id| MemberChange { change, node_id: *node_id }))
    }
}

/// The options of `members change`.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Make these voters as soon as they have caught up
    #[arg(long, value_name = "NODE,..", value_delimiter = ',', value_parser = node_id())]
    add: Vec<u64>,
    /// Make these voters now; they must have caught up
    #[arg(long, value_name = "NODE,..", value_delimiter = ',', value_parser = node_id())]
    promote: Vec<u64>,
    /// Take the vote from these
    #[arg(long, value_name = "NODE,..", value_delimiter = ',', value_parser = node_id())]
    demote: Vec<u64>,
    /// Remove these
    #[arg(long, value_name = "NODE,..", value_delimiter = ',', value_parser = node_id())]
    remove: Vec<u64>,
    /// Only ask whether it would be accepted
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl ChangeArgs {
    /// All that is wanted, every node once.
    pub(crate) fn changes(&self) -> Result<Vec<MemberChange>, Failure> {
        let all = [
            (ChangeKind::Add, &self.add),
            (ChangeKind::Promote, &self.promote),
            (ChangeKind::Demote, &self.demote),
            (ChangeKind::Remove, &self.remove),
        ];
        let changes = once_each(all.into_iter().flat_map(|(change, nodes)| {
            nodes.iter().map(move |node_id| MemberChange { change, node_id: *node_id })
        }))?;
        if changes.is_empty() {
            return Err(Failure::Usage(
                "nothing is to be changed: name members with --add, --promote, --demote or --remove"
                    .to_owned(),
            ));
        }
        Ok(changes)
    }
}

/// A node that is named twice is a mistake: of two wishes for it only one could come true.
fn once_each(wishes: impl Iterator<Item = MemberChange>) -> Result<Vec<MemberChange>, Failure> {
    let mut changes = BTreeMap::new();
    for wish in wishes {
        if changes.insert(wish.node_id, wish).is_some() {
            return Err(Failure::Usage(format!(
                "node {} is named twice: say once what shall become of it",
                wish.node_id
            )));
        }
    }
    Ok(changes.into_values().collect())
}

fn node_id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, CommandLine, usage_failure};

    fn parse(line: &str) -> Result<Command, Failure> {
        let words = std::iter::once("quorate").chain(line.split_whitespace());
        CommandLine::try_parse_from(words).map(|it| it.command).map_err(|e| usage_failure(&e))
    }

    fn changes(line: &str) -> Result<Vec<(ChangeKind, u64)>, Failure> {
        let changes = match parse(line)? {
            Command::Members(Members::Add(named)) => named.changes(ChangeKind::Add),
            Command::Members(Members::Promote(named)) => named.changes(ChangeKind::Promote),
            Command::Members(Members::Demote(named)) => named.changes(ChangeKind::Demote),
            Command::Members(Members::Remove(named)) => named.changes(ChangeKind::Remove),
            Command::Members(Members::Change(args)) => args.changes(),
            other => panic!("{other:?}"),
        };
        Ok(changes?.iter().map(|wish| (wish.change, wish.node_id)).collect())
    }

    #[test]
    fn members_are_named_one_by_one_or_with_commas() {
        assert_eq!(changes("members add 4"), Ok(vec![(ChangeKind::Add, 4)]));
        let two = vec![(ChangeKind::Promote, 4), (ChangeKind::Promote, 5)];
        assert_eq!(changes("members promote 4 5"), Ok(two.clone()));
        assert_eq!(changes("members promote 5,4 --dry-run"), Ok(two));
        assert_eq!(changes("members demote 2"), Ok(vec![(ChangeKind::Demote, 2)]));
        let swap = vec![
            (ChangeKind::Remove, 1),
            (ChangeKind::Promote, 4),
            (ChangeKind::Promote, 5),
            (ChangeKind::Add, 6),
        ];
        assert_eq!(changes("members change --promote 4,5 --remove 1 --add 6"), Ok(swap));
        let line = parse("members set-address 2 [::1]:9102").unwrap();
        assert!(matches!(line, Command::Members(Members::SetAddress { node: 2, .. })));
        for (line, whom) in [("leader transfer", None), ("leader transfer --to 3", Some(3))] {
            let Command::Leader(Leader::Transfer { to }) = parse(line).unwrap() else { panic!() };
            assert_eq!(to, whom);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_remedy() {
        for (line, sentence) in [
            ("members remove 1 1", "node 1 is named twice: say once"),
            ("members change --promote 4 --remove 4", "node 4 is named twice"),
            ("members change", "nothing is to be changed: name members with --add"),
            ("members add", "required arguments were not provided"),
            ("members add 0", "'0' for"),
            ("members promote four", "'four' for"),
            ("members set-address 2", "required arguments were not provided"),
            ("members set-address 2 nowhere", "an address is HOST:PORT"),
            ("leader transfer --to 0", "'0' for"),
        ] {
            match changes(line) {
                Err(Failure::Usage(said)) => {
                    assert!(said.contains(sentence), "{line}: {said}");
                    assert_eq!(said.lines().count(), 1, "{said}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
