//! Every key of the configuration file, once: what kind of value it takes, an example, what it is for.
//!
//! The check for unknown keys and wrong types, the suggestions for typos and the published JSON schema
//! all read this table.

use super::values::Form;

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// An example of its value, as TOML.
    pub example: &'static str,
    /// What it is for, one line.
    pub doc: &'static str,
}

/// Kinds of values.
#[derive(Debug)]
pub enum Kind {
    /// A string of some form.
    Text(Form),
    /// A string out of a few.
    Choice(&'static [&'static str]),
    /// A whole number, both ends included.
    Int(i64, i64),
    /// `true` or `false`.
    Bool,
    /// `"auto"` or a whole number from 1.
    AutoOr(i64),
    /// A list of strings of some form.
    Texts(Form),
    /// A string of some form, or a list of them.
    TextOrTexts(Form),
    /// A list of strings out of a few.
    Choices(&'static [&'static str]),
    /// A table.
    Table(&'static [Key]),
    /// `[[name]]`: any number of tables.
    Tables(&'static [Key]),
    /// A table whose keys and values are strings of these forms.
    Map(Form, Form),
    /// The names of `net.ipv4.vs.*` (see `sysctl.rs`).
    Sysctl,
    /// Part of the format that this version cannot do: refused, with what to do instead.
    Later(&'static str),
}

pub(super) const fn key(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    Key { name, kind, example, doc }
}

const MODES: &[&str] = &["nat", "fullnat", "tun", "dr"];
/// The schedulers by their `ipvsadm` names.
pub const SCHEDULERS: &[&str] =
    &["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];
/// The file itself.
pub const FILE: &[Key] = &[
    key("director", Kind::Table(DIRECTOR), "", "Settings of the director as a whole."),
    key("timeouts", Kind::Table(TIMEOUTS), "", "Timeouts of connections, as `ipvsadm --set`."),
    key("sysctl", Kind::Sysctl, "", "Settings by their names under net.ipv4.vs."),
    key("port", Kind::Tables(PORT), "", "A device that packets come from and go to."),
    key("route", Kind::Tables(ROUTE), "", "A route beyond connected networks and gateways."),
    key("mark", Kind::Tables(MARK), "", "A rule that gives packets a firewall mark."),
    key("service", Kind::Tables(SERVICE), "", "A virtual service."),
    key("check", Kind::Tables(super::keys_health::CHECK), "", "A health check."),
    key(
        "sync",
        Kind::Later("connection synchronisation comes in a later version"),
        "",
        "State synchronisation.",
    ),
];

const DIRECTOR: &[Key] = &[
    key(
        "mode",
        Kind::Choice(MODES),
        "\"nat\"",
        "Forwarding method where neither service nor server says one.",
    ),
    key("connection_limit", Kind::Int(1, 1_000_000_000), "1_000_000", "Hard bound of the connection table."),
    key("workers", Kind::AutoOr(64), "1", "Number of packet workers; `auto` is one for two processors."),
    key(
        "linger",
        Kind::Text(Form::Microseconds),
        "\"100us\"",
        "How long a worker at most looks for the next packet before it sleeps; `0us` is never.",
    ),
    key(
        "ftp",
        Kind::Bool,
        "true",
        "Help FTP's data connections through nat and fullnat (services on TCP port 21).",
    ),
    key("forwarding", Kind::Bool, "false", "Route what is not for the director."),
    key(
        "closed",
        Kind::Choice(&["reject", "drop"]),
        "\"reject\"",
        "What own addresses answer where no service is.",
    ),
    key(
        "local_addresses",
        Kind::Texts(Form::Range),
        "[\"10.0.0.100-10.0.0.107\"]",
        "Source addresses of fullnat; default: the director's address on the outgoing port.",
    ),
    key("control", Kind::Text(Form::Path), "\"/run/softlvs/softlvs.sock\"", "Path of the control socket."),
    key(
        "proc",
        Kind::Text(Form::Path),
        "\"/run/softlvs/proc\"",
        "Folder for the texts of /proc/net/ip_vs, kept up to date for programs that read those.",
    ),
    key("http", Kind::Text(Form::Socket), "\"127.0.0.1:9980\"", "Address for metrics and the read-only API."),
    key(
        "http_token_file",
        Kind::Text(Form::Path),
        "\"/etc/softlvs/http-token\"",
        "File with the tokens that may ask at `http`, one a line.",
    ),
    key(
        "http_certificate_file",
        Kind::Text(Form::Path),
        "\"/etc/softlvs/http-certificate.pem\"",
        "Certificate of `http` with those that vouch for it, PEM; with it TLS is spoken there.",
    ),
    key(
        "http_key_file",
        Kind::Text(Form::Path),
        "\"/etc/softlvs/http-key.pem\"",
        "Private key of that certificate, PEM.",
    ),
    key(
        "notify_fifo",
        Kind::Text(Form::Path),
        "\"/run/softlvs/notify\"",
        "Named pipe that is told of changes in keepalived's words.",
    ),
];

const TIMEOUTS: &[Key] = &[
    key("tcp", Kind::Text(Form::Duration), "\"15m\"", "TCP, established."),
    key("tcp_fin", Kind::Text(Form::Duration), "\"2m\"", "TCP after a FIN."),
    key("udp", Kind::Text(Form::Duration), "\"5m\"", "UDP."),
];

const PORT: &[Key] = &[
    key("name", Kind::Text(Form::Name), "\"outside\"", "Name of the port; default: the device's."),
    key("tap", Kind::Text(Form::Interface), "\"tap0\"", "TAP device, made when it is not there."),
    key(
        "tun",
        Kind::Text(Form::Interface),
        "\"tun0\"",
        "TUN device (no Ethernet, no dr), made when it is not there.",
    ),
    key("packet", Kind::Text(Form::Interface), "\"eth0\"", "AF_PACKET socket on an interface."),
    key("xdp", Kind::Text(Form::Interface), "\"eth0\"", "AF_XDP socket on an interface."),
    key(
        "device",
        Kind::Text(Form::Interface),
        "\"eth0\"",
        "The best of xdp and packet that works on an interface.",
    ),
    key("mac", Kind::Text(Form::MacOrInherit), "\"02:00:00:00:00:01\"", "Own MAC address, or \"inherit\"."),
    key(
        "addresses",
        Kind::Texts(Form::Cidr),
        "[\"192.0.2.2/24\"]",
        "The director's addresses with their networks.",
    ),
    key("gateway", Kind::Text(Form::Ip4), "\"192.0.2.1\"", "Default gateway, IPv4."),
    key("gateway6", Kind::Text(Form::Ip6), "\"2001:db8::1\"", "Default gateway, IPv6."),
    key("mtu", Kind::Int(68, 65535), "1500", "Largest IP packet; default: the device's."),
    key("queues", Kind::Int(1, 64), "", "TAP queues, fanout sockets or XDP queues: one for each worker."),
    key("offload", Kind::Choice(&["auto", "on", "off"]), "\"auto\"", "Large packets and partial checksums."),
    key("guard", Kind::Bool, "false", "Keep the kernel from answering the same packets (nftables rule)."),
    key(
        "xdp_mode",
        Kind::Choice(&["auto", "native", "generic"]),
        "\"auto\"",
        "Where an XDP program is attached.",
    ),
    key(
        "busy_poll",
        Kind::Text(Form::Microseconds),
        "\"50us\"",
        "XDP: have the kernel poll the driver for so long instead of waiting for interrupts.",
    ),
    key(
        "neighbors",
        Kind::Map(Form::Ip, Form::Mac),
        "{ \"192.0.2.1\" = \"02:00:00:00:00:99\" }",
        "Static neighbours.",
    ),
];

const ROUTE: &[Key] = &[
    key("to", Kind::Text(Form::Cidr), "\"10.2.0.0/16\"", "Destinations."),
    key("via", Kind::Text(Form::Ip), "\"10.0.0.254\"", "Router."),
    key(
        "port",
        Kind::Text(Form::Name),
        "\"inside\"",
        "Instead of via: destinations are neighbours on this port.",
    ),
];

const MARK: &[Key] = &[
    key("mark", Kind::Int(1, u32::MAX as i64), "7", "The mark."),
    key("to", Kind::Text(Form::CidrOrIp), "\"192.0.2.20/30\"", "Destination addresses."),
    key("ports", Kind::Text(Form::Ports), "\"8000-8099\"", "Destination ports."),
    key("protocol", Kind::Choice(&["tcp", "udp", "sctp"]), "\"tcp\"", "Protocol."),
];

const SERVICE: &[Key] = &[
    key("name", Kind::Text(Form::Name), "\"web\"", "Name for people."),
    key(
        "address",
        Kind::Text(Form::Endpoint),
        "\"192.0.2.10:80\"",
        "Virtual address and port; port 0 = every port.",
    ),
    key("fwmark", Kind::Int(1, u32::MAX as i64), "7", "Firewall mark instead of an address."),
    key("family", Kind::Choice(&["ipv4", "ipv6"]), "\"ipv4\"", "Address family of a service by fwmark."),
    key("protocol", Kind::Choice(&["tcp", "udp", "sctp"]), "\"tcp\"", "Protocol, tcp when not said."),
    key("ports", Kind::Texts(Form::Name), "[\"outside\"]", "Ports that own the address; default: all."),
    key("scheduler", Kind::Choice(SCHEDULERS), "\"wlc\"", "Scheduler."),
    key(
        "scheduler_flags",
        Kind::Choices(&["sh-port", "sh-fallback", "mh-port", "mh-fallback", "flag-1", "flag-2", "flag-3"]),
        "[\"sh-port\"]",
        "Flags of the schedulers sh and mh; others keep theirs by number.",
    ),
    key(
        "persistence",
        Kind::Table(PERSISTENCE),
        "{ timeout = \"5m\", netmask = 24 }",
        "Clients stay with their server.",
    ),
    key("mode", Kind::Choice(MODES), "\"nat\"", "Forwarding method of its servers."),
    key("one_packet", Kind::Bool, "false", "Schedule every UDP packet on its own."),
    key("timeouts", Kind::Table(TIMEOUTS), "{ udp = \"30s\" }", "Own timeouts."),
    key("mss_clamp", Kind::Bool, "false", "Lower the MSS of SYNs so that tunnelled segments fit."),
    key("real", Kind::Tables(REAL), "", "A real server."),
    key(
        "check",
        Kind::TextOrTexts(Form::Name),
        "\"alive\"",
        "Checks of its servers, all of which must succeed.",
    ),
    key("quorum", Kind::Int(0, i32::MAX as i64), "1", "Healthy weight from which the service is up."),
    key(
        "hysteresis",
        Kind::Int(0, i32::MAX as i64),
        "0",
        "The service comes up at quorum + hysteresis and goes down below quorum - hysteresis.",
    ),
    key(
        "sorry_server",
        Kind::Text(Form::EndpointOrIp),
        "\"10.0.0.99:80\"",
        "Serves in place of the others while the service is down.",
    ),
    key("sorry_mode", Kind::Choice(MODES), "\"nat\"", "Forwarding method of the sorry server."),
    key(
        "sorry_inhibit",
        Kind::Bool,
        "false",
        "Keep the others, with weight 0, while the sorry server serves.",
    ),
    key(
        "on_failure",
        Kind::Choice(ON_FAILURE),
        "\"remove\"",
        "A server that fails leaves, or stays with weight 0.",
    ),
    key(
        "slow_start",
        Kind::Text(Form::Duration),
        "\"30s\"",
        "Time in which a server that comes back grows from a tenth of its share to all of it.",
    ),
    key(
        "panic",
        Kind::Table(PANIC),
        "{ below = 50, use = \"all\" }",
        "What to do when too few servers are healthy.",
    ),
    key(
        "passive",
        Kind::Table(PASSIVE),
        "{ failures = 5, window = \"5s\", hold = \"5s\" }",
        "Judge servers by their answers to clients (nat, fullnat).",
    ),
    key(
        "up_command",
        Kind::Texts(Form::Path),
        "[\"/usr/local/bin/up\"]",
        "Program to run when the service comes up.",
    ),
    key(
        "down_command",
        Kind::Texts(Form::Path),
        "[\"/usr/local/bin/down\"]",
        "Program to run when the service goes down.",
    ),
    key("command_user", Kind::Text(Form::Name), "\"nobody\"", "Who the programs run as; default: nobody."),
    key("down_at_stop", Kind::Bool, "false", "Run the down commands when the director stops, too."),
    key(
        "announce",
        Kind::Text(Form::Interface),
        "\"dummy0\"",
        "Interface of the host that has the virtual address while the service is up, for BIRD or FRR.",
    ),
];

const ON_FAILURE: &[&str] = &["remove", "inhibit"];

const PANIC: &[Key] = &[
    key("below", Kind::Int(1, 100), "50", "Less than this many hundredths of the weight are healthy."),
    key("use", Kind::Choice(&["all", "none", "sorry"]), "\"all\"", "Who serves then."),
];

const PASSIVE: &[Key] = &[
    key("failures", Kind::Int(1, 1_000_000), "5", "Connections without answer or refused..."),
    key("window", Kind::Text(Form::Duration), "\"5s\"", "...within this time take a server out..."),
    key("hold", Kind::Text(Form::Duration), "\"5s\"", "...for this long, doubled each time up to an hour."),
];

const PERSISTENCE: &[Key] = &[
    key("timeout", Kind::Text(Form::Duration), "\"5m\"", "How long a client stays, 6 minutes when not said."),
    key("netmask", Kind::Int(1, 128), "24", "Prefix length by which clients are grouped."),
    key("engine", Kind::Choice(&["sip"]), "\"sip\"", "Tell clients apart by the Call-ID of SIP too (UDP)."),
];

const REAL: &[Key] = &[
    key("name", Kind::Text(Form::Name), "\"web1\"", "Name for people."),
    key(
        "address",
        Kind::Text(Form::EndpointOrIp),
        "\"10.0.0.11:8080\"",
        "Address, and port when it differs.",
    ),
    key("weight", Kind::Int(0, i32::MAX as i64), "1", "Weight; 0 takes no new connections."),
    key(
        "upper_threshold",
        Kind::Int(0, u32::MAX as i64),
        "0",
        "No new connections from this many on; 0 = no limit.",
    ),
    key("lower_threshold", Kind::Int(0, u32::MAX as i64), "0", "New connections again below this many."),
    key("mode", Kind::Choice(MODES), "\"nat\"", "Forwarding method."),
    key("tunnel", Kind::Table(TUNNEL), "{ type = \"gue\", port = 6080 }", "Encapsulation in mode tun."),
    key("check", Kind::TextOrTexts(Form::Name), "\"alive\"", "Its checks; default: those of its service."),
    key(
        "state",
        Kind::Choice(&["up", "drain", "maintenance"]),
        "\"up\"",
        "drain takes no new connections, maintenance is out whatever the checks say.",
    ),
    key(
        "drain_deadline",
        Kind::Text(Form::Duration),
        "\"30s\"",
        "When the connections of a drained server are reset; default: never.",
    ),
    key(
        "on_failure",
        Kind::Choice(ON_FAILURE),
        "\"remove\"",
        "What its failure does; default: its service's.",
    ),
    key(
        "up_command",
        Kind::Texts(Form::Path),
        "[\"/usr/local/bin/up\"]",
        "Program to run when it comes back.",
    ),
    key(
        "down_command",
        Kind::Texts(Form::Path),
        "[\"/usr/local/bin/down\"]",
        "Program to run when it fails.",
    ),
];

const TUNNEL: &[Key] = &[
    key("type", Kind::Choice(&["ipip", "gre", "gue"]), "\"ipip\"", "Kind of tunnel."),
    key("port", Kind::Int(1, 65535), "6080", "UDP port of the server (gue)."),
    key("checksum", Kind::Choice(&["none", "csum", "remcsum"]), "\"none\"", "Checksum of the outer packet."),
];
