//! Body of the fuzz target `reply`: the first byte says which check, the rest is what its server sends. However
//! odd it is, it is judged: nothing panics, nothing waits, what is read is bounded.

use std::sync::Arc;
use std::time::Duration;

use softlvs::health::spec::{HttpRequest, HttpVersion};
use softlvs::health::{CheckKind, CheckSpec, Job, TargetId, Timing, Via};
use softlvs::probe::{http, text};
use softlvs::time::Span;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub fn run(data: &[u8]) {
    let Some((which, reply)) = data.split_first() else { return };
    match which % 6 {
        0 => drop(text::dns_answer(0x0102, reply)),
        1 => {
            let mut rest = reply;
            while let Ok(Some((code, used))) = text::smtp_reply(rest) {
                assert!((200..=599).contains(&code) && used > 0 && used <= rest.len());
                rest = &rest[used..];
            }
        }
        2 => drop(text::datagram(reply, Some(&[Some(1), None, Some(3)]), 1, 255)),
        3 => drop(text::number(reply)),
        4 => drop(text::body(&request(), reply, true)),
        _ => http(reply),
    }
}

fn request() -> HttpRequest {
    HttpRequest {
        path: "/".into(),
        host: None,
        status: vec![(200, 299)],
        body: Some("a+b|ok".into()),
        not_body: Some("x{3,5}".into()),
        digest: None,
    }
}

fn http(reply: &[u8]) {
    let kind = CheckKind::Http { requests: vec![request()], version: HttpVersion::V11, tls: None };
    let timing = Timing::every(Span::from_secs(1));
    let check =
        CheckSpec { name: "c".into(), kind, timing, address: None, port: None, bind: None, via: None };
    let to = ([127, 0, 0, 1], 80).into();
    let job =
        Job { id: TargetId(0), run: 1, check: Arc::new(check), to, real: to, via: Via::Host, forward: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let reply = reply.to_vec();
    let judged = runtime.block_on(async {
        let server = async move {
            let mut question = [0; 1024];
            let _ = far.read(&mut question).await;
            let _ = far.write_all(&reply).await;
        };
        let wanted = request();
        let asked = http::ask(&job, &wanted, HttpVersion::V11, near);
        let both = async { tokio::join!(asked, server).0 };
        tokio::time::timeout(Duration::from_secs(10), both).await
    });
    assert!(judged.is_ok(), "a reply that ended was waited for");
}
