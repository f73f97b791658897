//! Persistence templates: which real server a client stays with, and for how long.
//!
//! # Theory of operation
//! All workers share one [`Templates`]: a client's connections may arrive at any of them and must end at
//! one server. The map from key to template is a [`DashMap`], used by the closure rule: no guard leaves
//! this module and none is held over another call into a map or lock. What changes while a template lives
//! is atomic in the template itself.
//!
//! A connection holds its template by a counted reference ([`Templates::hold`] until
//! [`Template::release`]; kernel: `n_control`). Only a template that nobody holds can end: holding takes
//! the shard's lock, and ending asks for the count under the same lock, so exactly one of both happens.
//!
//! Every template, retired or not, stands in one queue ordered by the time at which it is looked at next.
//! Whoever looks takes what is due, in that order, whatever the order of the map is. As in the wheel of
//! the connections a new deadline is only stored; the queue learns of it when the old one has come.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::wheel::looked_at;
use crate::svc::{DestId, DestLive};
use crate::time::{Mono, Span, fires};

/// How long a template that still controls connections is given when its time is over
/// (IPVS-RULES 61; kernel: `ip_vs_conn_expire`).
pub const AGAIN: Span = Span::from_secs(60);

/// What a client is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateKey {
    /// Protocol number; 0 (IP) for services by mark.
    pub proto: u8,
    /// Client address or network.
    pub client: IpAddr,
    /// Virtual address, or the mark in the place of one.
    pub virt: IpAddr,
    /// Virtual port, 0 for all.
    pub vport: u16,
    /// What a persistence engine found in the packet.
    pub data: Option<Box<[u8]>>,
}

/// The tie of a client to a real server.
#[derive(Debug)]
pub struct Template {
    /// What the client is known by.
    pub key: TemplateKey,
    /// Its real server.
    pub dest: DestId,
    /// The server's address and port (0: the connection's own), for listing.
    pub real: (IpAddr, u16),
    live: Arc<DestLive>,
    deadline: AtomicU64,
    timeout: AtomicU64,
    controlled: AtomicU32,
    assured: AtomicBool,
    retired: AtomicBool,
    ended: AtomicBool,
}

impl Template {
    /// When it ends unless a new connection comes or connections of it live.
    pub fn deadline(&self) -> Mono {
        Mono(self.deadline.load(Relaxed))
    }
    /// Connections that hold it.
    pub fn controlled(&self) -> u32 {
        self.controlled.load(Relaxed)
    }
    /// A connection of it was established (IPVS-RULES 62; kernel: `IP_VS_CTPL_S_ASSURED`).
    pub fn is_assured(&self) -> bool {
        self.assured.load(Relaxed)
    }
    /// No new connection will find it (IPVS-RULES 69).
    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
    /// Its connection is established.
    pub fn assure(&self) {
        self.assured.store(true, Relaxed);
    }
    /// A new connection came: its time begins anew.
    pub fn touch(&self, now: Mono) {
        let deadline = now + Span(self.timeout.load(Relaxed));
        self.deadline.store(deadline.0, Relaxed);
    }
    /// A connection that held it ended, or was not made after all.
    pub fn release(&self) {
        let before = self.controlled.fetch_sub(1, Relaxed);
        debug_assert!(before > 0);
    }
    /// The same at this moment, on other counts.
    fn copy(&self, live: Arc<DestLive>) -> Template {
        Template {
            key: self.key.clone(),
            dest: self.dest,
            real: self.real,
            live,
            deadline: AtomicU64::new(self.deadline.load(Relaxed)),
            timeout: AtomicU64::new(self.timeout.load(Relaxed)),
            controlled: AtomicU32::new(self.controlled()),
            assured: AtomicBool::new(self.is_assured()),
            retired: AtomicBool::new(self.is_retired()),
            ended: AtomicBool::new(self.ended.load(Relaxed)),
        }
    }
    /// Its connections outlive it: it goes on for [`AGAIN`], and so it does after every new connection
    /// from now on (the kernel overwrites the timeout).
    fn again(&self, from: Mono) {
        self.timeout.store(AGAIN.0, Relaxed);
        self.deadline.store((from + AGAIN).0, Relaxed);
    }
}

/// What is needed to make a template.
#[derive(Debug)]
pub struct NewTemplate<'a> {
    /// What the client is known by.
    pub key: TemplateKey,
    /// Its real server.
    pub dest: DestId,
    /// The server's address and port, for listing.
    pub real: (IpAddr, u16),
    /// The server's counts.
    pub live: &'a Arc<DestLive>,
    /// How long it lives after each new connection.
    pub timeout: Span,
}

/// When a template is looked at next, and a number that keeps equals apart.
type Place = (Mono, u64);

/// Templates copied from the queue under one lock.
const PORTION: usize = 256;

/// Templates by the time at which they are looked at next.
#[derive(Default)]
struct Queue {
    next: u64,
    armed: BTreeMap<Place, Arc<Template>>,
}

/// All templates, shared by all workers.
pub struct Templates {
    by_key: DashMap<TemplateKey, Arc<Template>>,
    queue: Mutex<Queue>,
    /// Time of the queue's first entry, so that asking for it costs no lock; `u64::MAX` for none.
    first: AtomicU64,
    count: AtomicUsize,
}

impl Default for Templates {
    fn default() -> Templates {
        Templates {
            by_key: DashMap::new(),
            queue: Mutex::default(),
            first: AtomicU64::new(u64::MAX),
            count: AtomicUsize::new(0),
        }
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Templates({})", self.len())
    }
}

impl Templates {
    /// Templates, retired ones included.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The template of a client, held: the caller has to release it.
    pub fn hold(&self, key: &TemplateKey) -> Option<Arc<Template>> {
        let found = self.by_key.get(key)?;
        found.controlled.fetch_add(1, Relaxed);
        Some(Arc::clone(found.value()))
    }
    /// Makes a template, held. When another worker was faster, it is that one's.
    pub fn add(&self, now: Mono, new: NewTemplate<'_>) -> Arc<Template> {
        let made = Arc::new(Template {
            key: new.key.clone(),
            dest: new.dest,
            real: new.real,
            live: Arc::clone(new.live),
            deadline: AtomicU64::new((now + new.timeout).0),
            timeout: AtomicU64::new(new.timeout.0),
            controlled: AtomicU32::new(1),
            assured: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        match self.by_key.entry(new.key) {
            Entry::Occupied(theirs) => {
                let theirs = Arc::clone(theirs.get());
                theirs.controlled.fetch_add(1, Relaxed);
                return theirs;
            }
            Entry::Vacant(free) => drop(free.insert(Arc::clone(&made))),
        }
        made.live.bind_template();
        self.count.fetch_add(1, Relaxed);
        let mut queue = self.queue();
        queue.push(look(made.deadline(), new.timeout), Arc::clone(&made));
        self.first.store(queue.first(), Relaxed);
        drop(queue);
        made
    }
    /// The template of a client, only to look at it.
    pub(crate) fn find(&self, key: &TemplateKey) -> Option<Arc<Template>> {
        self.by_key.get(key).map(|found| Arc::clone(found.value()))
    }
    /// Copies of these templates in a map of their own, in the same order, whose servers' counts are those
    /// that `live` gives. It says that it is as full as this one; nothing in it is ever due.
    pub(crate) fn part(
        &self,
        originals: &[Arc<Template>],
        live: impl Fn(DestId) -> Option<Arc<DestLive>>,
    ) -> (Templates, Vec<Arc<Template>>) {
        let part = Templates { count: AtomicUsize::new(self.len()), ..Templates::default() };
        let copies = originals.iter().map(|t| {
            let copy = Arc::new(t.copy(live(t.dest).unwrap_or_default()));
            if !t.is_retired() {
                part.by_key.insert(copy.key.clone(), Arc::clone(&copy));
            }
            copy
        });
        let copies = copies.collect();
        (part, copies)
    }
    /// No new connection is to find it any more. Its time goes on.
    pub fn retire(&self, template: &Arc<Template>) {
        self.by_key.remove_if(&template.key, |_, t| Arc::ptr_eq(t, template));
        template.retired.store(true, Relaxed);
    }
    /// When [`Templates::expire`] is wanted next.
    #[inline]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let first = self.first.load(Relaxed);
        (first != u64::MAX).then_some(Mono(first))
    }
    /// Ends templates whose time is over and that control nothing, at most `budget` a call. Tells `ended`
    /// of each.
    pub fn expire(&self, now: Mono, budget: u32, mut ended: impl FnMut(&Template)) {
        if self.first.load(Relaxed) > now.0 {
            return;
        }
        for _ in 0..budget {
            let Some((armed, template)) = self.take_due(now) else { break };
            let deadline = template.deadline();
            if template.ended.load(Relaxed) {
                // a purge ended it while it was on its way from one place in the queue to another
            } else if deadline > now {
                self.put_back(look(deadline, Span(template.timeout.load(Relaxed))), template);
            } else if self.end(&template) {
                ended(&template);
            } else {
                // counted from when it was due, so that being called late does not add up
                let from = if now.since(armed) > AGAIN { now } else { armed };
                template.again(from);
                self.put_back(look(from + AGAIN, AGAIN), template);
            }
        }
    }
    /// Ends every template that `gone` says yes to, unless a connection holds it.
    pub fn purge(&self, gone: impl Fn(&Template) -> bool, mut ended: impl FnMut(&Template)) {
        for (at, template) in self.entries().filter(|(_, t)| gone(t)) {
            if self.end(&template) {
                let mut queue = self.queue();
                queue.armed.remove(&at);
                self.first.store(queue.first(), Relaxed);
                drop(queue);
                ended(&template);
            }
        }
    }
    /// All templates, retired ones included, in the order in which they are looked at. One that is looked
    /// at meanwhile may be seen twice.
    pub fn list(&self) -> Vec<Arc<Template>> {
        self.entries().map(|(_, t)| t).collect()
    }
    /// The queue, in portions so that a worker with a new client does not wait for the whole of it.
    fn entries(&self) -> impl Iterator<Item = (Place, Arc<Template>)> + '_ {
        let mut after = None;
        let portions = std::iter::from_fn(move || {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let queue = self.queue();
            let portion: Vec<_> = queue
                .armed
                .range((from, Bound::Unbounded))
                .take(PORTION)
                .map(|(at, t)| (*at, Arc::clone(t)))
                .collect();
            after = portion.last().map(|(at, _)| *at);
            (!portion.is_empty()).then_some(portion)
        });
        portions.fuse().flatten()
    }
    /// Says what does not fit. For tests and fuzzing; slow, and exact only while no other worker changes
    /// anything.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn check(&self) -> Result<(), String> {
        let all = self.list();
        if all.len() != self.len() {
            return Err(format!("{} templates counted, {} in the queue", self.len(), all.len()));
        }
        let open = all.iter().filter(|t| !t.is_retired());
        for t in open.clone() {
            let found = self.by_key.get(&t.key).is_some_and(|f| Arc::ptr_eq(f.value(), t));
            if !found {
                return Err(format!("{:?}: the key does not lead to the template", t.key));
            }
        }
        let (open, keys) = (open.count(), self.by_key.len());
        if open != keys {
            return Err(format!("{open} open templates, {keys} keys"));
        }
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    fn take_due(&self, now: Mono) -> Option<(Mono, Arc<Template>)> {
        let mut queue = self.queue();
        let first = queue.armed.first_entry().filter(|e| e.key().0 <= now)?;
        let (at, template) = first.remove_entry();
        self.first.store(queue.first(), Relaxed);
        Some((at.0, template))
    }
    fn put_back(&self, at: Mono, template: Arc<Template>) {
        let mut queue = self.queue();
        queue.push(at, template);
        self.first.store(queue.first(), Relaxed);
    }
    /// True when the template was nobody's and is gone. It is still in the queue if it was.
    fn end(&self, template: &Arc<Template>) -> bool {
        let idle = if template.is_retired() {
            // not to be found any more, so nobody can begin to hold it
            template.controlled() == 0
        } else {
            let mine = |t: &Arc<Template>| Arc::ptr_eq(t, template) && t.controlled() == 0;
            self.by_key.remove_if(&template.key, |_, t| mine(t)).is_some()
        };
        if idle && !template.ended.swap(true, Relaxed) {
            template.live.unbind_template();
            self.count.fetch_sub(1, Relaxed);
            return true;
        }
        false
    }
}

/// When a template is looked at: with the connections whose timers go off at the same moment, which end
/// first (the kernel's timers of one step go off in the opposite order of being set).
fn look(deadline: Mono, timeout: Span) -> Mono {
    looked_at(fires(deadline, timeout))
}

impl Queue {
    fn push(&mut self, at: Mono, template: Arc<Template>) {
        self.armed.insert((at, self.next), template);
        self.next += 1;
    }
    fn first(&self) -> u64 {
        self.armed.first_key_value().map_or(u64::MAX, |((at, _), _)| at.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: u8) -> TemplateKey {
        let client = IpAddr::from([10, 0, 0, client]);
        TemplateKey { proto: 6, client, virt: IpAddr::from([10, 1, 0, 100]), vport: 80, data: None }
    }
    fn add(all: &Templates, live: &Arc<DestLive>, at: u64, client: u8, secs: u64) -> Arc<Template> {
        let real = (IpAddr::from([10, 2, 0, 11]), 80);
        let timeout = Span::from_secs(secs);
        all.add(secs_at(at), NewTemplate { key: key(client), dest: DestId(1), real, live, timeout })
    }
    fn secs_at(s: u64) -> Mono {
        Mono::from_millis(s * 1000)
    }
    fn expire(all: &Templates, at: u64) -> usize {
        let mut n = 0;
        all.expire(secs_at(at), u32::MAX, |_| n += 1);
        all.check().unwrap();
        n
    }

    #[test]
    fn an_idle_template_ends_with_its_time_and_a_new_connection_begins_it_anew() {
        let (all, live) = (Templates::default(), Arc::default());
        add(&all, &live, 0, 1, 40).release();
        assert_eq!(expire(&all, 39), 0);
        let t = all.hold(&key(1)).unwrap();
        t.touch(secs_at(39));
        t.release();
        assert_eq!(expire(&all, 78), 0);
        assert_eq!(all.hold(&key(1)).map(|t| t.release()), Some(()));
        assert_eq!(expire(&all, 82), 1, "not later than the kernel's coarse timer");
        assert!(all.hold(&key(1)).is_none() && all.is_empty() && all.poll_timeout().is_none());
    }

    #[test]
    fn a_template_whose_connections_outlive_it_goes_on_by_a_minute_and_ends_after_them() {
        let (all, live) = (Templates::default(), Arc::default());
        let t = add(&all, &live, 0, 1, 40);
        for at in [42, 104, 166, 228] {
            assert_eq!(expire(&all, at), 0);
            let left = t.deadline().since(secs_at(at)).as_secs();
            assert!((57..=60).contains(&left), "{left} s left at {at}");
        }
        t.release();
        assert_eq!(expire(&all, 280), 0);
        assert_eq!(expire(&all, 292), 1);
    }

    #[test]
    fn a_retired_template_is_found_no_more_but_listed_to_its_end() {
        let (all, live) = (Templates::default(), Arc::new(DestLive::default()));
        let old = add(&all, &live, 0, 1, 300);
        all.retire(&old);
        assert!(all.hold(&key(1)).is_none());
        let new = add(&all, &live, 10, 1, 300);
        assert!(!Arc::ptr_eq(&old, &new));
        all.check().unwrap();
        assert_eq!((all.len(), all.list().len()), (2, 2));
        old.release();
        new.release();
        assert_eq!(expire(&all, 330), 2);
        assert!(all.is_empty());
    }

    #[test]
    fn whoever_is_second_gets_the_first_ones_template() {
        let (all, live) = (Templates::default(), Arc::default());
        let first = add(&all, &live, 0, 1, 300);
        let second = add(&all, &live, 0, 1, 300);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((first.controlled(), all.len()), (2, 1));
    }

    #[test]
    fn a_purge_ends_what_nobody_holds() {
        let (all, live) = (Templates::default(), Arc::default());
        add(&all, &live, 0, 1, 300).release();
        let held = add(&all, &live, 0, 2, 300);
        let mut n = 0;
        all.purge(|_| true, |_| n += 1);
        all.check().unwrap();
        assert_eq!((n, all.len()), (1, 1));
        held.release();
        all.purge(|t| t.dest == DestId(7), |_| n += 1);
        assert_eq!(n, 1);
    }

    #[test]
    fn long_lists_come_whole_and_in_order() {
        let (all, live) = (Templates::default(), Arc::default());
        let n = PORTION as u32 * 2 + 1;
        let lasts = |i: u32| Span::from_secs(1 + u64::from(n - i) * 40);
        for i in 0..n {
            let key = TemplateKey { client: IpAddr::V4(i.into()), ..key(0) };
            let real = (IpAddr::from([10, 2, 0, 11]), 80);
            let timeout = lasts(i);
            all.add(Mono::ZERO, NewTemplate { key, dest: DestId(1), real, live: &live, timeout }).release();
        }
        let list = all.list();
        assert_eq!(list.len(), n as usize);
        assert!(list.is_sorted_by_key(|t| look(t.deadline(), Span(t.timeout.load(Relaxed)))));
        all.purge(|_| true, |_| {});
        all.check().unwrap();
        assert!(all.is_empty());
    }

    #[test]
    fn the_budget_bounds_one_call() {
        let (all, live) = (Templates::default(), Arc::default());
        for client in 0..50 {
            add(&all, &live, 0, client, 1).release();
        }
        let mut n = 0;
        all.expire(secs_at(10), 20, |_| n += 1);
        assert_eq!((n, all.len()), (20, 30));
        assert!(all.poll_timeout().is_some_and(|at| at < secs_at(10)));
    }

    /// Threads that open, close and look on the same few clients: nothing is lost, nobody waits for ever.
    #[test]
    fn workers_share_templates_without_losing_one() {
        let (all, live) = (Templates::default(), Arc::new(DestLive::default()));
        std::thread::scope(|s| {
            for worker in 0..4u64 {
                let (all, live) = (&all, &live);
                s.spawn(move || {
                    for i in 0..2_000u64 {
                        let client = ((i * 7 + worker) % 5) as u8;
                        let now = i / 100;
                        let t = all.hold(&key(client)).unwrap_or_else(|| add(all, live, now, client, 1));
                        t.touch(secs_at(now));
                        match i % 50 {
                            0 => all.retire(&t),
                            1 => all.purge(|t| t.is_retired(), |_| {}),
                            _ => {}
                        }
                        t.release();
                        all.expire(secs_at(now), 64, |_| {});
                    }
                });
            }
        });
        expire(&all, 1_000);
        expire(&all, 2_000);
        assert!(all.is_empty(), "{all:?}");
        assert_eq!(all.poll_timeout(), None);
    }
}
