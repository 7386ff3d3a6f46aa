//! [`Calls`]: requests of the application that wait for their answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::NodeId;
use tokio::sync::oneshot;

use crate::error::CallError;

/// The open calls of this node.
///
/// Bounded by the callers: each open call is a waiting task of theirs.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: std::sync::Mutex<HashMap<u64, (NodeId, oneshot::Sender<Bytes>)>>,
    next: AtomicU64,
    timeout: Duration,
}

/// A call that was registered; dropping it forgets it.
pub(crate) struct Call {
    calls: Calls,
    request: u64,
    to: NodeId,
    answer: Option<oneshot::Receiver<Bytes>>,
}

impl Calls {
    /// `first` must differ between two runs of the same node, so that an answer to an earlier
    /// run's call is not taken for one of this.
    pub(crate) fn new(first: u64, timeout: Duration) -> Calls {
        let (open, next) = (std::sync::Mutex::default(), AtomicU64::new(first));
        Calls(Arc::new(Inner { open, next, timeout }))
    }

    /// Opens a call before its request is sent, so that no answer can come too early (trap I17).
    pub(crate) fn register(&self, to: NodeId) -> Call {
        let request = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.lock().insert(request, (to, sender));
        Call { calls: self.clone(), request, to, answer: Some(answer) }
    }

    /// Takes an answer in. One that nobody waits for, or from another node, is dropped.
    pub(crate) fn answered(&self, from: NodeId, request: u64, payload: Bytes) {
        let mut open = self.lock();
        if open.get(&request).is_some_and(|(to, _)| *to == from)
            && let Some((_, caller)) = open.remove(&request)
        {
            // The caller may have gone; then nobody wants the answer.
            let _ = caller.send(payload);
        }
    }

    /// The connection to `node` broke: its open calls end with an unknown outcome.
    pub(crate) fn disconnected(&self, node: NodeId) {
        self.lock().retain(|_, (to, _)| *to != node);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (NodeId, oneshot::Sender<Bytes>)>> {
        // Nothing in the critical sections can panic half way.
        self.0.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Call {
    /// The number that the request carries.
    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    /// Waits for the answer.
    pub(crate) async fn answer(mut self) -> Result<Bytes, CallError> {
        let lost = CallError::Lost(self.to);
        let Some(answer) = self.answer.take() else { return Err(lost) };
        match tokio::time::timeout(self.calls.0.timeout, answer).await {
            Ok(Ok(payload)) => Ok(payload),
            Ok(Err(_)) | Err(_) => Err(lost),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.request);
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use super::*;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[tokio::test]
    async fn trap_I17_an_answer_before_the_wait_is_not_lost() {
        let calls = Calls::new(1, Duration::from_secs(60));
        let call = calls.register(node(2));
        calls.answered(node(3), call.request(), Bytes::from_static(b"forged"));
        calls.answered(node(2), call.request(), Bytes::from_static(b"early"));
        assert_eq!(call.answer().await, Ok(Bytes::from_static(b"early")));
        assert!(calls.lock().is_empty());
    }

    #[tokio::test]
    async fn a_broken_connection_ends_its_calls_and_no_others() {
        let calls = Calls::new(1, Duration::from_secs(60));
        let (two, three) = (calls.register(node(2)), calls.register(node(3)));
        calls.disconnected(node(2));
        assert_eq!(two.answer().await, Err(CallError::Lost(node(2))));
        calls.answered(node(3), three.request(), Bytes::new());
        assert_eq!(three.answer().await, Ok(Bytes::new()));
    }
}
