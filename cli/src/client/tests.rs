//! Tests of the client against a socket that answers by script: what is sent again, and what never.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

const SHORT: Duration = Duration::from_millis(300);

/// What the scripted node does with one connection.
enum Answer {
    /// Sends this status and body.
    Says(u16, &'static str),
    /// The same, after this time.
    SaysAfter(Duration, &'static str),
    /// Closes without a word, after it read the request.
    HangsUp,
}

/// Serves one connection for each answer, then closes the port. Returns its address, and the
/// request lines it read.
fn node(answers: Vec<Answer>) -> (HostPort, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = HostPort::from(listener.local_addr().unwrap());
    let (lines, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            let mut body_bytes = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                if let Some(length) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    body_bytes = length.trim().parse().unwrap();
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; body_bytes]).unwrap();
            lines.send(request.trim().to_owned()).unwrap();
            let said = match answer {
                Answer::Says(status, body) => Some((status, body)),
                Answer::SaysAfter(pause, body) => {
                    wait::pause(pause);
                    Some((200, body))
                }
                Answer::HangsUp => None,
            };
            if let Some((status, body)) = said {
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")
                    .unwrap();
            }
        }
    });
    (addr, seen)
}

/// An address where nobody listens.
fn nobody() -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    HostPort::from(listener.local_addr().unwrap())
}

fn seen(lines: &mpsc::Receiver<String>) -> usize {
    std::iter::from_fn(|| lines.recv_timeout(Duration::from_millis(50)).ok()).count()
}

const RETRYABLE: &str =
    r#"{"error":"NOT_LEADER","message":"no leader","retryable":true,"outcome":"never_applied"}"#;
const UNKNOWN: &str =
    r#"{"error":"TIMED_OUT","message":"too slow","retryable":false,"outcome":"unknown"}"#;
/// Contradicts itself: what is unknown is never sent again, whatever else is said.
const UNKNOWN_YET_RETRYABLE: &str =
    r#"{"error":"TIMED_OUT","message":"too slow","retryable":true,"outcome":"unknown"}"#;
const REJECTED: &str = r#"{"error":"TOPIC_ALREADY_EXISTS","message":"it exists","retryable":false,"outcome":"rejected"}"#;

const WOULD_LOSE: &str = r#"{"error":"WOULD_LOSE_QUORUM","message":"one of two answers","retryable":true,"outcome":"rejected"}"#;

#[test]
fn a_node_that_is_down_is_passed_over() {
    let (up, lines) = node(vec![Answer::Says(200, "7")]);
    let client = Client::new(vec![nobody(), up], SHORT);
    assert_eq!(client.post::<u64>("/v1/topics", &1), Ok(7));
    assert_eq!(seen(&lines), 1);
}

#[test]
fn what_was_never_applied_is_sent_again() {
    let (addr, lines) = node(vec![Answer::Says(503, RETRYABLE), Answer::Says(200, "7")]);
    assert_eq!(Client::new(vec![addr], SHORT).post::<u64>("/v1/topics", &1), Ok(7));
    assert_eq!(seen(&lines), 2);
}

#[test]
fn an_unknown_outcome_is_never_sent_again() {
    for answer in [
        Answer::Says(503, UNKNOWN),
        Answer::Says(503, UNKNOWN_YET_RETRYABLE),
        Answer::Says(500, "not json"),
        Answer::Says(200, "not json"),
        Answer::HangsUp,
    ] {
        let (addr, lines) = node(vec![answer, Answer::Says(200, "7")]);
        let outcome = Client::new(vec![addr], SHORT).post::<u64>("/v1/topics", &1);
        assert!(matches!(outcome, Err(RequestError::Unknown { .. })), "{outcome:?}");
        assert_eq!(seen(&lines), 1);
    }
}

#[test]
fn a_rejection_is_told_at_once_even_where_time_may_help() {
    let (addr, lines) = node(vec![Answer::Says(409, WOULD_LOSE), Answer::Says(200, "7")]);
    let outcome = Client::new(vec![addr], SHORT).post::<u64>("/v1/members", &1);
    assert!(matches!(outcome, Err(RequestError::Rejected { .. })), "{outcome:?}");
    assert_eq!(seen(&lines), 1);
}

#[test]
fn a_rejection_is_final_and_keeps_its_name() {
    let (addr, lines) = node(vec![Answer::Says(409, REJECTED), Answer::Says(200, "7")]);
    assert_eq!(
        Client::new(vec![addr], SHORT).post::<u64>("/v1/topics", &1),
        Err(RequestError::Rejected {
            error: "TOPIC_ALREADY_EXISTS".to_owned(),
            message: "it exists".to_owned()
        })
    );
    assert_eq!(seen(&lines), 1);
}

#[test]
fn a_read_is_sent_again_when_the_connection_breaks() {
    let (addr, lines) = node(vec![Answer::HangsUp, Answer::Says(200, "7")]);
    assert_eq!(Client::new(vec![addr], SHORT).get::<u64>("/v1/topics"), Ok(7));
    assert_eq!(seen(&lines), 2);
}

/// To see it fail: give every read `READ_ATTEMPT_MAX`.
#[test]
fn a_long_read_has_all_the_time_of_a_node_that_is_alive() {
    // It takes connections, for the system does, and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = (HostPort::from(mute.local_addr().unwrap()), mute);
    let slow = Answer::SaysAfter(READ_ATTEMPT_MAX + Duration::from_millis(500), "7");
    let (addr, lines) = node(vec![Answer::Says(200, "{}"), slow]);
    let client = Client::new(vec![mute.0, addr], Duration::from_secs(60));
    assert_eq!(client.get::<u64>("/v1/partitions/history?topic=t&partition=0"), Ok(7));
    assert_eq!(lines.recv().unwrap(), format!("GET {IS_SERVED} HTTP/1.1"));
    assert!(lines.recv().unwrap().starts_with("GET /v1/partitions/history"));
}

/// To see it fail: probe with `IS_ALIVE`, or with `IS_SERVED` where the read is local.
#[test]
fn a_node_that_lives_and_cannot_read_is_passed_over_unless_the_read_is_its_own() {
    let (cut_off, asked) = node(vec![Answer::Says(503, RETRYABLE)]);
    let (served, lines) = node(vec![Answer::Says(200, "{}"), Answer::Says(200, "7")]);
    let client = Client::new(vec![cut_off, served], Duration::from_secs(60));
    assert_eq!(client.get::<u64>("/v1/partitions"), Ok(7));
    assert_eq!((seen(&asked), seen(&lines)), (1, 2));

    let (cut_off, lines) = node(vec![Answer::Says(503, "{}"), Answer::Says(200, "7")]);
    let client = Client::new(vec![cut_off, nobody()], Duration::from_secs(60));
    assert_eq!(client.get::<u64>("/v1/partitions?local=true"), Ok(7));
    assert_eq!(lines.recv().unwrap(), format!("GET {IS_ALIVE} HTTP/1.1"));
}

#[test]
fn nobody_there_ends_with_the_timeout_and_says_so() {
    let outcome = Client::new(vec![nobody()], SHORT).get::<u64>("/status");
    let Err(RequestError::Unavailable { message, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("nobody listens there"), "{message}");
}

#[test]
fn a_topic_name_cannot_leave_its_segment() {
    assert_eq!(path_segment("orders-1_a"), "orders-1_a");
    assert_eq!(path_segment("a/b?c#d e.."), "a%2Fb%3Fc%23d%20e%2E%2E");
}
