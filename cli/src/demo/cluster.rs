//! The demo's three nodes: child processes of this program, in a directory that goes with them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

use super::{ports, sweep};
use crate::format;
use crate::hostport::HostPort;
use crate::wait;

/// How many nodes there are: the fewest of which one may be lost.
pub(crate) const NODES: u64 = 3;

/// How long a node may take to open its listeners.
const READY_MAX: Duration = Duration::from_secs(15);

/// A clean shutdown takes 10 s at most; a little more tells a late one from one that never comes.
const STOP_MAX: Duration = Duration::from_secs(12);

/// A session that outlives the demo: no broker is fenced while none can send a heartbeat.
const LONG_SESSION_MS: u64 = 3_600_000;

/// How nodes are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each node registers its broker.
    WithBrokers,
    /// Dedicated quorum nodes: no broker registers, and none is fenced.
    QuorumOnly,
}

/// Why the nodes are not as the story wants them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A data directory could not be formatted.
    #[error("cannot format node {node}: {why}")]
    Format {
        /// Whose directory it is.
        node: u64,
        /// The formatter's words.
        why: String,
    },
    /// A node ended, or did not get ready.
    #[error("node {node} {what}{log}")]
    Node {
        /// Which one.
        node: u64,
        /// What it did.
        what: String,
        /// The last that it logged, in brackets.
        log: String,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ClusterError {
    move |source| ClusterError::System { what, source }
}

/// One node: its disk, and its process while it runs.
struct Node {
    data_dir: PathBuf,
    log: PathBuf,
    listen: HostPort,
    process: Option<Process>,
}

/// A running node.
struct Process {
    child: Child,
    admin: HostPort,
    /// Held open: the node ends when this pipe closes, so it cannot outlive the demo.
    _stdin: Option<ChildStdin>,
}

/// Three nodes; dropping them ends their processes and removes their directory.
pub(crate) struct Cluster {
    program: PathBuf,
    nodes: BTreeMap<u64, Node>,
    directory: Option<TempDir>,
    sweeper: Option<Child>,
}

impl Cluster {
    /// Formats three nodes on free ports in a new temporary directory. None runs yet.
    pub(crate) fn format() -> Result<Cluster, ClusterError> {
        let program = std::env::current_exe().map_err(system("find this program's file"))?;
        let directory = tempfile::Builder::new()
            .prefix(sweep::DIRECTORY_PREFIX)
            .tempdir()
            .map_err(system("create a temporary directory"))?;
        let sweeper = Command::new(&program)
            .arg("sweep")
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(system("start the sweeper"))?;
        let mut cluster =
            Cluster { program, nodes: BTreeMap::new(), directory: None, sweeper: Some(sweeper) };
        let root = cluster.directory.insert(directory).path().to_owned();
        let listen = ports::free(NODES as usize).map_err(system("find free ports"))?;
        let voters: BTreeMap<u64, HostPort> = (1..=NODES).zip(listen).collect();
        let cluster_id = Uuid::new_v4();
        for (node, listen) in &voters {
            let data_dir = root.join(format!("node-{node}"));
            format::format_voter(&data_dir, cluster_id, *node, &voters)
                .map_err(|e| ClusterError::Format { node: *node, why: e.to_string() })?;
            let log = root.join(format!("node-{node}.log"));
            let new = Node { data_dir, log, listen: listen.clone(), process: None };
            cluster.nodes.insert(*node, new);
        }
        Ok(cluster)
    }

    /// Starts every node that does not run, and waits until all have opened their listeners.
    pub(crate) fn start(&mut self, mode: Mode) -> Result<(), ClusterError> {
        let mut starting = Vec::new();
        for (id, node) in &mut self.nodes {
            if node.process.is_none() {
                let (child, ready) = spawn(&self.program, node, mode)?;
                starting.push((*id, ready));
                // The address is known once the node says it; until then nobody asks for it.
                let admin = node.listen.clone();
                node.process = Some(attach(child, admin));
            }
        }
        let deadline = Instant::now() + READY_MAX;
        for (id, ready) in starting {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match ready.recv_timeout(left) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(self.failure(id, format!("is not ready after {READY_MAX:?}")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(id, "ended before it was ready".to_owned()));
                }
            };
            let Some(admin) = admin_address(&line, id) else {
                return Err(self.failure(id, format!("said {line:?} instead of being ready")));
            };
            if let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) {
                process.admin = admin;
            }
        }
        Ok(())
    }

    /// Ends a node with SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self, id: u64) -> Result<(), ClusterError> {
        if let Some(mut process) = self.nodes.get_mut(&id).and_then(|node| node.process.take()) {
            process.child.kill().map_err(system("send SIGKILL"))?;
            process.child.wait().map_err(system("wait for a killed node"))?;
        }
        Ok(())
    }

    /// Ends all nodes with SIGKILL: all get the signal before the first is waited for.
    pub(crate) fn kill_all(&mut self) -> Result<(), ClusterError> {
        for process in self.nodes.values_mut().filter_map(|node| node.process.as_mut()) {
            process.child.kill().map_err(system("send SIGKILL"))?;
        }
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.kill(id))
    }

    /// Asks all nodes to end with SIGTERM; each must exit with status 0 in time.
    pub(crate) fn stop_all(&mut self) -> Result<(), ClusterError> {
        for process in self.nodes.values().filter_map(|node| node.process.as_ref()) {
            terminate(&process.child)?;
        }
        let deadline = Instant::now() + STOP_MAX;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(mut process) = self.nodes.get_mut(&id).and_then(|node| node.process.take())
            else {
                continue;
            };
            let what = match exit_of(&mut process.child, deadline)? {
                Some(status) if status.success() => continue,
                Some(status) => format!("did not end cleanly: {status}"),
                None => format!("still runs {STOP_MAX:?} after SIGTERM"),
            };
            // Put back, so that whoever drops the cluster ends it.
            if let Some(node) = self.nodes.get_mut(&id) {
                node.process = Some(process);
            }
            return Err(self.failure(id, what));
        }
        Ok(())
    }

    /// The admin addresses of the nodes that run.
    pub(crate) fn admins(&self) -> BTreeMap<u64, HostPort> {
        let running = self.nodes.iter().filter_map(|(id, node)| {
            node.process.as_ref().map(|process| (*id, process.admin.clone()))
        });
        running.collect()
    }

    /// An error when a node that should run has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), ClusterError> {
        let mut ended = None;
        for (id, node) in &mut self.nodes {
            if let Some(process) = &mut node.process
                && let Some(status) =
                    process.child.try_wait().map_err(system("look after a node"))?
            {
                ended = Some((*id, status));
            }
        }
        match ended {
            Some((id, status)) => Err(self.failure(id, format!("ended by itself: {status}"))),
            None => Ok(()),
        }
    }

    /// True when the error means that somebody else took a port before its node listened.
    pub(crate) fn port_was_taken(error: &ClusterError) -> bool {
        matches!(error, ClusterError::Node { log, .. } if log.contains("in use"))
    }

    fn failure(&self, node: u64, what: String) -> ClusterError {
        let log = self.nodes.get(&node).map(|node| last_line(&node.log)).unwrap_or_default();
        ClusterError::Node { node, what, log }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Each step is tried whatever became of the one before: this is the last chance.
        drop(self.kill_all());
        if let Some(directory) = self.directory.take() {
            drop(directory.close());
        }
        if let Some(mut sweeper) = self.sweeper.take() {
            // Its standard input closes first: it finds nothing to remove, and ends.
            drop(sweeper.stdin.take());
            drop(sweeper.wait());
        }
    }
}

/// What a node prints first, once it does; the channel closes when it ends.
type ReadyLine = mpsc::Receiver<String>;

fn spawn(program: &Path, node: &Node, mode: Mode) -> Result<(Child, ReadyLine), ClusterError> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&node.log)
        .map_err(system("open a node's log file"))?;
    let mut command = Command::new(program);
    command
        .args(["node", "--exit-with-stdin", "--admin", "127.0.0.1:0", "--data-dir"])
        .arg(&node.data_dir)
        .args(["--listen", &node.listen.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl-C is for the demo alone; it ends its nodes itself.
        .process_group(0);
    if mode == Mode::QuorumOnly {
        command.args(["--no-broker", "--session-ms", &LONG_SESSION_MS.to_string()]);
    }
    let mut child = command.spawn().map_err(system("start a node"))?;
    let (line, ready) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut first = String::new();
            if BufReader::new(stdout).read_line(&mut first).is_ok() && !first.is_empty() {
                // Nobody waits any more when the demo gave up on the node.
                drop(line.send(first));
            }
        });
    }
    Ok((child, ready))
}

fn attach(mut child: Child, admin: HostPort) -> Process {
    let stdin = child.stdin.take();
    Process { child, admin, _stdin: stdin }
}

fn terminate(child: &Child) -> Result<(), ClusterError> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| system("name a node's process")(io::ErrorKind::NotFound.into()))?;
    kill_process(pid, Signal::TERM).map_err(|e| system("send SIGTERM")(e.into()))
}

fn exit_of(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>, ClusterError> {
    wait::until(deadline, || child.try_wait().transpose())
        .transpose()
        .map_err(system("wait for a node to end"))
}

/// The admin address in `ready node=1 listen=… admin=…`, if this is what node `id` said.
fn admin_address(line: &str, id: u64) -> Option<HostPort> {
    let mut words = line.split_whitespace();
    if words.next() != Some("ready") || words.next() != Some(format!("node={id}").as_str()) {
        return None;
    }
    words.find_map(|word| word.strip_prefix("admin="))?.parse().ok()
}

/// The last line of a file in brackets, or nothing.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| format!(" ({})", line.trim())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_address_is_read_from_the_ready_line_of_the_right_node() {
        let line = "ready node=2 listen=127.0.0.1:7002 admin=127.0.0.1:9002\n";
        assert_eq!(admin_address(line, 2).unwrap().to_string(), "127.0.0.1:9002");
        for other in ["ready node=1 admin=127.0.0.1:1", "ready node=2 listen=a:1", "hello", ""] {
            assert_eq!(admin_address(other, 2), None, "{other:?}");
        }
    }
}
