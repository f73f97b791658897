//! `ipvsadm -Lnc`: connections, one a line.

use std::fmt::Write;
use std::net::SocketAddr;

use super::names::Names;
use crate::engine::ConnRow;
use crate::svc::Proto;
use crate::wire::number;

const TITLE: &str = "IPVS connection entries\n\
                     pro expire state       source             virtual            destination";

/// The whole listing. `persistence` adds the columns of persistence engines (`--persistent-conn`).
pub fn listing(rows: impl Iterator<Item = ConnRow>, persistence: bool) -> String {
    let mut out = title(persistence);
    for r in rows {
        line(&mut out, &r, persistence, None);
    }
    out
}

/// The two title lines.
pub fn title(persistence: bool) -> String {
    format!("{TITLE}{}\n", if persistence { "        pe name          pe_data" } else { "" })
}

/// One line; with names where they are known.
pub fn line(out: &mut String, r: &ConnRow, persistence: bool, names: Option<&Names>) {
    out.push_str(&row(r, names));
    if let Some((name, data)) = r.pe.as_ref().filter(|_| persistence) {
        // writing to a String cannot fail
        let _ = write!(out, " {name:<18} {data}");
    }
    out.push('\n');
}

/// One line without its end. The time left is printed in whole minutes and seconds, rounded down.
fn row(r: &ConnRow, names: Option<&Names>) -> String {
    let secs = r.expires.as_secs();
    let mut line = String::with_capacity(80);
    // writing to a String cannot fail
    let _ = write!(
        line,
        "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {:<16}",
        proto(r.proto),
        secs / 60,
        secs % 60,
        r.state,
        endpoint(r.client, r.proto, names),
        endpoint(r.virt, r.proto, names),
        endpoint(r.dest, r.proto, names),
    );
    line
}

/// `ip` stands for templates of firewall-mark services.
fn proto(number: u8) -> &'static str {
    match number {
        number::TCP => "TCP",
        number::UDP => "UDP",
        number::SCTP => "SCTP",
        0 => "IP",
        _ => "UNK",
    }
}

fn endpoint(a: SocketAddr, proto: u8, names: Option<&Names>) -> String {
    super::address::endpoint(a.ip(), a.port(), Proto::from_number(proto), names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    fn of(client: &str, virt: &str, dest: &str, secs: u64, state: &'static str) -> ConnRow {
        ConnRow {
            proto: number::TCP,
            expires: Span::from_millis(secs * 1000 + 999),
            state,
            client: client.parse().unwrap(),
            virt: virt.parse().unwrap(),
            dest: dest.parse().unwrap(),
            local: None,
            pe: None,
        }
    }

    #[test]
    fn templates_of_an_engine_show_what_it_found_when_asked() {
        let pe = Some(("sip", "a1@host".to_string()));
        let r = ConnRow { pe, ..of("198.51.100.5:0", "10.1.0.100:5060", "10.2.0.13:5060", 59, "NONE") };
        let line =
            |persistence| listing([r.clone()].into_iter(), persistence).lines().nth(2).unwrap().to_string();
        assert!(line(true).ends_with("10.2.0.13:5060   sip                a1@host"), "{}", line(true));
        assert!(line(false).ends_with("10.2.0.13:5060  "), "{}", line(false));
    }

    #[test]
    fn rows_as_recorded_in_fwd_dr() {
        let r = of("198.51.100.6:30000", "10.1.0.100:80", "10.2.0.11:80", 899, "ESTABLISHED");
        assert_eq!(
            row(&r, None).trim_end(),
            "TCP 14:59  ESTABLISHED 198.51.100.6:30000 10.1.0.100:80      10.2.0.11:80"
        );
        let r = of("[2001:db8:c::6]:30000", "[2001:db8:1::100]:80", "[2001:db8:2::11]:80", 59, "SYN_RECV");
        assert_eq!(
            row(&r, None),
            "TCP 00:59  SYN_RECV    [2001:db8:c::6]:30000 [2001:db8:1::100]:80 [2001:db8:2::11]:80"
        );
    }
}
