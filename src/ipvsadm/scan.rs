//! Words of a command line to options with their values, as popt (the option parser of `ipvsadm`) does.

use super::Refusal;

/// Everything `ipvsadm` knows; commands first, then options in the order in which it checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    // options
    Numeric,
    Connection,
    Tcp,
    Udp,
    Sctp,
    Fwmark,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Masq,
    Ipip,
    Gate,
    Fullnat,
    Weight,
    Upper,
    Lower,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    Exact,
    Ipv6,
    OnePacket,
    Pe,
    SchedFlags,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    SyncId,
    SyncMaxLen,
    McastGroup,
    McastPort,
    McastTtl,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arg {
    No,
    Yes,
    /// Taken when the next word does not begin with a dash.
    Maybe,
}

/// Long name, short name (`-` = none), argument, meaning. `--fullnat` is softlvs's own, the rest ipvsadm's.
const OPTIONS: &[(&str, char, Arg, Word)] = {
    use Arg::*;
    use Word::*;
    &[
        ("add-service", 'A', No, AddService),
        ("edit-service", 'E', No, EditService),
        ("delete-service", 'D', No, DeleteService),
        ("clear", 'C', No, Clear),
        ("list", 'L', No, List),
        ("list", 'l', No, List),
        ("zero", 'Z', No, Zero),
        ("add-server", 'a', No, AddServer),
        ("edit-server", 'e', No, EditServer),
        ("delete-server", 'd', No, DeleteServer),
        ("set", '-', No, Set),
        ("help", 'h', No, Help),
        ("version", 'v', No, Version),
        ("restore", 'R', No, Restore),
        ("save", 'S', No, Save),
        ("start-daemon", '-', Yes, StartDaemon),
        ("stop-daemon", '-', Yes, StopDaemon),
        ("tcp-service", 't', Yes, Tcp),
        ("udp-service", 'u', Yes, Udp),
        ("sctp-service", '-', Yes, Sctp),
        ("fwmark-service", 'f', Yes, Fwmark),
        ("scheduler", 's', Yes, Scheduler),
        ("persistent", 'p', Maybe, Persistent),
        ("netmask", 'M', Yes, Netmask),
        ("real-server", 'r', Yes, RealServer),
        ("masquerading", 'm', No, Masq),
        ("ipip", 'i', No, Ipip),
        ("gatewaying", 'g', No, Gate),
        ("fullnat", '-', No, Fullnat),
        ("weight", 'w', Yes, Weight),
        ("u-threshold", 'x', Yes, Upper),
        ("l-threshold", 'y', Yes, Lower),
        ("mcast-interface", '-', Yes, McastInterface),
        ("timeout", '-', No, Timeout),
        ("daemon", '-', No, Daemon),
        ("connection", 'c', No, Connection),
        ("numeric", 'n', No, Numeric),
        ("stats", '-', No, Stats),
        ("rate", '-', No, Rate),
        ("thresholds", '-', No, Thresholds),
        ("persistent-conn", '-', No, PersistentConn),
        ("nosort", '-', No, NoSort),
        ("sort", '-', No, Sort),
        ("exact", 'X', No, Exact),
        ("ipv6", '6', No, Ipv6),
        ("ops", 'o', No, OnePacket),
        ("pe", '-', Yes, Pe),
        ("sched-flags", 'b', Yes, SchedFlags),
        ("tun-info", '-', No, TunInfo),
        ("tun-type", '-', Yes, TunType),
        ("tun-port", '-', Yes, TunPort),
        ("tun-nocsum", '-', No, TunNoCsum),
        ("tun-csum", '-', No, TunCsum),
        ("tun-remcsum", '-', No, TunRemCsum),
        ("syncid", '-', Yes, SyncId),
        ("sync-maxlen", '-', Yes, SyncMaxLen),
        ("mcast-group", '-', Yes, McastGroup),
        ("mcast-port", '-', Yes, McastPort),
        ("mcast-ttl", '-', Yes, McastTtl),
    ]
};

/// The hint for anything that is no option.
pub const HINT: &str = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.";

/// One option as typed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Typed<'w> {
    /// What it is.
    pub what: Word,
    /// Its value.
    pub value: Option<&'w str>,
    /// The word it stood in.
    pub word: &'w str,
}

/// What was typed: options in order with their values, and the words that belong to none.
#[derive(Debug, Default)]
pub(super) struct Scanned<'w> {
    pub options: Vec<Typed<'w>>,
    pub rest: Vec<&'w str>,
    /// Where reading stopped: options before it are looked at first.
    pub error: Option<Refusal>,
}

/// Splits words into options and their values, up to the first that is none.
pub(super) fn scan<'w>(words: &[&'w str]) -> Scanned<'w> {
    let mut out = Scanned::default();
    if let Err(e) = read(words, &mut out) {
        out.error = Some(e);
    }
    out
}

fn read<'w>(words: &[&'w str], out: &mut Scanned<'w>) -> Result<(), Refusal> {
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            out.rest.extend(words);
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, inline) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
            let known = OPTIONS.iter().find(|o| o.0 == name);
            let (_, _, arg, what) = known.ok_or_else(|| unknown(word))?;
            let value = match arg {
                Arg::No if inline.is_some() => return Err(unwanted(word)),
                Arg::No => None,
                Arg::Yes => Some(inline.or_else(|| words.next()).ok_or_else(|| missing(word))?),
                Arg::Maybe => inline.or_else(|| words.next_if(|w| !w.starts_with('-'))),
            };
            out.options.push(Typed { what: *what, value, word });
        } else if let Some(mut cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) {
            while let Some(letter) = cluster.chars().next() {
                cluster = &cluster[letter.len_utf8()..];
                let known = OPTIONS.iter().find(|o| o.1 == letter && letter != '-');
                let (_, _, arg, what) = known.ok_or_else(|| unknown(word))?;
                if *arg == Arg::No && cluster.starts_with('=') {
                    return Err(unwanted(word));
                }
                if *arg == Arg::No {
                    out.options.push(Typed { what: *what, value: None, word });
                    continue;
                }
                let glued = (!cluster.is_empty()).then(|| cluster.strip_prefix('=').unwrap_or(cluster));
                let value = match arg {
                    Arg::Maybe => glued.or_else(|| words.next_if(|w| !w.starts_with('-'))),
                    _ => Some(glued.or_else(|| words.next()).ok_or_else(|| missing(word))?),
                };
                out.options.push(Typed { what: *what, value, word });
                break;
            }
        } else {
            out.rest.push(word);
        }
    }
    Ok(())
}

fn missing(option: &str) -> Refusal {
    Refusal::kernel(format!("{option}: missing argument"))
}

fn unknown(word: &str) -> Refusal {
    Refusal::kernel(format!("{word}: unknown option"))
}

fn unwanted(word: &str) -> Refusal {
    Refusal::kernel(format!("{word}: option does not take an argument"))
}
