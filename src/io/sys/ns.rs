//! Namespaces without any tool: made by `unshare`, held by descriptors, entered by threads.
//!
//! A [`NetNs`] lives as long as a descriptor, a thread or a process in it; nothing is mounted and no file
//! is written, so it disappears with the process whatever ends it. [`isolate`] goes further: the rest of
//! the program runs as the first process of a PID namespace (and, for an ordinary user, as root of a user
//! namespace), so that every process started from there dies with it, `SIGKILL` included.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid};

/// A network namespace, kept alive by a descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// A new, empty network namespace; `lo` is up.
    ///
    /// # Errors
    /// The system call's error: `EPERM` without `CAP_SYS_ADMIN` in the user namespace (see [`isolate`]).
    pub fn new() -> io::Result<NetNs> {
        let made = std::thread::scope(|s| {
            s.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let ns = NetNs::current()?;
                let mut nl = super::netlink::Netlink::open()?;
                let lo = nl.index("lo")?;
                nl.set_up(lo, true)?;
                Ok(ns)
            })
            .join()
        });
        made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace panicked")))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> io::Result<NetNs> {
        NetNs::open("/proc/thread-self/ns/net")
    }

    /// The namespace behind a path such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The path cannot be opened.
    pub fn open(path: &str) -> io::Result<NetNs> {
        Ok(NetNs { fd: File::open(path)?.into() })
    }

    /// A second handle to the same namespace.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<NetNs> {
        Ok(NetNs { fd: self.fd.try_clone()? })
    }

    /// Moves the calling thread, and threads it starts later, into the namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` over the namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.fd, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets opened there stay in the
    /// namespace and may be used by any thread afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` failed or panicked.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
        std::thread::scope(|s| {
            s.spawn(|| {
                self.enter()?;
                work()
            })
            .join()
        })
        .unwrap_or_else(|_| Err(io::Error::other("a thread inside the namespace panicked")))
    }

    /// Starts a named thread inside the namespace; returns when it is inside.
    ///
    /// # Errors
    /// The thread cannot be started or cannot enter.
    pub fn spawn<R: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<JoinHandle<R>> {
        let ns = self.try_clone()?;
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let entered = ns.enter();
            let inside = entered.is_ok();
            let _ = tell.send(entered);
            inside.then(work)
        })?;
        told.recv().map_err(|_| io::Error::other("the thread ended before it was inside"))??;
        std::thread::Builder::new().name(format!("{name}-join")).spawn(move || match handle.join() {
            Ok(Some(r)) => r,
            Ok(None) => unreachable!("the thread said that it was inside"),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Makes `command` start inside the namespace and die with the *thread* that spawns it.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn confine(&self, command: &mut Command) -> io::Result<()> {
        let fd = self.fd.try_clone()?;
        // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls
        // (setns, prctl); it allocates nothing and touches no lock.
        unsafe {
            command.pre_exec(move || {
                setns(&fd, CloneFlags::CLONE_NEWNET)?;
                Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
            });
        }
        Ok(())
    }

    /// Number of the namespace, the same for every handle to it; names files that belong to it.
    ///
    /// # Errors
    /// The descriptor cannot be examined.
    pub fn id(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Makes the calling process root of a new user namespace, with only its own user and group mapped.
///
/// # Errors
/// The process has several threads (`EINVAL`), or user namespaces are forbidden here (`EPERM`, `ENOSPC`).
pub fn become_root() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // user_namespaces(7): a group map may be written without privilege only after setgroups is denied.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Which side of [`isolate`] the caller is.
#[derive(Debug)]
pub enum Side {
    /// The first process of the new PID namespace: go on. The number is its process id as seen outside.
    Inside(u32),
    /// The process outside; wait for the one inside and end as it ended.
    Outside(Warden),
}

/// The process outside an isolated one; when it ends, so does everything inside.
#[derive(Debug)]
pub struct Warden {
    child: Pid,
    _lifeline: OwnedFd,
}

impl Warden {
    /// Waits until the process inside ended. SIGTERM, SIGHUP and (unless `interactive`) SIGINT kill
    /// everything inside at once; returns the exit status as a shell would see it.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub fn wait(self, interactive: bool) -> io::Result<u8> {
        let mut set = SigSet::empty();
        for s in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGCHLD] {
            set.add(s);
        }
        set.thread_block()?;
        let mut killed_by = None;
        loop {
            match waitpid(self.child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    return Ok(killed_by.map_or(code as u8, |s: Signal| 128 + s as u8));
                }
                Ok(WaitStatus::Signaled(_, s, _)) => return Ok(128 + killed_by.unwrap_or(s) as u8),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            }
            match set.wait()? {
                Signal::SIGCHLD => {}
                Signal::SIGINT | Signal::SIGQUIT if interactive => {}
                s => {
                    killed_by = Some(s);
                    let _ = nix::sys::signal::kill(self.child, Signal::SIGKILL);
                }
            }
        }
    }
}

/// Splits the program in two: the child goes on as the first process of a new PID namespace (and as root
/// of a new user namespace unless the caller already may make namespaces), the parent only waits.
/// When either ends, every process started inside is killed by the kernel. The child has an empty `/run`
/// of its own, gone with it.
///
/// Call it before any thread is started.
///
/// # Errors
/// The step that failed, with what to do about it.
pub fn isolate() -> io::Result<Side> {
    let wanted = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    // Root of a container may lack CAP_SYS_ADMIN; then it goes the ordinary user's way.
    if !geteuid().is_root() || unshare(wanted).is_err() {
        become_root().map_err(|e| {
            io::Error::new(
                e.kind(),
                format!(
                    "cannot make a user namespace: {e}; help: run as root, or allow them \
                     (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
                     kernel.apparmor_restrict_unprivileged_userns)"
                ),
            )
        })?;
        unshare(wanted)?;
    }
    let (mut read, write) = io::pipe()?;
    // SAFETY: the caller has started no thread (documented; `become_root` would have failed with EINVAL
    // and a lost lock is the worst that could happen as root), so the child is a whole program.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(read);
            Ok(Side::Outside(Warden { child, _lifeline: write.into() }))
        }
        ForkResult::Child => {
            drop(write);
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above: the pipe tells, and keeps telling.
            std::thread::Builder::new().name("lifeline".into()).spawn(move || {
                let _ = read.read(&mut [0u8; 1]);
                std::process::exit(1);
            })?;
            let outside = fs::read_link("/proc/self")?.to_string_lossy().parse().map_err(io::Error::other)?;
            own_mounts().map_err(|e| io::Error::new(e.kind(), format!("cannot mount an own /run: {e}")))?;
            Ok(Side::Inside(outside))
        }
    }
}

fn own_mounts() -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|e| match e {
        // without this step what follows might be mounted outside too
        nix::errno::Errno::EINVAL => io::Error::other(
            "this is a chroot in a folder that is no mount; help: make it one before it is entered: \
             `mount --bind DIR DIR`",
        ),
        e => e.into(),
    })?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
    // So that process numbers in /proc are those of the PID namespace. Containers that hide parts of /proc
    // forbid it; then only tools such as ps show the outer numbers.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
    Ok(())
}

/// Runs `command` in the user, mount and PID namespace of an isolated program and in one of its network
/// namespaces, given by a descriptor of that program. The calling process has to have one thread, and is
/// left in those namespaces.
///
/// # Errors
/// Not permitted (another user's namespaces), or the command cannot be started.
pub fn run_inside(pid: u32, net_fd: RawFd, command: &mut Command) -> io::Result<std::process::ExitStatus> {
    let user = File::open(format!("/proc/{pid}/ns/user"))?;
    let pids = File::open(format!("/proc/{pid}/ns/pid"))?;
    let mounts = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let net = File::open(format!("/proc/{pid}/fd/{net_fd}"))?;
    if fs::read_link("/proc/self/ns/user")? != fs::read_link(format!("/proc/{pid}/ns/user"))? {
        setns(&user, CloneFlags::CLONE_NEWUSER)?;
    }
    setns(&mounts, CloneFlags::CLONE_NEWNS)?;
    setns(&pids, CloneFlags::CLONE_NEWPID)?;
    setns(&net, CloneFlags::CLONE_NEWNET)?;
    command.status()
}

/// Writes a sysctl of the calling thread's network namespace, `net.ipv4.ip_forward` style; dots inside
/// an interface name are written as `/`.
///
/// # Errors
/// The key does not exist or may not be written; the key is named.
pub fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    let at = |e: io::Error| io::Error::new(e.kind(), format!("sysctl {key}={value}: {e}"));
    let mut file = fs::OpenOptions::new().write(true).open(sysctl_path(key)).map_err(at)?;
    file.write_all(value.as_bytes()).map_err(at)
}

/// Reads a sysctl, see [`set_sysctl`].
///
/// # Errors
/// The key does not exist; the key is named.
pub fn sysctl(key: &str) -> io::Result<String> {
    fs::read_to_string(sysctl_path(key))
        .map(|s| s.trim().to_owned())
        .map_err(|e| io::Error::new(e.kind(), format!("sysctl {key}: {e}")))
}

/// `/proc/sys` path of a key, by the rule of sysctl(8): `.` and `/` change places.
fn sysctl_path(key: &str) -> String {
    let swapped: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_inside_an_interface_name_survives() {
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/7.arp_ignore"),
            "/proc/sys/net/ipv4/conf/eth0.7/arp_ignore"
        );
    }

    #[test]
    fn a_namespace_has_its_own_links_and_sysctls_and_threads_stay_where_they_were() {
        let Ok(ns) = NetNs::new() else {
            eprintln!("skipped: no right to make network namespaces");
            return;
        };
        let home = NetNs::current().unwrap().id().unwrap();
        assert_ne!(ns.id().unwrap(), home);
        ns.run(|| {
            assert_eq!(super::super::netlink::Netlink::open()?.links()?.len(), 1);
            set_sysctl("net.ipv4.ip_forward", "1")?;
            assert_eq!(sysctl("net.ipv4.ip_forward")?, "1");
            Ok(())
        })
        .unwrap();
        assert_eq!(NetNs::current().unwrap().id().unwrap(), home);
    }
}
