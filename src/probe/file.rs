//! `file`: a number in a file changes the weight, or says that the server is down.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::{Finding, Trouble, text};
use crate::health::Outcome;

/// From here on down it means failure (keepalived: a tracked file of -254 or less).
const DOWN: i64 = -254;

pub(super) async fn run(path: &str, factor: i32) -> Finding {
    let path = path.to_owned();
    // a file system may hang: not here
    let read = tokio::task::spawn_blocking(move || {
        let file = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
        let mut bytes = Vec::new();
        file.and_then(|f| f.take(64).read_to_end(&mut bytes)).map(|_| bytes)
    });
    let read = read.await.map_err(|e| Trouble::Unchecked(e.to_string()))?;
    let bytes = read.map_err(|e| Trouble::Failed(super::plain(&e)))?;
    judge(&bytes, factor)
}

fn judge(bytes: &[u8], factor: i32) -> Finding {
    let n = text::number(bytes).map_err(Trouble::Failed)?;
    let add = n.saturating_mul(i64::from(factor)).clamp(-1 << 30, 1 << 30);
    if add <= DOWN {
        return Err(Trouble::Failed(format!("it says {n}")));
    }
    Ok(Outcome { add: add as i32, ..Outcome::ok(format!("it says {n}")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_added_to_the_weight() {
        assert_eq!(judge(b"5\n", 2).unwrap().add, 10);
        assert_eq!(judge(b"-3", 1).unwrap().add, -3);
        assert_eq!(judge(b"3", -1).unwrap().add, -3);
        assert!(judge(b"-254", 1).is_err() && judge(b"x", 1).is_err() && judge(b"127", -2).is_err());
        assert_eq!(judge(b"9223372036854775807", 254).unwrap().add, 1 << 30);
    }
}
