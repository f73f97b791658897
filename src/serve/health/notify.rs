//! Those who want to hear of changes: programs, and a named pipe in keepalived's words.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::sync::Semaphore;
use tracing::warn;

use crate::health::spec::Command;
use crate::health::{Event, HealthPlan, Monitor};
use crate::probe::{Program, Trouble};
use crate::svc::ServiceKey;

/// Programs that run at once; further ones wait.
const AT_ONCE: usize = 16;
/// A program that runs longer is killed.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the director waits for programs at its end.
const AT_THE_END: Duration = Duration::from_secs(3);

pub(super) struct Notifier {
    fifo: Option<String>,
    /// The pipe was made here.
    made: bool,
    slots: Arc<Semaphore>,
}

impl Notifier {
    pub(super) fn new(plan: &HealthPlan) -> Notifier {
        let mut n = Notifier { fifo: None, made: false, slots: Arc::new(Semaphore::new(AT_ONCE)) };
        n.configure(plan);
        n
    }

    pub(super) fn configure(&mut self, plan: &HealthPlan) {
        if plan.fifo == self.fifo {
            return;
        }
        self.remove();
        self.fifo = plan.fifo.clone();
        let Some(path) = &self.fifo else { return };
        match std::fs::metadata(path) {
            Ok(meta) if meta.file_type().is_fifo() => {}
            Ok(_) => {
                warn!("{path} is not a named pipe: nobody is told there");
                self.fifo = None;
            }
            Err(_) => match mkfifo(path.as_str(), Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(()) => self.made = true,
                Err(e) => warn!("cannot make the named pipe {path}: {e}"),
            },
        }
    }

    pub(super) fn on_event(&self, monitor: &Monitor, event: &Event) {
        let real = |service: &ServiceKey, at: &SocketAddr| {
            monitor.service(service)?.reals.iter().find(|r| r.at == *at)
        };
        match event {
            Event::RealUp { service, real: at, .. } => {
                self.line(&line_of_real(service, at, true));
                self.program(real(service, at).and_then(|r| r.up_command.as_ref()), service, Some(at), "UP");
            }
            Event::RealDown { service, real: at, .. } => {
                self.line(&line_of_real(service, at, false));
                self.program(
                    real(service, at).and_then(|r| r.down_command.as_ref()),
                    service,
                    Some(at),
                    "DOWN",
                );
            }
            Event::QuorumGained { service, .. } => {
                self.line(&line_of_service(service, true));
                let command = monitor.service(service).and_then(|s| s.policy.up_command.as_ref());
                self.program(command, service, None, "UP");
            }
            Event::QuorumLost { service, .. } => {
                self.line(&line_of_service(service, false));
                let command = monitor.service(service).and_then(|s| s.policy.down_command.as_ref());
                self.program(command, service, None, "DOWN");
            }
            Event::Weight { .. }
            | Event::Sorry { .. }
            | Event::Panic { .. }
            | Event::Draining { .. }
            | Event::Cut { .. } => {}
        }
    }

    /// The director stops.
    pub(super) async fn stop(&mut self, plan: &HealthPlan) {
        for s in plan.services.iter().filter(|s| s.policy.omega) {
            for r in &s.reals {
                self.program(r.down_command.as_ref(), &s.key, Some(&r.at), "DOWN");
            }
            self.program(s.policy.down_command.as_ref(), &s.key, None, "DOWN");
        }
        // all slots back: every program has ended
        let _ = tokio::time::timeout(AT_THE_END, self.slots.acquire_many(AT_ONCE as u32)).await;
        self.remove();
    }

    fn remove(&mut self) {
        if let (Some(path), true) = (self.fifo.take(), std::mem::take(&mut self.made)) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn line(&self, line: &str) {
        let Some(path) = &self.fifo else { return };
        // without a reader the pipe cannot be opened: nobody wants to hear
        let pipe = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let told: io::Result<()> = pipe.and_then(|mut p| p.write_all(line.as_bytes()));
        if let Err(e) = told
            && e.raw_os_error() != Some(nix::libc::ENXIO)
        {
            warn!("cannot write to {path}: {e}");
        }
    }

    fn program(
        &self,
        command: Option<&Command>,
        service: &ServiceKey,
        real: Option<&SocketAddr>,
        state: &str,
    ) {
        let Some(Command { argv, user }) = command.cloned() else { return };
        let mut env = vec![("SOFTLVS_STATE", state.to_owned()), ("SOFTLVS_SERVICE", name(service))];
        if let Some(at) = real {
            env.push(("SOFTLVS_REAL", at.to_string()));
        }
        let slots = self.slots.clone();
        tokio::spawn(async move {
            let Ok(_slot) = slots.acquire().await else { return };
            let program = Program { argv: &argv, user: user.as_deref(), env };
            match tokio::time::timeout(LONGEST, program.run()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => warn!("{}: {status}", argv[0]),
                Ok(Err(Trouble::Failed(why) | Trouble::Unchecked(why))) => warn!("{why}"),
                Err(_) => warn!("{}: killed after {} s", argv[0], LONGEST.as_secs()),
            }
        });
    }
}

/// `[192.0.2.10]:tcp:80`, `FWM 7`: keepalived's names.
fn name(service: &ServiceKey) -> String {
    match service {
        ServiceKey::Address { proto, ip, port } => format!("[{ip}]:{}:{port}", proto.name()),
        ServiceKey::Mark { mark, .. } => format!("FWM {mark}"),
    }
}

fn word(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

fn line_of_service(service: &ServiceKey, up: bool) -> String {
    format!("VS {} {}\n", name(service), word(up))
}

fn line_of_real(service: &ServiceKey, at: &SocketAddr, up: bool) -> String {
    let proto = match service {
        ServiceKey::Address { proto, .. } => proto.name(),
        // a mark stands for every protocol; keepalived says its default
        ServiceKey::Mark { .. } => "tcp",
    };
    format!("RS [{}]:{proto}:{} {} {}\n", at.ip(), at.port(), name(service), word(up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svc::Proto;

    #[test]
    fn lines_are_those_of_keepalived() {
        let web = ServiceKey::Address { proto: Proto::Tcp, ip: "192.168.201.15".parse().unwrap(), port: 80 };
        assert_eq!(line_of_service(&web, true), "VS [192.168.201.15]:tcp:80 UP\n");
        let real = "1.2.3.4:8080".parse().unwrap();
        assert_eq!(line_of_real(&web, &real, false), "RS [1.2.3.4]:tcp:8080 [192.168.201.15]:tcp:80 DOWN\n");
        assert_eq!(line_of_service(&ServiceKey::Mark { mark: 7, v6: false }, false), "VS FWM 7 DOWN\n");
    }
}
