//! [`Spread`]: the median of a few figures, and how far they lie apart.

/// The quartiles of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// A quarter of them lies below.
    pub(crate) q1: f64,
    /// Half of them lies below.
    pub(crate) median: f64,
    /// Three quarters of them lie below.
    pub(crate) q3: f64,
}

impl Spread {
    /// Of these figures; `None` when there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // The median of two is between them: few rounds would else lean to one side.
        let at = |quarters: usize| {
            let (whole, rest) = (last * quarters / 4, last * quarters % 4);
            let next = sorted[(whole + 1).min(last)];
            sorted[whole] + (next - sorted[whole]) * rest as f64 / 4.0
        };
        Some(Spread { q1: at(1), median: at(2), q3: at(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_figures_where_they_must() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some(Spread { q1: 7.0, median: 7.0, q3: 7.0 }));
        assert_eq!(of(&[4.0, 2.0]), Some(Spread { q1: 2.5, median: 3.0, q3: 3.5 }));
        let five = of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(five, Some(Spread { q1: 2.0, median: 3.0, q3: 4.0 }));
    }
}
