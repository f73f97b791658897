//! A call of `ipvsadm`: what was typed in, what is printed and the exit status out, and the state changed
//! as the commands say. The same code serves the command of a running director and the replay of
//! recorded sessions.

use super::State;
use crate::ipvsadm::list::{self, Source};
use crate::ipvsadm::{
    Command, DaemonKind, DaemonSpec, HELP, HINT, ListCommand, Names, Refusal, Show, VERSION, parse_named,
};
use crate::svc::CatalogError;

/// What was typed, and where.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Words after `ipvsadm`.
    pub args: Vec<String>,
    /// What `-R` reads.
    pub stdin: String,
    /// Names of hosts and services.
    pub names: Names,
}

/// What is printed on standard output, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// The connections: the workers' to tell.
    Connections {
        /// Without names.
        numeric: bool,
        /// With the columns of persistence engines.
        persistence: bool,
    },
}

/// What a call came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<Piece>,
    /// Standard error.
    pub stderr: String,
    /// Exit status.
    pub code: u8,
    /// Something was changed that packets are decided by.
    pub changed: bool,
}

/// The daemons that were started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// The one that sends.
    pub master: Option<DaemonSpec>,
    /// The one that receives.
    pub backup: Option<DaemonSpec>,
}

impl Daemons {
    fn of(&mut self, kind: DaemonKind) -> &mut Option<DaemonSpec> {
        match kind {
            DaemonKind::Master => &mut self.master,
            DaemonKind::Backup => &mut self.backup,
        }
    }
}

impl State {
    /// Does what a call of `ipvsadm` says. `interface` tells whether there is one of this name.
    pub fn ipvsadm(&mut self, call: &Call, interface: &dyn Fn(&str) -> bool) -> Outcome {
        let words: Vec<&str> = call.args.iter().map(String::as_str).collect();
        let mut out = Outcome::default();
        let done = parse_named(&words, &call.names).and_then(|command| match command {
            Command::Restore => self.restore(call, interface, &mut out),
            command => self.one(&command, call, interface, &mut out),
        });
        if let Err(e) = done {
            out.stderr.push_str(&e.text);
            out.stderr.push('\n');
            out.code = e.code;
        }
        out
    }

    /// `-R`: line by line. What the kernel refuses is said, and reading goes on; what ipvsadm itself
    /// refuses ends it. The status is that of the last line.
    fn restore(
        &mut self,
        call: &Call,
        interface: &dyn Fn(&str) -> bool,
        out: &mut Outcome,
    ) -> Result<(), Refusal> {
        for line in call.stdin.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let words = match &words[..] {
                ["ipvsadm", rest @ ..] => rest,
                all => all,
            };
            if words.is_empty() {
                continue;
            }
            let done = parse_named(words, &call.names).and_then(|command| match command {
                Command::Restore => Err(Refusal::kernel(HINT)),
                command => self.one(&command, call, interface, out).map(|()| command),
            });
            out.code = 0;
            match done {
                Ok(Command::Help | Command::Version) => break,
                Ok(_) => {}
                Err(e) if e.code != 255 || e.text == HINT => return Err(e),
                Err(e) => {
                    out.stderr.push_str(&e.text);
                    out.stderr.push('\n');
                    out.code = e.code;
                }
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        command: &Command,
        call: &Call,
        interface: &dyn Fn(&str) -> bool,
        out: &mut Outcome,
    ) -> Result<(), Refusal> {
        match command {
            Command::Help => out.stdout.push(Piece::Text(HELP.to_owned())),
            Command::Version => out.stdout.push(Piece::Text(VERSION.to_owned())),
            Command::Save(numeric) => {
                let names = (!numeric).then_some(&call.names);
                out.stdout.push(Piece::Text(list::rules(self.catalog.services(), names)));
            }
            Command::List(what) => out.stdout.push(self.listing(what, &call.names)?),
            Command::StartDaemon(spec) => {
                if !interface(&spec.interface) {
                    return Err(Refusal::kernel("No such device"));
                }
                let place = self.daemons.of(spec.kind);
                if place.is_some() {
                    return Err(Refusal::kernel("Daemon has already run"));
                }
                *place = Some(spec.clone());
            }
            Command::StopDaemon(kind) => {
                let running = self.daemons.of(*kind).take();
                running.ok_or_else(|| Refusal::kernel("No daemon is running"))?;
            }
            change => {
                self.command(change)?;
                out.changed |= !matches!(change, Command::Zero(_));
            }
        }
        Ok(())
    }

    fn listing(&self, what: &ListCommand, names: &Names) -> Result<Piece, Refusal> {
        match what.show {
            Show::Connections { persistence } => {
                return Ok(Piece::Connections { numeric: what.numeric, persistence });
            }
            Show::Daemon => {
                let daemons = [&self.daemons.master, &self.daemons.backup];
                return Ok(Piece::Text(daemons.into_iter().flatten().map(DaemonSpec::line).collect()));
            }
            _ => {}
        }
        let source = Source {
            services: self.catalog.services(),
            zero: &self.zero,
            rates: &self.rates,
            timeouts: &self.catalog.timeouts,
            names,
        };
        let text = list::listing(source, what);
        // the status of a listing that fails is 1
        text.map(Piece::Text).ok_or(Refusal { text: CatalogError::NoSuchService.to_string(), code: 1 })
    }
}
