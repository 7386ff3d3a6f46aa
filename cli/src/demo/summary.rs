//! The outcome of the demo: the JSON line for scripts, the table for people, the exit status.

use serde::Serialize;

use super::verdict::Finding;
use crate::failure::Failure;

/// How many missing things the sentence on stderr names; JSON names them all.
const NAMED_MAX: usize = 3;

/// What came out, as the contract of `--output json` has it, and some more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Nothing is missing, and the story came to its end.
    pub(crate) ok: bool,
    /// Changes that the cluster acknowledged.
    pub(crate) acknowledged: u64,
    /// Changes with an unknown outcome: asked for once, never again.
    pub(crate) unknown: u64,
    /// Acknowledged changes that are not there.
    pub(crate) lost: u64,
    /// Changes that are there more than once.
    pub(crate) duplicated: u64,
    /// From SIGKILL of the leader until every partition had a live leader and a change was
    /// acknowledged again.
    pub(crate) failover_ms: Option<u64>,
    /// From the start of all nodes until all three knew a leader.
    pub(crate) restart_ms: Option<u64>,
    /// Every ISR was full again after the brokers came back.
    pub(crate) isr_recovered: bool,
    /// Partitions that were looked after.
    pub(crate) partitions: u64,
    /// From the return of the brokers until every ISR was full.
    pub(crate) isr_recovered_ms: Option<u64>,
    /// The whole demo.
    pub(crate) duration_ms: u64,
    /// What is missing, one sentence each.
    pub(crate) missing: Vec<String>,
}

impl Summary {
    /// Takes over what was found wrong, and decides whether the demo is a success.
    pub(crate) fn judge<'a>(&mut self, findings: impl IntoIterator<Item = &'a Finding>) {
        for finding in findings {
            match finding {
                Finding::Lost(_) => self.lost += 1,
                Finding::Duplicated(_) => self.duplicated += 1,
                _ => {}
            }
            self.missing.push(finding.to_string());
        }
        self.ok = self.missing.is_empty()
            && self.isr_recovered
            && self.failover_ms.is_some()
            && self.restart_ms.is_some();
    }

    /// The summary for people.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let isr = if self.isr_recovered { "yes, after " } else { "no " };
        vec![
            ("acknowledged", self.acknowledged.to_string()),
            ("unknown outcome", format!("{} (never retried)", self.unknown)),
            ("lost", self.lost.to_string()),
            ("duplicated", self.duplicated.to_string()),
            ("partitions", self.partitions.to_string()),
            ("failover", ms(self.failover_ms)),
            ("restart of all", ms(self.restart_ms)),
            ("ISR full again", format!("{isr}{}", ms(self.isr_recovered_ms))),
            ("result", if self.ok { "ok".to_owned() } else { "NOT OK".to_owned() }),
        ]
    }

    /// Success, or the failure that names what is missing.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        if self.ok {
            return Ok(());
        }
        let mut named: Vec<&str> =
            self.missing.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = self.missing.len().saturating_sub(NAMED_MAX);
        let and_more = format!("and {more} more (--output json names them all)");
        if more > 0 {
            named.push(&and_more);
        }
        Err(Failure::Failed(format!("the demo failed: {}", named.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Summary {
        Summary {
            failover_ms: Some(1),
            restart_ms: Some(1),
            isr_recovered: true,
            ..Summary::default()
        }
    }

    #[test]
    fn a_story_that_came_to_its_end_without_a_finding_is_ok() {
        let mut summary = told();
        summary.judge([]);
        assert!(summary.ok);
        assert_eq!(summary.verdict(), Ok(()));
    }

    #[test]
    fn an_unfinished_story_is_never_ok() {
        for change in [
            |s: &mut Summary| s.failover_ms = None,
            |s: &mut Summary| s.restart_ms = None,
            |s: &mut Summary| s.isr_recovered = false,
        ] {
            let mut summary = told();
            change(&mut summary);
            summary.judge([]);
            assert!(!summary.ok);
            assert!(summary.verdict().is_err());
        }
    }

    #[test]
    fn findings_are_counted_and_named() {
        let mut summary = told();
        summary.judge(&[
            Finding::Lost("topic a".to_owned()),
            Finding::Lost("topic b".to_owned()),
            Finding::Duplicated("topic c".to_owned()),
            Finding::Unasked("topic d".to_owned()),
        ]);
        assert_eq!((summary.ok, summary.lost, summary.duplicated), (false, 2, 1));
        let Err(Failure::Failed(sentence)) = summary.verdict() else { panic!() };
        assert!(sentence.contains("lost: topic a; lost: topic b; duplicated: topic c; and 1 more"));
    }

    #[test]
    fn the_json_has_the_fields_that_scripts_rely_on() {
        let json = serde_json::to_value(told()).unwrap();
        for field in [
            "ok",
            "acknowledged",
            "unknown",
            "lost",
            "duplicated",
            "failover_ms",
            "restart_ms",
            "isr_recovered",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
