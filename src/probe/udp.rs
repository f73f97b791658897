//! `udp`: a datagram is not refused by ICMP, or is answered as it should be.

use std::time::Duration;

use super::dial::Dialer;
use super::{Finding, Trouble, text};
use crate::health::{CheckKind, Job, Outcome};

pub(super) async fn run(job: &Job, dialer: &Dialer) -> Finding {
    let CheckKind::Udp { payload, expect, reply, min, max } = &job.check.kind else {
        return Err(Trouble::Unchecked("not a check of this kind".to_owned()));
    };
    let socket = dialer.datagrams(job).await?;
    socket.send(payload).await.map_err(|e| Trouble::of("sending", &e))?;
    let mut buf = [0; 65_535];
    let answer = async { socket.recv(&mut buf).await.map_err(|e| Trouble::of("waiting for the answer", &e)) };
    let n = if *reply {
        answer.await?
    } else {
        // silence is fine: most of the time a refusal would have come by then
        let enough = Duration::from_nanos(job.check.timing.timeout.0 / 10 * 9);
        match tokio::time::timeout(enough, answer).await {
            Ok(n) => n?,
            Err(_) => return Ok(Outcome::ok("not refused")),
        }
    };
    text::datagram(&buf[..n], expect.as_deref(), *min, *max).map_err(Trouble::Failed)?;
    Ok(Outcome::ok("answered"))
}
