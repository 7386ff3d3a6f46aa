//! The command line: what may be written, and nothing of what it does.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use crate::credentials::ClientFiles;
use crate::failure::Failure;
use crate::hostport::HostPort;

mod brokers;
mod configs;
mod features;
mod file;
mod format;
mod members;
mod partitions;
mod topics;

pub(crate) use brokers::Brokers;
pub(crate) use configs::{Configs, Target as ConfigTarget};
pub(crate) use features::Features;
pub(crate) use format::FormatArgs;
pub(crate) use members::{Leader, Members};
pub(crate) use partitions::{OnePartition, Partitions};
pub(crate) use topics::{AlterArgs as AlterTopicArgs, Topics};

/// Durable metadata for message brokers.
///
/// Partitions, leaders and in-sync replicas, committed by Raft before anyone acts on them.
/// Start with: quorate demo
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How data is printed: a table for people, or JSON [default: table; of 'log dump': json]
    #[arg(long, global = true, value_enum)]
    output: Option<Output>,
    /// Admin addresses of the nodes; the next one is tried when one is down
    /// [env: QUORATE_ADDR=]
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT,..")]
    pub(crate) addr: Vec<HostPort>,
    /// Seconds for which a request is tried
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Read the asked node's own image, which may be behind, instead of asking through the leader
    #[arg(long, global = true)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) files: ClientFiles,
}

impl Global {
    /// How data is printed, for all commands but those with a default of their own.
    pub(crate) fn output(&self) -> Output {
        self.output_or(Output::Table)
    }

    /// How data is printed, by a command with this default.
    pub(crate) fn output_or(&self, default: Output) -> Output {
        self.output.unwrap_or(default)
    }

    /// How long a request is tried.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One line of JSON, the last on stdout; of a log, one line an entry
    Json,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Format an empty directory as the disk of one node of a new cluster
    Format(FormatArgs),
    /// Run a node until SIGTERM or SIGINT
    Node(Box<NodeArgs>),
    /// Start three nodes, kill them with SIGKILL, and check that nothing acknowledged was lost
    Demo,
    /// Show what the asked node knows of itself
    Status,
    /// The brokers of the cluster
    #[command(subcommand)]
    Brokers(Brokers),
    /// The members of the quorum: who votes, who observes, who goes
    #[command(subcommand)]
    Members(Members),
    /// Who leads the quorum
    #[command(subcommand)]
    Leader(Leader),
    /// The topics of the cluster
    #[command(subcommand)]
    Topics(Topics),
    /// The partitions of the cluster, with leader and in-sync replicas
    #[command(subcommand)]
    Partitions(Partitions),
    /// The configs of topics, of brokers and of all
    #[command(subcommand)]
    Configs(Configs),
    /// The feature level of the cluster: what its commands and records may mean
    #[command(subcommand)]
    Features(Features),
    /// Check offline that all of a data directory is as it was written; exit status 1 on damage
    ///
    /// It changes nothing and takes no lock: a node may run meanwhile. It reads what a node reads
    /// when it starts: identity, witness, log files, every entry, snapshots.
    Verify(OfflineArgs),
    /// Look into the log of a data directory offline, and change nothing
    #[command(subcommand)]
    Log(Log),
    /// Remove a directory once standard input closes: what the demo leaves when it is killed
    #[command(hide = true)]
    Sweep {
        /// The directory
        directory: PathBuf,
    },
}

/// What can be done with a log.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Print the entries, one line of JSON each, with their commands decoded
    ///
    /// Entries that are compacted away are left out. Of a damaged directory whatever can be read
    /// is printed, then what is damaged, on stderr; the exit status is 1. A node may run in the
    /// directory meanwhile.
    Dump(DumpArgs),
}

/// The options of an offline command.
#[derive(Debug, Args)]
pub(crate) struct OfflineArgs {
    /// The data directory of a node, which may run
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// The options of `log dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) offline: OfflineArgs,
    /// Only entries from this index on
    #[arg(long, value_name = "INDEX")]
    pub(crate) from: Option<u64>,
    /// Only entries up to this index, itself included
    #[arg(long, value_name = "INDEX")]
    pub(crate) to: Option<u64>,
    /// Only this group's; group 1 is the metadata
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) group: Option<u64>,
    /// Only entries of this kind
    #[arg(long, value_enum)]
    pub(crate) kind: Option<EntryKind>,
    /// At most so many entries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

impl DumpArgs {
    /// The indexes that are asked for, first and last.
    pub(crate) fn range(&self) -> Result<(u64, u64), Failure> {
        let (from, to) = (self.from.unwrap_or(0), self.to.unwrap_or(u64::MAX));
        if from <= to {
            return Ok((from, to));
        }
        Err(Failure::Usage(format!(
            "--from {from} is beyond --to {to}: no entry is in between, give the lower index first"
        )))
    }
}

/// What an entry of a log is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EntryKind {
    /// A command to the metadata
    Command,
    /// Nothing: what a new leader begins with
    Empty,
    /// A change of the membership
    ConfChange,
    /// A client session is opened or closed
    Session,
    /// Groups that are created or removed
    Groups,
}

impl EntryKind {
    /// As it is written on the command line and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EntryKind::Command => "command",
            EntryKind::Empty => "empty",
            EntryKind::ConfChange => "conf-change",
            EntryKind::Session => "session",
            EntryKind::Groups => "groups",
        }
    }
}

/// The options of `node`; each may stand in the file of `--config` too, the command line wins.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The directory that 'quorate format' made
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where this node listens for its peers
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<HostPort>,
    /// Where this node serves its admin API; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<HostPort>,
    /// The address that the broker registers for clients, when it is not that of --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<HostPort>,
    /// Be a dedicated quorum node: register no broker
    #[arg(long)]
    pub(crate) no_broker: bool,
    /// This node's certificate for its peers, in PEM, for node-N.CLUSTER.quorate with its number
    /// and the cluster's id; with it every connection between nodes is encrypted
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authority of the peers' certificates, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The certificate of the admin API, in PEM: with it, HTTPS only
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_tls_cert: Option<PathBuf>,
    /// The private key of --admin-tls-cert, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_tls_key: Option<PathBuf>,
    /// The authority of clients that may change something through the admin API, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_tls_client_ca: Option<PathBuf>,
    /// A file with the token of clients that may change something, as in QUORATE_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// A TOML file with these options and those of the loop
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Milliseconds between two heartbeats of the broker [default: 500]
    #[arg(long, value_name = "MS")]
    pub(crate) heartbeat_ms: Option<u64>,
    /// Milliseconds without a heartbeat after which a broker is fenced [default: 3000]
    #[arg(long, value_name = "MS")]
    pub(crate) session_ms: Option<u64>,
    /// End at once when standard input closes, so that nothing outlives the process that started it
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// One `ID=HOST:PORT` of `--voters`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Voter {
    node_id: u64,
    addr: HostPort,
}

impl FromStr for Voter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, addr) = text
            .split_once('=')
            .ok_or_else(|| "a voter is ID=HOST:PORT, such as 1=127.0.0.1:7001".to_owned())?;
        let node_id = match id.parse() {
            Ok(node_id) if node_id > 0 => node_id,
            _ => return Err(format!("{id:?} is no node id: use a number from 1 up")),
        };
        let addr = addr.parse().map_err(|e: crate::hostport::HostPortError| e.to_string())?;
        Ok(Voter { node_id, addr })
    }
}

/// A cluster id as people write it; the nil UUID means that somebody forgot to make one.
fn cluster_id(text: &str) -> Result<Uuid, String> {
    match Uuid::parse_str(text) {
        Ok(id) if !id.is_nil() => Ok(id),
        Ok(_) => {
            Err(format!("the nil UUID names no cluster: use a random one, {}", Uuid::new_v4()))
        }
        Err(_) => Err(format!("it is no UUID: use a random one, such as {}", Uuid::new_v4())),
    }
}

/// clap's complaint as one sentence that names the remedy.
pub(crate) fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let complaint: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let complaint = complaint.join(" ");
    let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint);
    Failure::Usage(format!("{complaint}; 'quorate --help' and 'quorate COMMAND --help' say more"))
}

/// How tests write a command line, and read what is said of it.
#[cfg(test)]
mod testing {
    use super::*;

    pub(super) fn parse(line: &str) -> Result<CommandLine, Failure> {
        let words = std::iter::once("quorate").chain(line.split_whitespace());
        CommandLine::try_parse_from(words).map_err(|e| usage_failure(&e))
    }

    /// One sentence of wrong usage.
    #[track_caller]
    pub(super) fn usage_of(outcome: Result<impl std::fmt::Debug, Failure>) -> String {
        match outcome {
            Err(Failure::Usage(sentence)) => {
                assert_eq!(sentence.lines().count(), 1, "{sentence}");
                sentence
            }
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    use super::testing::{parse, usage_of};

    const UUID: &str = "6f7f3b0e-3a5f-4b7e-9a53-0a5c34a2f0d1";

    fn voters(line: &str) -> Result<BTreeMap<u64, HostPort>, Failure> {
        match parse(&format!("format --data-dir d --cluster-id {UUID} {line}"))?.command {
            Command::Format(args) => args.voters(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn voters_are_read() {
        let voters = voters("--node-id 2 --voters 1=a:1,2=b:2,3=[::1]:3").unwrap();
        let shown: Vec<String> = voters.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
        assert_eq!(shown, ["1=a:1", "2=b:2", "3=[::1]:3"]);
    }

    #[test]
    fn bad_voters_are_refused_each_with_its_remedy() {
        for (line, sentence) in [
            ("--node-id 1 --voters 1=a:1,1=b:2", "node id 1 is doubled: name every node once"),
            ("--node-id 1 --voters 1=a:1,2=a:1", "nodes 1 and 2 have the same address a:1: give"),
            ("--node-id 4 --voters 1=a:1,2=b:2", "node 4 is not among the voters (1, 2): add it"),
            ("--node-id 1 --voters 1=a:0", "voter 1 has port 0: the others must know"),
            ("--node-id 0 --voters 1=a:1", "'0' for '--node-id <N>'"),
            ("--node-id 1 --voters 1", "a voter is ID=HOST:PORT"),
            ("--node-id 1 --voters x=a:1", "\"x\" is no node id"),
            ("--node-id 1 --voters 1=a", "an address is HOST:PORT"),
            ("--node-id 1", "required arguments were not provided: --voters"),
        ] {
            let said = usage_of(voters(line));
            assert!(said.contains(sentence), "{line}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn a_malformed_cluster_id_is_refused() {
        for id in ["nonsense", "00000000-0000-0000-0000-000000000000"] {
            let line = format!("format --data-dir d --cluster-id {id} --node-id 1 --voters 1=a:1");
            let said = usage_of(parse(&line));
            assert!(said.contains("use a random one"), "{said}");
        }
    }

    #[test]
    fn a_log_is_dumped_as_json_unless_asked_otherwise_and_its_range_is_one() {
        let dump = |options: &str| {
            let line = parse(&format!("log dump --data-dir d {options}"))?;
            let output = line.global.output_or(Output::Json);
            match line.command {
                Command::Log(Log::Dump(args)) => Ok((output, args.kind, args.range()?)),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(dump("").unwrap(), (Output::Json, None, (0, u64::MAX)));
        let all = "--output table --from 3 --to 3 --kind conf-change --group 1 --limit 1";
        assert_eq!(dump(all).unwrap(), (Output::Table, Some(EntryKind::ConfChange), (3, 3)));
        assert!(usage_of(dump("--from 4 --to 3")).contains("--from 4 is beyond --to 3"));
        for wrong in ["--group 0", "--limit 0", "--kind none", "--from -1"] {
            usage_of(dump(wrong));
        }
        let kinds = [
            EntryKind::Command,
            EntryKind::Empty,
            EntryKind::ConfChange,
            EntryKind::Session,
            EntryKind::Groups,
        ];
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn options_that_are_global_may_follow_the_command() {
        let line = parse("topics ls --addr a:1,b:2 --timeout 3 --output json --local").unwrap();
        assert_eq!(line.global.addr.len(), 2);
        assert_eq!(line.global.timeout(), Duration::from_secs(3));
        assert_eq!(line.global.output(), Output::Json);
        assert!(line.global.local);
        assert!(usage_of(parse("status --timeout 0")).contains("--timeout"));
        assert!(usage_of(parse("status --addr a")).contains("an address is HOST:PORT"));
    }
}
