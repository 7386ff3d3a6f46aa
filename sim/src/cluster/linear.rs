//! [`Linear`]: whether what everybody is told could have come about one after the other.
//!
//! The log is the order in which everything takes place, and every answer names its index: a write the one
//! that it has, a read the last one that it sees. So there is one order that could explain the answers, by
//! index, a read behind the write that it sees; and it must not contradict the clock: whoever asks when
//! another has been told is behind that other. It is enough to remember the highest index that anybody was
//! told of. (Herlihy and Wing, *Linearizability*, 1990; with a witness the search is not needed.)

/// What anybody was told of so far.
#[derive(Debug, Default)]
pub(super) struct Linear {
    highest: u64,
}

/// What a write or a read asked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor(u64);

impl Linear {
    /// Somebody asks now.
    pub(super) fn asked(&self) -> Floor {
        Floor(self.highest)
    }

    /// Whoever asked then is told of `index` now. False when that contradicts what others were told before
    /// it asked.
    pub(super) fn told(&mut self, floor: Floor, index: u64, is_read: bool) -> bool {
        self.highest = self.highest.max(index);
        if is_read { index >= floor.0 } else { index > floor.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// An operation: when it was asked for and answered, and what it was told.
    #[derive(Debug, Clone, Copy)]
    struct Operation {
        asked: u64,
        told: u64,
        index: u64,
        is_read: bool,
    }

    /// Wing and Gong's search, of the definition: is there any order of the operations that no clock
    /// contradicts, and in which each is told what the log then says? A write has a later index than all
    /// before it (others write, too), and a read sees what is there, or what others have written since.
    fn search(last: u64, left: &[Operation]) -> bool {
        left.is_empty()
            || left.iter().enumerate().any(|(at, next)| {
                let is_first = left.iter().all(|other| other.told >= next.asked);
                let is_so = if next.is_read { next.index >= last } else { next.index > last };
                let rest: Vec<_> = [&left[..at], &left[at + 1..]].concat();
                is_first && is_so && search(next.index, &rest)
            })
    }

    fn check(history: &[Operation]) -> bool {
        let mut moments: Vec<(u64, bool, usize)> = history
            .iter()
            .enumerate()
            .flat_map(|(n, operation)| [(operation.asked, false, n), (operation.told, true, n)])
            .collect();
        moments.sort_unstable();
        let (mut linear, mut floors) = (Linear::default(), vec![Floor(0); history.len()]);
        moments.into_iter().fold(true, |holds, (_, is_answer, n)| {
            let Operation { index, is_read, .. } = history[n];
            match is_answer {
                true => linear.told(floors[n], index, is_read) && holds,
                false => {
                    floors[n] = linear.asked();
                    holds
                }
            }
        })
    }

    /// Histories of up to seven operations, half of them with an index that was tampered with.
    #[test]
    fn it_says_what_a_search_over_all_orders_says() {
        let mut counts = [0; 2];
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let (mut clock, mut log) = (0, 0);
            let mut history = Vec::new();
            for _ in 0..=random.below(7) {
                clock += random.below(4);
                // It takes place somewhere between: here, when it is asked for, or before, if it is wrong.
                let is_read = random.chance(40);
                log += if is_read { 0 } else { 1 + random.below(2) };
                let asked = clock * 2 + 1;
                let told = asked + 1 + 2 * random.below(8);
                history.push(Operation { asked, told, index: log, is_read });
            }
            if random.chance(50) {
                let at = random.below(history.len() as u64) as usize;
                let index = random.below(log + 2);
                let is_taken = history.iter().any(|other| !other.is_read && other.index == index);
                if history[at].is_read || !is_taken {
                    history[at].index = index;
                }
            }
            let holds = search(0, &history);
            assert_eq!(check(&history), holds, "seed {seed}: {history:#?}");
            counts[usize::from(holds)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 2_000), "{counts:?}");
    }
}
