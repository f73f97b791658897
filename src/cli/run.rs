//! `softlvs run`: opens the devices, starts the worker, and stays until it is told to stop.

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::args::RunArgs;
use super::error::{Failure, complain};
use super::mean::{Meaning, mean};
use super::running::Running;
use crate::host::HostEvent;

/// How often the director is asked what happened beside packets.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most events written in one look; a flood of them is counted instead.
const EVENT_LINES: usize = 8;

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
    let mut running = Running::start(meaning.plan)?;
    running.introduce();
    let result = runtime.block_on(stay(args, &mut running, signals));
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

async fn stay(args: &RunArgs, running: &mut Running, mut signals: Signals) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break info!("stopping on SIGTERM"),
            _ = signals.interrupt.recv() => break info!("stopping on SIGINT"),
            _ = signals.reload.recv() => reload(args, running).await,
            _ = tick.tick() => {
                if running.is_finished() {
                    return Err(Failure::run("the packet worker has ended", "this is a defect in softlvs", "please report it with the log"));
                }
                events(running).await;
            }
        }
    }
    Ok(())
}

/// Reads the file again: validated whole, applied whole, or refused with what runs left as it is.
async fn reload(args: &RunArgs, running: &mut Running) {
    let done = match mean(args) {
        Ok(Meaning { file: None, .. }) => return warn!("SIGHUP: there is no file to read again"),
        Ok(meaning) => {
            for warning in &meaning.plan.warnings {
                complain(&warning.to_string());
            }
            running.apply(meaning.plan).await
        }
        Err(failure) => Err(failure),
    };
    match done {
        Ok(changes) => info!("configuration read again: {changes}"),
        Err(failure) => {
            failure.messages().iter().for_each(|m| complain(m));
            error!("configuration refused, what runs stays as it is");
        }
    }
}

async fn events(running: &Running) {
    let Ok(events) = running.events().await else { return };
    let name = |port: crate::engine::PortId| running.port_name(port);
    for event in events.iter().take(EVENT_LINES) {
        match event {
            HostEvent::AddressConflict { port, ip, mac } => {
                warn!(port = name(*port), %ip, %mac, "another station says it has an address of the director");
            }
            HostEvent::NeighborMoved { port, ip, from, to } => {
                info!(port = name(*port), %ip, %from, %to, "neighbour has another MAC address");
            }
            HostEvent::NeighborFailed { port, ip } => {
                warn!(port = name(*port), %ip, "neighbour does not answer");
            }
        }
    }
    if events.len() > EVENT_LINES {
        warn!(more = events.len() - EVENT_LINES, "further events of this kind");
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
