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
    Timeout,
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
        ("timeout", '-', No, Timeout),
        ("connection", 'c', No, Connection),
        ("numeric", 'n', No, Numeric),
        ("stats", '-', No, Stats),
        ("rate", '-', No, Rate),
        ("thresholds", '-', No, Thresholds),
        ("persistent-conn", '-', No, PersistentConn),
        ("nosort", '-', No, NoSort),
        ("sort", '-', No, Sort),
        ("exact", '-', No, Exact),
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
    ]
};

/// The hint for anything that is no option.
pub(super) const HINT: &str = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.";

/// What was typed: options in order with their values, and the words that belong to none.
#[derive(Debug, Default)]
pub(super) struct Scanned<'w> {
    pub options: Vec<(Word, Option<&'w str>)>,
    pub rest: Vec<&'w str>,
}

/// Splits words into options and their values. The first word must be a command, else the usage hint.
pub(super) fn scan<'w>(words: &[&'w str]) -> Result<Scanned<'w>, Refusal> {
    let mut out = Scanned::default();
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, inline) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
            let known = OPTIONS.iter().find(|o| o.0 == name);
            let (_, _, arg, what) = known.ok_or_else(|| unknown(&out, word))?;
            let value = match arg {
                Arg::No => None,
                Arg::Yes => Some(inline.or_else(|| words.next()).ok_or_else(|| missing(word))?),
                Arg::Maybe => inline.or_else(|| words.next_if(|w| !w.starts_with('-'))),
            };
            out.options.push((*what, value));
        } else if let Some(mut cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) {
            while let Some(letter) = cluster.chars().next() {
                cluster = &cluster[letter.len_utf8()..];
                let known = OPTIONS.iter().find(|o| o.1 == letter && letter != '-');
                let (_, _, arg, what) = known.ok_or_else(|| unknown(&out, word))?;
                if *arg == Arg::No {
                    out.options.push((*what, None));
                    continue;
                }
                let glued = (!cluster.is_empty()).then_some(cluster);
                let value = match arg {
                    Arg::Maybe => glued.or_else(|| words.next_if(|w| !w.starts_with('-'))),
                    _ => Some(glued.or_else(|| words.next()).ok_or_else(|| missing(&format!("-{letter}")))?),
                };
                out.options.push((*what, value));
                break;
            }
        } else {
            out.rest.push(word);
        }
    }
    Ok(out)
}

fn missing(option: &str) -> Refusal {
    Refusal::kernel(format!("{option}: missing argument"))
}

/// An unknown word instead of the command gets the hint; after it, popt names the word.
fn unknown(so_far: &Scanned<'_>, word: &str) -> Refusal {
    if so_far.options.is_empty() {
        Refusal::kernel(HINT)
    } else {
        Refusal::kernel(format!("{word}: unknown option"))
    }
}
