//! Commands that ask a running director: status, apply, save, api.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::client::{self, Client, Kind};
use super::error::{Failure, complain};
use super::mean::read_file;
use super::print;
use crate::serve::http::openapi_document;

/// Which director.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Path of the director's control socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<String>,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Options of `apply`.
#[derive(Args, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    which: Which,
    /// Configuration file
    file: std::path::PathBuf,
    /// Only print what would change
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Options of `save`.
#[derive(Args, Debug)]
pub struct SaveArgs {
    #[command(flatten)]
    which: Which,
    /// A configuration file, or lines for `ipvsadm -R` (thresholds included)
    #[arg(long, value_name = "FORMAT", value_parser = ["toml", "ipvsadm"], default_value = "toml")]
    format: String,
}

/// Options of `api`.
#[derive(Args, Debug)]
pub struct ApiArgs {
    #[command(flatten)]
    which: Which,
    /// Print the OpenAPI document; needs no director
    #[arg(long, conflicts_with = "path")]
    openapi: bool,
    /// What to ask for, such as /v1/status
    #[arg(required_unless_present = "openapi")]
    path: Option<String>,
}

/// `softlvs status`
///
/// # Errors
/// There is no director.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let mut director = client::connect(args.which.control.as_deref())?;
    let look = look(&mut director)?;
    match args.output {
        Output::Json => print(&format!("{look}\n")),
        Output::Text => print(&table(&look, false)),
    }
}

/// `softlvs apply`
///
/// # Errors
/// The file is refused (exit 2) with what runs left as it is, or there is no director (exit 1).
pub fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let text = read_file(&args.file)?;
    // refused here, the messages name the file and show the line
    let name = args.file.display().to_string();
    crate::config::check(&text, &name).map_err(|all| Failure::config(&all))?;
    let mut director = client::connect(args.which.control.as_deref())?;
    let path = if args.dry_run { "/v1/config?dry_run=1" } else { "/v1/config" };
    let answer = director.send("POST", path, Kind::Toml, text)?;
    if args.output == Output::Json {
        return print(&format!("{answer}\n"));
    }
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        complain(warning);
    }
    let mut out = String::new();
    for line in answer["difference"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out.push_str(line);
        out.push('\n');
    }
    out.push_str(match (out.is_empty(), args.dry_run) {
        (true, _) => "nothing to change\n",
        (false, true) => "would change what is listed\n",
        (false, false) => "applied\n",
    });
    print(&out)
}

/// `softlvs save`
///
/// # Errors
/// There is no director.
pub fn save(args: &SaveArgs) -> Result<(), Failure> {
    let mut director = client::connect(args.which.control.as_deref())?;
    director.copy(&format!("/v1/config?format={}", args.format))
}

/// `softlvs api`
///
/// # Errors
/// There is no director, or it refuses.
pub fn api(args: &ApiArgs) -> Result<(), Failure> {
    let Some(path) = args.path.as_ref().filter(|_| !args.openapi) else {
        let text = serde_json::to_string_pretty(&openapi_document());
        return print(&(text.map_err(|e| Failure::run("cannot write", e.to_string(), ""))? + "\n"));
    };
    client::connect(args.which.control.as_deref())?.copy(path)
}

/// What `status` and `top` show.
///
/// # Errors
/// The director breaks off.
pub(super) fn look(director: &mut Client) -> Result<Value, Failure> {
    let mut look = director.get("/v1/status")?;
    look["service_list"] = director.get("/v1/services")?["services"].take();
    Ok(look)
}

/// What runs, as text; `live` with rates instead of sums.
pub(super) fn table(look: &Value, live: bool) -> String {
    let mut out = String::new();
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    // writing to a String cannot fail
    let _ = writeln!(
        out,
        "softlvs {}  {} worker{}  connections {} of {}  templates {}",
        look["version"].as_str().unwrap_or("?"),
        look["workers"],
        if look["workers"] == 1 { "" } else { "s" },
        look["connections"],
        look["connection_limit"],
        look["templates"],
    );
    let (packets, rates) = (&look["packets"], &look["rates"]);
    let _ = writeln!(
        out,
        "packets received {} forwarded {} dropped {}  now {}/s in {}/s out {}/s new",
        packets["received"],
        packets["forwarded"],
        packets["dropped"],
        rates["in_packets"],
        rates["out_packets"],
        rates["connections"],
    );
    let kind = if live { "rates" } else { "counters" };
    let heads = if live { ["conn/s", "pkt/s in", "pkt/s out"] } else { ["conns", "pkts in", "pkts out"] };
    let _ = writeln!(
        out,
        "\n{:<46} {:>6} {:>9} {:>9} {:>10} {:>11} {:>11}",
        "SERVICE / REAL SERVER", "WEIGHT", "ACTIVE", "INACTIVE", heads[0], heads[1], heads[2]
    );
    for s in look["service_list"].as_array().into_iter().flatten() {
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let name = word(&s["name"]);
        let title = format!(
            "{} {}{}",
            word(&s["id"]).replacen('/', " ", 1),
            word(&s["scheduler"]),
            match name.as_str() {
                "" => String::new(),
                name => format!(" ({name})"),
            }
        );
        let c = &s[kind];
        let _ = writeln!(
            out,
            "{title:<46} {:>6} {:>9} {:>9} {:>10} {:>11} {:>11}",
            "",
            "",
            "",
            number(&c["connections"]),
            number(&c["in_packets"]),
            number(&c["out_packets"])
        );
        for d in s["reals"].as_array().into_iter().flatten() {
            let state = word(&d["state"]);
            let state = if state == "up" { String::new() } else { format!(" [{state}]") };
            let title = format!("  {} {}{state}", word(&d["address"]), word(&d["mode"]));
            let c = &d[kind];
            let _ = writeln!(
                out,
                "{title:<46} {:>6} {:>9} {:>9} {:>10} {:>11} {:>11}",
                number(&d["weight"]),
                number(&d["active"]),
                number(&d["inactive"]),
                number(&c["connections"]),
                number(&c["in_packets"]),
                number(&c["out_packets"])
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_services_with_their_real_servers() {
        let look = serde_json::json!({
            "version": "0", "workers": 1, "connections": 5, "connection_limit": 9, "templates": 0,
            "packets": { "received": 1, "forwarded": 2, "dropped": 3 },
            "rates": { "connections": 1, "in_packets": 2, "out_packets": 3 },
            "service_list": [{
                "id": "tcp/192.0.2.10:80", "name": "web", "scheduler": "wlc",
                "counters": { "connections": 7, "in_packets": 8, "out_packets": 9 },
                "reals": [{ "address": "10.0.0.11:80", "mode": "nat", "state": "inhibited", "weight": 0,
                            "active": 1, "inactive": 2, "counters": {} }],
            }],
        });
        let text = table(&look, false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("1 worker  connections 5 of 9"), "{text}");
        assert!(lines[4].starts_with("tcp 192.0.2.10:80 wlc (web)"), "{text}");
        assert!(lines[5].starts_with("  10.0.0.11:80 nat [inhibited]"), "{text}");
        assert!(lines[5].trim_end().ends_with('0'), "{text}");
    }
}
