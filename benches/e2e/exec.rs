//! Other programs: started inside a namespace, with a time limit, and never left behind.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use softlvs::io::sys::ns::NetNs;

use crate::scratch;

/// Where a program is, `/usr/sbin` included.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// A running program; killed when dropped, and by the kernel when the thread that started it ends.
pub struct Running {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts `line[0]` with its arguments.
    pub fn start(ns: &NetNs, line: &[&str]) -> io::Result<Running> {
        let program = find(line[0]).unwrap_or_else(|| line[0].into());
        let mut command = Command::new(program);
        command.args(&line[1..]);
        Running::spawn(ns, line[0], command)
    }

    /// Starts a prepared command; its output goes to a file of its own.
    pub fn spawn(ns: &NetNs, name: &str, mut command: Command) -> io::Result<Running> {
        let output = scratch::file(name);
        let file = File::create(&output)?;
        command.stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file)).process_group(0);
        // a program that ends with its input gets one that lasts as long as it
        command.stdin(Stdio::piped());
        ns.confine(&mut command)?;
        let child = command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
        Ok(Running { name: name.into(), child, output })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed so far.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits for its end; an error when it takes longer than `limit` or does not end well.
    pub fn finish(mut self, limit: Duration) -> io::Result<String> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let text = self.text();
                return if status.success() {
                    Ok(text)
                } else {
                    Err(io::Error::other(format!("{}: {status}: {}", self.name, last_line(&text))))
                };
            }
            if Instant::now() >= end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{}: no end after {} s", self.name, limit.as_secs()),
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.output);
    }
}

/// Runs a program to its end.
pub fn run(ns: &NetNs, line: &[&str], limit: Duration) -> io::Result<String> {
    Running::start(ns, line)?.finish(limit)
}

/// Has `nft` read a script.
pub fn nft(ns: &NetNs, script: &str) -> io::Result<()> {
    let file = scratch::file("nft");
    std::fs::write(&file, script)?;
    let done = run(ns, &["nft", "-f", &file.to_string_lossy()], Duration::from_secs(5)).map(drop);
    let _ = std::fs::remove_file(&file);
    done
}

/// First line of what a program says about its version.
pub fn version(program: &Path, flag: &str) -> Option<String> {
    let out = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = if out.stdout.is_empty() { out.stderr } else { out.stdout };
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

/// The last line that says something.
pub fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim()
}

/// Asks until the answer is yes.
pub fn wait_for(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) -> io::Result<()> {
    let end = Instant::now() + limit;
    while !ask() {
        if Instant::now() >= end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {limit:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
