//! `dns`: the server answers a question without error.

use super::dial::Dialer;
use super::{Finding, Trouble, text};
use crate::health::{Job, Outcome};

pub(super) async fn run(job: &Job, dialer: &Dialer, name: &str, kind: u16) -> Finding {
    let id = getrandom::u32().map_err(|e| Trouble::Unchecked(e.to_string()))? as u16;
    let question = text::dns_question(id, name, kind).map_err(Trouble::Unchecked)?;
    let socket = dialer.datagrams(job).await?;
    socket.send(&question).await.map_err(|e| Trouble::of("asking", &e))?;
    let mut buf = [0; 4096];
    loop {
        let n = socket.recv(&mut buf).await.map_err(|e| Trouble::of("waiting for the answer", &e))?;
        match text::dns_answer(id, &buf[..n]) {
            Ok(()) => return Ok(Outcome::ok("answered")),
            Err(Some(why)) => return Err(Trouble::Failed(why)),
            // a late answer to an earlier question
            Err(None) => {}
        }
    }
}
