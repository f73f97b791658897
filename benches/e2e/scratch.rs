//! Files that are needed for a moment. They lie on the program's own /run, which nobody else sees and
//! which is gone with it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const PLACE: &str = "/run/softlvs-e2e";

/// Makes the place; called once, after the program got its own /run.
pub fn prepare() -> std::io::Result<()> {
    std::fs::create_dir_all(PLACE)
}

/// A path that nothing else has.
pub fn file(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = name.rsplit('/').next().unwrap_or(name);
    PathBuf::from(PLACE).join(format!("{n}-{name}"))
}

/// An empty folder.
pub fn folder(name: &str) -> std::io::Result<PathBuf> {
    let path = file(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}
