//! Protocol states of a connection, as IPVS sees them from the middle.
//!
//! One byte holds the state of any protocol. What moves it are the flags (TCP) or the first chunk (SCTP)
//! of a packet, its direction, and whether the director sees both directions.

mod sctp;
mod tcp;

pub use sctp::chunk_event;

use crate::svc::Proto;

/// Direction of a packet, and for one-way forwarding the fact that replies are never seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// From the client; replies pass the director too.
    Input,
    /// From the real server.
    Output,
    /// From the client; replies bypass the director (kernel: `IP_VS_DIR_INPUT_ONLY`).
    InputOnly,
}

/// State of a connection. The order within each protocol is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum State {
    TcpNone = 0,
    TcpEstablished,
    TcpSynSent,
    TcpSynRecv,
    TcpFinWait,
    TcpTimeWait,
    TcpClose,
    TcpCloseWait,
    TcpLastAck,
    TcpListen,
    TcpSynAck,
    Udp,
    SctpNone,
    SctpInit1,
    SctpInit,
    SctpCookieSent,
    SctpCookieReplied,
    SctpCookieWait,
    SctpCookie,
    SctpCookieEchoed,
    SctpEstablished,
    SctpShutdownSent,
    SctpShutdownReceived,
    SctpShutdownAckSent,
    SctpRejected,
    SctpClosed,
}

/// TCP states in table order.
pub const TCP_STATES: &[State] = State::ALL.split_at(State::Udp as usize).0;

const _: () = {
    let mut i = 0;
    while i < State::COUNT {
        assert!(State::ALL[i] as usize == i);
        i += 1;
    }
};

impl State {
    /// Number of states.
    pub const COUNT: usize = State::SctpClosed as usize + 1;
    /// All of them, in order.
    pub const ALL: [State; State::COUNT] = [
        State::TcpNone,
        State::TcpEstablished,
        State::TcpSynSent,
        State::TcpSynRecv,
        State::TcpFinWait,
        State::TcpTimeWait,
        State::TcpClose,
        State::TcpCloseWait,
        State::TcpLastAck,
        State::TcpListen,
        State::TcpSynAck,
        State::Udp,
        State::SctpNone,
        State::SctpInit1,
        State::SctpInit,
        State::SctpCookieSent,
        State::SctpCookieReplied,
        State::SctpCookieWait,
        State::SctpCookie,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpRejected,
        State::SctpClosed,
    ];

    /// State of a connection before its first packet was looked at.
    pub const fn initial(proto: Proto) -> State {
        match proto {
            Proto::Tcp => State::TcpNone,
            Proto::Udp => State::Udp,
            Proto::Sctp => State::SctpNone,
        }
    }
    /// Name in `ipvsadm -Lnc`.
    pub const fn name(self) -> &'static str {
        match self {
            State::TcpNone | State::SctpNone => "NONE",
            State::TcpEstablished | State::SctpEstablished => "ESTABLISHED",
            State::TcpSynSent => "SYN_SENT",
            State::TcpSynRecv => "SYN_RECV",
            State::TcpFinWait => "FIN_WAIT",
            State::TcpTimeWait => "TIME_WAIT",
            State::TcpClose => "CLOSE",
            State::TcpCloseWait => "CLOSE_WAIT",
            State::TcpLastAck => "LAST_ACK",
            State::TcpListen => "LISTEN",
            State::TcpSynAck => "SYNACK",
            State::Udp => "UDP",
            State::SctpInit1 => "INIT1",
            State::SctpInit => "INIT",
            State::SctpCookieSent => "C-SENT",
            State::SctpCookieReplied => "C-REPLIED",
            State::SctpCookieWait => "C-WAIT",
            State::SctpCookie => "COOKIE",
            State::SctpCookieEchoed => "C-ECHOED",
            State::SctpShutdownSent => "S-SENT",
            State::SctpShutdownReceived => "S-RECEIVED",
            State::SctpShutdownAckSent => "S-ACK-SENT",
            State::SctpRejected => "REJECTED",
            State::SctpClosed => "CLOSED",
        }
    }
    /// Does the connection count as active (IPVS-RULES 47)? UDP never does.
    #[inline]
    pub const fn active(self) -> bool {
        matches!(
            self,
            State::TcpEstablished
                | State::TcpSynSent
                | State::TcpSynRecv
                | State::TcpSynAck
                | State::SctpEstablished
        )
    }
    /// State after a TCP packet with these flags.
    #[inline(always)]
    pub fn after_tcp(self, seen: Seen, flags: u8) -> State {
        tcp::step(self, seen, flags)
    }
    /// The same by the tables of `secure_tcp`, under attack (IPVS-RULES 77).
    pub fn after_tcp_attack(self, seen: Seen, flags: u8) -> State {
        tcp::step_attack(self, seen, flags)
    }
    /// State after an SCTP packet whose deciding chunk has this event number ([`chunk_event`]).
    pub fn after_sctp(self, seen: Seen, event: usize) -> State {
        sctp::step(self, seen, event)
    }
}
