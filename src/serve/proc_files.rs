//! `/proc/net/ip_vs*` as files below a folder, for exporters that read those: with the folder as their
//! `/proc` (node_exporter `--path.procfs`) they find them where they look.

use std::io;
use std::path::{Path, PathBuf};

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Control;
use super::http::view::proc_text;
use crate::engine::Engine;
use crate::ipvsadm::proc;

/// How often the files are written.
const EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// With more connections than this the file of connections holds none: ask the control socket for them.
const CONNECTIONS: usize = 100_000;
/// Places of the table a worker looks at before it serves packets again.
const SLICE: usize = 512;

/// Writes the files for as long as the task runs, and removes them at the end.
pub async fn serve(folder: PathBuf, control: Control) {
    let files = Files(folder.join("net"));
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        tick.tick().await;
        match write(&files.0, &control).await {
            Ok(()) => complained = false,
            Err(e) if !complained => {
                warn!("cannot write below {}: {e}", folder.display());
                complained = true;
            }
            Err(_) => {}
        }
    }
}

struct Files(PathBuf);

const NAMES: [&str; 5] = ["ip_vs", "ip_vs_stats", "ip_vs_stats_percpu", "ip_vs_conn", "ip_vs_conn_sync"];

impl Drop for Files {
    fn drop(&mut self) {
        for name in NAMES {
            let _ = std::fs::remove_file(self.0.join(name));
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

async fn write(folder: &Path, control: &Control) -> io::Result<()> {
    let Ok(state) = control.look().await else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    for name in NAMES {
        let text = match name {
            "ip_vs_conn" => connections(control).await,
            "ip_vs_conn_sync" => proc::CONN_SYNC_TITLE.to_owned(),
            _ => proc_text(&state, name).unwrap_or_default(),
        };
        // a reader sees the old file or the new one, never half of one
        let hidden = folder.join(format!(".{name}"));
        std::fs::write(&hidden, text)?;
        std::fs::rename(hidden, folder.join(name))?;
    }
    Ok(())
}

async fn connections(control: &Control) -> String {
    let mut text = proc::CONN_TITLE.to_owned();
    let workers = control.workers();
    let count = workers.ask_all(|engine, _| engine.connection_count()).await;
    if count.is_ok_and(|all| all.iter().sum::<usize>() > CONNECTIONS) {
        return text;
    }
    for worker in 0..workers.count() {
        let mut place = Some(0);
        while let Some(from) = place {
            let slice = move |engine: &mut Engine, now| engine.connection_slice(now, from, SLICE);
            let Ok((rows, next)) = workers.ask(worker, slice).await else { return text };
            rows.iter().for_each(|r| proc::conn_line(&mut text, r));
            place = next;
        }
    }
    text
}
