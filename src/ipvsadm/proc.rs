//! The texts of `/proc/net/ip_vs*`, for programs that read those.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::engine::ConnRow;
use crate::svc::{Forward, Service, ServiceKey};
use crate::wire::number;

/// Timer ticks in a second of the recorded kernel, by which persistence is told.
const HZ: u64 = 250;

/// `/proc/net/ip_vs`: services and real servers in the catalog's order.
pub fn services(services: &[Arc<Service>]) -> String {
    let mut out = String::from(
        "IP Virtual Server version 1.2.1 (size=4096)\n\
         Prot LocalAddress:Port Scheduler Flags\n\
         \x20 -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n",
    );
    // marks have a table of their own, which comes last
    let is_mark = |s: &&Arc<Service>| matches!(s.spec.key, ServiceKey::Mark { .. });
    let (marks, others): (Vec<_>, Vec<_>) = services.iter().partition(is_mark);
    for s in others.into_iter().chain(marks) {
        let spec = &s.spec;
        let scheduler = spec.scheduler.name();
        let ops = if spec.one_packet { "ops " } else { "" };
        // writing to a String cannot fail
        let _ = match spec.key {
            ServiceKey::Address { proto, ip, port } => {
                let name = proto.name().to_uppercase();
                let at = endpoint(ip, port);
                match ip {
                    IpAddr::V4(_) => write!(out, "{name}  {at} {scheduler} {ops} "),
                    IpAddr::V6(_) => write!(out, "{name}  {at} {scheduler} "),
                }
            }
            ServiceKey::Mark { mark, .. } => write!(out, "FWM  {mark:08X} {scheduler} {ops}"),
        };
        if let Some(p) = spec.persistence {
            let mask = match (spec.key.is_v6(), spec.netmask_bits) {
                // printed with the bytes of an IPv4 address turned around
                (true, _) => u32::from(p.netmask).swap_bytes(),
                (false, Some(bits)) => bits,
                (false, None) => u32::MAX.checked_shl(32 - u32::from(p.netmask.min(32))).unwrap_or(0),
            };
            let _ = write!(out, "persistent {} {mask:08X}", p.timeout.as_secs() * HZ);
        }
        out.push('\n');
        for d in &s.dests {
            let forward = match d.spec.forward {
                Forward::Nat => "Masq",
                Forward::FullNat => "FullNat",
                Forward::Tun(_) => "Tunnel",
                Forward::Dr => "Route",
            };
            let at = endpoint(d.spec.ip, d.spec.port);
            let (weight, active, inactive) = (d.spec.weight, d.active(), d.inactive());
            let _ = writeln!(out, "  -> {at}      {forward:<7} {weight:<6} {active:<10} {inactive:<10}");
        }
    }
    out
}

/// `/proc/net/ip_vs_stats`: conns, packets in and out, bytes in and out, and the same per second.
pub fn stats(totals: [u64; 5], rates: [u64; 5]) -> String {
    format!(
        "   Total Incoming Outgoing         Incoming         Outgoing\n\
         \x20  Conns  Packets  Packets            Bytes            Bytes\n\
         {}\n\n\
         \x20Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
         {}\n",
        numbers(totals),
        numbers(rates),
    )
}

/// `/proc/net/ip_vs_stats_percpu`, with all workers as one processor.
pub fn stats_percpu(totals: [u64; 5], rates: [u64; 5]) -> String {
    let (totals, rates) = (numbers(totals), numbers(rates));
    format!(
        "       Total Incoming Outgoing         Incoming         Outgoing\n\
         CPU    Conns  Packets  Packets            Bytes            Bytes\n\
         \x20 0 {totals}\n  ~ {totals}\n\n\
         \x20    Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n\
         \x20   {rates}\n"
    )
}

fn numbers([conns, in_pkts, out_pkts, in_bytes, out_bytes]: [u64; 5]) -> String {
    format!("{conns:8X} {in_pkts:8X} {out_pkts:8X} {in_bytes:16X} {out_bytes:16X}")
}

/// First line of `/proc/net/ip_vs_conn`.
pub const CONN_TITLE: &str =
    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n";
/// The whole of `/proc/net/ip_vs_conn_sync` while no connection came from elsewhere.
pub const CONN_SYNC_TITLE: &str =
    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n";

/// One line of `/proc/net/ip_vs_conn`.
pub fn conn_line(out: &mut String, r: &ConnRow) {
    let name: std::borrow::Cow<'_, str> = match r.proto {
        number::TCP => "TCP".into(),
        number::UDP => "UDP".into(),
        number::SCTP => "SCTP".into(),
        0 => "IP".into(),
        other => format!("IP_{other}").into(),
    };
    let of = |a: SocketAddr| format!("{} {:04X}", address(a.ip()), a.port());
    // writing to a String cannot fail
    let _ = write!(
        out,
        "{name:<3} {} {} {} {:<11} {:7}",
        of(r.client),
        of(r.virt),
        of(r.dest),
        r.state,
        r.expires.as_secs(),
    );
    if let Some((name, data)) = &r.pe {
        let _ = write!(out, " {name} {data}");
    }
    out.push('\n');
}

fn endpoint(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(_) => format!("{}:{port:04X}", address(ip)),
        IpAddr::V6(_) => format!("[{}]:{port:04X}", address(ip)),
    }
}

fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08X}", u32::from(ip)),
        IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:04x}")).join(":"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvsadm::{Baseline, apply, parse};
    use crate::svc::Catalog;

    #[test]
    fn services_as_recorded_in_cli_list_options() {
        let mut c = Catalog::default();
        for line in [
            "-A -u 10.1.0.100:53 -s lblcr",
            "-a -u 10.1.0.100:53 -r 10.2.0.11:53 -g",
            "-A -t [2001:db8:1::100]:443 -s mh -b mh-port,mh-fallback",
            "-a -t [2001:db8:1::100]:443 -r [2001:db8:2::11]:443 -m -w 5",
            "-A -u 10.1.0.100:5060 -s rr -o --pe sip -p 30",
            "-A -f 17 -s sh -p -M 255.255.255.0",
            "-A -f 18 -6 -s rr -p 90 -M 64",
        ] {
            let words: Vec<_> = line.split_whitespace().collect();
            apply(&parse(&words).expect(line), &mut c, &mut Baseline::default()).expect(line);
        }
        let text = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
UDP  0A010064:0035 lblcr  
  -> 0A02000B:0035      Route   1      0          0         
TCP  [2001:0db8:0001:0000:0000:0000:0000:0100]:01BB mh 
  -> [2001:0db8:0002:0000:0000:0000:0000:0011]:01BB      Masq    5      0          0         
UDP  0A010064:13C4 rr ops  persistent 7500 FFFFFFFF
FWM  00000011 sh persistent 90000 FFFFFF00
FWM  00000012 rr persistent 22500 40000000
";
        assert_eq!(services(c.services()), text);
    }
}
