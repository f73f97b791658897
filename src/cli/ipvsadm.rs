//! `softlvs ipvsadm`, and what is called through links named ipvsadm, ipvsadm-save and ipvsadm-restore.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::{self, Kind};
use super::error::Failure;
use crate::ipvsadm::{Command, HELP, VERSION, parse};

/// The words for `ipvsadm` when the program was called by such a name.
pub fn by_name(line: &[OsString]) -> Option<Vec<String>> {
    let name = line.first().map(std::path::Path::new)?.file_name()?.to_str()?.to_owned();
    let rest = line[1..].iter().map(|w| w.to_string_lossy().into_owned());
    let first = match name.as_str() {
        "ipvsadm" => None,
        "ipvsadm-save" => Some("-S"),
        "ipvsadm-restore" => Some("-R"),
        _ => return None,
    };
    Some(first.map(str::to_owned).into_iter().chain(rest).collect())
}

/// Runs a command line as ipvsadm would.
pub fn run(words: &[String]) -> ExitCode {
    match call(words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let text = failure.messages().join("\n");
            complain(&format!("{}\n", text.trim_start_matches("error: ")));
            ExitCode::from(1)
        }
    }
}

fn call(words: &[String]) -> Result<u8, Failure> {
    let parsed = parse(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let mut stdin = String::new();
    match parsed {
        // these need nobody
        Ok(Command::Help) => return super::print(HELP).map(|()| 0),
        Ok(Command::Version) => return super::print(VERSION).map(|()| 0),
        Ok(Command::Restore) => {
            let read = std::io::stdin().read_to_string(&mut stdin);
            read.map_err(|e| Failure::run("cannot read standard input", e.to_string(), ""))?;
        }
        _ => {}
    }
    let mut director = match client::connect(None) {
        Ok(director) => director,
        Err(e) => {
            let why = Failure::from(e);
            let why = why.messages().join("\n");
            complain(&format!(
                "Can't initialize ipvs: {}\nAre you sure that softlvs is running?\n",
                why.trim_start_matches("error: ")
            ));
            return Ok(2);
        }
    };
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    let body = json!({
        "args": words,
        "stdin": stdin,
        "hosts": file("/etc/hosts"),
        "services": file("/etc/services"),
    });
    let answer = director.send("POST", "/v1/ipvsadm", Kind::Json, body.to_string())?;
    for piece in answer["stdout"].as_array().into_iter().flatten() {
        match piece["text"].as_str() {
            Some(text) => super::print(text)?,
            None => {
                let how = &piece["connections"];
                let flag = |name: &str| if how[name] == Value::Bool(true) { 1 } else { 0 };
                director.copy(&format!(
                    "/v1/connections?format=ipvsadm&numeric={}&persistence={}",
                    flag("numeric"),
                    flag("persistence")
                ))?;
            }
        }
    }
    complain(answer["stderr"].as_str().unwrap_or_default());
    Ok(answer["status"].as_u64().and_then(|n| u8::try_from(n).ok()).unwrap_or(1))
}

fn complain(text: &str) {
    // nobody is left to be told when standard error is gone
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
