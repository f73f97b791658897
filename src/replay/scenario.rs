//! The recorded format, as it is in the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use serde_json::Value;

/// One recorded session.
#[derive(Clone, Debug, Deserialize)]
pub struct Scenario {
    /// Name, without the group.
    pub name: String,
    /// Group: 1 forwarding, 2 ICMP, 3 fragments, 4 schedulers, 5 persistence and marks, 6 states,
    /// 7 thresholds and odd packets, 8 command lines, 9 synchronisation.
    pub group: u32,
    /// What it shows.
    #[serde(default)]
    pub desc: String,
    /// `cli` for sessions of commands only.
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub(super) ports: Vec<PortRecord>,
    /// `ip` commands after the ports were set up.
    #[serde(default)]
    pub(super) routes: Vec<String>,
    /// Shell commands of the recording host.
    #[serde(default)]
    pub(super) setup: Vec<String>,
    /// Switches that were set before the start, in that order.
    #[serde(default, deserialize_with = "in_order")]
    pub(super) sysctls: Vec<(String, Value)>,
    #[serde(default)]
    pub(super) ipvsadm: Vec<String>,
    /// What `ipvsadm` refused of those lines.
    #[serde(default)]
    pub(super) errors: Vec<String>,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
    /// `None` where emitted frames were not recorded.
    pub(super) expect: Option<Vec<Expected>>,
    #[serde(default)]
    pub(super) picks: Vec<String>,
    #[serde(default)]
    pub(super) texts: Vec<Text>,
    /// What the commands of steps printed, where they printed anything.
    #[serde(default)]
    pub(super) cmd_results: Vec<CmdResult>,
    #[serde(default)]
    /// Commands of a session of commands.
    pub commands: Vec<CommandRecord>,
}

/// One command of a session of commands.
#[derive(Clone, Debug, Deserialize)]
pub struct CommandRecord {
    /// What was typed, a line for the shell.
    pub cmd: String,
    /// What it read.
    #[serde(default)]
    pub stdin: String,
    /// Exit status.
    #[serde(default)]
    pub rc: i32,
    /// What it printed.
    #[serde(default)]
    pub stdout: String,
    /// What it complained.
    #[serde(default)]
    pub stderr: String,
    /// The second recording printed something else.
    #[serde(default)]
    pub varies: bool,
    /// What that was.
    pub stdout_other_run: Option<String>,
}

impl CommandRecord {
    /// Compares with what was printed now; the first difference as one line.
    ///
    /// # Errors
    /// The difference.
    pub fn compare(&self, stdout: &str, stderr: &str, rc: i32) -> Result<(), String> {
        if rc != self.rc {
            return Err(format!("exit status {rc}, expected {} (stderr: {stderr:?})", self.rc));
        }
        if stderr != self.stderr {
            return Err(format!("stderr {stderr:?}, expected {:?}", self.stderr));
        }
        if stdout == self.stdout || self.stdout_other_run.as_deref() == Some(stdout) {
            return Ok(());
        }
        // the kernel's own order is that of a hash with a random key
        let unordered = self.varies || self.cmd.contains("--nosort") || self.cmd.contains("/proc/net/ip_vs");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        if unordered && sorted(stdout) == sorted(&self.stdout) {
            return Ok(());
        }
        super::texts::lines_equal(&self.stdout, stdout)?;
        Err("line ends differ".to_owned())
    }
}

impl Scenario {
    /// Group and name, as the file is named.
    pub fn title(&self) -> String {
        format!("{}-{}", self.group, self.name)
    }
}

/// An interface of the director.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PortRecord {
    pub name: String,
    pub mac: String,
    pub mtu: u32,
    #[serde(default)]
    pub addrs: Vec<String>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    #[serde(default)]
    pub neigh: Vec<NeighborRecord>,
}

/// A static neighbour.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NeighborRecord {
    pub ip: IpAddr,
    pub mac: String,
}

/// Something done at a time: a frame in, a command, a switch, or nothing but a listing.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Step {
    pub at_ms: u64,
    pub port: Option<String>,
    pub frame_hex: Option<String>,
    #[serde(default)]
    pub note: String,
    pub tcp: Option<String>,
    pub cmd: Option<String>,
    #[serde(default)]
    pub sysctl: BTreeMap<String, Value>,
}

/// What a command of a step came to.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct CmdResult {
    pub step: usize,
    #[serde(default)]
    pub rc: i32,
    #[serde(default)]
    pub stderr: String,
}

/// A frame the director emitted.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Expected {
    pub in_step: usize,
    pub port: String,
    pub frame_hex: String,
    #[serde(default)]
    pub note: String,
    /// Milliseconds after its step, for what timers send.
    pub late_ms: Option<u64>,
    #[serde(default)]
    pub random: Vec<RandomField>,
}

/// Bytes that differed between two runs of the recording.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RandomField {
    pub offset: usize,
    pub len: usize,
}

/// A listing.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Text {
    pub after_step: usize,
    pub at_ms: u64,
    /// Arguments of `ipvsadm`, or `!` and a shell command.
    pub args: String,
    pub stdout: Option<String>,
    /// Lines of `-Lnc` without its two title lines.
    pub rows: Option<Vec<String>>,
    /// The second run printed something else.
    pub other_run: Option<String>,
}

/// The entries of an object as they stand in the file.
fn in_order<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<(String, Value)>, D::Error> {
    struct Entries;
    impl<'de> serde::de::Visitor<'de> for Entries {
        type Value = Vec<(String, Value)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    from.deserialize_map(Entries)
}

/// Hexadecimal digits to bytes; `(bb*N)` is N times the byte bb.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let byte = |s: &str| u8::from_str_radix(s, 16).map_err(|_| format!("`{s}` is not a byte in hexadecimal"));
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(run) = rest.strip_prefix('(') {
            let (inside, after) = run.split_once(')').ok_or("a run of bytes without `)`")?;
            let (b, n) = inside.split_once('*').ok_or("a run of bytes without `*`")?;
            let n: usize = n.parse().map_err(|_| format!("`{n}` is not a number of bytes"))?;
            bytes.resize(bytes.len().saturating_add(n.min(1 << 20)), byte(b)?);
            rest = after;
        } else {
            let two = rest.get(..2).ok_or("an odd number of digits")?;
            bytes.push(byte(two)?);
            rest = &rest[2..];
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_with_runs() {
        assert_eq!(unhex("01(ab*3)ff"), Ok(vec![1, 0xab, 0xab, 0xab, 0xff]));
        assert!(unhex("0").is_err());
        assert!(unhex("(ab").is_err());
        assert!(unhex("zz").is_err());
    }
}
