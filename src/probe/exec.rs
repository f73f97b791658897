//! `exec`: a program's exit status; and the programs that are told of changes.
//!
//! No shell, no inherited environment, an own user, an own process group which is killed as a whole when
//! its time is over.

use std::process::Stdio;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Group, Pid, Uid, User};
use tokio::process::{Child, Command};

use super::{Finding, Trouble};
use crate::health::{Job, Outcome};

/// A program to start.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// Path and arguments.
    pub argv: &'a [String],
    /// `user[:group]`; `None` = see [`default_user`].
    pub user: Option<&'a str>,
    /// Environment, beside `PATH`.
    pub env: Vec<(&'static str, String)>,
}

/// Who programs run as when nobody is named: `nobody` when the director is root, else its own user.
pub fn default_user() -> Option<String> {
    Uid::effective().is_root().then(|| "nobody".to_owned())
}

/// Kills the whole group of a child that has not ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id() {
            // it may have ended by itself just now
            let _ = killpg(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

impl Program<'_> {
    /// Runs it to its end; dropping the future kills it with all its children.
    ///
    /// # Errors
    /// It cannot be started: because of itself, or for want of something here.
    pub async fn run(&self) -> Result<std::process::ExitStatus, Trouble> {
        let none = || Trouble::Unchecked("there is no program".to_owned());
        let (path, args) = self.argv.split_first().ok_or_else(none)?;
        let mut command = Command::new(path);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.env.iter().map(|(k, v)| (*k, v.as_str())))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let who = self.user.map(str::to_owned).or_else(default_user);
        let ids = who.as_deref().map(ids).transpose().map_err(Trouble::Unchecked)?;
        let other = ids.filter(|(uid, _)| Uid::effective().as_raw() != *uid);
        if let Some((uid, gid)) = other {
            command.gid(gid).uid(uid);
        }
        let child = command.spawn().map_err(|e| match (other, &who) {
            (Some(_), Some(who)) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Trouble::Unchecked(format!(
                "{path} cannot run as `{who}`: this user namespace has no such user; name one that it has, such as `root` (`user` of a check, `command_user` of a service)"
            )),
            _ => Trouble::of(path, &e),
        })?;
        let mut running = Running(child);
        let group = running.0.id();
        let status = running.0.wait().await.map_err(|e| Trouble::of(path, &e))?;
        if let Some(pid) = group {
            // what it left behind in its group ends with it
            let _ = killpg(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        Ok(status)
    }
}

/// Numbers of `user[:group]`.
fn ids(who: &str) -> Result<(u32, u32), String> {
    let (user, group) = who.split_once(':').map_or((who, None), |(u, g)| (u, Some(g)));
    let known = match user.parse::<u32>() {
        Ok(n) => User::from_uid(n.into()),
        Err(_) => User::from_name(user),
    };
    let known = known.ok().flatten();
    let uid = known.as_ref().map(|u| u.uid.as_raw()).or_else(|| user.parse().ok());
    let uid = uid.ok_or_else(|| format!("there is no user `{user}`"))?;
    let gid = match group {
        None => known.map_or(uid, |u| u.gid.as_raw()),
        Some(g) => match g.parse::<u32>() {
            Ok(n) => n,
            Err(_) => {
                let found = Group::from_name(g).ok().flatten();
                found.map(|g| g.gid.as_raw()).ok_or_else(|| format!("there is no group `{g}`"))?
            }
        },
    };
    Ok((uid, gid))
}

pub(super) async fn check(job: &Job, argv: &[String], user: Option<&str>, dynamic: bool) -> Finding {
    let env = vec![
        ("SOFTLVS_CHECK", job.check.name.clone()),
        ("SOFTLVS_REAL_ADDRESS", job.real.ip().to_string()),
        ("SOFTLVS_REAL_PORT", job.real.port().to_string()),
    ];
    let status = Program { argv, user, env }.run().await?;
    judge(status.code(), dynamic)
}

/// What an exit status means; `None` = a signal ended it.
fn judge(code: Option<i32>, dynamic: bool) -> Finding {
    match code {
        Some(0) => Ok(Outcome::ok("exit status 0")),
        Some(n) if dynamic && (2..=255).contains(&n) => {
            Ok(Outcome { weight: Some(n as u32 - 2), ..Outcome::ok(format!("exit status {n}")) })
        }
        Some(n) => Err(Trouble::Failed(format!("exit status {n}"))),
        None => Err(Trouble::Failed("ended by a signal".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_may_be_a_weight() {
        assert_eq!(judge(Some(0), true).unwrap().weight, None);
        assert_eq!(judge(Some(2), true).unwrap().weight, Some(0));
        assert_eq!(judge(Some(255), true).unwrap().weight, Some(253));
        for (code, dynamic) in [(Some(1), true), (Some(2), false), (None, true)] {
            assert!(judge(code, dynamic).is_err());
        }
    }

    #[test]
    fn users_are_found_by_name_or_number() {
        assert_eq!(ids("root"), Ok((0, 0)));
        assert_eq!(ids("65533:7"), Ok((65533, 7)));
        assert!(ids("no-such-user-here").unwrap_err().contains("no-such-user-here"));
    }
}
