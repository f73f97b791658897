//! `smtp`: a mail server greets, takes a name and says goodbye.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::dial::{Dialer, Stream};
use super::{Finding, Trouble, text};
use crate::health::{Job, Outcome};

pub(super) async fn run(job: &Job, dialer: &Dialer, helo: &str) -> Finding {
    let mut stream = dialer.connect(job).await?;
    let mut buf = Vec::new();
    expect(&mut stream, &mut buf, 220, "greeting").await?;
    for (line, code, what) in
        [(format!("HELO {helo}\r\n"), 250, "HELO"), ("QUIT\r\n".to_owned(), 221, "QUIT")]
    {
        stream.write_all(line.as_bytes()).await.map_err(|e| Trouble::of(what, &e))?;
        expect(&mut stream, &mut buf, code, what).await?;
    }
    Ok(Outcome::ok("greeted"))
}

async fn expect(stream: &mut Stream, buf: &mut Vec<u8>, code: u16, what: &str) -> Result<(), Trouble> {
    loop {
        match text::smtp_reply(buf).map_err(|e| Trouble::Failed(format!("{what}: {e}")))? {
            Some((found, used)) => {
                buf.drain(..used);
                if found == code {
                    return Ok(());
                }
                return Err(Trouble::Failed(format!("{what}: the reply is {found}")));
            }
            None if buf.len() > text::MOST => {
                return Err(Trouble::Failed(format!("{what}: the reply is too long")));
            }
            None => {}
        }
        let mut piece = [0; 1024];
        let n = stream.read(&mut piece).await.map_err(|e| Trouble::of(what, &e))?;
        if n == 0 {
            return Err(Trouble::Failed(format!("{what}: the connection was closed")));
        }
        buf.extend_from_slice(&piece[..n]);
    }
}
