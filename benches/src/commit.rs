//! `commit`: how long one proposal takes on an idle cluster, and what the disk takes of it.
//!
//! A commit is two fdatasyncs in sequence (the leader's, then a follower's) and one round trip; so
//! its p50 beside that of one bare fdatasync says what everything else costs.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use quorate::{ClusterId, Founding, NodeId, Voter};

use crate::report::Row;

const NODES: u64 = 3;

/// Longest wait for a first leader: the founding, and a few elections.
const ELECTION_MAX: Duration = Duration::from_secs(30);

/// Measures, with every node in a process of its own.
pub(crate) fn run(proposals: u32, dir: Option<PathBuf>) -> Result<Vec<Row>, Box<dyn Error>> {
    let dir = match dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut members = start(dir.path())?;
    let leader = wait_for_leader(&mut members)?;
    let member = members
        .iter_mut()
        .find(|member| member.node == leader)
        .ok_or("the leader is none of the nodes")?;
    let rows = member.ask(&format!("commit {proposals}"))?;
    Ok(serde_json::from_str(&rows)?)
}

/// A node's process; it ends when its standard input is closed, or at the latest with this.
struct Member {
    node: u64,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Member {
    fn ask(&mut self, question: &str) -> Result<String, Box<dyn Error>> {
        writeln!(self.input, "{question}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("node {} ended: see its words above", self.node).into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(dir: &Path) -> Result<Vec<Member>, Box<dyn Error>> {
    // Held until all are chosen, so that no port is chosen twice.
    let held: Vec<TcpListener> =
        (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addrs: Vec<SocketAddr> =
        held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    drop(held);
    let nodes: Vec<NodeId> = (1..=NODES).filter_map(NodeId::new).collect();
    let voters: Vec<Voter> = nodes
        .iter()
        .zip(&addrs)
        .map(|(&node_id, addr)| Voter { node_id, addr: addr.to_string() })
        .collect();
    let cluster = ClusterId::random();
    let mut members = Vec::new();
    for (&node, addr) in nodes.iter().zip(&addrs) {
        let data_dir = dir.join(node.to_string());
        quorate::format(&data_dir, cluster, node, Founding::Voters(voters.clone()))?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["member", "--listen", &addr.to_string(), "--data-dir"])
            .arg(&data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a node's process has no pipes".into());
        };
        let output = BufReader::new(output);
        members.push(Member { node: node.get(), process, input, output });
    }
    for member in &mut members {
        member.answer()?;
    }
    Ok(members)
}

fn wait_for_leader(members: &mut [Member]) -> Result<u64, Box<dyn Error>> {
    let deadline = Instant::now() + ELECTION_MAX;
    while Instant::now() < deadline {
        let answers: Vec<String> =
            members.iter_mut().map(|member| member.ask("status")).collect::<Result<_, _>>()?;
        let leader = answers[0].strip_prefix("leader ").and_then(|node| node.parse().ok());
        if let (Some(leader), true) = (leader, answers.iter().all(|a| *a == answers[0])) {
            return Ok(leader);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Err("no leader was elected in time".into())
}
