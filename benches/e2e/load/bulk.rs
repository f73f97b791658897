//! Bulk TCP by iperf3.

use std::io;
use std::time::Duration;

use super::Outcome;
use crate::exec;
use crate::net::Net;
use crate::server;

/// Client sends, `streams` at once.
pub fn iperf(net: &Net, streams: u32, seconds: f64) -> io::Result<Outcome> {
    let whole = seconds.ceil().max(1.0);
    let _server = server::iperf(net)?;
    let (target, streams, time) = (net.target.to_string(), streams.to_string(), whole.to_string());
    let line =
        ["iperf3", "-4", "-c", &target, "-P", &streams, "-t", &time, "-J", "--connect-timeout", "2000"];
    let text = exec::run(&net.client.ns, &line, Duration::from_secs_f64(whole + 8.0))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::other)?;
    let number = |side: &str, key: &str| json["end"][side][key].as_f64();
    match number("sum_received", "bits_per_second") {
        Some(rate) if rate > 0.0 => {
            let gigabytes = number("sum_received", "bytes").unwrap_or(0.0) / 1e9;
            let again = number("sum_sent", "retransmits").unwrap_or(0.0);
            // processor time is shown in ms of each GB
            Ok(Outcome::new(&[("rate", rate), ("retransmits", again)], Some((gigabytes, 1e-3))))
        }
        _ => {
            Err(io::Error::other(format!("iperf3: {}", json["error"].as_str().unwrap_or("nothing arrived"))))
        }
    }
}
