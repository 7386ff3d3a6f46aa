//! A real server on a free port, over a real quorum of one node, asked with plain HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BrokerId, BrokerSession, CloseCause, ClusterId, Founding, Listener, NodeId, Quorum,
    QuorumConfig, Registration, Voter,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::turns::Turns;
use crate::views::{
    ApiError, Broker, CreatedTopic, DeletedTopic, FailureOutcome, Health, LeaderTransferred,
    Member, MemberRole, MembersChanged, Partition, ProducerIdBlock, ProducerIds, Role, Status,
    Topic,
};
use crate::{Admin, BindError};

pub(crate) mod access;
mod metadata;

const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    _dir: tempfile::TempDir,
    addr: SocketAddr,
    quorum: Quorum,
    turns: Turns,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(crate::Access::default()).await
    }

    async fn start_with(access: crate::Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("node");
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let node_id = NodeId::new(1).unwrap();
        let voters = vec![Voter { node_id, addr: listen.to_string() }];
        quorate::format(&data_dir, ClusterId::random(), node_id, Founding::Voters(voters)).unwrap();
        let mut config = QuorumConfig::new(data_dir, listen);
        config.group.tick_ms = 20;
        let quorum = Quorum::open(config).await.unwrap();
        let admin = Admin::bind_with("127.0.0.1:0".parse().unwrap(), access).await.unwrap();
        let (addr, turns) = (admin.addr(), admin.turns.clone());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(admin.serve(quorum.clone(), async {
            let _ = stopped.await;
        }));
        Self { _dir: dir, addr, quorum, turns, stop, serving }
    }

    async fn with_broker() -> (Self, BrokerSession) {
        let server = Self::start().await;
        let directory = server.quorum.identity().directory_id;
        let listener =
            Listener { name: "PLAINTEXT".to_owned(), host: "127.0.0.1".to_owned(), port: 9092 };
        let registration = Registration {
            listeners: vec![listener],
            ..Registration::without_data_plane(BrokerId(1), directory)
        };
        let session = server.quorum.register_broker(registration).await.unwrap();
        timeout(PATIENCE, session.active()).await.unwrap().unwrap();
        (server, session)
    }

    /// One request on a connection of its own; the status and the body.
    async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        self.ask_as("", method, path, body).await
    }

    /// The same, by somebody who authorizes himself.
    async fn ask_as(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> (u16, Value) {
        let json = if body.is_some() { "content-type: application/json\r\n" } else { "" };
        let headers = format!("host: localhost\r\nauthorization: {authorization}\r\n{json}");
        self.ask_with(&headers, method, path, body.unwrap_or_default()).await
    }

    /// The same, with these headers and no others.
    async fn ask_with(&self, headers: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}content-length: \
             {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        (status, value)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_value(body).unwrap()
    }

    async fn refused(&self, method: &str, path: &str, body: Option<&str>) -> (u16, ApiError) {
        self.refused_as("", method, path, body).await
    }

    async fn refused_as(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> (u16, ApiError) {
        let (status, body) = self.ask_as(authorization, method, path, body).await;
        let error: ApiError = serde_json::from_value(body).unwrap();
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
        (status, error)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_has_the_shapes_of_the_contract() {
    let (server, session) = Server::with_broker().await;

    let (code, raw) = server.ask("GET", "/status", None).await;
    assert_eq!(code, 200);
    for field in [
        "cluster_id",
        "node_id",
        "directory_id",
        "role",
        "leader_id",
        "term",
        "commit_index",
        "applied_index",
        "first_index",
        "last_index",
        "voters",
        "learners",
        "feature_level",
        "state_hash",
        "fatal",
        "damaged",
    ] {
        assert!(raw.get(field).is_some(), "{field} in {raw}");
    }
    assert_eq!((&raw["role"], &raw["fatal"]), (&json!("leader"), &Value::Null));
    let status: Status = serde_json::from_value(raw).unwrap();
    assert_eq!((status.role, status.leader_id, status.node_id), (Role::Leader, Some(1), 1));
    assert_eq!(status.voters.len(), 1);
    assert!(status.commit_index >= status.applied_index);

    let wish = r#"{"name":"orders","partitions":2,"replication_factor":1,
                   "configs":{"min.insync.replicas":"1"}}"#;
    let (code, created) = server.ask("POST", "/v1/topics", Some(wish)).await;
    assert_eq!(code, 200, "{created}");
    let created: CreatedTopic = serde_json::from_value(created).unwrap();
    assert_eq!(created.name, "orders");

    // The hash and the index are of one image: they move together.
    let after: Status = server.get("/status").await;
    assert!(after.applied_index >= created.index);
    assert_ne!(after.state_hash, status.state_hash);
    assert_eq!(after.state_hash.len(), 32);

    let topics: Vec<Topic> = server.get("/v1/topics").await;
    assert_eq!((topics[0].partitions, topics[0].replication_factor), (2, 1));
    assert_eq!(topics[0].configs["min.insync.replicas"], "1");
    assert_eq!(topics, server.get::<Vec<Topic>>("/v1/topics?local=true").await);
    let partitions: Vec<Partition> = server.get("/v1/partitions?topic=orders").await;
    assert_eq!(partitions.len(), 2);
    assert_eq!((partitions[1].leader, &partitions[1].isr), (Some(1), &vec![1]));
    assert_eq!(partitions, server.get::<Vec<Partition>>("/v1/partitions").await);
    let brokers: Vec<Broker> = server.get("/v1/brokers").await;
    assert_eq!((brokers[0].id, brokers[0].epoch), (1, session.epoch().get()));
    assert_eq!(brokers[0].listeners["PLAINTEXT"], "127.0.0.1:9092");
    let members: Vec<Member> = server.get("/v1/members").await;
    assert_eq!((members[0].node_id, members[0].trails_leader_by), (1, Some(0)));
    assert_eq!((members[0].role, members[0].last_contact_ms), (MemberRole::Voter, Some(0)));
    let here: Vec<Member> = server.get("/v1/members?local=true").await;
    let unknown = Member { trails_leader_by: None, last_contact_ms: None, ..members[0].clone() };
    assert_eq!(here, [unknown]);

    let before: ProducerIds = server.get("/v1/producer-ids").await;
    let (_, block) = server.ask("POST", "/v1/producer-ids", Some(r#"{"broker_id":1}"#)).await;
    let block: ProducerIdBlock = serde_json::from_value(block).unwrap();
    assert_eq!(block.first, before.next);
    let next: ProducerIds = server.get("/v1/producer-ids").await;
    assert_eq!(next.next, block.first + block.len);

    let (code, deleted) = server.ask("DELETE", "/v1/topics/orders", None).await;
    assert_eq!(code, 200);
    let deleted: DeletedTopic = serde_json::from_value(deleted).unwrap();
    assert!(deleted.index > created.index);
    assert!(server.get::<Vec<Topic>>("/v1/topics").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_one_sentence_and_changes_nothing() {
    let (server, _session) = Server::with_broker().await;
    let before = server.quorum.image().index;
    let topic = |fields: &str| format!(r#"{{"name":"t",{fields}}}"#);
    let cases = [
        ("POST", "/v1/topics", Some("{".to_owned()), 400, "BAD_REQUEST"),
        ("POST", "/v1/topics", Some(topic(r#""partitions":1"#)), 400, "BAD_REQUEST"),
        (
            "POST",
            "/v1/topics",
            Some(topic(r#""partitions":1,"replication_factor":1,"colour":1"#)),
            400,
            "BAD_REQUEST",
        ),
        ("POST", "/v1/topics", None, 415, "BAD_REQUEST"),
        ("GET", "/v1/topics?locl=true", None, 400, "BAD_REQUEST"),
        ("GET", "/v1/nothing", None, 404, "BAD_REQUEST"),
        ("PUT", "/v1/topics", None, 405, "BAD_REQUEST"),
        ("POST", "/v1/members", Some(" ".repeat(100_000)), 413, "BAD_REQUEST"),
        (
            "POST",
            "/v1/topics",
            Some(topic(r#""partitions":1,"replication_factor":2"#)),
            400,
            "INVALID_REPLICATION_FACTOR",
        ),
        ("DELETE", "/v1/topics/none", None, 404, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("GET", "/v1/partitions?topic=none", None, 404, "UNKNOWN_TOPIC_OR_PARTITION"),
        (
            "POST",
            "/v1/producer-ids",
            Some(r#"{"broker_id":2}"#.to_owned()),
            404,
            "BROKER_ID_NOT_REGISTERED",
        ),
    ];
    for (method, path, body, code, name) in cases {
        let (status, error) = server.refused(method, path, body.as_deref()).await;
        assert_eq!((status, error.error.as_str()), (code, name), "{method} {path}: {error:?}");
        assert_eq!((error.retryable, error.outcome), (false, FailureOutcome::Rejected));
    }
    // What the leader refused before it reached the log left no trace at all.
    assert_eq!(server.quorum.image().index, before);

    let illegal = r#"{"name":"a/b","partitions":1,"replication_factor":1}"#;
    let (status, error) = server.refused("POST", "/v1/topics", Some(illegal)).await;
    assert_eq!((status, error.error.as_str()), (400, "INVALID_TOPIC_EXCEPTION"));
    let key = r#"{"name":"t","partitions":1,"replication_factor":1,"configs":{"colour":"red"}}"#;
    let (status, error) = server.refused("POST", "/v1/topics", Some(key)).await;
    assert_eq!((status, error.error.as_str()), (400, "INVALID_CONFIG"));
    assert_eq!(server.quorum.image().image.topic_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_leadership_are_changed_or_refused_by_name() {
    let server = Server::start().await;
    server.quorum.read_index().await.unwrap();
    let change = |what: &str, node: u64| {
        format!(r#"{{"changes":[{{"change":"{what}","node_id":{node}}}],"dry_run":true}}"#)
    };
    let own = r#"{"addr":"127.0.0.1:9"}"#.to_owned();
    let (to_two, to_anybody) = (r#"{"to":2}"#.to_owned(), "{}".to_owned());
    for (path, body, code, name) in [
        ("/v1/members", change("remove", 1), 409, "MEMBER_LEADS"),
        ("/v1/members", change("promote", 1), 409, "NO_CHANGE"),
        ("/v1/members", change("add", 2), 404, "NO_MEMBER"),
        ("/v1/members", change("add", 0), 400, "BAD_REQUEST"),
        ("/v1/members", change("adopt", 2), 400, "BAD_REQUEST"),
        ("/v1/members", r#"{"changes":[]}"#.to_owned(), 400, "UNSOUND_CHANGE"),
        ("/v1/members/1/address", r#"{"addr":"nowhere"}"#.to_owned(), 400, "INVALID_ADDRESS"),
        ("/v1/members/2/address", own.clone(), 404, "NO_MEMBER"),
        ("/v1/members/one/address", own.clone(), 400, "BAD_REQUEST"),
        ("/v1/leader/transfer", to_two, 404, "NO_MEMBER"),
        ("/v1/leader/transfer", to_anybody, 409, "NO_SUCCESSOR"),
    ] {
        let (status, error) = server.refused("POST", path, Some(&body)).await;
        assert_eq!((status, error.error.as_str()), (code, name), "{path} {body}: {error:?}");
        assert_eq!(error.outcome, FailureOutcome::Rejected, "{error:?}");
    }
    let (code, body) = server.ask("POST", "/v1/leader/transfer", Some(r#"{"to":1}"#)).await;
    let leads: LeaderTransferred = serde_json::from_value(body).unwrap();
    assert_eq!((code, leads.leader_id), (200, 1));
    let (code, body) = server.ask("POST", "/v1/members/1/address", Some(&own)).await;
    assert_eq!(code, 200, "{body}");
    let changed: MembersChanged = serde_json::from_value(body).unwrap();
    assert_eq!((changed.dry_run, changed.members[0].addr.as_str()), (false, "127.0.0.1:9"));
    let status: Status = server.get("/status").await;
    assert_eq!((status.voters[0].addr.as_str(), status.learners.len()), ("127.0.0.1:9", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_ready_from_live_and_the_server_stops_when_told() {
    let server = Server::start().await;
    let taken = Admin::bind(server.addr).await.unwrap_err();
    assert!(matches!(taken, BindError::InUse { .. }), "{taken}");
    assert!(taken.to_string().starts_with("address in use"));

    server.quorum.read_index().await.unwrap();
    let (status, ready) = server.ask("GET", "/health/ready", None).await;
    assert_eq!((status, ready["ok"].clone()), (200, json!(true)));

    // The node stops in order: the API outlives it, and says so in a kind that is no doubt.
    server.quorum.shut_down().await;
    let wish = r#"{"name":"late","partitions":1,"replication_factor":1}"#;
    let (status, error) = server.refused("POST", "/v1/topics", Some(wish)).await;
    assert_eq!((status, error.error.as_str()), (503, "STOPPED"));
    assert_eq!(error.outcome, FailureOutcome::NeverApplied);
    let live: Health = server.get("/health/live").await;
    assert!(live.ok, "it was asked to stop: nothing is broken");

    // An idle connection does not hold the server up.
    let _idle = TcpStream::connect(server.addr).await.unwrap();
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_a_page_for_people() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain"), "{head}");
    let cluster = server.quorum.identity().cluster_id;
    assert!(body.starts_with(&format!("Quorate: node 1 of cluster {cluster}\n\n")), "{body}");
    assert!(body.contains(" in term ") && body.contains("/metrics"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_prometheus_text_and_agree_with_the_status() {
    let server = Server::start().await;
    let registration =
        Registration::without_data_plane(BrokerId(1), server.quorum.identity().directory_id);
    let _session = server.quorum.register_broker(registration).await.unwrap();
    // A frame that says that it is longer than any.
    let mut foreign = TcpStream::connect(server.quorum.listen_addr()).await.unwrap();
    foreign.write_all(&[0xff; 8]).await.unwrap();
    let mut said = Vec::new();
    timeout(PATIENCE, foreign.read_to_end(&mut said)).await.unwrap().unwrap();
    let counted = async {
        while !server.quorum.metrics().closed.contains(&(CloseCause::Oversized, 1)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    // The broker may still be on its way in: until both speak of the same state.
    let agreed = async {
        loop {
            let before = server.get::<Status>("/status").await;
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let status = server.get::<Status>("/status").await;
            let seen = |status: &Status| (status.applied_index, status.log_disk_bytes);
            if seen(&before) == seen(&status) && status.last_index == status.applied_index {
                return (answer, status);
            }
        }
    };
    let (answer, status) = timeout(PATIENCE, agreed).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(status.log_disk_bytes > 0 && !status.storage_full);
    assert_eq!((status.closed.len(), status.closed["oversized"]), (1, 1));
    let lines: Vec<&str> = body.lines().collect();
    for (name, value) in [
        ("quorate_role{group=\"1\",role=\"leader\"}", 1),
        ("quorate_role{group=\"1\",role=\"follower\"}", 0),
        ("quorate_leader_known{group=\"1\"}", 1),
        ("quorate_term{group=\"1\"}", status.term),
        ("quorate_applied_index{group=\"1\"}", status.applied_index),
        ("quorate_log_disk_bytes{group=\"1\"}", status.log_disk_bytes),
        ("quorate_storage_full{group=\"1\"}", 0),
        ("quorate_fatal{group=\"1\"}", 0),
        ("quorate_damaged{group=\"1\"}", 0),
        ("quorate_member_trails_leader_by{group=\"1\",node=\"1\"}", 0),
        ("quorate_groups", 1),
        ("quorate_dropped_messages_total{cause=\"bad_term\"}", 0),
        ("quorate_closed_connections_total{cause=\"malformed\"}", 0),
        ("quorate_closed_connections_total{cause=\"oversized\"}", 1),
    ] {
        assert!(lines.contains(&format!("{name} {value}").as_str()), "{name} {value} in {body}");
    }
    // What is queued differs from moment to moment.
    for name in ["quorate_inbox_requests", "quorate_apply_queue_entries"] {
        let queued = lines.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(queued.trim().parse::<u64>().unwrap() < 100, "{name}{queued}");
    }
    // The registration of the broker, at least, was committed.
    for name in ["commit_seconds", "log_write_seconds", "log_write_entries", "apply_seconds"] {
        let count = format!("quorate_{name}_count ");
        let counted = lines.iter().find_map(|line| line.strip_prefix(&count)).unwrap();
        assert!(counted.parse::<u64>().unwrap() > 0, "{name} in {body}");
        let all = format!("quorate_{name}_bucket{{le=\"+Inf\"}} {counted}");
        assert!(lines.contains(&all.as_str()), "{all} in {body}");
    }
    // Every sample has its help and type before it, once.
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        for kind in ["HELP", "TYPE"] {
            let told = lines.iter().filter(|l| l.starts_with(&format!("# {kind} {name} "))).count();
            assert_eq!(told, 1, "{kind} of {name}");
        }
    }
}
