//! What belongs to the director on each XDP port, for the programs that sort frames in the kernel.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::warn;

use crate::addr::Cidr;
use crate::engine::PortId;
use crate::host::AddrRange;
use crate::io::guard::kernel_addresses;
use crate::io::xdp::{Claims, Filter};
use crate::io::{OpenError, xdp};
use crate::svc::{Forward, ServiceKey, Snapshot};
use crate::wire::ndp;

/// The programs of a director's XDP ports.
#[derive(Debug, Default)]
pub struct Filters {
    all: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    port: PortId,
    filter: Arc<Filter>,
    claims: Claims,
    /// It was told that the program is off and cannot be put back.
    lost: bool,
}

impl Filters {
    /// The program of a port. It takes nothing but frames to its own MAC before [`Filters::update`].
    pub fn add(&mut self, port: PortId, filter: Arc<Filter>) {
        self.all.push(Watched { port, filter, claims: Claims::default(), lost: false });
    }

    /// No port has such a program.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells every program what belongs to the director by this snapshot, all or none. To be called before the
    /// workers get it.
    ///
    /// # Errors
    /// There are too many addresses.
    pub fn update(&mut self, snap: &Snapshot) -> Result<(), OpenError> {
        let host = if self.all.is_empty() { None } else { host_addresses() };
        let mut new = Vec::with_capacity(self.all.len());
        for w in &self.all {
            let known = || w.claims.host.iter().copied().collect();
            let claims = claims(snap, w.port, &w.filter, &host.clone().unwrap_or_else(known));
            if let Err(e) = w.filter.update(&claims) {
                for told in &self.all[..new.len()] {
                    // it held them a moment ago
                    let _ = told.filter.update(&told.claims);
                }
                return Err(e);
            }
            new.push(claims);
        }
        self.all.iter_mut().zip(new).for_each(|(w, claims)| w.claims = claims);
        Ok(())
    }

    /// Once in a while: the host may have got another address, somebody may have taken a program off.
    pub fn look(&mut self) {
        let shared = self.all.iter().any(|w| w.claims.inherited);
        let host = if shared { host_addresses() } else { None };
        for w in &mut self.all {
            if let (true, Some(host)) = (w.claims.inherited, &host) {
                let mut claims = w.claims.clone();
                claims.host = host.iter().copied().collect();
                if claims != w.claims && w.filter.update(&claims).is_ok() {
                    w.claims = claims;
                }
            }
            w.watch();
        }
    }
}

impl Watched {
    /// Puts a program back that somebody took off. An interface that has gone is its port's business.
    fn watch(&mut self) {
        if self.filter.is_attached() {
            self.lost = false;
            return;
        }
        let interface = self.filter.interface();
        match self.filter.attach() {
            Ok(_) => {
                warn!(interface, "the XDP program was taken off the interface and is back");
                self.lost = false;
            }
            Err(e) if xdp::explain::occupied(&e) && !self.lost => {
                warn!(
                    interface,
                    "another XDP program has taken the place of the director's: no packet arrives until it is taken \
                     off (`ip link set dev {interface} xdp off`)"
                );
                self.lost = true;
            }
            Err(_) => {}
        }
    }
}

/// The host's addresses; `None` when they cannot be read at the moment: those from before stay the host's.
fn host_addresses() -> Option<Vec<IpAddr>> {
    Some(kernel_addresses().ok()?.into_iter().map(|(_, ip)| ip).collect())
}

/// What belongs to the director on a port.
fn claims(snap: &Snapshot, port: PortId, filter: &Filter, host: &[IpAddr]) -> Claims {
    let (mac, inherited) = filter.mac();
    let net = &snap.net;
    let name = net.ports.get(usize::from(port.0)).map(|p| &p.name);
    let dips = net.ports.iter().flat_map(|p| &p.addresses).map(|c| c.addr);
    let here =
        |ports: &Option<Vec<String>>| ports.as_ref().is_none_or(|all| name.is_some_and(|n| all.contains(n)));
    let vips = snap.vips.iter().filter(|(_, ports)| here(ports)).map(|(ip, _)| *ip);
    let mut ours: std::collections::BTreeSet<IpAddr> = dips.chain(vips).collect();
    let link_local = IpAddr::V6(ndp::link_local(mac));
    // with the interface's MAC that address is the kernel's too, as a rule
    if !inherited || !host.contains(&link_local) {
        ours.insert(link_local);
    }
    let wanted = |mark: u32| {
        snap.services.iter().any(|s| matches!(s.spec.key, ServiceKey::Mark { mark: m, .. } if m == mark))
    };
    let marks: Vec<_> = net.marks.iter().filter(|r| wanted(r.mark)).collect();
    let nat = snap.dests.iter().flatten().filter(|d| d.spec.forward == Forward::Nat);
    Claims {
        mac,
        inherited,
        ours,
        pools: net.local_addresses.iter().flat_map(networks).collect(),
        marked: marks.iter().filter_map(|r| r.to).collect(),
        reals: nat.map(|d| d.spec.ip).collect(),
        host: host.iter().copied().collect(),
        // a mark without a network may be on any packet
        everything: net.forwarding || marks.iter().any(|r| r.to.is_none()),
    }
}

/// A range as networks.
fn networks(range: &AddrRange) -> Vec<Cidr> {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let v4 = range.first.is_ipv4();
    let (mut first, last, bits) = (number(range.first), number(range.last), if v4 { 32 } else { 128 });
    let mut all = Vec::new();
    while first <= last {
        // the largest network that begins here and ends in the range
        let mut size = first.trailing_zeros().min(bits);
        while size > 0 && (size == 128 || first + ((1 << size) - 1) > last) {
            size -= 1;
        }
        let addr = if v4 { IpAddr::V4((first as u32).into()) } else { IpAddr::V6(first.into()) };
        all.push(Cidr { addr, len: (bits - size) as u8 });
        let Some(next) = first.checked_add(1 << size) else { break };
        first = next;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(first: &str, last: &str) -> Vec<String> {
        let range = AddrRange { first: first.parse().unwrap(), last: last.parse().unwrap() };
        networks(&range).iter().map(Cidr::to_string).collect()
    }

    #[test]
    fn a_range_becomes_the_fewest_networks() {
        assert_eq!(cut("10.0.0.100", "10.0.0.107"), ["10.0.0.100/30", "10.0.0.104/30"]);
        assert_eq!(cut("10.0.0.1", "10.0.0.1"), ["10.0.0.1/32"]);
        assert_eq!(cut("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(cut("255.255.255.254", "255.255.255.255"), ["255.255.255.254/31"]);
        assert_eq!(
            cut("2001:db8::1", "2001:db8::4"),
            ["2001:db8::1/128", "2001:db8::2/127", "2001:db8::4/128"]
        );
        assert_eq!(
            cut("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").len(),
            1
        );
    }
}
