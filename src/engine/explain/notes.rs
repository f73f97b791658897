//! What an engine tells on a packet's way. Every method is one test of a flag where nobody listens, and is
//! called off the express lane only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::family::IpFamily;
use super::super::schedule::Placement;
use super::super::ways::Way;
use super::super::{Core, DropReason, Engine, PortId, Verdict};
use super::{Explanation, Facts, Step, link_of, words};
use crate::buf::{Csum, Offload};
use crate::conn::key::Tuple;
use crate::conn::state::State;
use crate::conn::table::{Conn, Side, flag};
use crate::conn::template::{Template, TemplateKey};
use crate::conn::wheel::Tick;
use crate::host::{Owned, Route};
use crate::sched::{PickKey, Scheduler};
use crate::svc::{
    Dest, Forward, Proto, SchedulerKind, Service, ServiceId, ServiceKey, Snapshot, Tunnel, TunnelCsum,
};
use crate::time::{Mono, Span};
use crate::wire::{Link, Meta, number};

/// What was told so far.
#[derive(Debug, Default)]
pub(in crate::engine) struct Trace {
    steps: Vec<Step>,
    server: Option<SocketAddr>,
    /// Services that are the twin's own.
    own: Vec<ServiceId>,
    /// Services and templates that were asked for.
    pub(super) services: Vec<ServiceId>,
    pub(super) templates: Vec<TemplateKey>,
}

impl Trace {
    pub(super) fn new(own: &[ServiceId]) -> Trace {
        Trace { own: own.to_vec(), ..Trace::default() }
    }
    fn step(&mut self, name: &'static str, inputs: Facts, result: impl Into<String>) {
        self.steps.push(Step { name, inputs, result: result.into() });
    }
}

/// A span in words: `15m`, `2m 5s`, `300ms`.
pub fn span(span: Span) -> String {
    let (secs, ms) = (span.as_secs(), span.as_millis() % 1000);
    match (secs / 60, secs % 60) {
        (0, 0) => format!("{ms}ms"),
        (0, s) => format!("{s}s"),
        (m, 0) => format!("{m}m"),
        (m, s) => format!("{m}m {s}s"),
    }
}

/// A service by what it answers to, and its name.
pub fn service_name(service: &Service) -> String {
    let key = match service.spec.key {
        ServiceKey::Address { proto, ip, port } => format!("{} {}", proto.name(), SocketAddr::new(ip, port)),
        ServiceKey::Mark { mark, v6 } => format!("fwmark {mark} ({})", if v6 { "IPv6" } else { "IPv4" }),
    };
    if service.spec.name.is_empty() { key } else { format!("{key} \"{}\"", service.spec.name) }
}

/// A forwarding method with its tunnel.
pub fn method(forward: Forward) -> String {
    let csum = |csum| match csum {
        TunnelCsum::None => "",
        TunnelCsum::Csum => " with checksum",
        TunnelCsum::RemCsum => " with remote checksum",
    };
    match forward {
        Forward::Tun(Tunnel::Ipip) => "tun (ipip)".to_owned(),
        Forward::Tun(Tunnel::Gre { csum: c }) => format!("tun (gre{})", csum(c)),
        Forward::Tun(Tunnel::Gue { port, csum: c }) => format!("tun (gue to port {port}{})", csum(c)),
        Forward::Nat | Forward::FullNat | Forward::Dr => forward.name().to_owned(),
    }
}

fn tuple_words<A: IpFamily>(t: &Tuple<A>) -> String {
    let (src, dst) = (SocketAddr::new(t.src.ip(), t.sport), SocketAddr::new(t.dst.ip(), t.dport));
    format!("{} {src} > {dst}", words::proto(t.proto))
}

fn end(dest: &Dest) -> SocketAddr {
    SocketAddr::new(dest.spec.ip, dest.spec.port)
}

impl Core {
    #[inline]
    fn tell(&mut self, name: &'static str, inputs: Facts, result: impl Into<String>) {
        if let Some(trace) = &mut self.trace {
            trace.step(name, inputs, result);
        }
    }
    /// Somebody listens.
    #[inline]
    pub(in crate::engine) fn told(&self) -> bool {
        self.trace.is_some()
    }
    fn port_name(&self, port: PortId) -> String {
        let plan = self.host.plan();
        plan.ports.get(usize::from(port.0)).map_or_else(|| format!("#{}", port.0), |p| p.name.clone())
    }

    /// The packet's tuple is no connection's.
    #[inline]
    pub(in crate::engine) fn tell_unknown<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        frame: &[u8],
        meta: &Meta,
        proto: Option<Proto>,
    ) {
        if !self.told() {
            return;
        }
        let tuple = A::tuple(frame, meta);
        let result = match proto {
            None => "none: only tcp, udp and sctp have connections",
            Some(_) if snap.services.is_empty() => "not looked for: there is no service",
            Some(_) => {
                A::table(&mut self.tables).seek(&tuple);
                "none"
            }
        };
        let count = self.tables.len();
        let inputs = vec![("tuple", words::ends(frame, meta).into()), ("connections", count.into())];
        self.tell("connection", inputs, result);
    }

    /// The packet's tuple is a connection's.
    #[inline]
    pub(in crate::engine) fn tell_known<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        slot: u32,
        side: Side,
    ) {
        if !self.told() {
            return;
        }
        let conn = *A::table(&mut self.tables).get(slot);
        let key = match side {
            Side::Client => conn.client_key(),
            Side::Real => conn.real_key(),
        };
        let from = match side {
            Side::Client => "from the client",
            Side::Real => "from the real server",
        };
        let mut inputs: Facts = vec![("tuple", tuple_words(&key).into())];
        inputs.extend(conn_facts(snap, now, &conn));
        self.tell("connection", inputs, format!("known, {from}"));
    }

    /// A connection ended to make room for another one, or because its server is gone.
    #[inline]
    pub(in crate::engine) fn tell_closed<A: IpFamily>(&mut self, conn: &Conn<A>) {
        if self.told() {
            let inputs =
                vec![("tuple", tuple_words(&conn.client_key()).into()), ("state", conn.state.name().into())];
            self.tell("close", inputs, "the connection ends");
        }
    }

    /// What the destination is to the director.
    #[cold]
    pub(in crate::engine) fn tell_address(&mut self, port: PortId, dst: IpAddr) {
        let owned = self.host.owns(port, dst);
        let on = self.port_name(port);
        let result = match owned {
            Owned::No => format!("not the director's on port {on}"),
            Owned::Dip => format!("the director's own address (DIP) on port {on}"),
            Owned::Vip => format!("a virtual address (VIP) on port {on}"),
            Owned::LocalAddress => "a local address of FULLNAT (LIP)".to_owned(),
            Owned::Group => "a group the director is in".to_owned(),
        };
        self.tell("address", vec![("destination", dst.into())], result);
    }

    /// The service that takes the packet. A twin gets only what is its own, and asks for what is not.
    #[inline]
    pub(in crate::engine) fn tell_service<'s>(
        &mut self,
        marks: bool,
        mark: u32,
        what: (Proto, IpAddr, u16),
        found: Option<&'s Arc<Service>>,
    ) -> Option<&'s Arc<Service>> {
        let Some(trace) = &mut self.trace else { return found };
        let (proto, ip, port) = what;
        if marks {
            let result = if mark == 0 { "no mark".to_owned() } else { format!("mark {mark}") };
            let to = SocketAddr::new(ip, port);
            trace.step("mark", vec![("protocol", proto.name().into()), ("to", to.into())], result);
        }
        let asked = format!("{} {}", proto.name(), SocketAddr::new(ip, port));
        let mut inputs: Facts = vec![("asked", asked.into())];
        if mark != 0 {
            inputs.push(("mark", mark.into()));
        }
        let Some(service) = found else {
            trace.step("service", inputs, "none");
            return None;
        };
        let spec = &service.spec;
        inputs.push(("scheduler", spec.scheduler.name().into()));
        if let Some(p) = spec.persistence {
            inputs.push(("persistence", format!("{} /{}", span(p.timeout), p.netmask).into()));
        }
        if spec.one_packet {
            inputs.push(("one_packet", true.into()));
        }
        inputs.push(("real_servers", service.dests.len().into()));
        trace.step("service", inputs, service_name(service));
        trace.services.push(service.id);
        found.filter(|s| trace.own.contains(&s.id))
    }

    /// May the packet begin a connection?
    #[cold]
    pub(in crate::engine) fn tell_begin(&mut self, meta: &Meta, begins: bool) {
        let mut inputs: Facts = vec![("protocol", words::proto(meta.proto).into())];
        if meta.proto == number::TCP {
            inputs.push(("flags", words::flags(meta.tcp_flags).into()));
        }
        let result = match (begins, meta.proto) {
            (true, _) => "it may begin a connection",
            (false, number::TCP) => "it cannot begin a connection: only a SYN can (sysctl sloppy_tcp)",
            (false, _) => "it cannot begin a connection: only an INIT can (sysctl sloppy_sctp)",
        };
        self.tell("begin", inputs, result);
    }

    /// The defence `drop_packet` took the packet.
    #[inline]
    pub(in crate::engine) fn tell_defence(&mut self, snap: &Snapshot) {
        if self.told() {
            let inputs = vec![
                ("drop_packet", u64::from(snap.sysctl.drop_packet).into()),
                ("connections", self.tables.len().into()),
                ("limit", self.limit.into()),
            ];
            self.tell("defence", inputs, "one of so many new connections is dropped, this one");
        }
    }

    /// What the client's template says.
    #[inline]
    pub(in crate::engine) fn tell_template(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        key: &TemplateKey,
        was: Option<Arc<Template>>,
        used: bool,
    ) {
        if !self.told() {
            return;
        }
        if let Some(trace) = &mut self.trace {
            trace.templates.push(key.clone());
        }
        let to = SocketAddr::new(key.virt, key.vport);
        let mut inputs: Facts = vec![("client", key.client.into()), ("to", to.into())];
        if let Some(data) = &key.data {
            inputs.push(("call_id", String::from_utf8_lossy(data).into_owned().into()));
        }
        let result = match was {
            None => "none: the scheduler is asked, and its answer kept".to_owned(),
            Some(t) => {
                let server = snap.dest(t.dest).map_or_else(|| "?".to_owned(), |d| end(d).to_string());
                inputs.push(("server", server.clone().into()));
                inputs.push(("expires", span(t.deadline().since(now)).into()));
                // the packet holds it already where it is used
                inputs.push(("connections", (t.controlled() - u32::from(used)).into()));
                if used {
                    format!("it stays with {server}")
                } else {
                    format!("{server} cannot be used any more: the scheduler is asked")
                }
            }
        };
        self.tell("template", inputs, result);
    }

    /// What the scheduler saw and said; `before` is its state when it was asked.
    #[cold]
    pub(in crate::engine) fn tell_pick(
        &mut self,
        now: Mono,
        service: &Service,
        key: &PickKey,
        before: Scheduler,
        picked: Option<usize>,
    ) {
        let dests = &service.dests;
        let kind = before.kind();
        let mut inputs: Facts = vec![("scheduler", kind.name().into())];
        match kind {
            SchedulerKind::Sh | SchedulerKind::Mh => {
                let client = SocketAddr::new(key.src, key.sport);
                let hashed = if before.flags().port { client.into() } else { key.src.into() };
                inputs.push(("hashed", hashed));
                inputs.push(("port", before.flags().port.into()));
                inputs.push(("fallback", before.flags().fallback.into()));
            }
            SchedulerKind::Dh | SchedulerKind::Lblc | SchedulerKind::Lblcr => {
                inputs.push(("hashed", key.dst.into()));
            }
            SchedulerKind::Twos => inputs.push(("random", format!("{:#018x}", key.random).into())),
            SchedulerKind::Rr | SchedulerKind::Wrr => {
                let last = before.last().and_then(|id| dests.iter().find(|d| d.id == id));
                let last = last.map_or_else(|| "none".to_owned(), |d| end(d).to_string());
                inputs.push(("last", last.into()));
            }
            _ => {}
        }
        inputs.push(("servers", super::Value::Rows(dests.iter().map(|d| server(kind, d)).collect())));
        let runner_up = picked.and_then(|at| without(now, dests, at, key, before));
        let result = match (picked.and_then(|at| dests.get(at)), runner_up) {
            (Some(first), Some(next)) => format!("{}; runner-up {}", end(first), end(&dests[next])),
            (Some(first), None) => format!("{}; no other would take it", end(first)),
            (None, _) if dests.is_empty() => "nobody: the service has no real server".to_owned(),
            (None, _) => "nobody: no server that may be picked can be used".to_owned(),
        };
        self.tell("scheduler", inputs, result);
    }

    /// A connection was opened, or could not be.
    #[inline]
    pub(in crate::engine) fn tell_open<A: IpFamily>(
        &mut self,
        tuple: &Tuple<A>,
        to: Placement<'_>,
        opened: &Result<u32, DropReason>,
    ) {
        if !self.told() {
            return;
        }
        let Placement { dest, rport } = to;
        let mut inputs: Facts = vec![
            ("tuple", tuple_words(tuple).into()),
            ("server", SocketAddr::new(dest.spec.ip, rport).into()),
            ("mode", method(dest.spec.forward).into()),
        ];
        let result = match opened {
            Ok(slot) => {
                let conn = A::table(&mut self.tables).get(*slot);
                if conn.flags & flag::FULLNAT != 0 {
                    inputs.push(("local", SocketAddr::new(conn.local.ip(), conn.lport).into()));
                }
                "a new connection".to_owned()
            }
            Err(why) => format!("no: {}", why.name()),
        };
        self.tell("open", inputs, result);
    }

    /// The packet moved the connection's state.
    #[cold]
    pub(in crate::engine) fn tell_state(&mut self, before: State, after: State, timeout: Span) {
        let result = match before == after {
            true => format!("stays {}", after.name()),
            false => format!("{} > {}", before.name(), after.name()),
        };
        self.tell("state", vec![("timeout", span(timeout).into())], result);
    }

    /// A packet of a known connection is scheduled anew.
    #[inline]
    pub(in crate::engine) fn tell_anew(&mut self, snap: &Snapshot, state: State, why: &'static str) {
        if self.told() {
            let inputs = vec![
                ("state", state.name().into()),
                ("conn_reuse_mode", u64::from(snap.sysctl.conn_reuse_mode).into()),
                ("expire_nodest_conn", snap.sysctl.expire_nodest_conn.into()),
            ];
            self.tell("anew", inputs, why);
        }
    }

    /// The real server a packet of a connection goes to.
    #[inline]
    pub(in crate::engine) fn tell_server<A: IpFamily>(&mut self, conn: &Conn<A>, dest: &Dest) {
        if let Some(trace) = &mut self.trace {
            let server = SocketAddr::new(dest.spec.ip, conn.rport);
            trace.server = Some(server);
            let inputs = vec![("mode", method(dest.spec.forward).into()), ("weight", dest.weight().into())];
            trace.step("server", inputs, server.to_string());
        }
    }

    /// The way to a real server.
    #[inline]
    pub(in crate::engine) fn tell_way(&mut self, now: Mono, to: IpAddr, way: Option<&Way>) {
        if self.told() {
            self.tell_route(now, to, way.map(|w| &w.route));
        }
    }

    /// The route to an address, and what is known of the next hop.
    #[inline]
    pub(in crate::engine) fn tell_route(&mut self, now: Mono, to: IpAddr, route: Option<&Route>) {
        if !self.told() {
            return;
        }
        let to = vec![("to", to.into())];
        let Some(route) = route else { return self.tell("route", to, "none") };
        if route.unreachable {
            return self.tell("route", to, "unreachable, says the configuration");
        }
        let (on, hop) = (self.port_name(route.port), route.next_hop);
        let mut inputs = to;
        inputs.push(("next_hop", hop.into()));
        inputs.push(("mtu", route.mtu.into()));
        self.tell("route", inputs, format!("out of port {on}"));
        if self.links.get(usize::from(route.port.0)) != Some(&Link::Ethernet) {
            return;
        }
        let known = self.host.neighbors(now).find(|n| n.port == route.port && n.ip == hop);
        let mut inputs: Facts = vec![("next_hop", hop.into())];
        let result = match known {
            None => "not known: it is asked for".to_owned(),
            Some(n) => {
                inputs.push(("state", n.state.name().into()));
                match n.mac {
                    Some(mac) => mac.to_string(),
                    None if n.parked > 0 => {
                        inputs.push(("waiting", n.parked.into()));
                        "did not answer yet".to_owned()
                    }
                    None => "did not answer yet".to_owned(),
                }
            }
        };
        self.tell("neighbour", inputs, result);
    }

    /// The packet goes into a tunnel.
    #[inline]
    pub(in crate::engine) fn tell_tunnel(&mut self, kind: Tunnel, ends: (IpAddr, IpAddr), room: usize) {
        if self.told() {
            let (src, dst) = ends;
            let inputs = vec![
                ("type", method(Forward::Tun(kind)).into()),
                ("outer_source", src.into()),
                ("outer_destination", dst.into()),
            ];
            self.tell("tunnel", inputs, format!("room for {room} bytes inside"));
        }
    }

    /// What became of a fragment.
    #[inline]
    pub(in crate::engine) fn tell_fragment(&mut self, meta: &Meta, result: impl FnOnce() -> String) {
        if self.told() {
            let inputs = vec![
                ("offset", u64::from(meta.frag_offset).into()),
                ("more", meta.more_fragments.into()),
                ("datagrams_waiting", self.frags.len().into()),
            ];
            self.tell("fragment", inputs, result());
        }
    }

    /// An ICMP error, and the connection it is about.
    #[inline]
    pub(in crate::engine) fn tell_quoted<A: IpFamily>(
        &mut self,
        went: &Tuple<A>,
        found: Option<(u32, Side)>,
    ) {
        if !self.told() {
            return;
        }
        let result = match found {
            Some((_, Side::Client)) => "about a reply: the real server hears of it",
            Some((_, Side::Real)) => "about a request: the client hears of it",
            None => "about no connection that is known",
        };
        self.tell("icmp_error", vec![("quotes", tuple_words(went).into())], result);
    }
}

impl Engine {
    /// What is known of a frame before anything is decided.
    pub(super) fn tell_frame(&mut self, port: PortId, frame: &[u8], offload: Offload) {
        let link = link_of(self, port);
        let core = &mut self.core;
        let name = core.port_name(port);
        let mut inputs: Facts = vec![("bytes", frame.len().into())];
        let plan = core.host.plan().clone();
        let plan = plan.ports.get(usize::from(port.0));
        if let Some(stations) = words::stations(frame, link) {
            inputs.push(("stations", stations.into()));
            inputs.extend(plan.map(|p| ("mac", p.mac.to_string().into())));
        }
        inputs.extend(plan.map(|p| ("mtu", p.mtu.into())));
        let what = if plan.is_some() { name } else { format!("{name}: there is no such port") };
        core.tell("port", inputs, what);
        let mut inputs: Facts = Vec::new();
        if matches!(offload.csum, Csum::Partial { .. }) {
            inputs.push(("checksum", "partial: the device is to complete it".into()));
        }
        if let Some(gso) = offload.gso {
            inputs.push(("segments_of", u64::from(gso.size).into()));
        }
        core.tell("parse", inputs, words::frame(frame, link));
    }

    /// The end of the way.
    pub(super) fn conclude(
        &mut self,
        verdict: Verdict,
        frame: &[u8],
        port: PortId,
        output: Option<(PortId, Vec<u8>)>,
        made: Vec<(PortId, Vec<u8>)>,
    ) -> Explanation {
        let (from, core) = (link_of(self, port), &self.core);
        let told = core.trace.as_ref();
        let steps = told.map(|t| t.steps.clone()).unwrap_or_default();
        let mut trace = Trace { steps, server: told.and_then(|t| t.server), ..Trace::default() };
        if let Some((to, bytes)) = &output {
            let link = core.links.get(usize::from(to.0)).copied().unwrap_or(from);
            let mut inputs: Facts = vec![("before", words::frame(frame, from).into())];
            inputs.extend(words::stations(bytes, link).map(|s| ("stations", s.into())));
            trace.step("rewrite", inputs, words::frame(bytes, link));
        }
        let rows = made.iter().map(|(to, bytes)| {
            let link = core.links.get(usize::from(to.0)).copied().unwrap_or(from);
            vec![("port", core.port_name(*to).into()), ("packet", words::frame(bytes, link).into())]
        });
        let rows: Vec<Facts> = rows.collect();
        if !rows.is_empty() {
            let result = format!("{} beside the packet or in its place", rows.len());
            trace.step("sends", vec![("packets", super::Value::Rows(rows))], result);
        }
        trace.step("verdict", Vec::new(), verdict.words(|p| core.port_name(p)));
        Explanation { steps: trace.steps, verdict, output, made, server: trace.server }
    }
}

/// A connection as it is.
fn conn_facts<A: IpFamily>(snap: &Snapshot, now: Mono, conn: &Conn<A>) -> Facts {
    let dest = snap.dest(conn.dest);
    let real = dest.map_or(conn.real.ip(), |d| d.spec.ip);
    let mut facts: Facts = vec![
        ("state", conn.state.name().into()),
        ("expires", span(Tick::of(now).span_until(conn.deadline)).into()),
        ("server", SocketAddr::new(real, conn.rport).into()),
    ];
    if conn.flags & flag::FULLNAT != 0 {
        facts.push(("local", SocketAddr::new(conn.local.ip(), conn.lport).into()));
    }
    if let Some(dest) = dest.filter(|d| !d.available) {
        facts.push(("removed", (!dest.available).into()));
    }
    facts
}

/// A server as a scheduler sees it.
fn server(kind: SchedulerKind, dest: &Dest) -> Facts {
    use SchedulerKind as K;
    let (active, inactive, weight) = (dest.active(), dest.inactive(), dest.weight());
    let mut facts: Facts = vec![
        ("server", end(dest).into()),
        ("weight", weight.into()),
        ("active", active.into()),
        ("inactive", inactive.into()),
    ];
    let all = u64::from(active) * 256 + u64::from(inactive);
    match kind {
        K::Lc => facts.push(("load", all.into())),
        K::Wlc | K::Lblc | K::Lblcr | K::Twos => facts.push(("load", format!("{all}/{weight}").into())),
        K::Sed | K::Nq => facts.push(("load", format!("{}/{weight}", u64::from(active) + 1).into())),
        K::Ovf => facts.push(("full", (active > weight).into())),
        K::Rr | K::Wrr | K::Dh | K::Sh | K::Fo | K::Mh => {}
    }
    let can = match (weight, dest.overloaded()) {
        (0, _) => "no: weight 0",
        (_, true) => "no: over its upper threshold",
        (_, false) => "yes",
    };
    facts.push(("usable", can.into()));
    facts
}

/// Who would take the connection if the picked server had weight 0.
fn without(
    now: Mono,
    dests: &[Arc<Dest>],
    picked: usize,
    key: &PickKey,
    mut scheduler: Scheduler,
) -> Option<usize> {
    let mut others = dests.to_vec();
    let mut gone = (**others.get(picked)?).clone();
    gone.spec.weight = 0;
    others[picked] = Arc::new(gone);
    scheduler.pick(now, &others, key).filter(|next| *next != picked)
}
