//! Checks against servers on the loopback that answer well, badly, or not at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::health::spec::{HttpRequest, HttpVersion, TlsSpec};
use crate::health::{CheckSpec, Job, TargetId, Timing, Via};
use crate::time::Span;

fn job(kind: CheckKind, to: SocketAddr) -> Job {
    let timing = Timing { timeout: Span::from_secs(10), ..Timing::every(Span::from_secs(20)) };
    let check =
        CheckSpec { name: "c".into(), kind, timing, address: None, port: None, bind: None, via: None };
    Job { id: TargetId(0), run: 1, check: Arc::new(check), to, real: to, via: Via::Host, forward: None }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await.unwrap() })
}

async fn find(kind: CheckKind, to: SocketAddr) -> Finding {
    run(&job(kind, to), &Dialer::default()).await
}

fn why(f: Finding) -> String {
    match f {
        Err(Trouble::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A server that reads a request and says `answer` to every connection, then closes.
async fn server(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Vec<u8> = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut s, _)) = listener.accept().await {
            let mut buf = [0; 2048];
            let _ = s.read(&mut buf).await;
            let _ = s.write_all(&answer).await;
            let _ = s.shutdown().await;
        }
    });
    at
}

fn nobody() -> SocketAddr {
    // bound and dropped: nobody listens there now
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn http(request: HttpRequest, version: HttpVersion) -> CheckKind {
    CheckKind::Http { requests: vec![request], version, tls: None }
}

fn get(body: Option<&str>) -> HttpRequest {
    HttpRequest {
        path: "/health".into(),
        host: Some("www.example.org".into()),
        status: vec![(200, 299)],
        body: body.map(Into::into),
        not_body: None,
        digest: None,
    }
}

#[test]
fn a_connection_is_accepted_or_not() {
    block(async {
        let at = server("").await;
        assert_eq!(find(CheckKind::Tcp, at).await, Ok(Outcome::ok("connected")));
        assert!(why(find(CheckKind::Tcp, nobody()).await).contains("refused"));
    });
}

#[test]
fn http_answers_are_judged_by_status_and_body() {
    block(async {
        let ok = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        for version in [HttpVersion::V10, HttpVersion::V10Close, HttpVersion::V11] {
            assert_eq!(find(http(get(Some("^ok$")), version), ok).await, Ok(Outcome::ok("status 200")));
        }
        assert!(why(find(http(get(Some("no")), HttpVersion::V11), ok).await).contains("does not match"));
        let chunked =
            server("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
        assert!(find(http(get(Some("^ok$")), HttpVersion::V11), chunked).await.is_ok());
        let until_closed = server("HTTP/1.0 200 OK\r\n\r\nok").await;
        assert!(find(http(get(Some("^ok$")), HttpVersion::V10), until_closed).await.is_ok());
        let broken = server("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(why(find(http(get(None), HttpVersion::V11), broken).await), "/health: status 503");
    });
}

#[test]
fn http_answers_that_are_none_are_failures() {
    block(async {
        let odd: [Vec<u8>; 7] = [
            b"".to_vec(),
            b"\r\n\r\n".to_vec(),
            b"SSH-2.0-x\r\n".to_vec(),
            b"HTTP/1.1 99999 x\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok".to_vec(),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
            [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 100_000]].concat(),
        ];
        for answer in odd {
            let at = server(answer.clone()).await;
            let found = find(http(get(Some("ok")), HttpVersion::V11), at).await;
            assert!(
                matches!(found, Err(Trouble::Failed(_))),
                "{:?}: {found:?}",
                String::from_utf8_lossy(&answer)
            );
        }
    });
}

#[test]
fn an_endless_body_is_read_to_a_bound() {
    block(async {
        let body = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'a'; 400_000]].concat();
        let at = server(body).await;
        let digest = HttpRequest { digest: Some("0".repeat(32)), ..get(None) };
        assert!(why(find(http(digest, HttpVersion::V10), at).await).contains("longer than 65536"));
        assert!(find(http(get(Some("^aaa")), HttpVersion::V10), at).await.is_ok());
    });
}

#[test]
fn https_takes_any_certificate_unless_told_whom_to_trust() {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};
    const PEM: &str = include_str!("../../tests/probe/server.pem");
    block(async {
        let certs = CertificateDer::pem_slice_iter(PEM.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(PEM.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certs, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (tell, mut names) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((s, _)) = listener.accept().await {
                let Ok(mut s) = acceptor.accept(s).await else { continue };
                let _ = tell.send(s.get_ref().1.server_name().map(str::to_owned));
                let mut buf = [0; 1024];
                let _ = s.read(&mut buf).await;
                let _ = s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = s.shutdown().await;
            }
        });
        let with = |tls| CheckKind::Http {
            requests: vec![get(Some("ok"))],
            version: HttpVersion::V11,
            tls: Some(tls),
        };
        assert!(find(with(TlsSpec::default()), at).await.is_ok());
        assert_eq!(names.recv().await, Some(None), "no name was asked for");
        let named = TlsSpec { sni: Some("www.example.org".into()), ca: None };
        assert!(find(with(named.clone()), at).await.is_ok());
        assert_eq!(names.recv().await, Some(Some("www.example.org".into())));
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, PEM).unwrap();
        let trusting = TlsSpec { ca: Some(ca.display().to_string()), ..named.clone() };
        assert!(find(with(trusting.clone()), at).await.is_ok());
        let other = TlsSpec { sni: Some("other.example.org".into()), ..trusting };
        assert!(why(find(with(other), at).await).contains("TLS"));
        let plain = server("HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(why(find(with(named), plain).await).contains("TLS"));
    });
}

#[test]
fn dns_servers_answer_without_error() {
    block(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut buf).await {
                let refuses = buf[..n].windows(4).any(|w| w == b"\x03bad");
                buf[2] |= 0x80;
                buf[3] = if refuses { 5 } else { 0 };
                // a stray answer first
                let mut stray = buf;
                stray[0] ^= 0xff;
                let _ = socket.send_to(&stray[..n], from).await;
                let _ = socket.send_to(&buf[..n], from).await;
            }
        });
        let ask = |name: &str| CheckKind::Dns { name: name.into(), kind: 6 };
        assert_eq!(find(ask("example.org"), at).await, Ok(Outcome::ok("answered")));
        assert!(why(find(ask("bad.example.org"), at).await).contains("Refused"));
        assert!(why(find(ask("."), nobody()).await).contains("refused"));
    });
}

#[test]
fn datagrams_are_refused_or_answered() {
    block(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut buf).await {
                let _ = socket.send_to(&[&[7], &buf[..n]].concat(), from).await;
            }
        });
        let kind = |reply, expect: Option<Vec<Option<u8>>>| CheckKind::Udp {
            payload: vec![1, 2],
            expect,
            reply,
            min: 0,
            max: 255,
        };
        assert_eq!(
            find(kind(true, Some(vec![Some(7), None, Some(2)])), at).await,
            Ok(Outcome::ok("answered"))
        );
        assert!(why(find(kind(true, Some(vec![Some(8)])), at).await).contains("another one"));
        assert!(why(find(kind(false, None), nobody()).await).contains("refused"));
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut quick = job(kind(false, None), silent.local_addr().unwrap());
        Arc::make_mut(&mut quick.check).timing.timeout = Span::from_millis(20);
        assert_eq!(run(&quick, &Dialer::default()).await, Ok(Outcome::ok("not refused")));
    });
}

#[test]
fn mail_servers_greet() {
    block(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for refuses in [false, true] {
                let (mut s, _) = listener.accept().await.unwrap();
                s.write_all(b"220-hello\r\n22").await.unwrap();
                s.write_all(b"0 you\r\n").await.unwrap();
                let mut buf = [0; 256];
                let n = s.read(&mut buf).await.unwrap();
                assert_eq!(&buf[..n], b"HELO lb\r\n");
                s.write_all(if refuses { b"550 no\r\n" } else { b"250 ok\r\n" }).await.unwrap();
                let _ = s.read(&mut buf).await;
                let _ = s.write_all(b"221 bye\r\n").await;
            }
        });
        let kind = || CheckKind::Smtp { helo: "lb".into() };
        assert_eq!(find(kind(), at).await, Ok(Outcome::ok("greeted")));
        assert_eq!(why(find(kind(), at).await), "HELO: the reply is 550");
    });
}

#[test]
fn the_loopback_answers_pings() {
    block(async {
        for to in ["127.0.0.1:0", "[::1]:0"] {
            match find(CheckKind::Ping, to.parse().unwrap()).await {
                Ok(found) => assert_eq!(found, Outcome::ok("answered")),
                Err(Trouble::Unchecked(why)) => {
                    assert!(std::env::var_os("CI").is_none() || to.starts_with('['), "{why}");
                    println!("skipped: {to}: {why}");
                }
                Err(Trouble::Failed(why)) => panic!("{to}: {why}"),
            }
        }
    });
}

#[test]
fn programs_are_judged_by_their_exit_status() {
    block(async {
        let at: SocketAddr = "10.0.0.11:80".parse().unwrap();
        let kind = |script: &str, dynamic| CheckKind::Exec {
            argv: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
            user: None,
            dynamic,
        };
        let told = "test \"$SOFTLVS_REAL_ADDRESS\" = 10.0.0.11 && test -z \"$HOME\"";
        assert_eq!(find(kind(told, false), at).await, Ok(Outcome::ok("exit status 0")));
        assert_eq!(find(kind("exit 12", true), at).await.unwrap().weight, Some(10));
        assert_eq!(why(find(kind("exit 3", false), at).await), "exit status 3");
        let missing = CheckKind::Exec { argv: vec!["/no/such/program".into()], user: None, dynamic: false };
        assert!(why(find(missing, at).await).contains("no such file"));
    });
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    std::fs::write(&file, "").unwrap();
    // the program may run as nobody
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let kind =
        CheckKind::Exec { argv: vec!["/bin/sh".into(), "-c".into(), script], user: None, dynamic: false };
    let alive = |pid: &str| {
        // a killed process may stay as a zombie of a parent that does not wait
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let pid = block(async {
        let job = job(kind, "10.0.0.11:80".parse().unwrap());
        let dialer = Dialer::default();
        let check = run(&job, &dialer);
        tokio::pin!(check);
        loop {
            let tick = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                found = &mut check => panic!("it ended: {found:?}"),
                () = tick => {}
            }
            let pid = std::fs::read_to_string(&file).unwrap();
            if pid.ends_with('\n') {
                break pid.trim().to_owned();
            }
        }
    });
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !alive(&pid)
    });
    assert!(gone, "child {pid} lives on");
}

#[test]
fn files_hold_numbers() {
    block(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weight");
        let kind = || CheckKind::File { path: path.display().to_string(), factor: 1 };
        let at: SocketAddr = "10.0.0.11:80".parse().unwrap();
        assert!(why(find(kind(), at).await).contains("no such file"));
        std::fs::write(&path, "7\n").unwrap();
        assert_eq!(find(kind(), at).await.unwrap().add, 7);
    });
}
