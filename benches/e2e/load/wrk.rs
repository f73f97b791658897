//! Reads what wrk prints.

/// A run of wrk.
#[derive(Debug, PartialEq)]
pub struct Wrk {
    /// Requests a second.
    pub rate: f64,
    pub requests: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    pub failed: f64,
}

/// What it printed; `None` when it did not get so far.
pub fn read(text: &str) -> Option<Wrk> {
    let after = |key: &str| {
        let line = text.lines().map(str::trim).find(|l| l.starts_with(key))?;
        line[key.len()..].split_whitespace().next()
    };
    let requests =
        text.lines().find(|l| l.contains(" requests in "))?.split_whitespace().next()?.parse().ok()?;
    let mut failed: f64 = after("Non-2xx or 3xx responses:").and_then(|w| w.parse().ok()).unwrap_or(0.0);
    if let Some(line) = text.lines().find(|l| l.contains("Socket errors:")) {
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse::<f64>().ok());
        failed += numbers.sum::<f64>();
    }
    Some(Wrk {
        rate: after("Requests/sec:")?.parse().ok()?,
        requests,
        p50: microseconds(after("50%")?)?,
        p99: microseconds(after("99%")?)?,
        failed,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(value * unit)
}
