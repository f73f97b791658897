//! `softlvs run` on real devices, in a network namespace made for each test with `unshare -Urn`.
//!
//! Where that is not allowed a test prints `skipped: why` and passes.

use std::process::{Command, Stdio};

const B: &str = env!("CARGO_BIN_EXE_softlvs");

/// Helpers for the scripts: `start ARGS...` starts softlvs and waits until it runs, `log` is what it wrote,
/// `until TEXT` waits for a line, `stop` ends it and fails unless it ended well.
const PRELUDE: &str = r#"
set -eu
ip link set lo up
LOG=$(mktemp)
PID=
trap '[ -z "$PID" ] || kill -9 $PID 2>/dev/null; rm -f "$LOG"' EXIT
until_() { n=0; until grep -q -e "$1" "$LOG"; do n=$((n+1)); [ $n -lt 100 ] || { echo "no \`$1\` in:"; cat "$LOG"; exit 9; }; sleep 0.05; done; }
start() { : >"$LOG"; "$B" "$@" 2>"$LOG" & PID=$!; until_ "INFO running:"; }
stop() { kill -"${1:-TERM}" $PID; code=0; wait $PID || code=$?; PID=; [ $code = 0 ] || { echo "exit $code:"; cat "$LOG"; exit 8; }; }
"#;

/// Runs a script in a namespace; `None` when there can be none here.
fn script(flags: &str, text: &str) -> Option<String> {
    let able = Command::new("unshare")
        .args(["-Urn", "ip", "link", "set", "lo", "up"])
        .stderr(Stdio::null())
        .status();
    if !able.is_ok_and(|s| s.success()) {
        println!("skipped: no namespaces here (`unshare -Urn ip link` fails)");
        return None;
    }
    let needs_tun = text.contains("--t") || text.contains("ip tuntap");
    if needs_tun && std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        println!("skipped: /dev/net/tun cannot be opened");
        return None;
    }
    let out = Command::new("unshare")
        .args([flags, "sh", "-c", &format!("{PRELUDE}{text}")])
        .env("B", B)
        .env_remove("SOFTLVS_CONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {said}", out.status);
    Some(said)
}

#[test]
fn a_tap_port_answers_and_stops_cleanly_without_leaving_anything() {
    script(
        "-Urn",
        r#"
        start --tap tap0 --host-address 10.9.0.1/24 --vip 10.9.0.100:80 --vip 10.50.0.1:80 --real 10.9.0.11:8080
        grep -q "INFO port tap0: tap tap0, MAC .*, MTU 1500, 10.9.0.2/24" "$LOG"
        grep -q "INFO service tcp 10.50.0.1:80, wlc: nat 10.9.0.11:8080 weight 1" "$LOG"
        ping -qc1 -W2 10.9.0.2; ping -qc1 -W2 10.9.0.100; ping -qc1 -W2 10.50.0.1
        stop TERM
        ! ip link show tap0 2>/dev/null
        "#,
    );
}

#[test]
fn what_was_on_the_device_before_is_kept_and_what_was_added_goes() {
    script(
        "-Urn",
        r#"
        ip tuntap add dev tap0 mode tap; ip address add 10.9.0.1/24 dev tap0; ip link set tap0 up
        start --tap tap0 --host-address 10.9.0.1/24 --host-address fd00::1/64 --vip 10.50.0.1:80
        ip route show | grep -q "10.50.0.1 via 10.9.0.2"
        ping -qc1 -W2 fd00::2
        stop INT
        ip address show dev tap0 | grep -q 10.9.0.1/24
        ! ip address show dev tap0 | grep -q fd00::1
        ! ip route show | grep -q 10.50.0.1
        "#,
    );
}

#[test]
fn a_tun_port_without_a_service_starts_and_waits() {
    script(
        "-Urn",
        r#"
        start --tun tun0 --mode tun
        grep -q "softlvs: warning: --tun: the port has no address" "$LOG"
        grep -q "running: 1 port, no service yet: waiting to be configured" "$LOG"
        stop
        start --tun tun0 --host-address 10.9.0.1/24
        ping -qc1 -W2 10.9.0.2
        stop
        "#,
    );
}

#[test]
fn hangup_reads_the_file_again_and_a_bad_one_changes_nothing() {
    script(
        "-Urn",
        r#"
        D=$(mktemp -d); F=$D/softlvs.toml
        conf() { cat >"$F" <<END
[[port]]
tap = "tap0"
addresses = ["10.9.0.2/24"]
$1
END
        }
        conf ''
        ip tuntap add dev tap0 mode tap; ip address add 10.9.0.1/24 dev tap0; ip link set tap0 up
        start --config "$F"
        ! ping -qc1 -W1 10.9.0.100
        conf '[[service]]
address = "10.9.0.100:80"
[[service.real]]
address = "10.9.0.11"'
        kill -HUP $PID; until_ "configuration read again: 1 services added, 1 real servers added"
        # what was asked for in vain is forgotten, so that the kernel asks again
        ip neigh flush dev tap0
        ping -qc1 -W2 10.9.0.100
        conf 'mtuu = 3'
        kill -HUP $PID; until_ "configuration refused, what runs stays as it is"
        grep -q "softlvs: error: $F:4:1: port\[0\].mtuu: unknown key" "$LOG"
        ping -qc1 -W2 10.9.0.100
        conf 'mtu = 1400'
        kill -HUP $PID; until_ "softlvs: error: the devices of the ports: it cannot be changed while the director runs"
        kill -HUP $PID
        rm "$F"; kill -HUP $PID; until_ "softlvs: error: cannot read"
        conf ''
        kill -HUP $PID; until_ "1 services removed, 1 real servers removed"
        kill -HUP $PID; until_ "read again: nothing changed"
        stop
        rm -r "$D"
        "#,
    );
}

#[test]
fn a_program_that_cannot_run_as_nobody_in_a_user_namespace_is_told_with_the_remedy() {
    script(
        "-Urn",
        r#"
        D=$(mktemp -d); F=$D/softlvs.toml
        ip link add a0 type veth peer name b0; ip link set a0 up; ip link set b0 up
        conf() { cat >"$F" <<END
[[port]]
packet = "a0"
addresses = ["10.9.0.2/24"]
[[check]]
name = "own"
type = "exec"
interval = "1s"
start = "down"
rise = 1
command = ["/bin/true"]
$1
[[service]]
address = "10.9.0.100:80"
check = "own"
[[service.real]]
address = "10.9.0.11"
END
        }
        conf ''
        start --config "$F"
        until_ "/bin/true cannot run as .nobody.: this user namespace has no such user; name one that it has, such as .root."
        conf 'user = "root"'
        kill -HUP $PID; until_ "configuration read again: checks changed"
        until_ "10.9.0.11:80 of tcp 10.9.0.100:80: up"
        stop
        rm -r "$D"
        "#,
    );
}

/// Runs softlvs in a namespace, where it is to fail with exit status 1, and gives what it said.
fn fails(flags: &str, before: &str, args: &str) -> Option<String> {
    script(flags, &format!("{before}\ncode=0; \"$B\" {args} || code=$?; [ $code = 1 ] || exit 7"))
}

#[test]
fn a_device_in_use_is_refused_with_the_remedy() {
    let Some(said) =
        fails("-Urn", "start --tap tap0 --address 10.9.0.2/24", "--tap tap0 --address 10.9.0.3/24")
    else {
        return;
    };
    assert!(
        said.contains(
            "softlvs: error: cannot open TAP device tap0: another process has it\nhelp: stop that process"
        ),
        "{said}"
    );
}

#[test]
fn a_missing_permission_is_named_with_the_remedy() {
    // Another user namespace inside, without a network of its own: no right to the one it is in.
    let before =
        "ip link add a0 type veth peer name b0; ip link set a0 up; B=\"unshare -U $B\"; unshare -U true";
    let run = |args: &str| {
        script("-Urn", &format!("{before}\ncode=0; $B {args} || code=$?; [ $code = 1 ] || exit 7"))
    };
    let Some(said) = run("--packet a0 --address 10.9.0.2/24") else { return };
    assert!(said.starts_with("softlvs: error: cannot open") && said.contains("CAP_NET_RAW"), "{said}");
    assert!(said.contains("\nhelp: "), "{said}");
    let Some(said) = run("--tap none0 --address 10.9.0.2/24") else { return };
    assert!(said.contains("CAP_NET_ADMIN") || said.contains("/dev/net/tun"), "{said}");
    assert!(said.contains("\nhelp: "), "{said}");
}

#[test]
fn an_interface_that_is_not_there_is_refused_with_those_that_are() {
    let Some(said) =
        fails("-Urn", "ip link add a0 type veth peer name b0", "--packet eth9 --address 10.9.0.2/24")
    else {
        return;
    };
    assert!(said.contains("softlvs: error: cannot open interface eth9: there is no such interface\nhelp: the interfaces here are: "), "{said}");
    assert!(said.contains("a0") && said.contains("b0"), "{said}");
}

#[test]
fn a_virtual_address_of_the_kernel_itself_is_refused() {
    let before = "ip link add a0 type veth peer name b0; ip link set a0 up; ip link set b0 up; ip address add 10.9.0.100/32 dev lo";
    let args = "--packet a0 --address 10.9.0.2/24 --vip 10.9.0.100:80 --real 10.9.0.11";
    let Some(said) = fails("-Urn", before, args) else { return };
    assert!(said.contains("softlvs: error: 10.9.0.100 is configured in the kernel too, on lo: "), "{said}");
    assert!(said.contains("help: remove it from the kernel"), "{said}");
    // With a port that does not share its interface as well.
    let Some(said) = fails("-Urn", before, &args.replace("--packet a0", "--tap tap0")) else { return };
    assert!(said.contains("softlvs would never see them"), "{said}");
}

#[test]
fn what_a_device_cannot_do_is_refused_when_it_is_open() {
    let before = "ip tuntap add dev t0 mode tun; ip link set t0 up; ip link add a0 type veth peer name b0";
    let args = "--packet t0 --address 10.9.0.2/24 --mode dr --vip 10.9.0.100:80 --real 10.9.0.11";
    let code2 =
        |args: &str| script("-Urn", &format!("{before}\ncode=0; \"$B\" {args} || code=$?; echo code=$code"));
    let Some(said) = code2(args) else { return };
    assert!(said.contains("code=1") || said.contains("bare IP packets"), "{said}");
    let Some(said) = code2("--packet a0 --address 10.9.0.2/24 --mtu 9000") else { return };
    assert!(
        said.contains("port a0: mtu 9000 is larger than that of `a0` (1500)") && said.contains("code=2"),
        "{said}"
    );
}
