//! The control socket, for the owner.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::geteuid;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tracing::warn;

use super::Control;
use super::http::guard::Trust;
use super::http::{Context, connection};
use crate::failure::Failure;

/// Connections of a door at a time; more wait until one ends.
pub(super) const CONNECTIONS: usize = 128;
/// Mode of the control socket: its owner's only.
const MODE: u32 = 0o600;

/// Where the control socket is: as configured, else `SOFTLVS_CONTROL`, else the place for this user; `None`
/// when there is no such place. True when somebody named it.
pub fn path(configured: Option<&str>) -> Option<(PathBuf, bool)> {
    let named = configured.map(PathBuf::from).filter(|p| !p.as_os_str().is_empty());
    let named =
        named.or_else(|| std::env::var_os("SOFTLVS_CONTROL").filter(|v| !v.is_empty()).map(PathBuf::from));
    if let Some(path) = named {
        return Some((path, true));
    }
    let run = Path::new("/run/softlvs");
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty());
    // root of a user namespace may have no business in /run (`unshare -Ur`)
    if geteuid().is_root() && (own.is_none() || may_make(run)) {
        return Some((run.join("softlvs.sock"), false));
    }
    Some((PathBuf::from(own?).join("softlvs.sock"), false))
}

/// Files can be made in this folder, which is made when it is not there.
fn may_make(folder: &Path) -> bool {
    let place = if folder.exists() { Some(folder) } else { folder.parent() };
    place.is_some_and(|p| nix::unistd::access(p, nix::unistd::AccessFlags::W_OK).is_ok())
}

/// The open control socket; the file goes with it.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Door {
    /// Makes the control socket. One that nobody listens on any more is replaced; one that somebody does is
    /// left alone.
    ///
    /// # Errors
    /// Another director has it, something else is there, or it cannot be made.
    pub fn open(path: &Path) -> Result<Door, Failure> {
        let what = || format!("cannot make the control socket {}", path.display());
        let fail =
            |e: io::Error| Failure::run(what(), e.to_string(), "choose another path with --control PATH");
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
            std::fs::create_dir(folder).map_err(fail)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
            Ok(meta) if !meta.file_type().is_socket() => {
                let why = "something that is no socket is there already";
                return Err(Failure::run(
                    what(),
                    why,
                    "remove it, or choose another path with --control PATH",
                ));
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => {
                    let why = "another director is listening there";
                    return Err(Failure::run(
                        what(),
                        why,
                        "stop it, or choose another path with --control PATH",
                    ));
                }
                Err(_) => std::fs::remove_file(path).map_err(fail)?,
            },
        }
        // The mode is set before anybody can connect, whatever the umask is.
        let address = UnixAddr::new(path).map_err(|e| fail(e.into()))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|e| fail(e.into()))?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(|e| fail(e.into()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(fail)?;
        let backlog = Backlog::new(128).map_err(|e| fail(e.into()))?;
        listen(&fd, backlog).map_err(|e| fail(e.into()))?;
        let inode = std::fs::symlink_metadata(path).map_err(fail)?.ino();
        let listener = UnixListener::from_std(fd.into()).map_err(fail)?;
        Ok(Door { listener, path: path.to_owned(), inode })
    }

    /// Lets the owner in, for as long as the task runs.
    pub async fn serve(self, control: Control) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let owner = geteuid().as_raw();
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    pause("control socket", &e).await;
                    continue;
                }
            };
            // the mode of the file says the same; this holds when it was changed
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == owner || peer.uid() == 0 => {}
                Ok(peer) => {
                    warn!(uid = peer.uid(), "somebody else's connection to the control socket is refused");
                    continue;
                }
                Err(_) => continue,
            }
            let context = Context { control: control.clone(), trust: Trust::Owner };
            tokio::spawn(async move {
                connection(stream, context).await;
                drop(place);
            });
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // not when another director made its own there meanwhile
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// No descriptors left, and the like: they come back.
pub(super) async fn pause(what: &str, e: &io::Error) {
    warn!("{what}: {e}");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Door, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        Door::open(path)
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_the_director() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/softlvs.sock");
        let door = open(&path).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let door = open(&path).unwrap();
        let refused = open(&path).err().unwrap();
        assert!(refused.messages()[0].contains("another director is listening there"), "{refused:?}");
        assert!(path.exists(), "the live one is still there");
        drop(door);
        std::fs::write(&path, "mine").unwrap();
        let refused = open(&path).err().unwrap();
        assert!(refused.messages()[0].contains("no socket"), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
