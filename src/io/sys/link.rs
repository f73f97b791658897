//! Interface properties by ioctl: flags, MTU, MAC address.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use crate::addr::Mac;

/// Longest interface name in bytes (IFNAMSIZ - 1).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// An interface name in a zeroed request.
///
/// # Errors
/// `InvalidInput` for names the kernel would not take whole (it cuts them silently).
pub(super) fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > NAME_MAX || name.bytes().any(|b| b == b'/' || b == 0 || b <= b' ') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is not an interface name: 1 to {NAME_MAX} bytes, no blank, no `/`"),
        ));
    }
    // SAFETY: `ifreq` is plain integers, characters and pointers; all zero is a valid value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(req)
}

/// Refuses names the kernel would not take whole.
///
/// # Errors
/// `InvalidInput`, with the rule.
pub fn check_name(name: &str) -> io::Result<()> {
    request(name).map(|_| ())
}

fn ioctl(nr: libc::Ioctl, req: &mut libc::ifreq) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // SAFETY: the descriptor is open during the call; `req` is a valid `ifreq`, which is what every
    // request number passed to this function reads and writes (none of them follows its data pointer).
    match unsafe { libc::ioctl(socket.as_raw_fd(), nr, std::ptr::from_mut(req)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Number of an interface.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// True when the interface is set up (administratively).
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn is_up(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & libc::IFF_UP as libc::c_short != 0)
}

/// True when the interface is a loopback.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn is_loopback(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & libc::IFF_LOOPBACK as libc::c_short != 0)
}

fn flags(name: &str) -> io::Result<libc::c_short> {
    let mut req = request(name)?;
    ioctl(libc::SIOCGIFFLAGS, &mut req)?;
    // SAFETY: SIOCGIFFLAGS has written this member of the union.
    Ok(unsafe { req.ifr_ifru.ifru_flags })
}

/// Sets the interface up or down.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN, `ENODEV`.
pub fn set_up(name: &str, up: bool) -> io::Result<()> {
    let mut req = request(name)?;
    ioctl(libc::SIOCGIFFLAGS, &mut req)?;
    // SAFETY: SIOCGIFFLAGS has written this member of the union.
    let old = unsafe { req.ifr_ifru.ifru_flags };
    let bit = libc::IFF_UP as libc::c_short;
    let new = if up { old | bit } else { old & !bit };
    if new == old {
        return Ok(());
    }
    req.ifr_ifru.ifru_flags = new;
    ioctl(libc::SIOCSIFFLAGS, &mut req)
}

/// MTU in bytes.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn mtu(name: &str) -> io::Result<u32> {
    let mut req = request(name)?;
    ioctl(libc::SIOCGIFMTU, &mut req)?;
    // SAFETY: SIOCGIFMTU has written this member of the union.
    Ok(unsafe { req.ifr_ifru.ifru_mtu }.max(0) as u32)
}

/// Sets the MTU in bytes.
///
/// # Errors
/// `EINVAL` outside what the driver takes, `EPERM`, `ENODEV`.
pub fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let mut req = request(name)?;
    req.ifr_ifru.ifru_mtu = i32::try_from(mtu).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    ioctl(libc::SIOCSIFMTU, &mut req)
}

/// The interface's own MAC; `None` when it is no Ethernet-like device.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn mac(name: &str) -> io::Result<Option<Mac>> {
    let mut req = request(name)?;
    ioctl(libc::SIOCGIFHWADDR, &mut req)?;
    // SAFETY: SIOCGIFHWADDR has written this member of the union.
    let hw = unsafe { req.ifr_ifru.ifru_hwaddr };
    if hw.sa_family != libc::ARPHRD_ETHER {
        return Ok(None);
    }
    let mut mac = Mac::default();
    for (to, from) in mac.0.iter_mut().zip(hw.sa_data) {
        *to = from as u8;
    }
    Ok(Some(mac))
}

/// Sets the interface's own MAC.
///
/// # Errors
/// `EPERM`, `ENODEV`, `EBUSY` when the driver wants the interface down.
pub fn set_mac(name: &str, mac: Mac) -> io::Result<()> {
    let mut req = request(name)?;
    let mut data = [0 as libc::c_char; 14];
    for (to, from) in data.iter_mut().zip(mac.0) {
        *to = from as libc::c_char;
    }
    req.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    ioctl(libc::SIOCSIFHWADDR, &mut req)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_read_and_bad_names_are_refused_before_the_kernel_cuts_them() {
        assert!(is_loopback("lo").unwrap());
        assert!(mtu("lo").unwrap() > 0);
        assert_eq!(mac("lo").unwrap(), None);
        assert_eq!(index("nosuchdev").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        for bad in ["", "averyveryverylongname", "a/b", "a b"] {
            assert_eq!(mtu(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
