//! The director of the lab: this program, started in its namespace with a configuration file as a user
//! would start it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::io::sys::ns::NetNs;

/// A running director.
#[derive(Debug)]
pub struct Director {
    child: Child,
    log: File,
    ended: Option<ExitStatus>,
}

impl Director {
    /// Starts `program run` in `ns` with this configuration; `control` is its control socket.
    ///
    /// The kernel kills it when the calling *thread* ends.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(ns: &NetNs, program: &Path, toml: &str, control: &Path) -> io::Result<Director> {
        let mut config = File::from(memfd_create("softlvs.toml", MFdFlags::MFD_CLOEXEC)?);
        config.write_all(toml.as_bytes())?;
        let log = File::from(memfd_create("softlvs.log", MFdFlags::MFD_CLOEXEC)?);
        let mut command = Command::new(program);
        command
            .args(["run", "--config", "/proc/self/fd/0"])
            .env("SOFTLVS_CONTROL", control)
            .env_remove("SOFTLVS_CONFIG")
            // Ctrl-C in the lab's shell is not meant for it.
            .process_group(0)
            .stdin(Stdio::from(config))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log.try_clone()?));
        ns.confine(&mut command)?;
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start the director {}: {e}", program.display()))
        })?;
        Ok(Director { child, log, ended: None })
    }

    /// True while it runs.
    pub fn alive(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        // Read at positions of our own: the writers share the file's one position.
        let mut text = vec![0; self.log.metadata().map_or(0, |m| m.len() as usize)];
        match self.log.read_exact_at(&mut text, 0) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(e) => format!("(its log cannot be read: {e})"),
        }
    }

    /// Asks it to stop and waits; kills it after `patience`. True when it ended well and by itself.
    pub fn stop(&mut self, patience: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        if self.alive() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        }
        while self.alive() && waited < patience {
            std::thread::sleep(STEP);
            waited += STEP;
        }
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return false;
        }
        self.ended.is_some_and(|s| s.success())
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
