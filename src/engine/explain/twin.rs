//! The twin: an engine with copies of what one packet can touch, and nothing else.

use std::collections::TryReserveError;
use std::sync::Arc;

use super::super::burst::{Sight, WAVE};
use super::super::checks::Tap;
use super::super::family::{IpFamily, Tables};
use super::super::ftp::Key;
use super::super::ways::Ways;
use super::super::{Core, Random};
use super::{Engine, Trace, link_of};
use crate::conn::table::{Conn, ConnId, Table, flag};
use crate::conn::template::Template;
use crate::engine::PortId;
use crate::engine::together::Together;
use crate::host::frag::{FragLimits, Reassembly};
use crate::svc::{DestId, ServiceId};
use crate::time::Mono;
use crate::wire::{Parsed, parse};

/// What a twin is to have.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    v4: Vec<u32>,
    v6: Vec<u32>,
    services: Vec<ServiceId>,
    dests: Vec<DestId>,
    templates: Vec<Arc<Template>>,
}

/// Puts something on a list; true when it was not there.
fn put<T>(list: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) -> bool {
    let new = !list.iter().any(|known| same(known, &item));
    if new {
        list.push(item);
    }
    new
}

impl Wanted {
    /// Adds what the twin was asked for and the engine has; false when it missed nothing.
    pub fn add(&mut self, engine: &Engine, twin: &Engine) -> bool {
        let mut more = false;
        let Some(trace) = &twin.core.trace else { return false };
        for id in &trace.services {
            more |= put(&mut self.services, *id, PartialEq::eq);
        }
        for key in &trace.templates {
            if let Some(template) = engine.snap.templates.find(key) {
                more |= self.template(&template);
            }
        }
        let (tables, seen) = (&engine.core.tables, &twin.core.tables);
        for tuple in seen.v4.sought() {
            if let Some((slot, _)) = tables.v4.lookup(&tuple) {
                more |= self.connection::<u32>(engine, &tables.v4, &tables.control4, slot);
            }
        }
        for tuple in seen.v6.sought() {
            if let Some((slot, _)) = tables.v6.lookup(&tuple) {
                more |= self.connection::<u128>(engine, &tables.v6, &tables.control6, slot);
            }
        }
        more
    }

    fn template(&mut self, template: &Arc<Template>) -> bool {
        put(&mut self.dests, template.dest, PartialEq::eq);
        put(&mut self.templates, template.clone(), Arc::ptr_eq)
    }

    fn connection<A: IpFamily>(
        &mut self,
        engine: &Engine,
        table: &Table<A>,
        controls: &[Option<Arc<Template>>],
        slot: u32,
    ) -> bool {
        let slots = if A::V6 { &mut self.v6 } else { &mut self.v4 };
        if !put(slots, slot, PartialEq::eq) {
            return false;
        }
        let conn: &Conn<A> = table.get(slot);
        put(&mut self.dests, conn.dest, PartialEq::eq);
        if let Some(Some(template)) = controls.get(slot as usize) {
            self.template(template);
        }
        if conn.flags & flag::CHILD != 0
            && let Some((_, parent)) = engine.core.ftp.parent((A::V6, table.id(slot)))
            && let Some(parent) = table.resolve(parent)
        {
            self.connection::<A>(engine, table, controls, parent);
        }
        true
    }
}

impl Engine {
    /// The twin for a frame that came in on `port`.
    pub(super) fn twin(
        &self,
        now: Mono,
        frame: &[u8],
        port: PortId,
        wanted: &Wanted,
    ) -> Result<Engine, TryReserveError> {
        let core = &self.core;
        let (snap, copies) = self.snap.part(&wanted.services, &wanted.dests, &wanted.templates);
        let held = |controls: &[Option<Arc<Template>>], slots: &[u32]| {
            let copy = |slot: &u32| {
                let original = controls.get(*slot as usize)?.as_ref()?;
                let at = wanted.templates.iter().position(|t| Arc::ptr_eq(t, original))?;
                copies.get(at).cloned()
            };
            slots.iter().map(copy).collect()
        };
        let tables = Tables {
            v4: core.tables.v4.part(now, &wanted.v4)?,
            v6: core.tables.v6.part(now, &wanted.v6)?,
            control4: held(&core.tables.control4, &wanted.v4),
            control6: held(&core.tables.control6, &wanted.v6),
            elsewhere: core.tables.len() - wanted.v4.len() - wanted.v6.len(),
        };
        let (v4, v6) = (&core.tables.v4, &core.tables.v6);
        let ids4 = wanted.v4.iter().enumerate().map(|(to, from)| (false, v4.id(*from), to));
        let ids6 = wanted.v6.iter().enumerate().map(|(to, from)| (true, v6.id(*from), to));
        let moved: Vec<(Key, Key)> = ids4
            .chain(ids6)
            .map(|(six, id, to)| ((six, id), (six, ConnId { slot: to as u32, age: id.age })))
            .collect();
        let reals: Vec<_> = snap.dests.iter().flatten().map(|d| d.spec.ip).collect();
        let pools = core.pools.iter().map(|pool| pool.part(|ip| reals.contains(&ip))).collect();
        let fragment =
            matches!(parse(frame, link_of(self, port)), Ok(Parsed::Ip(meta)) if meta.is_fragment());
        let mut defense = core.defense;
        defense.take_the_long_way();
        let twin = Core {
            together: Together::default(),
            now,
            links: core.links.clone(),
            host: core.host.clone(),
            ways: Ways::default(),
            sights: Box::new([Sight::NOTHING; WAVE]),
            tables,
            limit: core.limit,
            pools,
            frags: if fragment { core.frags.clone() } else { Reassembly::new(FragLimits::default()) },
            worker: core.worker,
            orphans: None,
            path_mtus: core.path_mtus.clone(),
            defense,
            sweep_at: core.sweep_at,
            tap: core.tap.as_ref().map(|_| Tap::nowhere()),
            ftp: core.ftp.part(&moved),
            // it stands for all workers and gives nothing away
            post: None,
            random: Random(core.random.0),
            drops: core.drops.clone(),
            counters: core.counters,
            trace: Some(Box::new(Trace::new(&wanted.services))),
        };
        Ok(Engine { snap: Arc::new(snap), core: twin, watched: None, ear: None })
    }
}
