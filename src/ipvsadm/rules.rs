//! Which options go with which command, checked in ipvsadm's order.

use super::Refusal;
use super::scan::Word;

/// Option names in the order in which they are checked.
const NAMES: &[&str] = &[
    "numeric",
    "connection",
    "service-address",
    "scheduler",
    "persistent",
    "netmask",
    "real-server",
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "mcast-interface",
    "timeout",
    "daemon",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "nosort",
    "syncid",
    "exact",
    "ops",
    "pe",
    "sched-flags",
    "tun-info",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
    "sync-maxlen",
    "mcast-group",
    "mcast-port",
    "mcast-ttl",
];

/// A command's name and its options: those it must have, may have, and of which it may have one.
pub(super) struct Rule {
    /// Name in messages.
    pub name: &'static str,
    needs: &'static [&'static str],
    takes: &'static [&'static str],
    one_of: &'static [&'static str],
}

const SERVICE: &[&str] = &["scheduler", "persistent", "netmask", "ops", "pe", "sched-flags"];
const SERVER: &[&str] = &[
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
];
const LIST: &[&str] =
    &["numeric", "stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "tun-info"];
const ONE_LIST: &[&str] = &["connection", "service-address", "timeout", "daemon"];
const DAEMON: &[&str] =
    &["mcast-interface", "syncid", "sync-maxlen", "mcast-group", "mcast-port", "mcast-ttl"];
const ADDRESS: &[&str] = &["service-address"];
const BOTH: &[&str] = &["service-address", "real-server"];

/// The rule of a command; `None` for words that are none.
pub(super) fn rule(command: Word) -> Option<Rule> {
    let rule = |name, needs, takes| Some(Rule { name, needs, takes, one_of: &[] });
    match command {
        Word::AddService => rule("add-service", ADDRESS, SERVICE),
        Word::EditService => rule("edit-service", ADDRESS, SERVICE),
        Word::DeleteService => rule("delete-service", ADDRESS, &[]),
        Word::Clear => rule("flush", &[], &[]),
        Word::List => Some(Rule { name: "list", needs: &[], takes: LIST, one_of: ONE_LIST }),
        Word::AddServer => rule("add-server", BOTH, SERVER),
        Word::EditServer => rule("edit-server", BOTH, SERVER),
        Word::DeleteServer => rule("delete-server", BOTH, &[]),
        Word::Set => rule("set", &[], &[]),
        Word::StartDaemon => rule("start-daemon", &[], DAEMON),
        Word::StopDaemon => rule("stop-daemon", &[], &["syncid"]),
        Word::Restore => rule("restore", &[], &[]),
        Word::Save => rule("save", &[], &["numeric"]),
        Word::Zero => rule("zero", &[], ADDRESS),
        _ => None,
    }
}

impl Rule {
    /// Checks the names of the options that were given.
    ///
    /// # Errors
    /// The first one that is missing, illegal or too much.
    pub(super) fn check(&self, given: &[&str]) -> Result<(), Refusal> {
        let mut first = None;
        for name in NAMES {
            let command = self.name;
            if !given.contains(name) {
                if self.needs.contains(name) {
                    return Err(Refusal::usage(format!(
                        "You need to supply the '{name}' option for the '{command}' command"
                    )));
                }
            } else if self.one_of.contains(name) {
                if let Some(other) = first {
                    return Err(Refusal::usage(format!(
                        "The option '{name}' conflicts with the '{other}' option in the '{command}' command"
                    )));
                }
                first = Some(name);
            } else if !self.needs.contains(name) && !self.takes.contains(name) {
                return Err(Refusal::usage(format!("Illegal '{name}' option with the '{command}' command")));
            }
        }
        Ok(())
    }
}

/// The name of an option in messages; `None` for those that may be given any number of times.
pub(super) fn option_name(word: Word) -> Option<&'static str> {
    Some(match word {
        Word::Numeric => "numeric",
        Word::Connection => "connection",
        Word::Tcp | Word::Udp | Word::Sctp | Word::Fwmark => "service-address",
        Word::Scheduler => "scheduler",
        Word::Persistent => "persistent",
        Word::Netmask => "netmask",
        Word::RealServer => "real-server",
        Word::Masq | Word::Ipip | Word::Gate | Word::Fullnat => "forwarding-method",
        Word::Weight => "weight",
        Word::Upper => "u-threshold",
        Word::Lower => "l-threshold",
        Word::McastInterface => "mcast-interface",
        Word::Timeout => "timeout",
        Word::Daemon => "daemon",
        Word::Stats => "stats",
        Word::Rate => "rate",
        Word::Thresholds => "thresholds",
        Word::PersistentConn => "persistent-conn",
        Word::NoSort => "nosort",
        Word::SyncId => "syncid",
        Word::Exact => "exact",
        Word::OnePacket => "ops",
        Word::Pe => "pe",
        Word::SchedFlags => "sched-flags",
        Word::TunInfo => "tun-info",
        Word::TunType => "tun-type",
        Word::TunPort => "tun-port",
        Word::TunNoCsum => "tun-nocsum",
        Word::TunCsum => "tun-csum",
        Word::TunRemCsum => "tun-remcsum",
        Word::SyncMaxLen => "sync-maxlen",
        Word::McastGroup => "mcast-group",
        Word::McastPort => "mcast-port",
        Word::McastTtl => "mcast-ttl",
        _ => return None,
    })
}
