//! Configurations of keepalived that others wrote: every file that keepalived accepts is imported whole, every
//! other one as far as it goes, with a word about each thing left out. The files are not part of the project: the
//! folder is named by `SOFTLVS_KEEPALIVED`, or is `../shared/corpus/keepalived`; `INDEX.md` in it holds keepalived's
//! own verdicts (`| file | exit | ...`).
#![cfg(feature = "daemon")]

use std::path::PathBuf;

use softlvs::config::check;
use softlvs::import::{Files, from_keepalived};

struct Nothing;

impl Files for Nothing {
    fn read(&mut self, _: &str, _: &str) -> Result<Vec<(String, String)>, String> {
        Err("no files beside this one".to_owned())
    }
}

#[test]
fn what_keepalived_accepts_is_imported_whole() {
    let near = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/corpus/keepalived"));
    let folder = std::env::var_os("SOFTLVS_KEEPALIVED").map_or(near, PathBuf::from);
    let Ok(index) = std::fs::read_to_string(folder.join("INDEX.md")) else {
        println!("skipped: no corpus at {}", folder.display());
        return;
    };
    let verdict = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?.to_owned(), cells.next()?.parse::<u8>().ok()?))
    };
    let verdicts: Vec<(String, u8)> = index.lines().filter_map(verdict).collect();
    assert!(verdicts.len() >= 30, "{} verdicts", verdicts.len());
    let mut wrong = Vec::new();
    for (name, exit) in verdicts {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let i = from_keepalived(&text, &name, &mut Nothing);
        let whole = format!("{}{}", i.port, i.text);
        if let Err(all) = check(&whole, "converted") {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            wrong.push(format!("{name}: refused:\n{}\n{whole}", all.join("\n")));
        }
        let servers = text
            .lines()
            .filter(|l| {
                l.split(['#', '!']).next().unwrap_or("").split_whitespace().next() == Some("real_server")
            })
            .count();
        if i.services == 0 || i.text.matches("[[service.real]]").count() < servers.min(1) {
            wrong.push(format!("{name}: {} services of {servers} servers", i.services));
        }
        // what is about services, real servers and their checks has a counterpart
        let elsewhere = ["vrrp", "mail", "host's firewall", "nobody", "a name of the process", "mark stands"];
        let lost: Vec<String> = i
            .notes
            .iter()
            .map(ToString::to_string)
            .filter(|n| !elsewhere.iter().any(|e| n.to_lowercase().contains(e)))
            .collect();
        if exit == 0 && !lost.is_empty() {
            wrong.push(format!("{name}: {}", lost.join("\n  ")));
        }
        if exit != 0 && i.notes.is_empty() {
            println!("{name}: nothing to remark, keepalived exits with {exit}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
