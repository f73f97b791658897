//! `softlvs check FILE`

use std::io::Read as _;

use super::args::CheckArgs;
use super::error::{Failure, complain};
use super::mean::read_file;
use super::print;
use crate::config;
use crate::serve::entry::Entry;
use crate::serve::running::count;

/// Validates a file, or prints the schema.
///
/// # Errors
/// Everything that is wrong with the file or with those that it names for `http` (exit 2), or that it cannot be
/// read (exit 1).
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let Some(path) = args.file.as_ref().filter(|_| !args.schema) else {
        let text = serde_json::to_string_pretty(&config::schema::schema());
        return print(
            &(text.map_err(|e| Failure::run("cannot write the schema", e.to_string(), ""))? + "\n"),
        );
    };
    let (name, text) = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| Failure::run("cannot read standard input", e.to_string(), ""))?;
        ("standard input".to_owned(), text)
    } else {
        (path.display().to_string(), read_file(path)?)
    };
    let plan = config::check(&text, &name).map_err(|all| Failure::config(&all))?;
    for warning in &plan.warnings {
        complain(&warning.to_string());
    }
    if let Some(http) = &plan.http {
        Entry::open(http.clone())?;
    }
    let servers: usize = plan.services.iter().map(|(_, reals)| reals.len()).sum();
    print(&format!(
        "{name}: ok: {}, {}, {}\n",
        count(plan.ports.len(), "port"),
        count(plan.services.len(), "service"),
        count(servers, "real server")
    ))
}
