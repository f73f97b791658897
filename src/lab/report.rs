//! What the lab found out, as text and as JSON.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::capture::Seen;

/// One hop of the traced request or its reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Host that sent the frame.
    pub from: String,
    /// Host that owns its destination MAC.
    pub to: String,
    /// Source address of the packet (the inner one in a tunnel).
    pub src: IpAddr,
    /// Destination address of the packet.
    pub dst: IpAddr,
    /// Ethernet source.
    pub src_mac: String,
    /// Ethernet destination.
    pub dst_mac: String,
    /// Source of the tunnel header.
    pub outer_src: Option<IpAddr>,
    /// Destination of the tunnel header.
    pub outer_dst: Option<IpAddr>,
    /// Source with port, for the text.
    #[serde(skip)]
    pub src_end: SocketAddr,
    /// Destination with port, for the text.
    #[serde(skip)]
    pub dst_end: SocketAddr,
}

impl Hop {
    /// A hop as captured.
    pub fn new(from: &str, to: &str, s: &Seen<'_>) -> Hop {
        Hop {
            from: from.into(),
            to: to.into(),
            src: s.src.ip(),
            dst: s.dst.ip(),
            src_mac: s.src_mac.to_string(),
            dst_mac: s.dst_mac.to_string(),
            outer_src: s.outer.map(|o| o.0),
            outer_dst: s.outer.map(|o| o.1),
            src_end: s.src,
            dst_end: s.dst,
        }
    }
}

/// A real server's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerShare {
    /// Name.
    pub name: String,
    /// RIP.
    pub address: IpAddr,
    /// Requests it answered.
    pub requests: u64,
}

/// Latency of whole requests (connect to last byte), microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
}

impl Latency {
    /// Percentiles of a set of times.
    pub fn of(mut us: Vec<u64>) -> Latency {
        us.sort_unstable();
        let at = |percent: usize| us.get((us.len() * percent / 100).min(us.len().saturating_sub(1)));
        Latency { p50: at(50).copied().unwrap_or(0), p99: at(99).copied().unwrap_or(0) }
    }
}

/// Everything the lab found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Forwarding method.
    pub mode: String,
    /// How the director was attached: `tap`, `packet`, `xdp`.
    pub io: String,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Scheduler.
    pub scheduler: String,
    /// Shares.
    pub servers: Vec<ServerShare>,
    /// Requests sent.
    pub requests: u64,
    /// Requests answered completely and correctly.
    pub ok: u64,
    /// The others.
    pub failed: u64,
    /// Connections whose replies passed the director.
    pub replies_via_director: u64,
    /// The traced request and its reply.
    pub hops: Vec<Hop>,
    /// Latency of the successful requests.
    pub latency_us: Latency,
    /// Duration of all requests together.
    pub seconds: f64,
    /// What went wrong, in words; empty when the lab passed.
    #[serde(skip)]
    pub problems: Vec<String>,
}

impl Report {
    /// One JSON object on one line.
    pub fn json(&self) -> String {
        // Strings, numbers and lists only: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut t = String::new();
        let _ = writeln!(t, "A request and its reply, read from the frames at every hop:");
        t += &self.hop_table();
        let _ = writeln!(t, "\nReal servers ({}):", self.scheduler);
        let rows: Vec<Vec<String>> = self
            .servers
            .iter()
            .map(|s| {
                let share = 100.0 * s.requests as f64 / (self.ok.max(1)) as f64;
                vec![s.name.clone(), s.address.to_string(), s.requests.to_string(), format!("{share:.1} %")]
            })
            .collect();
        t += &table(&["server", "address", "requests", "share"], &rows);
        let _ = writeln!(
            t,
            "\n{} requests in {:.2} s: {} ok, {} failed; latency p50 {} us, p99 {} us; replies through the \
             director: {}",
            self.requests,
            self.seconds,
            self.ok,
            self.failed,
            self.latency_us.p50,
            self.latency_us.p99,
            self.replies_via_director
        );
        for p in &self.problems {
            let _ = writeln!(t, "problem: {p}");
        }
        t
    }

    fn hop_table(&self) -> String {
        let tunnelled = self.hops.iter().any(|h| h.outer_src.is_some());
        let mut head = vec!["from", "to", "source", "destination", "source MAC", "destination MAC"];
        if tunnelled {
            head.extend(["outer source", "outer destination"]);
        }
        let rows: Vec<Vec<String>> = self
            .hops
            .iter()
            .map(|h| {
                let mut row = vec![
                    h.from.clone(),
                    h.to.clone(),
                    h.src_end.to_string(),
                    h.dst_end.to_string(),
                    h.src_mac.clone(),
                    h.dst_mac.clone(),
                ];
                if tunnelled {
                    row.extend([h.outer_src, h.outer_dst].map(|o| o.map_or("-".into(), |ip| ip.to_string())));
                }
                row
            })
            .collect();
        table(&head, &rows)
    }
}

/// Columns as wide as their widest cell, two spaces between them, indented by two.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut t = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut l = String::from(" ");
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(l, " {cell:<width$} ");
        }
        t += l.trim_end();
        t.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            mode: "tun".into(),
            io: "tap".into(),
            ipv6: false,
            scheduler: "rr".into(),
            servers: vec![ServerShare {
                name: "rs1".into(),
                address: "10.0.0.11".parse().unwrap(),
                requests: 2,
            }],
            requests: 2,
            ok: 2,
            failed: 0,
            replies_via_director: 0,
            hops: vec![Hop {
                from: "director".into(),
                to: "router".into(),
                src: "192.0.2.1".parse().unwrap(),
                dst: "192.0.2.10".parse().unwrap(),
                src_mac: "02:00:00:00:00:02".into(),
                dst_mac: "02:00:00:00:00:fe".into(),
                outer_src: Some("192.0.2.2".parse().unwrap()),
                outer_dst: Some("10.0.0.11".parse().unwrap()),
                src_end: "192.0.2.1:40000".parse().unwrap(),
                dst_end: "192.0.2.10:80".parse().unwrap(),
            }],
            latency_us: Latency { p50: 1, p99: 2 },
            seconds: 0.5,
            problems: Vec::new(),
        }
    }

    #[test]
    fn json_has_the_fixed_shape() {
        assert_eq!(
            report().json(),
            "{\"mode\":\"tun\",\"io\":\"tap\",\"ipv6\":false,\"scheduler\":\"rr\",\"servers\":[{\"name\":\"rs1\",\
             \"address\":\"10.0.0.11\",\"requests\":2}],\"requests\":2,\"ok\":2,\"failed\":0,\
             \"replies_via_director\":0,\"hops\":[{\"from\":\"director\",\"to\":\"router\",\"src\":\"192.0.2.1\",\
             \"dst\":\"192.0.2.10\",\"src_mac\":\"02:00:00:00:00:02\",\"dst_mac\":\"02:00:00:00:00:fe\",\
             \"outer_src\":\"192.0.2.2\",\"outer_dst\":\"10.0.0.11\"}],\"latency_us\":{\"p50\":1,\"p99\":2},\
             \"seconds\":0.5}"
        );
    }

    #[test]
    fn the_table_lines_up_and_shows_the_outer_header_only_for_tunnels() {
        let mut r = report();
        assert!(r.text().contains("outer source  outer destination\n"), "{}", r.text());
        r.hops[0].outer_src = None;
        assert!(!r.text().contains("outer source"), "{}", r.text());
        let t = table(&["a", "bb"], &[vec!["xxx".into(), "y".into()]]);
        assert_eq!(t, "  a    bb\n  xxx  y\n");
    }

    #[test]
    fn percentiles_of_few_and_of_no_values() {
        assert_eq!(Latency::of(vec![]), Latency { p50: 0, p99: 0 });
        assert_eq!(Latency::of((1..=100).collect()), Latency { p50: 51, p99: 100 });
    }
}
