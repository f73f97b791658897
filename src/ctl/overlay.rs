//! What health checks do to real servers, laid over what was configured.
//!
//! The catalog holds what packets are decided by. For a real server that is laid over, the configured
//! specification is kept here, so a reload or an `ipvsadm -e` changes that and leaves the overlay alone,
//! and taking the overlay away brings back what is configured by then.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::svc::{Catalog, CatalogError, DestSpec, Ending, ServiceKey, ServiceSpec};

/// A real server by what identifies it in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealKey {
    /// Its service.
    pub service: ServiceKey,
    /// RIP.
    pub ip: IpAddr,
    /// Real port; for TUN and DR the service's.
    pub port: u16,
}

/// What is laid over a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// It has this weight instead of the configured one; 0 inhibits it.
    Weight(u32),
    /// It has weight 0 and is known to be dead: datagrams of known flows are scheduled anew.
    Inhibit,
    /// It has weight 0, and what is left of its connections is reset.
    Cut,
    /// It is taken out of its service, as dead; its connections stay.
    Remove,
    /// It is put into its service although nobody configured it there (a sorry server).
    Extra(DestSpec),
}

#[derive(Clone, Debug)]
struct Entry {
    /// `None` for one that only an overlay put there.
    configured: Option<DestSpec>,
    overlay: Overlay,
}

impl Entry {
    fn effective(&self) -> Option<DestSpec> {
        match (&self.overlay, &self.configured) {
            (Overlay::Weight(weight), Some(spec)) => Some(DestSpec { weight: *weight, ..spec.clone() }),
            (Overlay::Inhibit | Overlay::Cut, Some(spec)) => Some(DestSpec { weight: 0, ..spec.clone() }),
            (Overlay::Extra(spec), _) => Some(spec.clone()),
            (Overlay::Weight(_) | Overlay::Inhibit | Overlay::Cut, None) | (Overlay::Remove, _) => None,
        }
    }
}

/// Every overlay of the director.
#[derive(Clone, Debug, Default)]
pub struct Overlays(HashMap<RealKey, Entry>);

impl Overlays {
    /// True when nothing is laid over anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Everything that is laid over something.
    pub fn iter(&self) -> impl Iterator<Item = (&RealKey, &Overlay)> {
        self.0.iter().map(|(k, e)| (k, &e.overlay))
    }
    /// What is laid over this real server.
    pub fn get(&self, key: &RealKey) -> Option<&Overlay> {
        self.0.get(key).map(|e| &e.overlay)
    }
    /// What is configured for a real server that is laid over.
    pub fn configured(&self, key: &RealKey) -> Option<&DestSpec> {
        self.0.get(key)?.configured.as_ref()
    }
    /// Real servers that are configured in this service but taken out of it.
    pub fn removed(&self, service: &ServiceKey) -> impl Iterator<Item = &DestSpec> {
        let of = self.0.iter().filter(move |(k, e)| k.service == *service && e.overlay == Overlay::Remove);
        of.filter_map(|(_, e)| e.configured.as_ref())
    }

    /// Lays `overlay` over a real server, or takes it away with `None`; true when that changed the catalog.
    ///
    /// # Errors
    /// There is no such service or real server, or the new one cannot be.
    pub fn set(
        &mut self,
        catalog: &mut Catalog,
        key: RealKey,
        overlay: Option<Overlay>,
    ) -> Result<bool, CatalogError> {
        let service = catalog.service(&key.service).ok_or(CatalogError::ServiceNotDefined)?;
        let present = find(service, &key).map(|d| d.spec.clone());
        let configured = match self.0.get(&key) {
            Some(entry) => entry.configured.clone(),
            None => present.clone(),
        };
        let entry = overlay.map(|overlay| Entry { configured: configured.clone(), overlay });
        let wanted = match &entry {
            Some(Entry { overlay: Overlay::Extra(_), .. }) => entry.as_ref().and_then(Entry::effective),
            Some(Entry { configured: None, .. }) => return Err(CatalogError::NoSuchDest),
            Some(entry) => entry.effective(),
            None => configured,
        };
        let ending = match entry.as_ref().map(|e| &e.overlay) {
            Some(Overlay::Remove | Overlay::Inhibit) => Ending::Dead,
            Some(Overlay::Cut) => Ending::Cut,
            Some(Overlay::Weight(_) | Overlay::Extra(_)) | None => Ending::No,
        };
        let before = catalog.ending(&key.service, key.ip, key.port);
        let changed = present != wanted || before.is_some_and(|b| b != ending);
        put(catalog, &key, present, wanted)?;
        catalog.set_ending(&key.service, key.ip, key.port, ending);
        match entry {
            Some(entry) => drop(self.0.insert(key, entry)),
            None => drop(self.0.remove(&key)),
        }
        Ok(changed)
    }

    /// `ipvsadm -a`
    ///
    /// # Errors
    /// What the catalog refuses.
    pub fn add(
        &mut self,
        catalog: &mut Catalog,
        service: &ServiceKey,
        spec: DestSpec,
    ) -> Result<(), CatalogError> {
        let key = key_of(service, &spec);
        match self.0.get(&key) {
            Some(Entry { configured: Some(_), .. }) => Err(CatalogError::DestExists),
            // what was only lent is now its own
            Some(Entry { configured: None, .. }) => {
                catalog.edit_dest(service, spec)?;
                self.0.remove(&key);
                Ok(())
            }
            None => catalog.add_dest(service, spec).map(drop),
        }
    }

    /// `ipvsadm -e`
    ///
    /// # Errors
    /// What the catalog refuses.
    pub fn edit(
        &mut self,
        catalog: &mut Catalog,
        service: &ServiceKey,
        mut spec: DestSpec,
    ) -> Result<(), CatalogError> {
        let key = key_of(service, &spec);
        let Some(entry) = self.0.get_mut(&key) else { return catalog.edit_dest(service, spec) };
        if entry.configured.is_none() {
            return Err(CatalogError::NoSuchDest);
        }
        spec.port = key.port;
        let changed = Entry { configured: Some(spec), overlay: entry.overlay.clone() };
        if let Some(effective) = changed.effective() {
            catalog.edit_dest(service, effective)?;
        }
        *entry = changed;
        Ok(())
    }

    /// `ipvsadm -d`
    ///
    /// # Errors
    /// What the catalog refuses.
    pub fn delete(
        &mut self,
        catalog: &mut Catalog,
        service: &ServiceKey,
        ip: IpAddr,
        port: u16,
    ) -> Result<(), CatalogError> {
        let key = RealKey { service: *service, ip, port };
        if self.0.get(&key).is_none_or(|e| e.configured.is_none()) {
            return catalog.remove_dest(service, ip, port);
        }
        let gone = self.0.remove(&key);
        match gone.and_then(|e| e.effective()) {
            Some(_) => catalog.remove_dest(service, key.ip, key.port),
            None => Ok(()),
        }
    }

    /// A service was removed.
    pub fn forget(&mut self, service: &ServiceKey) {
        self.0.retain(|k, _| k.service != *service);
    }
    /// All services were removed.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The services of a new configuration as they will run, and the overlays that go on: those of real
    /// servers that are still there, and extra ones of services that are.
    pub fn over(
        &self,
        services: &[(ServiceSpec, Vec<DestSpec>)],
    ) -> (Vec<(ServiceSpec, Vec<DestSpec>)>, Overlays) {
        let mut next = Overlays::default();
        let mut all = Vec::with_capacity(services.len());
        for (service, reals) in services {
            let mut run = Vec::with_capacity(reals.len());
            for spec in reals {
                let key = key_of(&service.key, spec);
                match self.0.get(&key).map(|e| &e.overlay) {
                    None | Some(Overlay::Extra(_)) => run.push(spec.clone()),
                    Some(overlay) => {
                        let entry = Entry { configured: Some(spec.clone()), overlay: overlay.clone() };
                        run.extend(entry.effective());
                        next.0.insert(key, entry);
                    }
                }
            }
            for (key, entry) in self.0.iter().filter(|(k, _)| k.service == service.key) {
                let there = run.iter().any(|s| key_of(&service.key, s) == *key);
                if let (Overlay::Extra(spec), false) = (&entry.overlay, there) {
                    run.push(spec.clone());
                    next.0.insert(*key, Entry { configured: None, overlay: entry.overlay.clone() });
                }
            }
            all.push((service.clone(), run));
        }
        (all, next)
    }

    /// The real servers of a service as configured, in the order of the catalog; those that are taken out
    /// come last.
    pub fn beneath(&self, service: &crate::svc::Service) -> Vec<DestSpec> {
        let key = service.spec.key;
        let mut all: Vec<DestSpec> = Vec::with_capacity(service.dests.len());
        for d in &service.dests {
            match self.0.get(&key_of(&key, &d.spec)) {
                None => all.push(d.spec.clone()),
                Some(entry) => all.extend(entry.configured.clone()),
            }
        }
        let mut out: Vec<&DestSpec> = self.removed(&key).collect();
        out.sort_by_key(|s| (s.ip, s.port));
        all.extend(out.into_iter().cloned());
        all
    }
}

/// TUN and DR have no port of their own, but behind a mark they may have one in name.
fn key_of(service: &ServiceKey, spec: &DestSpec) -> RealKey {
    let port = match service {
        ServiceKey::Address { port, .. } if !spec.forward.translates() => *port,
        _ => spec.port,
    };
    RealKey { service: *service, ip: spec.ip, port }
}

fn find<'s>(service: &'s crate::svc::Service, key: &RealKey) -> Option<&'s std::sync::Arc<crate::svc::Dest>> {
    service.dests.iter().find(|d| d.spec.ip == key.ip && d.spec.port == key.port)
}

fn put(
    catalog: &mut Catalog,
    key: &RealKey,
    present: Option<DestSpec>,
    wanted: Option<DestSpec>,
) -> Result<(), CatalogError> {
    if present == wanted {
        return Ok(());
    }
    match (present.is_some(), wanted) {
        (true, Some(spec)) => catalog.edit_dest(&key.service, spec),
        (true, None) => catalog.remove_dest(&key.service, key.ip, key.port),
        (false, Some(spec)) => catalog.add_dest(&key.service, spec).map(drop),
        (false, None) => Ok(()),
    }
}
