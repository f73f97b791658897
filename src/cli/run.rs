//! `softlvs run`: opens the devices, starts the worker, and stays until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::args::RunArgs;
use super::error::{Failure, complain};
use super::mean::{Meaning, mean};
use crate::io::sys::monotonic_usec;
use crate::serve::control::control;
use crate::serve::entry::Entry;
use crate::serve::health::Health;
use crate::serve::listen::{self, Door};
use crate::serve::notify::Notify;
use crate::serve::tcp::TcpDoor;
use crate::serve::{Control, Running, proc_files};

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
    let plan = &meaning.plan;
    let (door, without) = door(plan.control.as_deref())?;
    let entry = plan.http.clone().map(Entry::open).transpose()?.map(Arc::new);
    let http = entry.clone().map(|entry| runtime.block_on(TcpDoor::open(entry))).transpose()?;
    let proc = plan.proc.clone().map(PathBuf::from);
    let notify = Notify::from_env();
    let (running, state) = Running::start(meaning.plan)?;
    running.introduce(&state);
    // said only now: when the start fails for another reason, that is what has to be read
    for why in without {
        warn!("{why}");
    }
    let health_plan = state.plan.health.clone();
    let (control, task) = control(running, state)?;
    let health = Health::start(control.clone(), health_plan)?;
    let (stop, stopping) = watch::channel(false);
    notify.tell("READY=1");
    let (running, result) = runtime.block_on(async {
        let task = task.run(stopping);
        let signals = async {
            stay(args, &control, entry.as_deref(), signals, &notify).await;
            notify.tell("STOPPING=1");
            health.stop().await;
            // the task may have ended by itself
            let _ = stop.send(true);
        };
        let doors = async {
            tokio::join!(
                optional(door.map(|d| d.serve(control.clone()))),
                optional(http.map(|h| h.serve(control.clone()))),
                optional(proc.map(|folder| proc_files::serve(folder, control.clone()))),
                alive(&control, &notify),
            )
        };
        tokio::pin!(task, signals, doors);
        tokio::select! {
            ended = &mut task => ended,
            () = &mut signals => task.await,
            _ = &mut doors => task.await,
        }
    });
    running.stop();
    result
}

/// The control socket. Where nobody named one, the director runs without when it is not to be had, and says why.
fn door(configured: Option<&str>) -> Result<(Option<Door>, Vec<String>), Failure> {
    let Some((path, named)) = listen::path(configured) else {
        let why = "no control socket: there is no XDG_RUNTIME_DIR; name one with --control PATH";
        return Ok((None, vec![why.to_owned()]));
    };
    match Door::open(&path) {
        Ok(door) => Ok((Some(door), Vec::new())),
        Err(failure) if named => Err(failure),
        Err(failure) => {
            let line = |message: &String| message.trim_start_matches("error: ").replace('\n', "; ");
            Ok((None, failure.messages().iter().map(line).collect()))
        }
    }
}

/// A task that is there or not; one that is not never ends.
async fn optional(task: Option<impl Future<Output = ()>>) {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Tells the service manager's watchdog that the control task and every worker answer.
async fn alive(control: &Control, notify: &Notify) {
    let Some(every) = notify.watchdog else { return std::future::pending().await };
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if control.look().await.is_ok() && control.workers().ask_all(|_, _| ()).await.is_ok() {
            notify.tell("WATCHDOG=1");
        }
    }
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

async fn stay(
    args: &RunArgs,
    control: &Control,
    entry: Option<&Entry>,
    mut signals: Signals,
    notify: &Notify,
) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break info!("stopping on SIGTERM"),
            _ = signals.interrupt.recv() => break info!("stopping on SIGINT"),
            _ = signals.reload.recv() => {
                notify.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
                reload(args, control, entry).await;
                notify.tell("READY=1");
            }
        }
    }
}

/// Reads the file again, and tokens and certificate: validated whole, applied whole, or refused with what runs
/// left as it is.
async fn reload(args: &RunArgs, control: &Control, entry: Option<&Entry>) {
    let done = match mean(args) {
        Ok(Meaning { file: None, .. }) => return warn!("SIGHUP: there is no file to read again"),
        Ok(meaning) => {
            for warning in &meaning.plan.warnings {
                complain(&warning.to_string());
            }
            match entry.map(Entry::read_again).transpose() {
                Ok(renewal) => {
                    let applied = control.apply(meaning.plan, false).await;
                    if let (Some(entry), Some(renewal), true) = (entry, renewal, applied.is_ok()) {
                        entry.renew(renewal);
                    }
                    applied
                }
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    match done {
        Ok(applied) => info!("configuration read again: {}", applied.changes),
        Err(failure) => {
            failure.messages().iter().for_each(|m| complain(m));
            error!("configuration refused, what runs stays as it is");
            control.refused(&failure);
        }
    }
}

fn start_log(meaning: &Meaning) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Fails when there is a subscriber already, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // it would complain on standard error that standard error is gone, and die of that
        .log_internal_errors(false)
        .with_ansi(colour)
        .with_target(false)
        .with_max_level(meaning.log)
        .try_init();
}
