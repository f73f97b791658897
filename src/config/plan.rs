//! The configuration as it will run: complete, with every default filled in and everything checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::diag::{Complaint, Diagnostic};
use super::doc::Device;
use super::sysctl::Sysctls;
use crate::addr::{Cidr, Mac};
use crate::health::HealthPlan;
use crate::host::{AddrRange, Closed, FtpHelper, MarkRule, NetPlan, PortPlan, RoutePlan};
use crate::io::xdp::XdpMode;
use crate::io::{MacChoice, OffloadMode, PortInfo};
use crate::svc::{DestSpec, Forward, ServiceSpec};
use crate::time::Span;
use crate::wire::Link;

/// Timeouts of connections (`ipvsadm --set`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp: Span,
    /// TCP after a FIN.
    pub tcp_fin: Span,
    /// UDP.
    pub udp: Span,
}

impl Default for Timeouts {
    /// The kernel's: 15 min, 2 min, 5 min.
    fn default() -> Timeouts {
        Timeouts { tcp: Span::from_secs(900), tcp_fin: Span::from_secs(120), udp: Span::from_secs(300) }
    }
}

/// A port to open, with what the core will be told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSetup {
    /// Name: as configured, else the device's.
    pub name: String,
    /// What it attaches to.
    pub device: Device,
    /// Its MAC address.
    pub mac: MacChoice,
    /// The director's addresses with their networks.
    pub addresses: Vec<Cidr>,
    /// Default gateway, IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// Default gateway, IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Largest IP packet; `None` = the device's.
    pub mtu: Option<u32>,
    /// Large packets and partial checksums where the device has them.
    pub offload: OffloadMode,
    /// Keep the kernel from answering the same packets.
    pub guard: bool,
    /// How an XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Busy polling on an XDP port, in microseconds.
    pub busy_poll: Option<u32>,
    /// Static neighbours.
    pub neighbors: Vec<(IpAddr, Mac)>,
    /// Addresses for the kernel's side of a TAP or TUN device.
    pub host_addresses: Vec<Cidr>,
}

/// Metrics and the read-only API over TCP: where, and who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// Address to listen on.
    pub address: SocketAddr,
    /// File with tokens, one of which must be shown.
    pub token_file: Option<String>,
    /// TLS, in files in PEM.
    pub tls: Option<TlsFiles>,
}

/// Certificate and key of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, then those that vouch for it.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The configuration as it will run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Hard bound of the connection table.
    pub connection_limit: u32,
    /// Packet workers; `None` = as many as are useful here.
    pub workers: Option<u32>,
    /// How long a worker looks for packets before it sleeps; `None` = as long as is useful here.
    pub linger: Option<Span>,
    /// Path of the control socket.
    pub control: Option<String>,
    /// Folder for the texts of `/proc/net/ip_vs`.
    pub proc: Option<String>,
    /// Metrics and the read-only API over TCP.
    pub http: Option<HttpPlan>,
    /// Route what is not ours.
    pub forwarding: bool,
    /// FTP through nat and fullnat.
    pub ftp: FtpHelper,
    /// Answer where no service is.
    pub closed: Closed,
    /// Source addresses of fullnat.
    pub local_addresses: Vec<AddrRange>,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
    /// Settings by their kernel names.
    pub sysctl: Sysctls,
    /// Ports.
    pub ports: Vec<PortSetup>,
    /// Routes; every gateway in them is on a connected network.
    pub routes: Vec<RoutePlan>,
    /// Marking rules.
    pub marks: Vec<MarkRule>,
    /// Services with their real servers, in the order of the file.
    pub services: Vec<(ServiceSpec, Vec<DestSpec>)>,
    /// Checks and what they mean.
    pub health: HealthPlan,
    /// What was accepted but has no effect or an unexpected one.
    pub warnings: Vec<Diagnostic>,
}

impl Plan {
    /// The virtual addresses of all services.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.services.iter().filter_map(|(s, _)| match s.key {
            crate::svc::ServiceKey::Address { ip, .. } => Some(ip),
            crate::svc::ServiceKey::Mark { .. } => None,
        })
    }

    /// The network for the core, now that the devices are open; `infos` in the order of the ports.
    ///
    /// # Errors
    /// What cannot be on the devices that were found, one complaint a port.
    pub fn net_plan(&self, infos: &[PortInfo]) -> Result<NetPlan, Vec<(String, Complaint)>> {
        let mut wrong = Vec::new();
        let mut ports = Vec::with_capacity(self.ports.len());
        for (setup, info) in self.ports.iter().zip(infos) {
            let mut refuse =
                |why: String, help: &str| wrong.push((setup.name.clone(), Complaint::new(why, help)));
            let mtu = setup.mtu.unwrap_or(info.mtu);
            if mtu > info.mtu && !setup.device.is_virtual() {
                refuse(
                    format!("mtu {mtu} is larger than that of `{}` ({})", info.name, info.mtu),
                    "lower `mtu`, or raise the interface's with `ip link set dev NAME mtu N`",
                );
            }
            if info.link == Link::Ip && !setup.device.is_l3() {
                let on_link = |ip: IpAddr| setup.addresses.iter().any(|c| c.contains(ip));
                let dr = self
                    .services
                    .iter()
                    .flat_map(|(_, reals)| reals)
                    .find(|d| d.forward == Forward::Dr && on_link(d.ip));
                if let Some(d) = dr {
                    refuse(
                        format!(
                            "`{}` carries bare IP packets: mode dr cannot reach {} there",
                            info.name, d.ip
                        ),
                        "use an Ethernet interface, or mode nat, fullnat or tun",
                    );
                }
            }
            ports.push(PortPlan {
                name: setup.name.clone(),
                link: info.link,
                mac: info.mac.unwrap_or_default(),
                mtu,
                addresses: setup.addresses.clone(),
                gateway: setup.gateway,
                gateway6: setup.gateway6,
                neighbors: setup.neighbors.clone(),
                offload: info.offload,
            });
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(NetPlan {
            ports,
            routes: self.routes.clone(),
            marks: self.marks.clone(),
            forwarding: self.forwarding,
            closed: self.closed,
            local_addresses: self.local_addresses.clone(),
            ftp: self.ftp,
            sources: Vec::new(),
        })
    }
}
