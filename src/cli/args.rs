//! What was typed. Values stay text here: `mean` gives them their meaning, with the same rules and
//! messages as the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  softlvs --tap tap0 --host-address 10.9.0.1/24 --vip 10.9.0.100:80 --real 10.9.0.11:8080
  softlvs --packet eth0 --address 192.0.2.2/24 --gateway 192.0.2.1 --mode dr \\
          --vip 192.0.2.10:80 --real 192.0.2.11 --real 192.0.2.12,weight=2
  softlvs --config /etc/softlvs/softlvs.toml

Exit status: 0 done, 1 it failed at run time, 2 wrong usage or configuration.
SIGTERM and SIGINT stop it cleanly, SIGHUP reads the configuration file again.";

/// Linux Virtual Server without the kernel module: a layer-4 director as one unprivileged process.
#[derive(Debug, Parser)]
#[command(
    name = "softlvs",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 110,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// Command; `run` when there is none.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the director (the default command)
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Validate a configuration file
    Check(CheckArgs),
    /// Convert a keepalived.conf or the output of `ipvsadm -S` into a configuration file
    Import(ImportArgs),
    /// Build a throw-away cluster in namespaces and send real traffic through it
    Lab(Box<super::lab::LabArgs>),
    /// Say why a packet goes where it goes
    Explain(super::explain::ExplainArgs),
    /// Say what works here and what is wrong around a director, each with its remedy
    Doctor(super::doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(super::manual::CompletionsArgs),
    /// Print a manual page
    Man(super::manual::ManArgs),
    /// Prepare this host as a real server
    Real(super::real::RealArgs),
    /// Do what ipvsadm does, with a running director
    #[command(disable_help_flag = true, disable_version_flag = true, after_help = IPVSADM_EXAMPLES)]
    Ipvsadm {
        /// Words of ipvsadm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Print what runs
    #[command(after_help = STATUS_EXAMPLES)]
    Status(super::control::StatusArgs),
    /// Print what runs, again and again
    #[command(after_help = TOP_EXAMPLES)]
    Top(super::top::TopArgs),
    /// Make a running director what a file says, all of it or nothing
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(super::control::ApplyArgs),
    /// Print the configuration of a running director
    #[command(after_help = SAVE_EXAMPLES)]
    Save(super::control::SaveArgs),
    /// Ask the control interface of a running director
    #[command(after_help = API_EXAMPLES)]
    Api(super::control::ApiArgs),
}

const IPVSADM_EXAMPLES: &str = "\
Examples:
  softlvs ipvsadm -L -n
  softlvs ipvsadm -A -t 192.0.2.10:80 -s rr
  softlvs ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11:8080 -m";
const STATUS_EXAMPLES: &str = "\
Examples:
  softlvs status
  softlvs status -o json
  softlvs status --control /run/softlvs/softlvs.sock";
const TOP_EXAMPLES: &str = "\
Examples:
  softlvs top
  softlvs top --interval 5
  softlvs top --count 1 -o json";
const APPLY_EXAMPLES: &str = "\
Examples:
  softlvs apply softlvs.toml
  softlvs apply softlvs.toml --dry-run
  softlvs apply softlvs.toml --control /run/softlvs/softlvs.sock";
const SAVE_EXAMPLES: &str = "\
Examples:
  softlvs save
  softlvs save --control /run/softlvs/softlvs.sock
  softlvs save --format ipvsadm";
const API_EXAMPLES: &str = "\
Examples:
  softlvs api /v1/status
  softlvs api /v1/services
  softlvs api /v1/counters";

/// The command that was typed, when it comes first; empty for none or an unknown one.
pub fn command_of(line: &[OsString]) -> &str {
    let known = Cli::command();
    let first = line.get(1).and_then(|w| w.to_str()).unwrap_or_default();
    if known.find_subcommand(first).is_some() { first } else { "" }
}

/// Options of `run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Configuration file [default: /etc/softlvs/softlvs.toml when it is there and no port is given]
    #[arg(long, value_name = "FILE", env = "SOFTLVS_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Take services, real servers and checks from a keepalived.conf
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub keepalived: Option<PathBuf>,
    /// Take the lines of keepalived.conf that are for this instance (@ID) [default: the host's name]
    #[arg(long, value_name = "ID", requires = "keepalived")]
    pub config_id: Option<String>,

    /// Port on a TAP device, made when it is not there (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "Ports")]
    pub tap: Vec<String>,
    /// Port on a TUN device: no Ethernet, no mode dr (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "Ports")]
    pub tun: Vec<String>,
    /// Port on an existing interface, through AF_PACKET (repeatable)
    #[arg(long, value_name = "IFACE", help_heading = "Ports")]
    pub packet: Vec<String>,
    /// Port on an existing interface, through AF_XDP (repeatable)
    #[arg(long, value_name = "IFACE", help_heading = "Ports")]
    pub xdp: Vec<String>,
    /// Port on an existing interface, by the best way that works there (repeatable)
    #[arg(long, value_name = "IFACE", help_heading = "Ports")]
    pub port: Vec<String>,

    /// The director's own address with its network (repeatable); default with --host-address: the next
    /// free one of that network
    #[arg(long, value_name = "CIDR", help_heading = "With one port")]
    pub address: Vec<String>,
    /// Default gateway (one for each address family)
    #[arg(long, value_name = "ADDR", help_heading = "With one port")]
    pub gateway: Vec<String>,
    /// Own MAC address, or "inherit" for the interface's
    #[arg(long, help_heading = "With one port")]
    pub mac: Option<String>,
    /// Largest IP packet in bytes
    #[arg(long, value_name = "N", help_heading = "With one port")]
    pub mtu: Option<String>,
    /// Keep the kernel from answering the same packets (nftables rule, removed at exit)
    #[arg(long, help_heading = "With one port")]
    pub guard: bool,
    /// Give the kernel's side of the TAP or TUN device this address, bring it up and route the virtual
    /// addresses to it (repeatable)
    #[arg(long, value_name = "CIDR", help_heading = "With one port")]
    pub host_address: Vec<String>,

    /// Forwarding method: nat, fullnat, tun or dr
    #[arg(long, help_heading = "Service")]
    pub mode: Option<String>,
    /// Virtual service: ADDR:PORT or ADDR:PORT/udp (repeatable, each with all the real servers)
    #[arg(long, value_name = "ADDR:PORT[/PROTO]", help_heading = "Service")]
    pub vip: Vec<String>,
    /// Real server of the virtual services (repeatable)
    #[arg(long, value_name = "ADDR[:PORT][,weight=N][,mode=M]", help_heading = "Service")]
    pub real: Vec<String>,
    /// Scheduler of the virtual services [default: wlc]
    #[arg(long, value_name = "NAME", help_heading = "Service")]
    pub scheduler: Option<String>,

    /// Number of packet workers, or "auto"
    #[arg(long, value_name = "N|auto")]
    pub workers: Option<String>,
    /// Path of the control socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<String>,
    /// Address for metrics and the read-only API
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<String>,
    /// Folder below which the texts of /proc/net/ip_vs are kept up to date, for programs that read those
    #[arg(long, value_name = "DIR")]
    pub proc: Option<String>,
    /// What to log on standard error: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  softlvs import /etc/keepalived/keepalived.conf
  softlvs import --config-id lb1 /etc/keepalived/keepalived.conf
  softlvs import rules.txt
  ipvsadm -S -n | softlvs import -";

/// Options of `import`.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_EXAMPLES)]
pub struct ImportArgs {
    /// keepalived.conf or the output of `ipvsadm -S -n`, `-` for standard input
    pub file: PathBuf,
    /// Take the lines of keepalived.conf that are for this instance (@ID) [default: the host's name]
    #[arg(long, value_name = "ID")]
    pub config_id: Option<String>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  softlvs check softlvs.toml
  softlvs check /etc/softlvs/softlvs.toml
  softlvs check --schema";

/// Options of `check`.
#[derive(Args, Debug)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// Configuration file, `-` for standard input
    #[arg(required_unless_present = "schema")]
    pub file: Option<PathBuf>,
    /// Print the JSON schema of the configuration file instead
    #[arg(long, conflicts_with = "file")]
    pub schema: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command() {
        let cli = Cli::try_parse_from(["softlvs", "--tap", "tap0", "--mode", "tun"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!((cli.run.tap, cli.run.mode.as_deref()), (vec!["tap0".to_owned()], Some("tun")));
        let cli = Cli::try_parse_from(["softlvs", "run", "--tap", "a", "--tap", "b"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Run(r)) if r.tap.len() == 2));
    }
}
