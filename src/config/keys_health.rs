//! The keys of `[[check]]`.

use super::keys::{Key, Kind, key};
use super::values::Form;

/// `[[check]]`
pub const CHECK: &[Key] = &[
    key("name", Kind::Text(Form::Name), "\"alive\"", "Name by which services and servers ask for it."),
    key(
        "type",
        Kind::Choice(&["tcp", "http", "https", "dns", "udp", "ping", "smtp", "exec", "file"]),
        "\"http\"",
        "What it does.",
    ),
    key(
        "interval",
        Kind::Text(Form::Duration),
        "\"2s\"",
        "From the beginning of one check to that of the next.",
    ),
    key(
        "timeout",
        Kind::Text(Form::Duration),
        "\"1s\"",
        "Without result by then it has failed; default: half the interval.",
    ),
    key("rise", Kind::Int(1, 1000), "2", "Successes in a row that bring a server back."),
    key("fall", Kind::Int(1, 1000), "3", "Failures in a row that take it out."),
    key(
        "retry_delay",
        Kind::Text(Form::Duration),
        "\"1s\"",
        "From a failure to the next try; default: so that `fall` failures are known after `fall` intervals.",
    ),
    key(
        "warmup",
        Kind::Text(Form::Duration),
        "\"2s\"",
        "The first check comes at random within this time; default: the interval.",
    ),
    key("jitter", Kind::Int(0, 50), "10", "Hundredths of the interval by which checks come early at random."),
    key(
        "start",
        Kind::Choice(&["up", "down", "first"]),
        "\"up\"",
        "What is believed until enough results are there; first: the first one decides.",
    ),
    key(
        "dampening",
        Kind::Bool,
        "true",
        "A server that fails again soon after it came back has to work for longer before it is taken back.",
    ),
    key(
        "via",
        Kind::Choice(&["host", "real", "director", "vip"]),
        "\"vip\"",
        "From the host's network stack, from there or the director's address where the host has no way (real), from the director's address, or from there to the virtual address the way the traffic goes (vip); default: vip in tun and dr, else real.",
    ),
    key("address", Kind::Text(Form::Ip), "\"10.1.0.11\"", "Address to ask; default: the real server's."),
    key("port", Kind::Int(1, 65535), "8081", "Port to ask; default: the real server's."),
    key("bind", Kind::Text(Form::Ip), "\"10.1.0.1\"", "Address of the host to ask from."),
    key("path", Kind::Text(Form::Path), "\"/health\"", "Path to ask for (http, https)."),
    key(
        "host",
        Kind::Text(Form::Name),
        "\"www.example.org\"",
        "Virtual host; default: the server's address (http, https).",
    ),
    key(
        "status",
        Kind::TextOrTexts(Form::Name),
        "[\"200-299\"]",
        "Status codes that are fine (http, https).",
    ),
    key("body", Kind::Text(Form::Path), "\"ok\"", "Regular expression the body must match (http, https)."),
    key(
        "not_body",
        Kind::Text(Form::Path),
        "\"error\"",
        "Regular expression the body must not match (http, https).",
    ),
    key(
        "digest",
        Kind::Text(Form::Path),
        "\"9b3a0c85a887a256d6939da88aabd8cd\"",
        "MD5 of the body (http, https).",
    ),
    key("version", Kind::Choice(&["1.0", "1.0C", "1.1"]), "\"1.1\"", "Version of HTTP (http, https)."),
    key(
        "request",
        Kind::Tables(REQUEST),
        "",
        "Several requests, all of which must be answered (http, https).",
    ),
    key(
        "sni",
        Kind::Text(Form::Name),
        "\"www.example.org\"",
        "Server name to ask for; default: the virtual host (https).",
    ),
    key(
        "ca",
        Kind::Text(Form::Path),
        "\"/etc/ssl/ca.pem\"",
        "Certificates to trust; default: any certificate will do (https).",
    ),
    key("query", Kind::Text(Form::Name), "\"example.org\"", "Name to ask for (dns)."),
    key(
        "record",
        Kind::Choice(&["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "SRV", "ANY"]),
        "\"SOA\"",
        "Type of record (dns).",
    ),
    key("payload", Kind::Text(Form::Path), "\"0001ff\"", "Datagram in hexadecimal digits (udp)."),
    key("reply", Kind::Text(Form::Path), "\"00xxff\"", "What the answer begins with, xx for any byte (udp)."),
    key("require_reply", Kind::Bool, "true", "Silence is failure (udp)."),
    key("min_reply", Kind::Int(0, 65535), "0", "Least length of the answer (udp)."),
    key("max_reply", Kind::Int(0, 65535), "255", "Greatest length of the answer (udp)."),
    key("helo", Kind::Text(Form::Name), "\"lb.example.org\"", "Name to greet with (smtp)."),
    key(
        "command",
        Kind::Texts(Form::Path),
        "[\"/usr/local/bin/check\", \"-q\"]",
        "Program with its arguments; no shell (exec).",
    ),
    key("user", Kind::Text(Form::Name), "\"nobody\"", "Who it runs as; default: nobody (exec)."),
    key("dynamic", Kind::Bool, "false", "Exit status 2 to 255 sets the weight to itself less 2 (exec)."),
    key("file", Kind::Text(Form::Path), "\"/run/weight\"", "File with a number (file)."),
    key(
        "factor",
        Kind::Int(-254, 254),
        "1",
        "The number times this is added to the weight; -254 and less is failure (file).",
    ),
];

/// `[[check.request]]`
const REQUEST: &[Key] = &[
    key("path", Kind::Text(Form::Path), "\"/health\"", "Path to ask for."),
    key("host", Kind::Text(Form::Name), "\"www.example.org\"", "Virtual host."),
    key("status", Kind::TextOrTexts(Form::Name), "[\"200-299\"]", "Status codes that are fine."),
    key("body", Kind::Text(Form::Path), "\"ok\"", "Regular expression the body must match."),
    key("not_body", Kind::Text(Form::Path), "\"error\"", "Regular expression the body must not match."),
    key("digest", Kind::Text(Form::Path), "\"9b3a0c85a887a256d6939da88aabd8cd\"", "MD5 of the body."),
];
