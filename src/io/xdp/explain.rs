//! What goes wrong with AF_XDP, why, and what to do about it.

use std::io;

use super::queue::Step;
use crate::io::OpenError;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Making the program's maps.
    Maps,
    /// Loading the program.
    Program,
    /// Attaching it.
    Attach,
    /// Writing addresses into the maps.
    Addresses,
    /// Opening a socket.
    Queue(Step),
}

/// There is another program on the interface.
pub fn occupied(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// An error for a person.
pub fn failure(interface: &str, doing: Doing, e: &io::Error) -> OpenError {
    let what = format!("cannot open an XDP port on {interface}");
    let instead = format!("or use a raw port: `--packet {interface}`");
    let errno = e.raw_os_error().unwrap_or(0);
    match (doing, errno) {
        (Doing::Maps | Doing::Program | Doing::Attach, libc::EPERM | libc::EACCES) => OpenError::new(
            what,
            "loading the program needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace",
            format!(
                "run as root (not in `unshare -U` or a rootless container), or `setcap \
                     cap_bpf,cap_net_admin,cap_net_raw+ep` on the program, {instead}"
            ),
        ),
        (Doing::Maps | Doing::Program, libc::ENOSYS) => OpenError::new(
            what,
            "this kernel has no bpf(2)",
            format!("a kernel with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS, {instead}"),
        ),
        (Doing::Maps, libc::EINVAL) => OpenError::new(
            what,
            "this kernel has no AF_XDP",
            format!("a kernel from 5.9 on with CONFIG_XDP_SOCKETS, {instead}"),
        ),
        (Doing::Attach, libc::EBUSY | libc::EEXIST) => OpenError::new(
            what,
            "the interface has an XDP program already",
            format!(
                "stop what put it there (`ip link show dev {interface}` shows its number), or take it off: \
                 `ip link set dev {interface} xdp off`, {instead}"
            ),
        ),
        (Doing::Attach, libc::EOPNOTSUPP) => OpenError::new(
            what,
            "its driver has no XDP",
            format!("leave out `xdp_mode = \"native\"` to attach in generic mode, {instead}"),
        ),
        (Doing::Attach, libc::EINVAL | libc::ERANGE) => OpenError::new(
            what,
            format!("its driver refuses the program ({e}); mostly its MTU is too large for XDP"),
            format!("lower the MTU (`ip link set dev {interface} mtu 1500`), {instead}"),
        ),
        (Doing::Queue(Step::Socket), libc::EAFNOSUPPORT) => OpenError::new(
            what,
            "this kernel has no AF_XDP",
            format!("a kernel from 5.9 on with CONFIG_XDP_SOCKETS, {instead}"),
        ),
        (Doing::Queue(Step::Socket), libc::EPERM | libc::EACCES) => OpenError::new(
            what,
            "CAP_NET_RAW is missing in this network namespace",
            "run as root, or `setcap cap_bpf,cap_net_admin,cap_net_raw+ep` on the program",
        ),
        (Doing::Queue(Step::Memory), libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => OpenError::new(
            what,
            "frame memory may not be locked: RLIMIT_MEMLOCK is too low",
            "`ulimit -l unlimited`, LimitMEMLOCK=infinity in the service's unit, or CAP_IPC_LOCK",
        ),
        (Doing::Queue(Step::Bind), libc::EBUSY) => OpenError::new(
            what,
            "another AF_XDP socket has a queue of it",
            format!("stop the other program, {instead}"),
        ),
        (Doing::Queue(Step::BusyPoll), libc::EPERM) => OpenError::new(
            what,
            "busy_poll: CAP_NET_ADMIN is missing",
            "run as root, or leave `busy_poll` out",
        ),
        (Doing::Queue(Step::BusyPoll), _) => OpenError::new(
            what,
            format!("busy_poll: {e}"),
            "it needs Linux 5.11 or later; leave `busy_poll` out",
        ),
        (Doing::Addresses, libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => OpenError::new(
            format!("cannot tell the XDP program of {interface} its addresses"),
            format!("there are too many: {e}"),
            instead.trim_start_matches("or ").to_owned(),
        ),
        (Doing::Addresses, _) => OpenError::new(
            format!("cannot tell the XDP program of {interface} its addresses"),
            e.to_string(),
            instead.trim_start_matches("or ").to_owned(),
        ),
        (doing, _) => OpenError::new(
            what,
            format!("{}: {e}", step(doing)),
            instead.trim_start_matches("or ").to_owned(),
        ),
    }
}

fn step(doing: Doing) -> &'static str {
    match doing {
        Doing::Maps => "making its maps",
        Doing::Program => "loading its program",
        Doing::Attach => "attaching its program",
        Doing::Addresses => "writing addresses",
        Doing::Queue(Step::Socket) => "opening a socket",
        Doing::Queue(Step::Memory) => "making frame memory",
        Doing::Queue(Step::Bind) => "binding the socket",
        Doing::Queue(Step::BusyPoll) => "busy polling",
        Doing::Queue(Step::Enter) => "entering the socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_cause_has_its_own_words_and_a_remedy() {
        let cases = [
            (Doing::Maps, libc::EPERM, "CAP_BPF", "setcap"),
            (Doing::Program, libc::ENOSYS, "bpf(2)", "CONFIG_BPF_SYSCALL"),
            (Doing::Attach, libc::EBUSY, "already", "xdp off"),
            (Doing::Attach, libc::EEXIST, "already", "xdp off"),
            (Doing::Attach, libc::EOPNOTSUPP, "driver", "xdp_mode"),
            (Doing::Attach, libc::EINVAL, "MTU", "mtu 1500"),
            (Doing::Queue(Step::Socket), libc::EAFNOSUPPORT, "no AF_XDP", "CONFIG_XDP_SOCKETS"),
            (Doing::Queue(Step::Socket), libc::EPERM, "CAP_NET_RAW", "root"),
            (Doing::Queue(Step::Memory), libc::ENOBUFS, "RLIMIT_MEMLOCK", "ulimit -l"),
            (Doing::Queue(Step::Bind), libc::EBUSY, "another AF_XDP socket", "--packet eth0"),
            (Doing::Queue(Step::BusyPoll), libc::ENOPROTOOPT, "busy_poll", "5.11"),
            (Doing::Addresses, libc::E2BIG, "too many", "--packet eth0"),
            (Doing::Queue(Step::Bind), libc::ENXIO, "binding the socket", "--packet eth0"),
        ];
        for (doing, errno, why, help) in cases {
            let e = failure("eth0", doing, &io::Error::from_raw_os_error(errno));
            assert!(e.what.contains("eth0"), "{e}");
            assert!(e.why.contains(why), "{doing:?} {errno}: {e}");
            assert!(e.help.as_ref().is_some_and(|h| h.contains(help)), "{doing:?} {errno}: {:?}", e.help);
        }
    }
}
