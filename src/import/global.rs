//! `global_defs` and `SSL`.

use std::fmt::Write as _;

use super::quoted;
use super::service::Importer;
use super::tree::Node;

impl<'a> Importer<'a> {
    pub(super) fn ssl(&mut self, n: &'a Node) {
        for inner in n.inside() {
            match (inner.name.as_str(), inner.arg(0)) {
                ("ca", Some(file)) if file.starts_with('/') => self.world.ca = Some(file.to_owned()),
                (name, _) => {
                    self.notes.add(&inner.at, name, "checks show no certificate of their own: left out")
                }
            }
        }
    }

    pub(super) fn global(&mut self, n: &Node) {
        for inner in n.inside() {
            let arg = inner.arg(0).unwrap_or_default();
            match inner.name.as_str() {
                "lvs_timeouts" => {
                    let mut words = inner.args.iter();
                    while let (Some(what), Some(value)) = (words.next(), words.next()) {
                        let key = match what.as_str() {
                            "tcp" => "tcp",
                            "tcpfin" => "tcp_fin",
                            "udp" => "udp",
                            other => {
                                self.notes.add(&inner.at, other, "unknown timeout: left out");
                                continue;
                            }
                        };
                        match value.parse::<u64>() {
                            Ok(s) if (1..31_536_000).contains(&s) => {
                                let _ = writeln!(self.timeouts, "{key} = \"{s}s\"");
                            }
                            _ => self.notes.add(&inner.at, what, "it is no number of seconds: left out"),
                        }
                    }
                }
                "lvs_notify_fifo" | "notify_fifo" if arg.starts_with('/') => {
                    if !self.director.contains("notify_fifo") {
                        let _ = writeln!(self.director, "notify_fifo = {}", quoted(arg));
                    }
                }
                "lvs_flush" | "lvs_flush_on_stop" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "the table is softlvs' own and empty at the start: nothing to do",
                    );
                }
                "lvs_sync_daemon" => self.notes.add(
                    &inner.at,
                    &inner.name,
                    "connections are not synchronised by this: left out",
                ),
                "lvs_notify_fifo_script" | "notify_fifo_script" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "programs are told by up_command and down_command: left out",
                    );
                }
                "enable_script_security" | "script_user" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "programs run as `nobody` or as their check says, without a shell: left out",
                    );
                }
                "checker_priority"
                | "checker_no_swap"
                | "checker_rt_priority"
                | "nftables_ipvs"
                | "smtp_alert_checker" => {
                    self.notes.add(&inner.at, &inner.name, "no counterpart: left out");
                }
                "notification_email"
                | "notification_email_from"
                | "smtp_server"
                | "smtp_helo_name"
                | "smtp_connect_timeout"
                | "smtp_alert" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "softlvs sends no mail; up_command and down_command can: left out",
                    );
                }
                "router_id" | "lvs_id" | "process_names" => {
                    self.notes.add(&inner.at, &inner.name, "a name of the process: left out");
                }
                name if name.starts_with("vrrp_") => {
                    self.notes.add(&inner.at, name, "softlvs has no VRRP: left out");
                }
                name => self.notes.add(&inner.at, name, "no counterpart: left out"),
            }
        }
    }
}
