//! [`Serving`]: how long it took until somebody was served again.

use std::time::Duration;

use crate::ledger::Ledger;

/// When changes were acknowledged, by when they were asked for.
pub(crate) struct Serving {
    /// Of each wish that was granted, in the order in which they were made: when it was made, and when
    /// the first of it and all later ones was acknowledged.
    granted: Vec<(Duration, Duration)>,
}

impl Serving {
    /// Of all that was acknowledged.
    pub(crate) fn of(ledger: &Ledger) -> Serving {
        let mut granted: Vec<(Duration, Duration)> = ledger
            .acknowledged
            .iter()
            .filter_map(|(name, acknowledged)| Some((*ledger.asked.get(name)?, acknowledged.at)))
            .collect();
        granted.sort_unstable();
        let mut first = Duration::MAX;
        for (_, at) in granted.iter_mut().rev() {
            first = first.min(*at);
            *at = first;
        }
        Serving { granted }
    }

    /// How long after `from` the first change was acknowledged that was asked for after it; `None` if
    /// none was.
    pub(crate) fn again_after(&self, from: Duration) -> Option<Duration> {
        let next = self.granted.partition_point(|(asked, _)| *asked < from);
        self.granted.get(next).map(|(_, at)| at.saturating_sub(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Acknowledged;

    #[test]
    fn who_is_served_first_need_not_have_asked_first() {
        let ms = Duration::from_millis;
        let mut ledger = Ledger::default();
        for (name, asked, at) in [("a", 5, 200), ("b", 10, 90), ("c", 20, 80), ("d", 100, 110)] {
            ledger.asked.insert(name.to_owned(), ms(asked));
            let acknowledged = Acknowledged { id: name.to_owned(), at: ms(at) };
            ledger.acknowledged.insert(name.to_owned(), acknowledged);
        }
        ledger.asked.insert("never".to_owned(), ms(6));
        let serving = Serving::of(&ledger);
        assert_eq!(serving.again_after(ms(0)), Some(ms(80)));
        assert_eq!(serving.again_after(ms(20)), Some(ms(60)));
        assert_eq!(serving.again_after(ms(21)), Some(ms(89)));
        assert_eq!(serving.again_after(ms(101)), None);
    }
}
