//! The synchronisation daemon on the command line: what it is told, and how it is listed.

use std::fmt::Write;
use std::net::IpAddr;

use super::Refusal;
use super::address::number;
use super::scan::Word;

/// Sends or receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DaemonKind {
    /// Sends.
    #[default]
    Master,
    /// Receives.
    Backup,
}

/// A daemon as it was asked for; zero and `None` stand for the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSpec {
    /// Which one.
    pub kind: DaemonKind,
    /// Interface.
    pub interface: String,
    /// Both ends must have the same.
    pub syncid: u8,
    /// Longest message.
    pub maxlen: u16,
    /// Multicast group.
    pub group: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Default for DaemonSpec {
    fn default() -> DaemonSpec {
        DaemonSpec {
            kind: DaemonKind::Master,
            interface: "eth0".to_owned(),
            syncid: 0,
            maxlen: 0,
            group: None,
            port: 0,
            ttl: 0,
        }
    }
}

/// Which daemon a word names.
pub(super) fn kind(word: &str, refusal: &str) -> Result<DaemonKind, Refusal> {
    match word {
        "master" => Ok(DaemonKind::Master),
        "backup" => Ok(DaemonKind::Backup),
        _ => Err(Refusal::usage(refusal)),
    }
}

impl DaemonSpec {
    pub(super) fn read(&mut self, word: Word, value: &str) -> Result<(), Refusal> {
        let int = |low, high, what: &str| {
            number(value, low, high).ok_or_else(|| Refusal::usage(format!("illegal {what} specified")))
        };
        match word {
            Word::McastInterface => {
                // cut as the kernel's field of 16 bytes
                self.interface = value.chars().take(15).collect();
                if self.interface.is_empty() {
                    self.interface = DaemonSpec::default().interface;
                }
            }
            Word::SyncId => self.syncid = int(0, 255, "syncid")? as u8,
            Word::SyncMaxLen => self.maxlen = int(1, 65_535 - 20 - 8, "sync-maxlen")? as u16,
            Word::McastPort => self.port = int(1, 65_535, "mcast-port")? as u16,
            Word::McastTtl => self.ttl = int(1, 255, "mcast-ttl")? as u8,
            Word::McastGroup => {
                let ip = value.parse::<IpAddr>();
                let (ip, family) = match ip {
                    Ok(ip) => (Some(ip).filter(IpAddr::is_multicast), if ip.is_ipv4() { 4 } else { 6 }),
                    Err(_) => (None, if value.contains(':') { 6 } else { 4 }),
                };
                let ip =
                    ip.ok_or_else(|| Refusal::usage(format!("invalid IPv{family} mcast-group `{value}'")))?;
                self.group = Some(ip);
            }
            _ => {}
        }
        Ok(())
    }

    /// `-L --daemon`: one line.
    pub fn line(&self) -> String {
        let kind = match self.kind {
            DaemonKind::Master => "master",
            DaemonKind::Backup => "backup",
        };
        let group = self.group.unwrap_or(IpAddr::from([224, 0, 0, 81]));
        let headers = if group.is_ipv4() { 28 } else { 48 };
        let (low, high) = (if self.kind == DaemonKind::Master { 1 } else { 1024 }, 65_535 - headers);
        let maxlen = if self.maxlen == 0 { 1500 - headers } else { u32::from(self.maxlen).clamp(low, high) };
        let port = if self.port == 0 { 8848 } else { self.port };
        let mut line = String::new();
        // writing to a String cannot fail
        let _ = writeln!(
            line,
            "{kind} sync daemon (mcast={}, syncid={}, maxlen={maxlen}, group={group}, port={port}, ttl={})",
            self.interface,
            self.syncid,
            self.ttl.max(1),
        );
        line
    }
}
