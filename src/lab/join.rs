//! How `softlvs lab exec` finds a running lab: an abstract Unix socket, which is no file and vanishes with
//! the lab. Its name holds the user and the process; who connects is told the namespaces. What may be done
//! with them the kernel decides (only the lab's own user or root may enter).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use super::topology::Topology;

/// First part of every lab's socket name.
const NAME: &str = "softlvs-lab";

/// A running lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Owner.
    pub uid: u32,
    /// Its process, as seen from outside.
    pub pid: u32,
}

/// Tells who asks which namespaces there are, on a thread that lives as long as the process.
///
/// # Errors
/// The socket cannot be made.
pub fn announce(who: Running, topology: &Topology) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(format!("{NAME}-{}-{}", who.uid, who.pid))?;
    let listener = UnixListener::bind_addr(&address)?;
    let list: String =
        topology.namespaces().map(|(name, ns)| format!("{name} {}\n", ns.as_raw_fd())).collect();
    std::thread::Builder::new().name("lab-names".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: UnixStream = stream;
            let _ = stream.write_all(list.as_bytes());
        }
    })?;
    Ok(())
}

/// Every running lab of this network namespace.
///
/// # Errors
/// `/proc/net/unix` cannot be read.
pub fn running() -> io::Result<Vec<Running>> {
    Ok(find(&std::fs::read_to_string("/proc/net/unix")?))
}

fn find(table: &str) -> Vec<Running> {
    let name = |line: &str| {
        let rest = line.split_whitespace().last()?.strip_prefix('@')?.strip_prefix(NAME)?;
        let (uid, pid) = rest.strip_prefix('-')?.split_once('-')?;
        Some(Running { uid: uid.parse().ok()?, pid: pid.parse().ok()? })
    };
    let mut all: Vec<Running> = table.lines().filter_map(name).collect();
    // A connection in progress shows the same name again.
    all.sort_by_key(|r| (r.uid, r.pid));
    all.dedup();
    all
}

/// Names and descriptor numbers of a lab's namespaces.
///
/// # Errors
/// The lab has ended.
pub fn namespaces(of: Running) -> io::Result<Vec<(String, RawFd)>> {
    let address = SocketAddr::from_abstract_name(format!("{NAME}-{}-{}", of.uid, of.pid))?;
    let mut all = Vec::new();
    for line in BufReader::new(UnixStream::connect_addr(&address)?).lines() {
        if let Some((name, fd)) = line?.split_once(' ') {
            all.push((name.to_owned(), fd.parse().map_err(io::Error::other)?));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_are_found_among_other_sockets() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
            0: 2 0 10000 1 1 17 @softlvs-lab-1000-4242\n\
            1: 3 0 0 1 3 18 @softlvs-lab-1000-4242\n\
            2: 3 0 0 1 3 19 /run/softlvs-lab-1-2\n\
            3: 3 0 0 1 3 20 @softlvs-lab-x-2\n\
            4: 3 0 0 1 3 21\n";
        assert_eq!(find(table), [Running { uid: 1000, pid: 4242 }]);
    }
}
