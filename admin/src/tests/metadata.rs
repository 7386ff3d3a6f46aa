//! Routes that change metadata, and their refusals by name.

use super::*;
use crate::views::{
    BrokerChanged, ConfigEntry, ConfigSource, ConfigsAltered, CreatedTopics, Explanation,
    FeatureLevelSet, Features, PartitionChange, PartitionResults, PartitionsCreated,
    TopicDescription, WhatIf,
};

impl Server {
    async fn post<T: DeserializeOwned>(&self, path: &str, body: Value) -> T {
        let (status, answer) = self.ask("POST", path, Some(&body.to_string())).await;
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_value(answer).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_changed_and_shown_in_the_shapes_of_the_contract() {
    let (server, session) = Server::with_broker().await;
    let wish = json!({"name": "orders", "partitions": 1, "replication_factor": 1,
        "assignment": [[1]]});
    let created: CreatedTopic = server.post("/v1/topics", wish).await;
    let grown: PartitionsCreated =
        server.post("/v1/topics/orders/partitions", json!({"total": 3})).await;
    assert_eq!((grown.topic_id, grown.partitions), (created.topic_id, 3));

    let change = json!({"key": "retention.ms", "operation": "set", "value": "5"});
    let wish = json!({"topic": "orders", "changes": [change]});
    let altered: ConfigsAltered = server.post("/v1/configs", wish).await;
    assert!(altered.index > grown.index);
    let described: TopicDescription = server.get("/v1/topics/orders?local=true").await;
    assert_eq!((described.topic.partitions, described.partition_list.len()), (3, 3));
    let configs: Vec<ConfigEntry> = server.get("/v1/configs?topic=orders").await;
    assert_eq!(configs, described.effective_configs);
    let set = configs.iter().find(|entry| entry.source == ConfigSource::Topic).unwrap();
    assert_eq!((set.key.as_str(), set.value.as_str()), ("retention.ms", "5"));
    for query in ["broker=1", "default=true"] {
        let configs: Vec<ConfigEntry> = server.get(&format!("/v1/configs?{query}")).await;
        assert!(configs.iter().all(|entry| entry.source == ConfigSource::BuiltIn), "{query}");
    }

    let name = json!({"topic": "orders", "partition": 0});
    let wish = json!({"election": "preferred", "partitions": [name]});
    let elected: PartitionResults = server.post("/v1/partitions/elect", wish).await;
    let result = &elected.results[0];
    assert_eq!(result.error.as_deref(), Some("ELECTION_NOT_NEEDED"));
    assert!(result.message.is_some() && result.isr.is_none());
    let wish = json!({"version": 1, "partitions": [
        {"topic": "orders", "partition": 0, "replicas": [1], "log_dirs": ["any"]},
        {"topic": "orders", "partition": 7, "replicas": [1]}]});
    let moved: PartitionResults = server.post("/v1/partitions/reassign", wish).await;
    assert_eq!((&moved.results[0].error, &moved.results[0].isr), (&None, &Some(vec![1])));
    assert_eq!(moved.results[1].error.as_deref(), Some("UNKNOWN_TOPIC_OR_PARTITION"));
    let cancelled: PartitionResults =
        server.post("/v1/partitions/cancel", json!({"partitions": [name]})).await;
    assert_eq!(cancelled.results[0].error.as_deref(), Some("NO_REASSIGNMENT_IN_PROGRESS"));

    let one = "topic=orders&partition=0";
    let history: Vec<PartitionChange> =
        server.get(&format!("/v1/partitions/history?{one}&local=true")).await;
    assert_eq!((history[0].index, history[0].command.as_str()), (created.index, "CreateTopics"));
    let explained: Explanation = server.get(&format!("/v1/partitions/explain?{one}")).await;
    assert_eq!((explained.leader, explained.missing.len()), (Some(1), 0));
    let what_if: WhatIf = server.get("/v1/partitions/what-if?kill=1").await;
    assert_eq!((what_if.killed, what_if.leaderless.len()), (vec![1], 3));

    let features: Features = server.get("/v1/features").await;
    let set: FeatureLevelSet = server.post("/v1/features", json!({"level": features.level})).await;
    assert_eq!((set.level, features.brokers.len()), (features.level, 1));
    let fenced: BrokerChanged = server.post("/v1/brokers/1/fence", json!({})).await;
    assert_eq!((fenced.id, fenced.partitions_changed), (1, 3));
    let unregister = "/v1/brokers/1/unregister";
    let (status, error) = server.refused("POST", unregister, Some("{}")).await;
    assert_eq!((status, error.error.as_str()), (400, "INVALID_REQUEST"), "it lives: {error:?}");
    session.shut_down().await.unwrap();
    let gone: BrokerChanged = server.post(unregister, json!({})).await;
    assert!(gone.index > fenced.index);
    assert!(server.get::<Vec<Broker>>("/v1/brokers").await.is_empty());
}

/// To see it fail: have the route create one topic after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_topics_are_created_together_or_not_at_all() {
    let (server, _session) = Server::with_broker().await;
    let topic = |name: &str| json!({"name": name, "partitions": 2, "replication_factor": 1});
    let names = || {
        let image = server.quorum.image().image;
        image.topics_by_name().map(|topic| topic.name.to_string()).collect::<Vec<_>>()
    };
    let mut assigned = topic("b");
    assigned["assignment"] = json!([[1], [1]]);
    assigned["configs"] = json!({"retention.ms": "5"});
    let wish = json!({"topics": [topic("c"), assigned]});
    let CreatedTopics { topics } = server.post("/v1/topics", wish).await;
    let image = server.quorum.image().image;
    let expected: Vec<CreatedTopic> = ["c", "b"]
        .map(|name| CreatedTopic {
            name: name.to_owned(),
            topic_id: image.topic_by_name(name).unwrap().id.0,
            index: topics[0].index,
        })
        .into();
    assert_eq!(topics, expected);
    assert_eq!(names(), ["b", "c"]);
    let described: TopicDescription = server.get("/v1/topics/b").await;
    assert_eq!(
        (described.topic.partitions, &described.topic.configs["retention.ms"]),
        (2, &"5".to_owned())
    );

    let mut uneven = topic("uneven");
    uneven["assignment"] = json!([[1]]);
    let mut unplaced = topic("unplaced");
    unplaced["replication_factor"] = json!(2);
    let mut beside = topic("beside");
    beside["topics"] = json!([topic("new")]);
    let with_new = |other: Value| json!({"topics": [topic("new"), other]});
    for (wish, code, name, words) in [
        (with_new(topic("c")), 409, "TOPIC_ALREADY_EXISTS", "c"),
        (with_new(topic("new")), 409, "TOPIC_ALREADY_EXISTS", "new"),
        (with_new(unplaced), 400, "INVALID_REPLICATION_FACTOR", "unplaced"),
        (with_new(uneven), 400, "BAD_REQUEST", "topic uneven"),
        (with_new(json!({"name": "t"})), 400, "BAD_REQUEST", "missing field `partitions`"),
        (json!({"topics": []}), 400, "INVALID_REQUEST", "name at least one"),
        (beside, 400, "BAD_REQUEST", "beside `topics`"),
        (json!({"name": "t", "partitions": 1}), 400, "BAD_REQUEST", "`replication_factor`"),
        (json!({"name": "t", "topic": []}), 400, "BAD_REQUEST", "unknown field `topic`"),
    ] {
        let (status, error) = server.refused("POST", "/v1/topics", Some(&wish.to_string())).await;
        assert_eq!((status, error.error.as_str()), (code, name), "{wish}: {error:?}");
        assert!(error.message.contains(words), "{wish}: {error:?}");
        assert_eq!(error.outcome, FailureOutcome::Rejected, "{error:?}");
        assert_eq!(names(), ["b", "c"], "{wish}");
    }
}

/// To see it fail: have one of the routes answer without a turn, or take one for what is small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_states_are_told_in_turns() {
    let (server, _session) = Server::with_broker().await;
    let wish = json!({"name": "orders", "partitions": 3, "replication_factor": 1});
    let _: CreatedTopic = server.post("/v1/topics", wish).await;
    let server = Arc::new(server);
    let asked = |method: &'static str, path: &'static str, body: Option<Value>| {
        let (server, body) = (Arc::clone(&server), body.map(|body| body.to_string()));
        tokio::spawn(async move { server.ask(method, path, body.as_deref()).await.0 })
    };
    let brief = Duration::from_millis(200);
    let elect = |scope: &str, value: Value| {
        let mut wish = json!({"election": "preferred"});
        wish[scope] = value;
        Some(wish)
    };

    let (first, second) = (server.turns.next().await, server.turns.next().await);
    for (method, path, body) in [
        ("GET", "/v1/partitions?topic=orders", None),
        ("GET", "/v1/topics/orders", None),
        ("GET", "/v1/brokers", None),
        ("GET", "/status", None),
        ("POST", "/v1/partitions/elect", elect("topic", "orders".into())),
        ("POST", "/v1/partitions/elect", elect("all", true.into())),
    ] {
        let small = timeout(PATIENCE, asked(method, path, body)).await;
        assert_eq!(small.unwrap().unwrap(), 200, "{path}");
    }
    // Asked last: a request waits no longer than its time.
    let mut waiting = [
        "/v1/topics?local=true",
        "/v1/topics",
        "/v1/partitions?local=true",
        "/v1/partitions",
        "/v1/partitions/what-if?kill=1",
    ]
    .map(|path| asked("GET", path, None));
    for (at, asked) in waiting.iter_mut().enumerate() {
        assert!(timeout(brief, asked).await.is_err(), "{at} was answered without a turn");
    }
    drop(first);
    for asked in waiting {
        assert_eq!(timeout(PATIENCE, asked).await.unwrap().unwrap(), 200, "with the one turn");
    }
    drop(second);

    let election = server.turns.election(PATIENCE).await.ok().unwrap();
    let mut whole = asked("POST", "/v1/partitions/elect", elect("all", true.into()));
    let part = asked("POST", "/v1/partitions/elect", elect("topic", "orders".into()));
    assert_eq!(timeout(PATIENCE, part).await.unwrap().unwrap(), 200);
    assert!(timeout(brief, &mut whole).await.is_err(), "beside another election");
    drop(election);
    assert_eq!(timeout(PATIENCE, whole).await.unwrap().unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_of_metadata_is_refused_by_name() {
    let (server, _session) = Server::with_broker().await;
    let change = |fields: &str| format!(r#"{{"default":true,"changes":[{{"key":"a",{fields}}}]}}"#);
    for (path, body, code, name) in [
        (
            "/v1/topics",
            r#"{"name":"t","partitions":2,"replication_factor":1,"assignment":[[1]]}"#.to_owned(),
            400,
            "BAD_REQUEST",
        ),
        ("/v1/topics/t/partitions", r#"{"total":2}"#.into(), 404, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("/v1/topics/t/partitions", r#"{"total":-1}"#.into(), 400, "BAD_REQUEST"),
        ("/v1/partitions/elect", r#"{"election":"unclean"}"#.into(), 400, "BAD_REQUEST"),
        (
            "/v1/partitions/elect",
            r#"{"election":"unclean","all":true,"topic":"t"}"#.into(),
            400,
            "BAD_REQUEST",
        ),
        ("/v1/partitions/elect", r#"{"election":"any","all":true}"#.into(), 400, "BAD_REQUEST"),
        (
            "/v1/partitions/elect",
            r#"{"election":"preferred","topic":"t"}"#.into(),
            404,
            "UNKNOWN_TOPIC_OR_PARTITION",
        ),
        ("/v1/partitions/reassign", r#"{"version":2,"partitions":[]}"#.into(), 400, "BAD_REQUEST"),
        (
            "/v1/partitions/reassign",
            r#"{"version":1,"partitions":[]}"#.into(),
            400,
            "INVALID_REQUEST",
        ),
        (
            "/v1/partitions/reassign",
            r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1],
                "log_dirs":["/data"]}]}"#
                .into(),
            400,
            "BAD_REQUEST",
        ),
        ("/v1/partitions/cancel", r#"{"partitions":[]}"#.into(), 400, "INVALID_REQUEST"),
        ("/v1/configs", r#"{"changes":[]}"#.into(), 400, "BAD_REQUEST"),
        ("/v1/configs", r#"{"default":true,"changes":[]}"#.into(), 400, "INVALID_REQUEST"),
        ("/v1/configs", change(r#""operation":"set""#), 400, "BAD_REQUEST"),
        ("/v1/configs", change(r#""operation":"delete","value":"1""#), 400, "BAD_REQUEST"),
        ("/v1/configs", change(r#""operation":"delete""#), 400, "INVALID_CONFIG"),
        ("/v1/features", r#"{"level":99}"#.into(), 409, "INVALID_UPDATE_VERSION"),
        ("/v1/brokers/9/fence", "{}".into(), 404, "BROKER_ID_NOT_REGISTERED"),
        ("/v1/brokers/9/unregister", "{}".into(), 404, "BROKER_ID_NOT_REGISTERED"),
        ("/v1/brokers/one/fence", "{}".into(), 400, "BAD_REQUEST"),
        ("/v1/features", " ".repeat(100_000), 413, "BAD_REQUEST"),
    ] {
        let (status, error) = server.refused("POST", path, Some(&body)).await;
        assert_eq!((status, error.error.as_str()), (code, name), "{path} {body}: {error:?}");
        assert_eq!(error.outcome, FailureOutcome::Rejected, "{error:?}");
    }
    for path in [
        "/v1/configs",
        "/v1/configs?default=true&broker=1",
        "/v1/partitions/what-if",
        "/v1/partitions/what-if?kill=one",
        "/v1/partitions/explain?topic=t",
    ] {
        assert_eq!(server.refused("GET", path, None).await.0, 400, "{path}");
    }
    for path in [
        "/v1/configs?broker=9",
        "/v1/configs?topic=t",
        "/v1/topics/t",
        "/v1/partitions/what-if?kill=9",
        "/v1/partitions/explain?topic=t&partition=0",
        "/v1/partitions/history?topic=t&partition=0",
    ] {
        assert_eq!(server.refused("GET", path, None).await.0, 404, "{path}");
    }
    assert_eq!(server.quorum.image().image.topic_count(), 0);
}
