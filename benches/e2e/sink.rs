//! Where packets end that only have to be counted: an nftables rule where they enter the real server, before
//! the kernel's stack sees them.

use std::io;
use std::time::Duration;

use crate::exec;
use crate::net::Net;

/// Installed rules; dropped, they are removed.
pub struct Sink<'n>(&'n Net);

impl Sink<'_> {
    /// Puts `rules` where `device` of the real server receives; those that count name the counter `n`.
    pub fn install<'n>(net: &'n Net, device: &str, rules: &str) -> io::Result<Sink<'n>> {
        let script = format!(
            "table netdev sink {{\ncounter n {{ }}\nchain in {{\n\
             type filter hook ingress device \"{device}\" priority 0;\n{rules}\n}}\n}}\n"
        );
        exec::nft(&net.server.ns, &script)?;
        Ok(Sink(net))
    }

    /// Packets counted so far.
    pub fn count(&self) -> io::Result<u64> {
        let line = ["nft", "-j", "list", "counter", "netdev", "sink", "n"];
        let text = exec::run(&self.0.server.ns, &line, Duration::from_secs(5))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        let all = json["nftables"].as_array().cloned().unwrap_or_default();
        let packets = all.iter().find_map(|o| o["counter"]["packets"].as_u64());
        packets.ok_or_else(|| io::Error::other("nft: no counter"))
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        let _ = exec::nft(&self.0.server.ns, "delete table netdev sink\n");
    }
}
