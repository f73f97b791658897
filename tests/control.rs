//! A running director, driven: the recorded `ipvsadm` sessions through the real binary, the examples of
//! `docs/control.md`, reloads, and hostile bytes on its socket. Each director has a network namespace of its
//! own; where there can be none a test prints `skipped: why` and passes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use softlvs::replay::Scenario;

const B: &str = env!("CARGO_BIN_EXE_softlvs");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// `start ARGS...` starts the director and waits until it runs; it ends with the script.
const PRELUDE: &str = r#"
set -u
ip link set lo up
trap '[ -z "${PID:-}" ] || kill $PID 2>/dev/null; wait' EXIT
start() {
    "$B" --control "$S" "$@" >"$D/log" 2>&1 & PID=$!
    n=0; until grep -q "INFO running:" "$D/log"; do
        n=$((n+1)); [ $n -lt 400 ] && kill -0 $PID || { cat "$D/log"; exit 9; }; sleep 0.05
    done
}
"#;

/// The director of a test, in its own namespace, with a folder for its files.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Option<Place> {
        let able = Command::new("unshare")
            .args(["-Urnm", "ip", "link", "set", "lo", "up"])
            .stderr(Stdio::null())
            .status();
        let tun = fs::File::options().read(true).write(true).open("/dev/net/tun");
        if !able.is_ok_and(|s| s.success()) || tun.is_err() {
            let why = "no namespaces (`unshare -Urnm ip link`) or no /dev/net/tun here";
            assert!(std::env::var_os("CI").is_none(), "{why}");
            println!("skipped: {why}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"] {
            symlink(B, bin.join(name)).unwrap();
        }
        Some(Place { folder })
    }
    fn path(&self) -> &Path {
        self.folder.path()
    }
    fn socket(&self) -> std::path::PathBuf {
        self.path().join("s")
    }
    fn command(&self, script: &str) -> Command {
        let mut c = Command::new("unshare");
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap());
        c.args(["-Urnm", "sh", "-c", &format!("{PRELUDE}{script}")])
            .env("B", B)
            .env("D", self.path())
            .env("S", self.socket())
            .env("SOFTLVS_CONTROL", self.socket())
            .env("PATH", path)
            .env_remove("SOFTLVS_CONFIG");
        c
    }
    /// Runs a script to its end.
    fn run(&self, script: &str) -> String {
        let out = self.command(script).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        assert!(out.status.success(), "{}: {said}\n{log}", out.status);
        said
    }
    /// Starts a director that stays until the guard is dropped.
    fn stay(&self, args: &str) -> Running {
        let script = format!("start {args}\necho up >\"$D/up\"; cat >/dev/null");
        let child = self.command(&script).stdin(Stdio::piped()).spawn().unwrap();
        let mut running = Running(child);
        for _ in 0..600 {
            if self.path().join("up").exists() {
                return running;
            }
            assert!(running.0.try_wait().unwrap().is_none(), "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the director does not come up: {}", self.log());
    }
    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }
}

/// True, and said, when one of these programs is not here; in CI they all are.
fn lacks(tools: &[&str]) -> bool {
    let here = |tool: &str| {
        let asked = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok()
    };
    let missing = tools.iter().find(|tool| !here(tool));
    if let Some(tool) = missing {
        assert!(std::env::var_os("CI").is_none(), "no {tool} here");
        println!("skipped: no {tool} here");
    }
    missing.is_some()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // the script ends when its input does
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Sessions that look at the kernel's own files, which no program can put there; they are played in
/// `ipvs_vectors`.
const OF_THE_KERNEL: [&str; 2] = ["cli-proc", "cli-sysctl"];

#[test]
fn recorded_sessions_through_the_real_binary_give_the_recorded_output() {
    let Some(_) = Place::new() else { return };
    let mut played = 0;
    for file in fs::read_dir(format!("{ROOT}/tests/vectors")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("8-cli-") {
            continue;
        }
        let scenario: Scenario = softlvs::replay::load(&file).unwrap();
        if OF_THE_KERNEL.contains(&scenario.name.as_str()) || asks_the_kernel(&scenario) {
            continue;
        }
        let place = Place::new().unwrap();
        // the sessions write /etc/hosts, use /tmp, and have services on addresses that the kernel must not own
        let mut script = String::from(
            "ip -6 address del ::1/128 dev lo; mount -t tmpfs etc /etc; mkdir \"$D/tmp\"; mount --bind \"$D/tmp\" \"$D/tmp\"\n\
             start --tap softlvs0 --address 10.200.0.2/24\n",
        );
        for (i, record) in scenario.commands.iter().enumerate() {
            fs::write(place.path().join(format!("in.{i}")), &record.stdin).unwrap();
            let line = record.cmd.replace("/tmp/", &format!("{}/tmp/", place.path().display()));
            // not every kernel here has dummy devices; any device will do
            let line = line.replace("type dummy", "type bridge");
            fs::write(place.path().join(format!("cmd.{i}")), line).unwrap();
            script += &format!(
                "sh \"$D/cmd.{i}\" <\"$D/in.{i}\" >\"$D/out.{i}\" 2>\"$D/err.{i}\"; echo $? >\"$D/rc.{i}\"\n"
            );
        }
        place.run(&script);
        for (i, record) in scenario.commands.iter().enumerate() {
            let read = |what: &str| fs::read_to_string(place.path().join(format!("{what}.{i}"))).unwrap();
            let rc = read("rc").trim().parse().unwrap();
            if let Err(why) = record.compare(&read("out"), &read("err"), rc) {
                panic!("{name}: command {i} `{}`: {why}", record.cmd);
            }
        }
        played += 1;
    }
    assert!(played >= 11, "{played}");
}

fn asks_the_kernel(s: &Scenario) -> bool {
    s.commands.iter().any(|c| c.cmd.contains("/proc/"))
}

#[test]
fn a_thousand_lines_of_ipvsadm_are_restored_in_one_go() {
    let Some(place) = Place::new() else { return };
    let mut lines = String::new();
    for i in 0..100 {
        lines += &format!("-A -t 10.1.{i}.1:80 -s rr\n");
        for j in 1..10 {
            lines += &format!("-a -t 10.1.{i}.1:80 -r 10.2.{i}.{j}:80 -m -w {j}\n");
        }
    }
    fs::write(place.path().join("rules"), &lines).unwrap();
    place.run(
        "start --tap softlvs0 --address 10.200.0.2/24\n\
         ipvsadm-restore <\"$D/rules\" && ipvsadm-save -n >\"$D/saved\" && ipvsadm -C && ipvsadm-restore <\"$D/saved\"\n\
         ipvsadm -Sn >\"$D/again\"; cmp \"$D/saved\" \"$D/again\" || exit 1\n",
    );
    let saved = fs::read_to_string(place.path().join("saved")).unwrap();
    let sorted = |t: &str| {
        let mut all: Vec<String> = t.lines().map(str::to_owned).collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&saved), sorted(&lines));
}

#[test]
fn the_examples_of_the_documentation_work() {
    let Some(place) = Place::new() else { return };
    if lacks(&["curl"]) {
        return;
    }
    let text = fs::read_to_string(format!("{ROOT}/docs/control.md")).unwrap().replace("\\\n", " ");
    let examples: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("    curl -s ")).collect();
    assert!(examples.len() >= 8, "{}", examples.len());
    let mut script = String::from(
        "start --tap softlvs0 --host-address 10.9.0.1/24 --vip 10.9.0.100:80 --real 10.9.0.11\n",
    );
    for (i, example) in examples.iter().enumerate() {
        script += &format!(
            "curl -sS --fail-with-body {example} >\"$D/answer.{i}\" || {{ cat \"$D/answer.{i}\"; exit 1; }}\n"
        );
    }
    script += "softlvs() { \"$B\" \"$@\"; }\n\
        softlvs status | grep -q 'tcp 10.9.0.100:80 wlc' || exit 2\n\
        softlvs status -o json | grep -q '\"version\"' || exit 3\n\
        softlvs top --count 1 | grep -q '10.9.0.11:80 nat' || exit 4\n\
        softlvs save >\"$D/now.toml\" && softlvs check \"$D/now.toml\" || exit 5\n\
        softlvs apply --dry-run \"$D/now.toml\" | grep -q 'nothing to change' || exit 6\n\
        sed 's/weight = 1/weight = 7/' \"$D/now.toml\" >\"$D/new.toml\"\n\
        softlvs apply --dry-run \"$D/new.toml\" | grep -q 'weight 1 -> 10.9.0.11:80 nat weight 7' || exit 7\n\
        ipvsadm -Ln | grep -q 'Masq    1 ' || exit 8\n\
        softlvs apply \"$D/new.toml\" | grep -q applied && ipvsadm -Ln | grep -q 'Masq    7 ' || exit 9\n\
        echo 'nonsense = 1' >>\"$D/new.toml\"; softlvs apply \"$D/new.toml\" 2>\"$D/err\"; [ $? = 2 ] || exit 10\n\
        grep -q 'new.toml:.*nonsense' \"$D/err\" && ipvsadm -Ln | grep -q 'Masq    7 ' || exit 11\n\
        softlvs save --format ipvsadm | grep -q -- '-a -t 10.9.0.100:80 -r 10.9.0.11:80 -m -w 7' || exit 12\n\
        softlvs api /v1/counters | grep -q '\"short_frame\":0' || exit 13\n\
        softlvs api --openapi | grep -q '\"openapi\": \"3.1.0\"' || exit 14\n";
    place.run(&script);
    let mode = |p: &Path| fs::metadata(p).map(|m| m.permissions().mode() & 0o777);
    assert!(mode(&place.socket()).is_err(), "the socket goes with the director");
}

#[test]
fn the_texts_of_proc_are_kept_below_a_folder_and_metrics_on_loopback() {
    let Some(place) = Place::new() else { return };
    place.run(
        "start --tap softlvs0 --host-address 10.9.0.1/24 --vip 10.9.0.100:80 --real 10.9.0.11 --proc \"$D/proc\" \
            --http 127.0.0.1:9980\n\
         n=0; until grep -q '^TCP  0A090064:0050 wlc' \"$D/proc/net/ip_vs\" 2>/dev/null; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done\n\
         grep -q -- '-> 0A09000B:0050      Masq    1 ' \"$D/proc/net/ip_vs\" || exit 2\n\
         [ $(sed -n 3p \"$D/proc/net/ip_vs_stats\" | wc -w) = 5 ] || exit 3\n\
         command -v curl >/dev/null || exit 0\n\
         curl -sSf http://127.0.0.1:9980/healthz | grep -q ok || exit 4\n\
         curl -sSf http://127.0.0.1:9980/metrics | grep -q '^node_ipvs_backend_weight{.*remote_address=\"10.9.0.11\"' || exit 5\n\
         [ $(curl -s -o /dev/null -w '%{http_code}' -H 'Host: evil.example:9980' http://127.0.0.1:9980/metrics) = 421 ] || exit 6\n\
         [ $(curl -s -o /dev/null -w '%{http_code}' -X DELETE http://127.0.0.1:9980/v1/services/tcp/10.9.0.100:80) = 403 ] || exit 7\n\
         [ $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9980/v1/config) = 403 ] || exit 8\n",
    );
    assert!(!place.path().join("proc/net/ip_vs").exists(), "the files go with the director");
}

#[test]
fn others_look_over_tls_with_a_token_and_get_the_new_ones_after_sighup() {
    let Some(place) = Place::new() else { return };
    if lacks(&["curl", "openssl"]) {
        return;
    }
    let folder = place.path().display();
    let file = format!(
        "[director]\nhttp = \"0.0.0.0:9443\"\nhttp_token_file = \"{folder}/token\"\n\
         http_certificate_file = \"{folder}/cert.pem\"\nhttp_key_file = \"{folder}/key.pem\"\n\
         [[port]]\ntap = \"softlvs0\"\naddresses = [\"10.9.0.2/24\"]\n[[service]]\naddress = \"10.9.0.100:80\"\n\
         [[service.real]]\naddress = \"10.9.0.11\"\n"
    );
    fs::write(place.path().join("live"), file).unwrap();
    place.run(
        "umask 077; cd \"$D\"\n\
         make() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=x -keyout $1.key -out $1.crt \
            -addext subjectAltName=DNS:director.example >/dev/null 2>&1 || exit 1; }\n\
         make a; make b; ip address add 192.0.2.7/32 dev lo\n\
         openssl rand -hex 32 >token; cp token old; tr 0-9a-f 1-9a-f0 <token >wrong; cp a.crt cert.pem; cp b.key key.pem\n\
         \"$B\" --config live 2>err; [ $? = 2 ] && grep -q 'http_key_file: .*it is not the key of the certificate' err || exit 2\n\
         \"$B\" check live 2>checked; [ $? = 2 ] && cmp checked err || exit 21\n\
         cp a.key key.pem; chmod 644 token\n\
         \"$B\" --config live 2>err; [ $? = 2 ] && grep -q 'help: chmod 600 .*/token' err || exit 3\n\
         \"$B\" check live 2>checked; [ $? = 2 ] && cmp checked err || exit 22\n\
         chmod 600 token; \"$B\" check live | grep -q ': ok: 1 port' || exit 23\n\
         start --config live\n\
         grep -q 'https://0.0.0.0:9443/metrics' log || exit 4\n\
         ask() { CA=$1 T=$2; shift 2; curl -sS -m 5 --cacert $CA.crt --resolve director.example:9443:192.0.2.7 ${T:+-H \"authorization: Bearer $(cat $T)\"} \"$@\"; }\n\
         code() { ask \"$@\" -o /dev/null -w '%{http_code}'; }\n\
         U=https://director.example:9443\n\
         ask a old -f $U/metrics | grep -q '^softlvs_' || exit 5\n\
         ask a old -f $U/v1/services | grep -q 10.9.0.100:80 || exit 6\n\
         [ $(code a '' $U/metrics) = 401 ] && [ $(code a '' $U/healthz) = 401 ] && [ $(code a wrong $U/metrics) = 401 ] || exit 7\n\
         ask a '' -D - $U/metrics | grep -qi '^www-authenticate: Bearer' || exit 8\n\
         [ $(code a old -X DELETE $U/v1/services/tcp/10.9.0.100:80) = 403 ] && [ $(code a old $U/v1/config) = 403 ] || exit 9\n\
         [ $(code a old -H 'Host: evil.example:9443' $U/metrics) = 421 ] || exit 10\n\
         [ $(code a old -k https://192.0.2.7:9443/metrics) = 200 ] || exit 11\n\
         ask b old $U/metrics >/dev/null 2>err; [ $? = 60 ] || exit 12\n\
         curl -sS -m 5 http://192.0.2.7:9443/metrics | grep -q 'TLS is spoken here' || exit 13\n\
         ask a old -f -N -m 60 $U/v1/events >events & STREAM=$!\n\
         n=0; until [ -s events ]; do n=$((n+1)); [ $n -lt 200 ] || exit 24; sleep 0.05; done\n\
         echo x >token; cp b.crt cert.pem; cp b.key key.pem; kill -HUP $PID\n\
         n=0; until grep -q 'refused, what runs stays' log; do n=$((n+1)); [ $n -lt 200 ] || exit 14; sleep 0.05; done\n\
         grep -q 'http_token_file: .*line 1 has 1 characters' log && [ $(code a old $U/metrics) = 200 ] || exit 15\n\
         openssl rand -hex 32 >token; kill -HUP $PID\n\
         n=0; until grep -q 'configuration read again' log; do n=$((n+1)); [ $n -lt 200 ] || exit 16; sleep 0.05; done\n\
         [ $(code b token $U/metrics) = 200 ] && [ $(code b old $U/metrics) = 401 ] || exit 17\n\
         wait $STREAM || exit 25\n\
         grep -q '\"event\":\"refused\"' events || { cat events; exit 26; }\n\
         ask a token $U/metrics >/dev/null 2>err; [ $? = 60 ] || exit 18\n\
         i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo url=$U/metrics; echo output=/dev/null; done >many\n\
         ask b '' -w '%{http_code}\\n' -K many >codes; grep -q 429 codes || { cat codes; exit 19; }\n\
         ! grep -q \"$(cat token)\" log && ! grep -q \"$(cat old)\" log || exit 20\n",
    );
}

#[test]
fn top_gives_the_terminal_back_whatever_ends_it() {
    let Some(place) = Place::new() else { return };
    if lacks(&["python3"]) {
        return;
    }
    let user = r#"
import fcntl, os, pty, select, signal, struct, subprocess, sys, termios, time
def size(fd, rows, columns): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
class Top:
    def __init__(self, *args, **env):
        self.ours, theirs = pty.openpty()
        self.theirs = theirs
        size(self.ours, 24, 100)
        self.before = termios.tcgetattr(theirs)
        self.all = b''
        def own(): os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.child = subprocess.Popen([os.environ['B'], 'top', *args], stdin=theirs, stdout=theirs, stderr=theirs,
            preexec_fn=own, env={**os.environ, 'TERM': 'xterm', **env})
    def until(self, wanted):
        seen, end = b'', time.time() + 20
        while wanted not in seen:
            assert time.time() < end, (wanted, seen)
            if select.select([self.ours], [], [], 0.2)[0]: seen += os.read(self.ours, 65536)
        self.all += seen
        return seen
    def press(self, keys): os.write(self.ours, keys)
    def ended(self, code):
        got = self.child.wait(20)
        while select.select([self.ours], [], [], 0.1)[0]: self.all += os.read(self.ours, 65536)
        assert got == code, (got, self.all)
        assert termios.tcgetattr(self.theirs) == self.before, 'the terminal is not as it was'
        if b'\x1b[?1049h' in self.all:
            assert self.all.rindex(b'\x1b[?1049l') > self.all.rindex(b'\x1b[?1049h')
            assert self.all.rindex(b'\x1b[?25h') > self.all.rindex(b'\x1b[?25l')
        return self.all
top = Top()
top.until(b'192.0.2.10:80')
assert termios.tcgetattr(top.theirs) != top.before
top.press(b'2'); top.until(b'10.9.0.11:80')
size(top.ours, 6, 40); top.until(b'real server')
size(top.ours, 40, 160); top.until(b'riginal')
top.press(b'3'); top.until(b'reason')
top.press(b'q'); said = top.ended(0)
assert b'\x1b[38;5;' in said, said
top = Top(NO_COLOR='1'); top.until(b'192.0.2.10:80'); top.press(b'2'); top.until(b'10.9.0.11:80')
top.press(b'\x03'); said = top.ended(0)
assert b'\x1b[38;' not in said and b'\x1b[9' not in said, said
for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
    top = Top(); top.until(b'192.0.2.10:80'); top.child.send_signal(number); top.ended(0)
top = Top('--count', '2'); top.ended(0)
top = Top('--control', '/nowhere'); assert b'cannot reach the director' in top.ended(1)
top = Top(TERM='dumb'); top.until(b'192.0.2.10:80'); top.child.terminate(); top.child.wait(20)
assert b'\x1b' not in top.all, top.all
top = Top(); top.until(b'192.0.2.10:80')
os.kill(int(sys.argv[1]), signal.SIGTERM)
top.until(b'cannot'); top.press(b'q'); top.ended(0)
"#;
    fs::write(place.path().join("user.py"), user).unwrap();
    place.run(
        "start --tap softlvs0 --host-address 10.9.0.1/24 --vip 192.0.2.10:80 --real 10.9.0.11\n\
         python3 \"$D/user.py\" $PID || exit 1\n",
    );
}

#[test]
fn those_who_never_finish_their_handshake_keep_nobody_else_out() {
    let Some(place) = Place::new() else { return };
    if lacks(&["python3"]) {
        return;
    }
    let folder = place.path().display();
    let file = format!(
        "[director]\nhttp = \"[::]:9443\"\nhttp_token_file = \"{folder}/token\"\n\
         http_certificate_file = \"{ROOT}/tests/probe/server.pem\"\nhttp_key_file = \"{folder}/key.pem\"\n\
         [[port]]\ntap = \"softlvs0\"\naddresses = [\"10.9.0.2/24\"]\n"
    );
    fs::write(place.path().join("live"), file).unwrap();
    let client = r#"
import os, socket, ssl
def dial(source):
    s = socket.socket(socket.AF_INET)
    s.settimeout(5)
    s.bind((source, 0))
    s.connect(('192.0.2.7', 9443))
    return s
held = []
for i in range(200):
    s = dial('192.0.2.8')
    try: s.send([b'', b'\x16', b'\x16\x03\x01\xff\xff' + b'a' * 100, b'\0' * 9][i % 4])
    except OSError: pass
    held.append(s)
context = ssl.create_default_context(cafile=os.environ['PEM'])
s = context.wrap_socket(dial('192.0.2.9'), server_hostname='www.example.org')
token = open('token').read().strip()
head = f'GET /healthz HTTP/1.1\r\nHost: www.example.org:9443\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n'
s.sendall(head.encode())
answer = b''
while piece := s.recv(4096): answer += piece
assert answer.startswith(b'HTTP/1.1 200'), answer
"#;
    fs::write(place.path().join("client.py"), client).unwrap();
    place.run(&format!(
        "umask 077; cd \"$D\"; export PEM={ROOT}/tests/probe/server.pem; cp $PEM key.pem\n\
         echo 0123456789abcdef >token; for a in 7 8 9; do ip address add 192.0.2.$a/32 dev lo; done\n\
         start --config live; python3 client.py || exit 1; ! grep -q panicked log || exit 2\n"
    ));
}

#[test]
fn reloads_lose_no_packet_and_keep_no_descriptor_and_a_broken_file_changes_nothing() {
    let Some(place) = Place::new() else { return };
    let file = |weight: u32| {
        format!(
            "[[port]]\ntap = \"softlvs0\"\naddresses = [\"10.9.0.2/24\"]\n[[service]]\naddress = \"10.9.0.100:80\"\n\
             [[service.real]]\naddress = \"10.9.0.11\"\nweight = {weight}\n"
        )
    };
    for (name, text) in [("a", file(1)), ("b", file(2)), ("broken", file(3).replace("weight", "wieght"))] {
        fs::write(place.path().join(name), text).unwrap();
    }
    place.run(
        "cp \"$D/a\" \"$D/live\"; start --config \"$D/live\"\n\
         ip address add 10.9.0.1/24 dev softlvs0; ip link set softlvs0 up; ping -qc1 -W5 10.9.0.2 >/dev/null || exit 1\n\
         ping -q -i 0.01 -c 200 10.9.0.100 >\"$D/ping\" & P=$!\n\
         before=$(ls /proc/$PID/fd | wc -l); i=0\n\
         while [ $i -lt 60 ]; do\n\
           for f in b broken a; do cp \"$D/$f\" \"$D/next\"; mv \"$D/next\" \"$D/live\"; kill -HUP $PID; sleep 0.01; done; i=$((i+1))\n\
         done\n\
         cp \"$D/broken\" \"$D/live\"; kill -HUP $PID\n\
         n=0; until grep -q 'refused, what runs stays' \"$D/log\"; do n=$((n+1)); [ $n -lt 200 ] || exit 2; sleep 0.05; done\n\
         grep -q 'live:8:1: service\\[0\\].real\\[0\\].wieght' \"$D/log\" || exit 3\n\
         ipvsadm -Ln | grep -q -- '-> 10.9.0.11:80' || exit 4\n\
         wait $P; grep -q ' 0% packet loss' \"$D/ping\" || { cat \"$D/ping\"; exit 5; }\n\
         after=$(ls /proc/$PID/fd | wc -l); [ $after -le $((before + 2)) ] || { echo $before $after; exit 6; }\n",
    );
}

#[test]
fn hostile_clients_cost_the_director_nothing() {
    let Some(place) = Place::new() else { return };
    let _director =
        place.stay("--tap softlvs0 --host-address 10.9.0.1/24 --vip 10.9.0.100:80 --real 10.9.0.11");
    let connect = || UnixStream::connect(place.socket()).unwrap();
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |bytes: &[u8]| {
        let mut s = connect();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // the director may close while we still write
        let _ = s.write_all(bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = s.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let status = |bytes: &[u8]| ask(bytes).split(' ').nth(1).map(str::to_owned).unwrap_or_default();
    assert_eq!(status(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"), "200");
    let big = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(1_000_000));
    assert!(["431", "400", ""].contains(&status(big.as_bytes()).as_str()));
    for (bytes, allowed) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &["400", ""][..]),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", &["400"]),
        (b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", &["404"]),
        (b"GET /v1/proc/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", &["404"]),
        (b"POST /v1/config HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx", &["415"]),
        (b"POST /v1/config HTTP/1.1\r\nHost: x\r\nContent-Type: application/toml\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x", &["400", "422"]),
        (b"POST /v1/config HTTP/1.1\r\nHost: x\r\nContent-Type: application/toml\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", &["400", "413"]),
        (b"POST /v1/services HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]", &["400"]),
        (b"POST /v1/services HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{\"address\": \"\\u0000\" }", &["422"]),
        (b"DELETE /v1/services/tcp/1.2.3.4:5 HTTP/1.1\r\nHost: x\r\n\r\n", &["404"]),
        (b"GET /v1/connections?limit=99999999999 HTTP/1.1\r\nHost: x\r\n\r\n", &["400"]),
        (b"GET /v1/connections?cursor=18446744073709551615.18446744073709551615 HTTP/1.1\r\nHost: x\r\n\r\n", &["200"]),
    ] {
        let got = status(bytes);
        assert!(allowed.contains(&got.as_str()), "{}: {got}", String::from_utf8_lossy(bytes));
    }
    // clients that connect and say nothing do not keep others out
    let silent: Vec<UnixStream> = (0..64).map(|_| connect()).collect();
    assert_eq!(status(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), "200");
    drop(silent);
    assert!(ask(b"GET /v1/services HTTP/1.1\r\nHost: x\r\n\r\n").contains("10.9.0.100:80"));
    assert!(!place.log().contains("panicked"), "{}", place.log());
}
