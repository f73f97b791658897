//! From what the monitor wishes to what the control task is asked for.

use std::net::SocketAddr;
use std::time::Duration;

use tracing::info;

use super::Watch;
use crate::ctl::{Overlay, RealKey};
use crate::engine::cut::Cut;
use crate::health::Wish;
use crate::health::ramp::STEP;
use crate::serve::workers::Askers;
use crate::svc::{DestId, ServiceKey};
use crate::worker::clock;

/// Clients are asked again after this time, and what is left after another one ends.
const PATIENCE: Duration = Duration::from_millis(1500);

fn real_key(service: ServiceKey, at: SocketAddr) -> RealKey {
    RealKey { service, ip: at.ip(), port: at.port() }
}

/// `tcp 192.0.2.10:80` or `fwmark 7`.
pub(super) fn service_name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { proto, ip, port } => {
            format!("{} {}", proto.name(), SocketAddr::new(*ip, *port))
        }
        ServiceKey::Mark { mark, .. } => format!("fwmark {mark}"),
    }
}

fn overlay(wish: Wish) -> Option<Overlay> {
    match wish {
        Wish::Serve(None) => None,
        Wish::Serve(Some(weight)) => Some(Overlay::Weight(weight)),
        Wish::Drain => Some(Overlay::Weight(0)),
        Wish::Inhibit => Some(Overlay::Inhibit),
        Wish::Cut => Some(Overlay::Cut),
        Wish::Remove => Some(Overlay::Remove),
    }
}

impl Watch {
    /// Makes the overlays of these services, or of all, what the monitor wishes: one transaction.
    pub(super) async fn synchronise(&mut self, services: Option<&[ServiceKey]>) {
        let Ok(state) = self.control.look().await else { return };
        let mut asked = Vec::new();
        let all = self.monitor.services().to_vec();
        for key in services.unwrap_or(&all) {
            if state.catalog.service(key).is_none() {
                continue;
            }
            // first who comes, then who goes: the service is never empty in between
            let sorry = self.monitor.sorry(key).cloned();
            let configured = self.monitor.service(key).and_then(|s| s.policy.sorry.clone());
            if let Some(spec) = sorry.as_ref().or(configured.as_ref()) {
                let real = real_key(*key, SocketAddr::new(spec.ip, spec.port));
                let wanted = sorry.map(Overlay::Extra);
                if state.overlays.get(&real) != wanted.as_ref() {
                    asked.push((real, wanted));
                }
            }
            for (at, wish) in self.monitor.wishes(key) {
                let (real, wanted) = (real_key(*key, at), overlay(wish));
                if state.overlays.get(&real) != wanted.as_ref() {
                    asked.push((real, wanted));
                }
            }
        }
        // what lies over servers that are not watched any more
        for (real, laid) in state.overlays.iter() {
            let at = SocketAddr::new(real.ip, real.port);
            let extra = matches!(laid, Overlay::Extra(_));
            let watched = match self.monitor.service(&real.service) {
                None => false,
                Some(s) if extra => {
                    s.policy.sorry.as_ref().is_some_and(|d| (d.ip, d.port) == (real.ip, real.port))
                }
                Some(s) => s.reals.iter().any(|r| r.at == at),
            };
            if !watched {
                asked.push((*real, None));
            }
        }
        if asked.is_empty() {
            return;
        }
        // a server that comes back is bounded from its first connection on
        let shares = self.shares();
        let shares = shares.into_iter().map(|(key, at, share)| (real_key(key, at), Some(share))).collect();
        // servers that somebody has deleted meanwhile are not there to be changed
        let _ = self.control.overlay_gently(asked, shares).await;
    }

    fn shares(&mut self) -> Vec<(ServiceKey, SocketAddr, u32)> {
        let shares = self.monitor.shares(clock::now());
        self.bounded.extend(shares.iter().map(|(key, at, _)| (*key, *at)));
        shares
    }

    /// Bounds the shares of servers in slow start, and frees those that are through.
    pub(super) async fn bound_shares(&mut self) {
        let now = clock::now();
        if self.shares_at.is_some_and(|at| at > now) {
            return;
        }
        let before = std::mem::take(&mut self.bounded);
        let shares = self.shares();
        self.shares_at = (!shares.is_empty()).then(|| now + STEP);
        let over = before.into_iter().filter(|b| !self.bounded.contains(b));
        let over: Vec<_> = over.map(|(key, at)| (real_key(key, at), None)).collect();
        let mut all: Vec<_> =
            shares.into_iter().map(|(k, at, share)| (real_key(k, at), Some(share))).collect();
        all.extend(over);
        if !all.is_empty() {
            // the director is stopping: fine
            let _ = self.control.overlay_gently(Vec::new(), all).await;
        }
    }

    /// Ends what is left of a server's connections.
    pub(super) async fn cut(&mut self, service: ServiceKey, at: SocketAddr) {
        let Ok(state) = self.control.look().await else { return };
        let Some(s) = state.catalog.service(&service) else { return };
        let Some(id) =
            s.dests.iter().find(|d| (d.spec.ip, d.spec.port) == (at.ip(), at.port())).map(|d| d.id)
        else {
            return;
        };
        let workers = self.control.workers().clone();
        let name = service_name(&service);
        tokio::spawn(async move {
            let mut ended = 0;
            for (how, wait) in [(Cut::Ask, PATIENCE), (Cut::Ask, PATIENCE), (Cut::Force, Duration::ZERO)] {
                let mut seen = 0;
                for worker in 0..workers.count() {
                    seen += pass(&workers, worker, id, how).await;
                }
                // those that were there the first time
                ended = ended.max(seen);
                tokio::time::sleep(wait).await;
            }
            info!("{at} of {name}: {ended} connections were ended");
        });
    }
}

/// One look at all connections of a worker, in slices between which packets are served.
async fn pass(workers: &Askers, worker: usize, dest: DestId, how: Cut) -> u64 {
    let (mut cursor, mut total) = (0, 0);
    loop {
        let slice = workers
            .ask_sending(worker, move |engine, now, out| engine.cut(now, dest, how, cursor, out))
            .await;
        let Ok((next, touched)) = slice else { return total };
        total += u64::from(touched);
        match next {
            Some(next) => cursor = next,
            None => return total,
        }
        tokio::task::yield_now().await;
    }
}
