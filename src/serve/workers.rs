//! The packet workers as one: asked together, changed together.

use std::sync::Arc;

use crate::buf::Out;
use crate::engine::Engine;
use crate::host::HostEvent;
use crate::io::PortInfo;
use crate::svc::Snapshot;
use crate::time::Mono;
use crate::worker::stopwatch::PaceStats;
use crate::worker::{Asker, Handle, PortStats, Stopped};

/// All workers of a director.
pub struct Workers {
    handles: Vec<Handle<Engine>>,
}

/// Asks all workers, from any task; does not keep them running.
#[derive(Clone)]
pub struct Askers(Arc<[Asker<Engine>]>);

impl Workers {
    /// Takes over running workers.
    pub fn new(handles: Vec<Handle<Engine>>) -> Workers {
        Workers { handles }
    }
    /// For other tasks to ask the workers.
    pub fn askers(&self) -> Askers {
        Askers(self.handles.iter().map(Handle::asker).collect())
    }
    /// True when one ended by itself.
    pub fn is_finished(&self) -> bool {
        self.handles.iter().any(Handle::is_finished)
    }
    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }
    /// Ports with their counters, those of all queues together, in the order of their numbers.
    pub fn ports(&self) -> Vec<(PortInfo, PortStats)> {
        let Some(first) = self.handles.first() else { return Vec::new() };
        let sum = |i: usize| {
            let queues = self.handles.iter().filter_map(|h| h.ports().get(i));
            queues.map(|(_, counters)| counters.read()).fold(PortStats::default(), |a, b| a + b)
        };
        first.ports().iter().enumerate().map(|(i, (info, _))| (info.clone(), sum(i))).collect()
    }
    /// How long packets were in the core, all workers together.
    pub fn pace(&self) -> PaceStats {
        self.handles.iter().map(Handle::pace).fold(PaceStats::default(), |a, b| a + b)
    }
    /// Gives every worker the snapshot; returns when all of them decide by it.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), Stopped> {
        for handle in &self.handles {
            let snapshot = snapshot.clone();
            handle.ask(move |engine, now, _| engine.on_snapshot(now, snapshot)).await?;
        }
        Ok(())
    }
    /// What happened beside packets since the last call.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn events(&self) -> Result<Vec<HostEvent>, Stopped> {
        let mut all = Vec::new();
        for handle in &self.handles {
            let drain = |engine: &mut Engine, _, _: &mut _| {
                let host = engine.host_mut();
                std::iter::from_fn(|| host.poll_event()).collect::<Vec<_>>()
            };
            all.extend(handle.ask(drain).await?);
        }
        Ok(all)
    }
    /// Stops all of them and gives their engines back.
    pub fn stop(self) -> Vec<Result<Engine, Stopped>> {
        self.handles.into_iter().map(Handle::stop).collect()
    }
}

impl Askers {
    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
    /// Runs `f` in one worker between two turns of it. `f` must be short: packets wait for it.
    ///
    /// # Errors
    /// There is no such worker any more.
    pub async fn ask<R: Send + 'static>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut Engine, Mono) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        self.0.get(worker).ok_or(Stopped)?.ask(move |engine, now, _| f(engine, now)).await
    }
    /// The same for what sends packets.
    ///
    /// # Errors
    /// There is no such worker any more.
    pub async fn ask_sending<R: Send + 'static>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut Engine, Mono, &mut Out) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        self.0.get(worker).ok_or(Stopped)?.ask(f).await
    }
    /// Runs `f` in every worker and gives the results in their order.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn ask_all<R: Send + 'static>(
        &self,
        f: impl Fn(&mut Engine, Mono) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, Stopped> {
        let mut all = Vec::with_capacity(self.0.len());
        for worker in 0..self.0.len() {
            all.push(self.ask(worker, f.clone()).await?);
        }
        Ok(all)
    }
}
