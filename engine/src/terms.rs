//! The terms of a log, as runs: one element a term, so that a term is found in memory for ever.

use std::collections::VecDeque;

/// Terms from the truncated position to the last, run-length encoded.
///
/// Invariants: never empty; indexes and terms ascend strictly; the first run begins at the
/// truncated index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TermRuns {
    runs: VecDeque<Run>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First index of the run.
    first: u64,
    term: u64,
}

impl TermRuns {
    /// The terms of an empty log that is truncated at `index`.
    pub(crate) fn new(index: u64, term: u64) -> Self {
        Self { runs: VecDeque::from([Run { first: index, term }]) }
    }

    /// The term at `index`, which the caller knows to be within the log.
    pub(crate) fn term(&self, index: u64) -> u64 {
        let after = self.runs.partition_point(|run| run.first <= index);
        assert!(after > 0, "index {index} is below the truncated one");
        self.runs[after - 1].term
    }

    /// The term of the last run.
    pub(crate) fn last_term(&self) -> u64 {
        self.runs.back().expect("there is always a run").term
    }

    /// Adds `index`, which follows the last one.
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        let last = self.last_term();
        assert!(term >= last, "term {term} at index {index} follows term {last}");
        if term > last {
            self.runs.push_back(Run { first: index, term });
        }
    }

    /// Forgets `index` and all beyond. The truncated index is never among them.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        assert!(index > self.runs[0].first, "index {index} is not above the truncated one");
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
    }

    /// Makes `index` the truncated one.
    pub(crate) fn compact_to(&mut self, index: u64) {
        while self.runs.get(1).is_some_and(|run| run.first <= index) {
            self.runs.pop_front();
        }
        let first = &mut self.runs[0];
        first.first = first.first.max(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> TermRuns {
        let mut terms = TermRuns::new(10, 1);
        for (index, term) in [(11, 1), (12, 3), (13, 3), (14, 3), (15, 7)] {
            terms.push(index, term);
        }
        terms
    }

    fn all(terms: &TermRuns, from: u64, to: u64) -> Vec<u64> {
        (from..=to).map(|index| terms.term(index)).collect()
    }

    #[test]
    fn a_term_is_that_of_its_run() {
        let terms = runs();
        assert_eq!(all(&terms, 10, 15), [1, 1, 3, 3, 3, 7]);
        assert_eq!(terms.runs.len(), 3);
        assert_eq!(terms.last_term(), 7);
    }

    #[test]
    fn a_suffix_is_replaced() {
        for from in 11..=15 {
            let mut terms = runs();
            terms.truncate_from(from);
            terms.push(from, 9);
            let mut expected = all(&runs(), 10, from - 1);
            expected.push(9);
            assert_eq!(all(&terms, 10, from), expected);
        }
    }

    #[test]
    fn a_prefix_is_compacted_and_its_last_term_stays() {
        for to in 10..=15 {
            let mut terms = runs();
            terms.compact_to(to);
            assert_eq!(all(&terms, to, 15), all(&runs(), to, 15));
            assert_eq!(terms.runs[0].first, to);
        }
    }

    #[test]
    #[should_panic(expected = "follows term")]
    fn terms_never_go_back() {
        runs().push(16, 6);
    }
}
