//! `quorate demo` as a newcomer runs it, and as somebody ends it.

#![cfg(target_os = "linux")]
// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::path::Path;
use std::process::{Child, Stdio};

use cluster::{json_of, program, signal, until};
use rustix::process::Signal;

/// The processes whose command line names something in `dir`.
fn processes_of(dir: &Path) -> Vec<u32> {
    let needle = dir.to_str().unwrap();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(needle)
        })
        .collect()
}

fn start(dir: &Path) -> Child {
    program()
        .args(["demo", "--output", "json"])
        .env("TMPDIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[track_caller]
fn assert_nothing_is_left(dir: &Path) {
    until("no process of the demo is left", || processes_of(dir).is_empty().then_some(()));
    until("no file of the demo is left", || {
        std::fs::read_dir(dir).unwrap().next().is_none().then_some(())
    });
}

/// Waits until the demo has its three nodes and the sweeper.
fn until_it_runs(dir: &Path) {
    until("the demo runs its nodes", || (processes_of(dir).len() >= 4).then_some(()));
}

#[test]
fn the_demo_loses_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = start(dir.path()).wait_with_output().unwrap();
    // At once: whoever waits for the demo finds nothing left.
    assert_eq!(processes_of(dir.path()), [0; 0]);
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(output.stderr, b"");
    let summary = json_of(&output);
    for (field, expected) in [("ok", true), ("isr_recovered", true)] {
        assert_eq!(summary[field], expected, "{summary}");
    }
    for field in ["lost", "duplicated"] {
        assert_eq!(summary[field], 0, "{summary}");
    }
    assert!(summary["acknowledged"].as_u64().unwrap() >= 200, "{summary}");
    assert!(summary["unknown"].is_u64(), "{summary}");
    for field in ["failover_ms", "restart_ms"] {
        assert!(summary[field].as_u64().unwrap() > 0, "{summary}");
    }
    assert!(summary["duration_ms"].as_u64().unwrap() < 60_000, "{summary}");
}

#[test]
fn a_demo_that_is_killed_takes_its_nodes_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = start(dir.path());
    until_it_runs(dir.path());
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_demo_that_is_interrupted_says_so_and_leaves_nothing() {
    for which in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let demo = start(dir.path());
        until_it_runs(dir.path());
        signal(demo.id(), which);
        let output = demo.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(processes_of(dir.path()), [0; 0]);
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        let summary = json_of(&output);
        assert_eq!(summary["ok"], false);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("interrupted"), "{said}");
    }
}
