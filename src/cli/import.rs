//! `softlvs import FILE`, and what `--keepalived FILE` reads.

use std::path::Path;

use super::args::ImportArgs;
use super::error::{Failure, complain};
use super::mean::read_file;
use super::print;
use crate::config;
use crate::import::{self, Files, Imported};

/// Largest file that is read.
const LARGEST: u64 = 16 << 20;

/// Includes from the disk, by `*` and `?` in the last part of the path.
struct Disk;

impl Files for Disk {
    fn read(&mut self, from: &str, pattern: &str) -> Result<Vec<(String, String)>, String> {
        let base = Path::new(from).parent().unwrap_or(Path::new(""));
        let path = base.join(pattern);
        let one = |p: &Path| {
            let size = std::fs::metadata(p).map_err(|e| e.to_string())?.len();
            if size > LARGEST {
                return Err(format!("it is larger than {} MiB", LARGEST >> 20));
            }
            let text = std::fs::read(p).map_err(|e| e.to_string())?;
            Ok((p.display().to_string(), String::from_utf8_lossy(&text).into_owned()))
        };
        let last = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !last.contains(['*', '?']) {
            return Ok(vec![one(&path)?]);
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let mut found: Vec<_> = std::fs::read_dir(dir)
            .map_err(|e| e.to_string())?
            .flatten()
            .filter(|e| matches(last.as_bytes(), e.file_name().as_encoded_bytes()))
            .map(|e| e.path())
            .filter(|p| p.is_file())
            .collect();
        found.sort();
        found.truncate(import::MAX_FILES);
        if found.is_empty() {
            Err("there is no such file".to_owned())
        } else {
            found.iter().map(|p| one(p)).collect()
        }
    }
}

/// `*` stands for any number of bytes, `?` for one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|c| *c == b'*')
}

/// Reads a file of another program; what has no counterpart is said on standard error.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Imported, Failure> {
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
        import::from_keepalived(&text, &name, &mut Disk)
    };
    for note in &imported.notes {
        complain(&format!("warning: {note}"));
    }
    Ok(imported)
}

/// Converts a file.
///
/// # Errors
/// It cannot be read (exit 1), nothing in it can be used, or what came out would be refused (exit 2).
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    let imported = read(&args.file)?;
    if imported.services == 0 {
        return Err(Failure::wrong(
            args.file.display().to_string(),
            "there is no virtual server in it",
            "give a keepalived.conf, or what `ipvsadm -S -n` prints",
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_includes() {
        for (pattern, name, fits) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
