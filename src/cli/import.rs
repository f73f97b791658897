//! `softlvs import FILE`, and what `--keepalived FILE` reads.

use std::path::Path;

use super::args::ImportArgs;
use super::error::{Failure, complain};
use super::include::Disk;
use super::mean::read_file;
use super::print;
use crate::config;
use crate::import::{self, Imported};

/// Reads a file of another program; what has no counterpart is said on standard error. Lines of keepalived for
/// one instance only (`@id`) count when it is `instance`, or else the host's name.
///
/// # Errors
/// It cannot be read (exit 1), or nothing in it can be used (exit 2): a director does not drop everything it
/// serves for a file that is broken.
pub fn read(path: &Path, instance: Option<&str>) -> Result<Imported, Failure> {
    let (name, text) = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::stdin(), &mut text)
            .map_err(|e| Failure::run("cannot read standard input", e.to_string(), ""))?;
        ("standard input".to_owned(), text)
    } else {
        (path.display().to_string(), read_file(path)?)
    };
    let imported = if import::is_ipvsadm(&text) {
        import::from_ipvsadm(&text, &name)
    } else {
        import::from_keepalived(&text, &name, &mut Disk::new(instance))
    };
    for note in &imported.notes {
        complain(&format!("warning: {note}"));
    }
    if imported.services == 0 {
        return Err(Failure::wrong(
            name,
            "there is no virtual server in it",
            "give a keepalived.conf, or what `ipvsadm -S -n` prints",
        ));
    }
    Ok(imported)
}

/// Converts a file.
///
/// # Errors
/// As [`read`], or what came out would be refused (exit 2).
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    let imported = read(&args.file, args.config_id.as_deref())?;
    let text = format!(
        "# Converted by softlvs from {}\n{}{}",
        args.file.display().to_string().replace(char::is_control, "?"),
        imported.port,
        imported.text
    );
    print(&text)?;
    let plan = config::check(&text, "the converted file").map_err(|all| Failure::config(&all))?;
    for warning in &plan.warnings {
        complain(&warning.to_string());
    }
    Ok(())
}
