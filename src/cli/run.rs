//! `softlvs run`: opens the devices, starts the worker, and stays until it is told to stop.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::args::RunArgs;
use super::error::{Failure, complain};
use super::mean::{Meaning, mean};
use crate::ctl::Event;
use crate::serve::control::control;
use crate::serve::health::Health;
use crate::serve::{Control, Running};

/// Runs the director until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is refused (exit 2), or something it needs is not to be had (exit 1).
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let meaning = mean(args)?;
    start_log(&meaning);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::run("cannot start", e.to_string(), ""))?;
    let _inside = runtime.enter();
    // Before anything is set up, so that a signal in between takes it down again in order.
    let signals = Signals::catch().map_err(|e| Failure::run("cannot catch signals", e.to_string(), ""))?;
    for warning in &meaning.plan.warnings {
        complain(&warning.to_string());
    }
    let (running, state) = Running::start(meaning.plan)?;
    running.introduce(&state);
    let health_plan = state.plan.health.clone();
    let (control, task) = control(running, state)?;
    let health = Health::start(control.clone(), health_plan)?;
    let (stop, stopping) = watch::channel(false);
    let (running, result) = runtime.block_on(async {
        let task = task.run(stopping);
        let signals = async {
            stay(args, &control, signals).await;
            health.stop().await;
            // the task may have ended by itself
            let _ = stop.send(true);
        };
        tokio::pin!(task, signals);
        tokio::select! {
            ended = &mut task => ended,
            () = &mut signals => task.await,
        }
    });
    running.stop();
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

async fn stay(args: &RunArgs, control: &Control, mut signals: Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break info!("stopping on SIGTERM"),
            _ = signals.interrupt.recv() => break info!("stopping on SIGINT"),
            _ = signals.reload.recv() => reload(args, control).await,
        }
    }
}

/// Reads the file again: validated whole, applied whole, or refused with what runs left as it is.
async fn reload(args: &RunArgs, control: &Control) {
    let done = match mean(args) {
        Ok(Meaning { file: None, .. }) => return warn!("SIGHUP: there is no file to read again"),
        Ok(meaning) => {
            for warning in &meaning.plan.warnings {
                complain(&warning.to_string());
            }
            control.apply(meaning.plan, false).await
        }
        Err(failure) => Err(failure),
    };
    match done {
        Ok(applied) => info!("configuration read again: {}", applied.changes),
        Err(failure) => {
            failure.messages().iter().for_each(|m| complain(m));
            error!("configuration refused, what runs stays as it is");
            control.tell(Event::Refused { why: failure.messages().join("\n") });
        }
    }
}

fn start_log(meaning: &Meaning) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Fails when there is a subscriber already, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .with_max_level(meaning.log)
        .try_init();
}
