//! Three real nodes for a test: child processes of the program, asked through the program.
//!
//! Every wait has a deadline and a condition. Children end with the test, however it ends: they are
//! killed on drop, and they watch a pipe that closes when the test's process is gone.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long any condition may take to come about; an election takes 2 s on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Between two questions to another process, which cannot wake us.
const PAUSE: Duration = Duration::from_millis(25);

/// The ids of the nodes.
pub(crate) const IDS: [u64; 3] = [1, 2, 3];

/// The program under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env_remove("QUORATE_ADDR").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn quorate(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

/// Asks until there is an answer; panics with `what` when there is none in time.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        std::thread::park_timeout(PAUSE);
    }
}

/// Checks a condition again and again for as long: for what must *not* happen, no event tells.
#[track_caller]
pub(crate) fn throughout(window: Duration, mut check: impl FnMut()) {
    let end = Instant::now() + window;
    while Instant::now() < end {
        check();
        std::thread::park_timeout(PAUSE);
    }
}

/// Free loopback ports, below those that outgoing connections are numbered with.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    while held.len() < count {
        let port = 10_000 + (uuid::Uuid::new_v4().as_u128() % 5_000) as u16;
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// The last line of what a command printed, as JSON.
#[track_caller]
pub(crate) fn json_of(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = text.lines().last().unwrap_or_else(|| panic!("no output: {output:?}"));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// At most this many clusters at a time, so that a small machine still keeps their deadlines.
const CLUSTERS_MAX: usize = 2;
static CLUSTERS: Mutex<usize> = Mutex::new(0);
static CLUSTER_ENDED: Condvar = Condvar::new();

struct Slot;

impl Slot {
    fn take() -> Slot {
        let running = CLUSTERS.lock().unwrap();
        *CLUSTER_ENDED.wait_while(running, |running| *running >= CLUSTERS_MAX).unwrap() += 1;
        Slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *CLUSTERS.lock().unwrap() -= 1;
        CLUSTER_ENDED.notify_one();
    }
}

/// A running node.
struct Process {
    child: Child,
    admin: String,
}

/// Three formatted nodes, of which any may run.
pub(crate) struct Cluster {
    dir: TempDir,
    ports: BTreeMap<u64, u16>,
    processes: BTreeMap<u64, Process>,
    _slot: Slot,
}

impl Cluster {
    /// Three formatted nodes of a new cluster; none runs.
    pub(crate) fn formatted() -> Cluster {
        let slot = Slot::take();
        let dir = tempfile::Builder::new().prefix("quorate-test-").tempdir().unwrap();
        let ports = IDS.into_iter().zip(free_ports(IDS.len())).collect();
        let cluster = Cluster { dir, ports, processes: BTreeMap::new(), _slot: slot };
        let cluster_id = uuid::Uuid::new_v4();
        for id in IDS {
            cluster.format(id, &cluster.data_dir(id), cluster_id);
        }
        cluster
    }

    /// Three nodes that run, with their brokers registered and unfenced.
    pub(crate) fn running() -> Cluster {
        let mut cluster = Cluster::formatted();
        cluster.start_all(&[]);
        cluster.until_brokers_are_live(3);
        cluster
    }

    /// Formats a directory as `id` of a cluster with these ports.
    pub(crate) fn format(&self, id: u64, data_dir: &Path, cluster_id: uuid::Uuid) {
        let output = program()
            .args(["format", "--cluster-id", &cluster_id.to_string()])
            .args(["--node-id", &id.to_string(), "--voters", &self.voters(), "--data-dir"])
            .arg(data_dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Formats a directory for `id` to join by the other nodes; one that was there is wiped.
    pub(crate) fn format_to_join(&mut self, id: u64, cluster_id: &str) {
        self.ports.entry(id).or_insert_with(|| free_ports(1)[0]);
        let data_dir = self.data_dir(id);
        if data_dir.exists() {
            std::fs::remove_dir_all(&data_dir).unwrap();
        }
        let others: Vec<String> = self.processes.keys().map(|other| self.listen(*other)).collect();
        let output = program()
            .args(["format", "--cluster-id", cluster_id, "--node-id", &id.to_string()])
            .args(["--join", &others.join(","), "--data-dir"])
            .arg(data_dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn voters(&self) -> String {
        let voters: Vec<String> =
            self.ports.iter().map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
        voters.join(",")
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}"))
    }

    pub(crate) fn listen(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.ports[&id])
    }

    /// Where this test may put what goes with the cluster.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}.log"))
    }

    /// All that a node has written to stderr, over all of its lives.
    pub(crate) fn log(&self, id: u64) -> String {
        std::fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// Starts a node on its own directory and waits until it is ready.
    pub(crate) fn start(&mut self, id: u64, extra: &[&str]) {
        let data_dir = self.data_dir(id);
        self.start_on(id, &data_dir, extra);
    }

    /// Starts a node on some directory and waits until it is ready.
    pub(crate) fn start_on(&mut self, id: u64, data_dir: &Path, extra: &[&str]) {
        self.spawn(id, program(), data_dir, extra);
    }

    /// Starts a node whose disk fails while the files exist that these variables name.
    pub(crate) fn start_with_env(&mut self, id: u64, env: &[(&str, PathBuf)]) {
        let data_dir = self.data_dir(id);
        let mut faulty = program();
        faulty.envs(env.iter().map(|(name, path)| (name, path)));
        self.spawn(id, faulty, &data_dir, &[]);
    }

    /// Starts a node that can write no file beyond some kilobytes, as if its disk were broken.
    pub(crate) fn start_with_broken_disk(&mut self, id: u64) {
        let data_dir = self.data_dir(id);
        let mut limited = Command::new("sh");
        let limit = r#"trap "" XFSZ; ulimit -f 16; exec "$0" "$@""#;
        limited.args(["-c", limit, env!("CARGO_BIN_EXE_quorate")]).env_remove("RUST_LOG");
        self.spawn(id, limited, &data_dir, &[]);
    }

    fn spawn(&mut self, id: u64, mut program: Command, data_dir: &Path, extra: &[&str]) {
        assert!(!self.processes.contains_key(&id), "node {id} runs already");
        let log = File::options().create(true).append(true).open(self.log_path(id)).unwrap();
        let mut child = program
            .args(["node", "--exit-with-stdin", "--admin", "127.0.0.1:0"])
            .args(["--listen", &self.listen(id), "--data-dir"])
            .arg(data_dir)
            .args(extra)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (line, ready) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut first = String::new();
            if BufReader::new(stdout).read_line(&mut first).is_ok() {
                let _ = line.send(first);
            }
        });
        let first = ready.recv_timeout(PATIENCE).unwrap_or_default();
        let expected = format!("ready node={id} listen={} admin=127.0.0.1:", self.listen(id));
        let Some(port) = first.strip_prefix(&expected) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("node {id} said {first:?}\n{}", self.log(id));
        };
        let admin = format!("127.0.0.1:{}", port.trim());
        self.processes.insert(id, Process { child, admin });
    }

    /// Starts all nodes that do not run.
    pub(crate) fn start_all(&mut self, extra: &[&str]) {
        for id in IDS {
            if !self.processes.contains_key(&id) {
                self.start(id, extra);
            }
        }
    }

    /// Ends a node with SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) {
        let mut process = self.processes.remove(&id).unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Ends all nodes with SIGKILL, in this order, none waited for before all are hit.
    pub(crate) fn kill_all(&mut self, order: &[u64]) {
        for id in order {
            self.processes.get_mut(id).unwrap().child.kill().unwrap();
        }
        order.iter().for_each(|id| self.kill(*id));
    }

    /// Ends a node with SIGTERM, which it must answer with exit status 0.
    pub(crate) fn stop(&mut self, id: u64) {
        let mut process = self.processes.remove(&id).unwrap();
        signal(process.child.id(), Signal::TERM);
        let status = until("the node has stopped", || process.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", self.log(id));
    }

    /// The process of a node that runs.
    pub(crate) fn pid(&self, id: u64) -> u32 {
        self.processes[&id].child.id()
    }

    /// Waits until a node ends by itself, and gives its exit status.
    pub(crate) fn exit_code(&mut self, id: u64) -> Option<i32> {
        let mut process = self.processes.remove(&id).unwrap();
        until("the node ends", || process.child.try_wait().unwrap()).code()
    }

    /// The admin addresses of the nodes that run.
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<&str> = self.processes.values().map(|p| p.admin.as_str()).collect();
        addrs.join(",")
    }

    /// The admin address of one node.
    pub(crate) fn admin(&self, id: u64) -> &str {
        &self.processes[&id].admin
    }

    /// Runs a command against all nodes that run.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        program().args(args).args(["--output", "json", "--addr", &self.addrs()]).output().unwrap()
    }

    /// Runs a command that must succeed, and gives what it says.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        json_of(&output)
    }

    /// What one node alone says, or nothing while it cannot.
    pub(crate) fn ask_one(&self, id: u64, args: &[&str]) -> Option<Value> {
        let output = program()
            .args(args)
            .args(["--output", "json", "--timeout", "2", "--addr", self.admin(id)])
            .output()
            .unwrap();
        output.status.success().then(|| json_of(&output))
    }

    /// Creates a topic, and gives what is acknowledged.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, partitions: u32, replication_factor: u32) -> Value {
        let (partitions, factor) = (partitions.to_string(), replication_factor.to_string());
        let args = ["topics", "create", name, "--partitions", &partitions];
        self.ask(&[&args[..], &["--replication-factor", &factor, "--timeout", "25"]].concat())
    }

    /// The status and body of an HTTP GET from one node.
    pub(crate) fn http(&self, id: u64, path: &str) -> (u16, String) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://{}{path}", self.admin(id))).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// What a node answers to a wish for a topic, once and without a retry; nothing when it does
    /// not answer.
    pub(crate) fn wish(admin: &str, topic: &str) -> Option<(u16, Value)> {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent: ureq::Agent =
            config.max_idle_connections(0).timeout_global(Some(PATIENCE)).build().into();
        let wish = serde_json::json!({"name": topic, "partitions": 1, "replication_factor": 2});
        let mut answer = agent.post(format!("http://{admin}/v1/topics")).send_json(wish).ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), serde_json::from_str(&text).ok()?))
    }

    /// The node that leads the quorum, once all that run agree.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        until("the nodes that run agree on a leader", || {
            let known: BTreeSet<Option<u64>> = self
                .processes
                .keys()
                .map(|id| self.ask_one(*id, &["status"]).and_then(|s| s["leader_id"].as_u64()))
                .collect();
            (known.len() == 1).then(|| known.first().copied().flatten()).flatten()
        })
    }

    /// The epoch of every broker, through the leader.
    #[track_caller]
    pub(crate) fn broker_epochs(&self) -> BTreeMap<u64, u64> {
        let brokers = self.ask(&["brokers", "ls", "--timeout", "25"]);
        let epoch = |b: &Value| Some((b["id"].as_u64()?, b["epoch"].as_u64()?));
        brokers.as_array().unwrap().iter().filter_map(epoch).collect()
    }

    /// Waits until every broker of `before` has registered again, and is unfenced: what the disk
    /// says of the time before a restart does not count.
    #[track_caller]
    pub(crate) fn until_brokers_are_back(&self, before: &BTreeMap<u64, u64>) {
        until("the brokers are back", || {
            let brokers = self.ask_one(*self.processes.keys().next()?, &["brokers", "ls"])?;
            let is_back = |b: &&Value| {
                b["fenced"] == false
                    && b["in_shutdown"] == false
                    && b["id"].as_u64().and_then(|id| before.get(&id))
                        < b["epoch"].as_u64().as_ref()
            };
            let back = brokers.as_array()?.iter().filter(is_back).count();
            (back == before.len()).then_some(())
        });
    }

    /// Waits until as many brokers are registered and unfenced.
    #[track_caller]
    pub(crate) fn until_brokers_are_live(&self, count: usize) {
        until("the brokers are live", || {
            let brokers = self.ask_one(*self.processes.keys().next()?, &["brokers", "ls"])?;
            let live = brokers.as_array()?.iter().filter(|b| b["fenced"] == false).count();
            (live == count).then_some(())
        });
    }

    /// All partitions by `topic-partition`, through the leader.
    #[track_caller]
    pub(crate) fn partitions(&self) -> BTreeMap<String, Value> {
        by_name(&self.ask(&["partitions", "ls", "--timeout", "25"]))
    }

    /// Waits until the image of every node that runs is the same, and holds all that was
    /// acknowledged before; gives its index.
    #[track_caller]
    pub(crate) fn converge(&self) -> u64 {
        // Nodes that have just started agree on what they remember to be committed, which may be
        // less than what is. A linearizable read ends that.
        self.ask(&["brokers", "ls", "--timeout", "25"]);
        let statuses = until("all nodes have applied the same index", || {
            let statuses: Option<Vec<Value>> =
                self.processes.keys().map(|id| self.ask_one(*id, &["status"])).collect();
            let statuses = statuses?;
            let applied: BTreeSet<u64> =
                statuses.iter().filter_map(|s| s["applied_index"].as_u64()).collect();
            let done = statuses.iter().all(|s| s["applied_index"] == s["commit_index"]);
            (applied.len() == 1 && done).then_some(statuses)
        });
        let hashes: BTreeSet<&str> =
            statuses.iter().map(|s| s["state_hash"].as_str().unwrap()).collect();
        assert_eq!(hashes.len(), 1, "{statuses:?}");
        assert!(hashes.iter().all(|hash| hash.len() >= 16), "{hashes:?}");
        statuses[0]["applied_index"].as_u64().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if std::thread::panicking() {
            for id in IDS {
                let log = self.log(id);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("--- node {id}, its last words:");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// A list of partitions by `topic-partition`; none may be there twice.
#[track_caller]
pub(crate) fn by_name(partitions: &Value) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    for partition in partitions.as_array().unwrap() {
        let name = format!("{}-{}", partition["topic"].as_str().unwrap(), partition["partition"]);
        assert!(named.insert(name.clone(), partition.clone()).is_none(), "{name} is there twice");
    }
    named
}

/// A list of ids, such as an ISR, as a set.
pub(crate) fn ids(list: &Value) -> BTreeSet<u64> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Every file under `dir` with its contents.
pub(crate) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}
