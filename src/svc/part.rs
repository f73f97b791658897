//! A copy of the little of a snapshot that one packet can change: services, real servers and their counts.

use std::sync::{Arc, Mutex};

use super::{Dest, DestId, DestLive, Dests, Service, ServiceId, Snapshot, Stats};
use crate::conn::template::Template;

impl Snapshot {
    /// A snapshot in which these services (with all their servers), these servers and these templates are
    /// copies of their own. All other services are there to be looked at only, all other servers are not
    /// there. Gives the copies of the templates in their order.
    pub(crate) fn part(
        &self,
        services: &[ServiceId],
        dests: &[DestId],
        templates: &[Arc<Template>],
    ) -> (Snapshot, Vec<Arc<Template>>) {
        let mut part = Snapshot {
            generation: self.generation,
            services: self.services.clone(),
            dests: Dests::none(self.dests.len()),
            trash: self.trash,
            timeouts: self.timeouts,
            sysctl: self.sysctl,
            net: self.net.clone(),
            templates: Arc::default(),
            by_key: self.by_key.clone(),
            vips: Arc::default(),
            owned: self.owned.clone(),
            reals: self.reals.clone(),
            engines: self.engines,
        };
        for service in part.services.iter_mut().filter(|s| services.contains(&s.id)) {
            let copy = detached(service);
            for dest in &copy.dests {
                put(&mut part.dests, dest.clone());
            }
            *service = Arc::new(copy);
        }
        for id in dests {
            if part.dest(*id).is_none()
                && let Some(dest) = self.dest(*id)
            {
                let service = part.services.iter().find(|s| s.id == dest.service && services.contains(&s.id));
                let stats = service.map_or_else(|| dest.service_stats.apart(), |s| s.stats.clone());
                put(&mut part.dests, Arc::new(alone(dest, stats)));
            }
        }
        let live = |id: DestId| part.dest(id).map(|d| Arc::clone(&d.live));
        let (all, copies) = self.templates.part(templates, live);
        part.templates = Arc::new(all);
        (part, copies)
    }
}

fn put(dests: &mut Dests, dest: Arc<Dest>) {
    dests.set(dest.id.0 as usize, Some(dest));
}

fn detached(service: &Service) -> Service {
    let stats = service.stats.apart();
    let scheduler = service.scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    Service {
        id: service.id,
        spec: service.spec.clone(),
        dests: service.dests.iter().map(|d| Arc::new(alone(d, stats.clone()))).collect(),
        stats,
        scheduler: Arc::new(Mutex::new(scheduler)),
        gentle: Arc::new(service.is_gentle().into()),
    }
}

fn alone(dest: &Dest, service_stats: Stats) -> Dest {
    let live: Arc<DestLive> = Arc::new(dest.live.copy());
    Dest { stats: dest.stats.apart(), live, service_stats, ..dest.clone() }
}
