//! The director end to end: the program itself, started as a user would start it, between real clients and
//! real servers in network namespaces of the test's own.
//!
//! * `listing`: very many connections listed under traffic.
//! * `matrix`: every forwarding mode over every kind of port and both families, with the ends' checksum
//!   offload on and off.
//! * `selftest`: the kernel's own IPVS selftest, re-enacted.
//! * `host_as_real`, `one_arm`: the director's host as a real server, the director as a neighbour.
//! * `path_mtu`, `mixed`: smaller MTUs on the way, tunnels of the other family.
//! * `persistence`: a client stays with its server.
//! * `router`: forwarding beside services, configuration read again, idling.
//! * `ftp`: data connections of FTP, with vsftpd and curl.
//! * `sctp`: associations between end-points of usrsctp.
//! * `xdp`: what the kernel beside an XDP port sees and does not see, how the program comes and goes.
//! * `health`: real servers that stop, freeze, answer wrongly, lose their address or tunnel; drains, slow start.
//! * `doctor`, `real_check`: what is wrong around a director and on a real server, each with its remedy.
//! * `workers`: two workers over devices with two queues.
//! * `exporters`: node_exporter and Prometheus' parser on what the director exports.
//! * `storm`: reloads of all kinds under load.
//! * `robust`: devices that vanish, links that flap, starts that must be refused.
//! * `odd_devices`: interfaces with one MAC, other names, several networks; what a killed process has left.
//!
//! Root, or a user that may make user namespaces (then each test runs itself again inside `unshare -Urm`).
//! Without either a test prints `skipped: why` and passes; with `CI=true` it fails instead.
#![cfg(feature = "daemon")]
// Tests measure with the clock of the machine; it is no part of the director.
#![allow(clippy::disallowed_methods)]

mod cell;
mod doctor;
mod doctor_through;
mod explain;
mod exporters;
mod ftp;
mod gate;
mod health;
mod host_as_real;
mod listing;
mod matrix;
mod mixed;
mod odd_devices;
mod one_arm;
mod path_mtu;
mod persistence;
mod real_check;
mod robust;
mod router;
mod sctp;
mod selftest;
mod sniff;
mod storm;
mod traffic;
mod tunnels;
mod wires;
mod workers;
mod xdp;
