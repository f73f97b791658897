//! What there is to measure: ways from a client to a real server, and workloads.

/// How client, director and real server are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// The director has an interface each way (two-arm).
    Veth,
    /// Client, real server and the director's one device are ports of a bridge (one-arm).
    Bridge,
}

impl Wiring {
    pub fn word(self) -> &'static str {
        match self {
            Wiring::Veth => "veth",
            Wiring::Bridge => "bridge",
        }
    }
}

/// What a director in user space is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Packet,
    Xdp,
    Tap,
}

impl Device {
    /// Kind of the port, as in the configuration file.
    pub fn word(self) -> &'static str {
        match self {
            Device::Packet => "packet",
            Device::Xdp => "xdp",
            Device::Tap => "tap",
        }
    }
}

/// Forwarding method of softlvs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nat,
    Fullnat,
    Dr,
    Tun,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Nat, Mode::Fullnat, Mode::Dr, Mode::Tun];

    pub fn word(self) -> &'static str {
        match self {
            Mode::Nat => "nat",
            Mode::Fullnat => "fullnat",
            Mode::Dr => "dr",
            Mode::Tun => "tun",
        }
    }
    /// The real server answers the client without the director.
    pub fn direct_reply(self) -> bool {
        matches!(self, Mode::Dr | Mode::Tun)
    }
}

/// What stands between client and real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A wire.
    Direct,
    /// The kernel routes.
    Route,
    /// The kernel rewrites the destination (nftables).
    Dnat,
    Haproxy,
    NginxStream,
    /// A program that rewrites MAC addresses only.
    Null {
        device: Device,
        queues: u8,
    },
    Softlvs {
        device: Device,
        mode: Mode,
        queues: u8,
    },
}

/// A way through a wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub wiring: Wiring,
    pub way: Way,
}

impl Config {
    /// Unique name; what `--only` looks at.
    pub fn name(&self) -> String {
        let several = |n: u8| if n > 1 { n.to_string() } else { String::new() };
        let way = match self.way {
            Way::Direct => return "direct".into(),
            Way::Route => "route".into(),
            Way::Dnat => "dnat".into(),
            Way::Haproxy => "haproxy".into(),
            Way::NginxStream => "nginx".into(),
            Way::Null { device, queues } => format!("null-{}{}", device.word(), several(queues)),
            Way::Softlvs { device, mode, queues } => {
                format!("{}{}-{}", device.word(), several(queues), mode.word())
            }
        };
        format!("{}/{way}", self.wiring.word())
    }

    /// For people.
    pub fn label(&self) -> String {
        match self.way {
            Way::Direct => "direct wire".into(),
            Way::Route => "kernel routing".into(),
            Way::Dnat => "kernel DNAT (nftables)".into(),
            Way::Haproxy => "HAProxy, TCP mode".into(),
            Way::NginxStream => "nginx stream".into(),
            Way::Null { device, queues: 1 } => format!("null forwarder, {}", device.word()),
            Way::Null { device, queues } => format!("null forwarder, {} x{queues}", device.word()),
            Way::Softlvs { device, mode, queues: 1 } => format!("softlvs {}, {}", mode.word(), device.word()),
            Way::Softlvs { device, mode, queues } => {
                format!("softlvs {}, {} x{queues}", mode.word(), device.word())
            }
        }
    }

    /// Name of the null forwarder on the same device with as many queues, for softlvs.
    pub fn null(&self) -> Option<String> {
        match self.way {
            Way::Softlvs { device, queues, .. } => {
                Some(Config { way: Way::Null { device, queues }, ..*self }.name())
            }
            _ => None,
        }
    }

    /// HAProxy balances no UDP.
    pub fn carries(&self, workload: Workload) -> bool {
        self.way != Way::Haproxy || !matches!(workload, Workload::Packets | Workload::PingPong)
    }
}

/// Everything, in the order of the tables.
pub fn configs() -> Vec<Config> {
    let mut all = vec![Config { wiring: Wiring::Veth, way: Way::Direct }];
    for (wiring, devices) in
        [(Wiring::Veth, &[Device::Packet, Device::Xdp][..]), (Wiring::Bridge, &[Device::Tap][..])]
    {
        let mut add = |way| all.push(Config { wiring, way });
        for way in [Way::Route, Way::Dnat, Way::Haproxy, Way::NginxStream] {
            add(way);
        }
        for device in devices.iter().copied() {
            add(Way::Null { device, queues: 1 });
            for mode in Mode::ALL {
                add(Way::Softlvs { device, mode, queues: 1 });
            }
            add(Way::Null { device, queues: 2 });
            add(Way::Softlvs { device, mode: Mode::Nat, queues: 2 });
        }
    }
    all
}

/// What is sent through a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// iperf3, one stream from the client to the real server.
    Tcp1,
    /// iperf3, eight streams.
    Tcp8,
    /// wrk, 32 connections that are kept.
    HttpKeep,
    /// wrk, 32 at a time, a connection for each request.
    HttpClose,
    /// 64-byte UDP frames, as many as can be sent.
    Packets,
    /// One byte of UDP there and back, one at a time.
    PingPong,
    /// HTTP requests at a fixed rate, timed from when they were due.
    OpenLoop,
}

impl Workload {
    pub const ALL: [Workload; 7] = [
        Workload::Tcp1,
        Workload::Tcp8,
        Workload::HttpKeep,
        Workload::HttpClose,
        Workload::Packets,
        Workload::PingPong,
        Workload::OpenLoop,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Tcp1 => "tcp1",
            Workload::Tcp8 => "tcp8",
            Workload::HttpKeep => "http-keep",
            Workload::HttpClose => "http-close",
            Workload::Packets => "packets",
            Workload::PingPong => "ping-pong",
            Workload::OpenLoop => "open-loop",
        }
    }
}
