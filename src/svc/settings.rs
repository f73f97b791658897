//! Timeouts (`ipvsadm --set`) and switches (`net.ipv4.vs.*`) that decisions depend on.

use crate::conn::state::{State, TCP_STATES};
use crate::time::Span;

/// Timeouts of connections, by state. Defaults are the kernel's (IPVS-RULES 72).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [Span; State::COUNT],
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let mut t = Timeouts { by_state: [Span::from_secs(60); State::COUNT] };
        for (state, secs) in [
            (State::TcpNone, 2),
            (State::TcpEstablished, 900),
            (State::TcpSynSent, 120),
            (State::TcpSynRecv, 60),
            (State::TcpFinWait, 120),
            (State::TcpTimeWait, 120),
            (State::TcpClose, 10),
            (State::TcpCloseWait, 60),
            (State::TcpLastAck, 30),
            (State::TcpListen, 120),
            (State::TcpSynAck, 120),
            (State::Udp, 300),
            (State::SctpNone, 2),
            (State::SctpInit1, 4),
            (State::SctpInit, 61),
            (State::SctpCookieSent, 61),
            (State::SctpCookieReplied, 61),
            (State::SctpCookieWait, 61),
            (State::SctpCookie, 61),
            (State::SctpCookieEchoed, 61),
            (State::SctpEstablished, 900),
            (State::SctpShutdownSent, 61),
            (State::SctpShutdownReceived, 61),
            (State::SctpShutdownAckSent, 61),
            (State::SctpRejected, 4),
            (State::SctpClosed, 61),
        ] {
            t.by_state[state as usize] = Span::from_secs(secs);
        }
        t
    }
}

impl Timeouts {
    /// Timeout of a state.
    #[inline]
    pub fn of(&self, state: State) -> Span {
        self.by_state[state as usize]
    }
    /// `ipvsadm --set TCP TCPFIN UDP`: changes ESTABLISHED, FIN_WAIT and UDP; zero leaves a value
    /// alone (IPVS-RULES 78).
    pub fn set(&mut self, tcp: Span, tcp_fin: Span, udp: Span) {
        for (state, span) in [(State::TcpEstablished, tcp), (State::TcpFinWait, tcp_fin), (State::Udp, udp)] {
            if span != Span::ZERO {
                self.by_state[state as usize] = span;
            }
        }
    }
    /// The three values `ipvsadm -L --timeout` prints: tcp, tcpfin, udp.
    pub fn listed(&self) -> [Span; 3] {
        [self.of(State::TcpEstablished), self.of(State::TcpFinWait), self.of(State::Udp)]
    }
    /// All TCP timeouts in table order.
    pub fn tcp(&self) -> impl Iterator<Item = (State, Span)> + '_ {
        TCP_STATES.iter().map(|s| (*s, self.of(*s)))
    }
}

/// The `net.ipv4.vs.*` switches the engine acts upon, with the kernel's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// 1: a SYN that reuses the ports of a finished connection is scheduled anew (IPVS-RULES 81).
    pub conn_reuse_mode: u32,
    /// Connections of a removed real server end at once (IPVS-RULES 83).
    pub expire_nodest_conn: bool,
    /// Retire templates of servers with weight 0 (IPVS-RULES 69).
    pub expire_quiescent_template: bool,
    /// Tell real servers that their packets belong to no connection (IPVS-RULES 35).
    pub nat_icmp_send: bool,
    /// Schedule ICMP errors of unknown connections (IPVS-RULES 28).
    pub schedule_icmp: bool,
    /// Any TCP packet may begin a connection (IPVS-RULES 80).
    pub sloppy_tcp: bool,
    /// Any SCTP packet may begin an association.
    pub sloppy_sctp: bool,
    /// Answer packets too big for a tunnel with an error (IPVS-RULES 30).
    pub pmtu_disc: bool,
    /// Route packets of services without a server on to their destination (IPVS-RULES 94).
    pub cache_bypass: bool,
    /// Scheduler `lblc` forgets addresses idle for longer (IPVS-RULES 57).
    pub lblc_expiration: Span,
    /// The same of `lblcr`.
    pub lblcr_expiration: Span,
    /// Attack tables of TCP: 0 never, 1 and 2 while memory is short, 3 always (IPVS-RULES 77).
    pub secure_tcp: u8,
    /// Drops connections, half-open ones first; modes as above.
    pub drop_entry: u8,
    /// Drops packets that would open connections; modes as above (IPVS-RULES 93).
    pub drop_packet: u8,
    /// `drop_packet = 3` drops one packet in so many.
    pub am_droprate: i64,
    /// Pages of memory for connections below which memory is short.
    pub amemthresh: u64,
}

impl Default for Sysctl {
    fn default() -> Sysctl {
        Sysctl {
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            nat_icmp_send: false,
            schedule_icmp: false,
            sloppy_tcp: false,
            sloppy_sctp: false,
            pmtu_disc: true,
            cache_bypass: false,
            lblc_expiration: crate::sched::DEFAULT_EXPIRATION,
            lblcr_expiration: crate::sched::DEFAULT_EXPIRATION,
            secure_tcp: 0,
            drop_entry: 0,
            drop_packet: 0,
            am_droprate: 10,
            amemthresh: 1024,
        }
    }
}

impl Sysctl {
    /// Sets a switch by its `net.ipv4.vs` name.
    ///
    /// # Errors
    /// Says that the name is not one the engine acts upon.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), String> {
        let on = value != 0;
        match name {
            "conn_reuse_mode" => {
                self.conn_reuse_mode =
                    u32::try_from(value).map_err(|_| format!("{name} cannot be {value}"))?;
            }
            "expire_nodest_conn" => self.expire_nodest_conn = on,
            "expire_quiescent_template" => self.expire_quiescent_template = on,
            "nat_icmp_send" => self.nat_icmp_send = on,
            "schedule_icmp" => self.schedule_icmp = on,
            "sloppy_tcp" => self.sloppy_tcp = on,
            "sloppy_sctp" => self.sloppy_sctp = on,
            "pmtu_disc" => self.pmtu_disc = on,
            "cache_bypass" => self.cache_bypass = on,
            "lblc_expiration" | "lblcr_expiration" => {
                let secs = u64::try_from(value).map_err(|_| format!("{name} cannot be {value}"))?;
                let span = Span::from_secs(secs);
                *(if name == "lblc_expiration" {
                    &mut self.lblc_expiration
                } else {
                    &mut self.lblcr_expiration
                }) = span;
            }
            "secure_tcp" => self.secure_tcp = mode(name, value)?,
            "drop_entry" => self.drop_entry = mode(name, value)?,
            "drop_packet" => self.drop_packet = mode(name, value)?,
            "am_droprate" => self.am_droprate = value,
            // as in the kernel, nothing is below a negative number
            "amemthresh" => self.amemthresh = u64::try_from(value).unwrap_or(0),
            _ => return Err(format!("`{name}` is not a switch of this version")),
        }
        Ok(())
    }
}

/// Mode of a defence.
fn mode(name: &str, value: i64) -> Result<u8, String> {
    match value {
        0..=3 => Ok(value as u8),
        _ => Err(format!("{name} cannot be {value}, only 0 to 3")),
    }
}
