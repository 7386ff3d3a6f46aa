//! [`Ledger`]: what all clients were told, held against what the nodes have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::load::{LEDGER, Line};
use crate::process::Failure;

/// What all clients were told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// When each topic was first asked for, by its name.
    pub(crate) asked: BTreeMap<String, Duration>,
    /// What was acknowledged, by the topics' names.
    pub(crate) acknowledged: BTreeMap<String, Acknowledged>,
    /// How long processes took from their start to the first acknowledgement of their own clients.
    pub(crate) starts: Vec<Duration>,
}

/// An acknowledgement.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    /// The topic's id.
    pub(crate) id: String,
    pub(crate) at: Duration,
}

impl Ledger {
    /// Reads what all clients have written down in a directory.
    pub(crate) fn read(dir: &Path) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::default();
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == LEDGER) {
                ledger.take_all(&std::fs::read_to_string(path)?)?;
            }
        }
        Ok(ledger)
    }

    /// Takes what one process wrote.
    fn take_all(&mut self, text: &str) -> Result<(), Failure> {
        let mut begun = None;
        // A line without an end was cut off with its process.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match serde_json::from_str(line)? {
                Line::Begun { at } => begun = Some(at),
                Line::Asked { name, at } => {
                    self.asked.entry(name).or_insert(at);
                }
                Line::Acknowledged { name, id, at } => {
                    self.starts.extend(begun.take().map(|begun| at.saturating_sub(begun)));
                    if self.acknowledged.insert(name.clone(), Acknowledged { id, at }).is_some() {
                        return Err(format!("topic {name} was acknowledged twice").into());
                    }
                }
                Line::Failed { name, why } => return Err(format!("topic {name}: {why}").into()),
            }
        }
        Ok(())
    }

    /// When something was acknowledged, in order.
    pub(crate) fn acknowledged_at(&self) -> BTreeSet<Duration> {
        self.acknowledged.values().map(|acknowledged| acknowledged.at).collect()
    }

    /// Topics of which nobody was told whether they were created.
    pub(crate) fn unknown(&self) -> usize {
        self.asked.len() - self.acknowledged.len()
    }

    /// Holds the topics of a node, each a name and an id, against what clients were told.
    pub(crate) fn compare(&self, node: u64, topics: &[(String, String)]) -> Findings {
        let mut findings = Findings::default();
        let (mut there, mut ids) = (BTreeMap::new(), BTreeSet::new());
        for (name, id) in topics {
            // Both, for the same wish may have been carried out under two ids.
            let named_twice = there.insert(name, id).is_some();
            if !ids.insert(id) || named_twice {
                findings.duplicated.push(format!("topic {name}, {id}, is twice on node {node}"));
            }
            if !self.asked.contains_key(name) {
                let stranger = format!("nobody asked for topic {name} of node {node}");
                findings.strangers.push(stranger);
            }
        }
        for (name, Acknowledged { id, .. }) in &self.acknowledged {
            if there.get(name) != Some(&id) {
                let lost = format!("topic {name}, acknowledged as {id}, is not on node {node}");
                findings.lost.push(lost);
            }
        }
        findings
    }
}

/// What must not be, a sentence each.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) lost: Vec<String>,
    pub(crate) duplicated: Vec<String>,
    pub(crate) strangers: Vec<String>,
}

impl Findings {
    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.lost.iter().chain(&self.duplicated).chain(&self.strangers)
    }

    /// Those of another node too.
    pub(crate) fn add(&mut self, other: Findings) {
        self.lost.extend(other.lost);
        self.duplicated.extend(other.duplicated);
        self.strangers.extend(other.strangers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect()
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let text = [
            r#"{"Begun":{"at":{"secs":1,"nanos":0}}}"#,
            r#"{"Asked":{"name":"a","at":{"secs":2,"nanos":0}}}"#,
            r#"{"Acknowledged":{"name":"a","id":"1","at":{"secs":3,"nanos":0}}}"#,
            r#"{"Asked":{"name":"b","at":{"secs":4,"nanos":0}}}"#,
            r#"{"Acknowledged":{"name":"b","id":"2","at":{"secs":5,"nanos":0}}}"#,
            r#"{"Asked":{"name":"c","at":{"secs":6,"nanos":0}}}"#,
            r#"{"Acknowledged":{"name":"c","id":"#,
        ];
        ledger.take_all(&text.join("\n")).unwrap();
        ledger
    }

    #[test]
    fn a_ledger_is_read_up_to_the_line_that_was_cut_off() {
        let ledger = ledger();
        assert_eq!((ledger.acknowledged.len(), ledger.unknown()), (2, 1));
        assert_eq!(ledger.starts, [Duration::from_secs(2)]);
        assert_eq!(ledger.acknowledged_at(), [3, 5].map(Duration::from_secs).into());
    }

    #[test]
    fn what_is_lost_or_twice_or_of_nobody_is_named() {
        let ledger = ledger();
        for there in [&[("a", "1"), ("b", "2")][..], &[("a", "1"), ("b", "2"), ("c", "3")]] {
            assert_eq!(ledger.compare(1, &pairs(there)).all().next(), None);
        }
        for (there, why) in [
            (&[("a", "1")][..], "topic b, acknowledged as 2, is not on node 1"),
            (&[("a", "1"), ("b", "9")], "topic b, acknowledged as 2, is not on node 1"),
            (&[("a", "1"), ("b", "2"), ("d", "4")], "nobody asked for topic d of node 1"),
            (&[("a", "1"), ("b", "2"), ("b", "2")], "topic b, 2, is twice on node 1"),
            (&[("a", "1"), ("b", "2"), ("c", "2")], "topic c, 2, is twice on node 1"),
        ] {
            let findings = ledger.compare(1, &pairs(there));
            assert_eq!(findings.all().collect::<Vec<_>>(), [why]);
        }
    }

    #[test]
    fn what_should_never_have_been_said_is_an_error() {
        for (line, why) in [
            (r#"{"Failed":{"name":"d","why":"no"}}"#, "topic d: no"),
            (
                r#"{"Acknowledged":{"name":"a","id":"1","at":{"secs":9,"nanos":0}}}"#,
                "topic a was acknowledged twice",
            ),
        ] {
            assert_eq!(ledger().take_all(&format!("{line}\n")).unwrap_err().to_string(), why);
        }
    }
}
