//! The log of a node: lines on stderr, filtered by `RUST_LOG`.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Begins to log. A filter that cannot be read is replaced by the default, which says so.
pub(crate) fn start() {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (filter, fault) = match EnvFilter::try_new(&wanted) {
        Ok(filter) if !wanted.is_empty() => (filter, None),
        Ok(_) => (EnvFilter::new(DEFAULT_FILTER), None),
        Err(fault) => (EnvFilter::new(DEFAULT_FILTER), Some(fault)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // It can only fail when somebody logs already, and then there is a log.
    drop(log.try_init());
    if let Some(fault) = fault {
        tracing::warn!(%fault, "RUST_LOG cannot be read: use a filter such as info,quorate=debug");
    }
}
