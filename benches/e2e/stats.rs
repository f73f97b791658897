//! Medians, spreads and paired ratios.

use std::collections::BTreeMap;

/// What a series of values looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub n: usize,
}

impl Summary {
    /// None for no values. Values that are no numbers are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut v: Vec<f64> = values.into_iter().filter(|x| x.is_finite()).collect();
        v.sort_by(f64::total_cmp);
        let (min, max) = (*v.first()?, *v.last()?);
        let mid = v.len() / 2;
        let median = if v.len() % 2 == 1 { v[mid] } else { (v[mid - 1] + v[mid]) / 2.0 };
        Some(Summary { median, min, max, n: v.len() })
    }

    /// Distance from lowest to highest, as a share of the median.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / self.median.abs() }
    }
}

/// Values of one series by round.
pub type Series = BTreeMap<u32, f64>;

/// `f(a, b)` of each round that both series have: what drifts slowly falls out.
pub fn paired(a: &Series, b: &Series, f: impl Fn(f64, f64) -> f64) -> Option<Summary> {
    Summary::of(a.iter().filter_map(|(round, x)| Some(f(*x, *b.get(round)?))))
}

/// Ratios of each round.
pub fn ratios(a: &Series, b: &Series) -> Option<Summary> {
    paired(a, b, |x, y| x / y)
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}
