//! What servers send, judged. Everything here takes bytes from the network and believes none of them.

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use md5::{Digest, Md5};
use regex::bytes::{Regex, RegexBuilder};

use crate::health::spec::HttpRequest;

/// Most that is read of any reply.
pub const MOST: usize = 64 * 1024;
/// Longest line of a mail server.
const LINE: usize = 2048;

/// Compiles a regular expression, bounded in memory.
///
/// # Errors
/// What is wrong with it, on one line.
pub fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(1 << 20).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
    })
}

/// Is the status as it should be?
///
/// # Errors
/// Why not.
pub fn status(request: &HttpRequest, status: u16) -> Result<(), String> {
    if request.status.iter().any(|(a, b)| (*a..=*b).contains(&status)) {
        return Ok(());
    }
    Err(format!("status {status}"))
}

/// True when the body has to be read.
pub fn wants_body(request: &HttpRequest) -> bool {
    request.body.is_some() || request.not_body.is_some() || request.digest.is_some()
}

/// Is the body as it should be? `whole`: there was no more than was read.
///
/// # Errors
/// Why not.
pub fn body(request: &HttpRequest, body: &[u8], whole: bool) -> Result<(), String> {
    if let Some(wanted) = &request.digest {
        if !whole {
            return Err(format!("the body is longer than {MOST} bytes"));
        }
        let found: String = Md5::digest(body).iter().map(|b| format!("{b:02x}")).collect();
        if found != *wanted {
            return Err(format!("the MD5 of the body is {found}"));
        }
    }
    let matches = |p: &String| pattern(p).is_ok_and(|r| r.is_match(body));
    if request.body.as_ref().is_some_and(|p| !matches(p)) {
        return Err("the body does not match".to_owned());
    }
    if request.not_body.as_ref().is_some_and(matches) {
        return Err("the body matches what it must not".to_owned());
    }
    Ok(())
}

/// A question to a DNS server.
///
/// # Errors
/// The name cannot be asked for.
pub fn dns_question(id: u16, name: &str, kind: u16) -> Result<Vec<u8>, String> {
    let name = Name::from_ascii(name).map_err(|e| e.to_string())?;
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::from(kind)));
    message.to_vec().map_err(|e| e.to_string())
}

/// Is this the answer to the question with this number, and without error?
///
/// # Errors
/// Why not; `Err(None)` when it is the answer to something else.
pub fn dns_answer(id: u16, bytes: &[u8]) -> Result<(), Option<String>> {
    let head = bytes.get(..12).ok_or_else(|| Some("the answer is cut off".to_owned()))?;
    if u16::from_be_bytes([head[0], head[1]]) != id {
        return Err(None);
    }
    // a header is enough to judge by; records may be as odd as they like
    if head[2] & 0x80 == 0 {
        return Err(Some("the answer is a question".to_owned()));
    }
    match Message::from_vec(bytes) {
        Ok(m) if m.metadata.message_type != MessageType::Response => {
            Err(Some("it is no response".to_owned()))
        }
        Ok(m) if m.metadata.response_code != ResponseCode::NoError => {
            Err(Some(format!("the answer is {}", m.metadata.response_code)))
        }
        Ok(_) => Ok(()),
        Err(_) if head[3] & 0x0f == 0 => Err(Some("the answer is no DNS message".to_owned())),
        Err(_) => Err(Some(format!("the answer has error {}", head[3] & 0x0f))),
    }
}

/// Is the datagram as it should be?
///
/// # Errors
/// Why not.
pub fn datagram(bytes: &[u8], expect: Option<&[Option<u8>]>, min: usize, max: usize) -> Result<(), String> {
    if bytes.len() < min || bytes.len() > max {
        return Err(format!("the answer has {} bytes", bytes.len()));
    }
    let Some(expect) = expect else { return Ok(()) };
    let fits =
        bytes.len() >= expect.len() && expect.iter().zip(bytes).all(|(e, b)| e.is_none_or(|e| e == *b));
    if fits { Ok(()) } else { Err("the answer is another one".to_owned()) }
}

/// What a mail server's reply comes to so far: `None` while there is more to come, else its code. Gives
/// the number of bytes it takes.
///
/// # Errors
/// It is no such reply.
pub fn smtp_reply(bytes: &[u8]) -> Result<Option<(u16, usize)>, String> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return if rest.len() > LINE || at > MOST {
                Err("the reply is too long".to_owned())
            } else {
                Ok(None)
            };
        };
        let line = &rest[..end];
        at += end + 1;
        let code = line.get(..3).filter(|c| c.iter().all(u8::is_ascii_digit));
        let code = code.and_then(|c| std::str::from_utf8(c).ok()?.parse::<u16>().ok());
        let Some(code) = code.filter(|c| (200..=599).contains(c)) else {
            return Err("the reply has no code".to_owned());
        };
        match line.get(3) {
            Some(b'-') => {}
            _ => return Ok(Some((code, at))),
        }
    }
}

/// The number in a file of a file check.
///
/// # Errors
/// There is none.
pub fn number(bytes: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let word = text.split_whitespace().next().unwrap_or("0");
    word.parse::<i64>().map_err(|_| "it holds no number".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> HttpRequest {
        HttpRequest {
            path: "/".into(),
            host: None,
            status: vec![(200, 299), (301, 301)],
            body: None,
            not_body: None,
            digest: None,
        }
    }

    #[test]
    fn status_codes_are_compared_with_ranges() {
        for (code, fine) in [(200, true), (299, true), (301, true), (300, false), (0, false), (999, false)] {
            assert_eq!(status(&request(), code).is_ok(), fine, "{code}");
        }
    }

    #[test]
    fn bodies_are_matched_and_digested() {
        let with = |body: Option<&str>, not: Option<&str>, digest: Option<&str>| HttpRequest {
            body: body.map(Into::into),
            not_body: not.map(Into::into),
            digest: digest.map(Into::into),
            ..request()
        };
        assert!(body(&with(Some("^o[k]"), None, None), b"ok", true).is_ok());
        assert!(body(&with(Some("^ok$"), None, None), b"\xffok", true).is_err());
        assert!(body(&with(None, Some("error"), None), b"no error", true).is_err());
        let md5 = "444bcb3a3fcf8389296c49467f27e1d6";
        assert!(body(&with(None, None, Some(md5)), b"ok", true).is_ok());
        assert!(body(&with(None, None, Some(md5)), b"ok", false).unwrap_err().contains("longer"));
        assert!(body(&with(None, None, Some(md5)), b"ko", true).unwrap_err().contains("MD5"));
        assert!(pattern("(a{9999}){9999}").unwrap_err().contains("too large"));
    }

    #[test]
    fn answers_of_dns_servers() {
        let question = dns_question(7, "example.org", 6).unwrap();
        let mut answer = question.clone();
        assert_eq!(dns_answer(7, &answer), Err(Some("the answer is a question".to_owned())));
        answer[2] |= 0x80;
        assert_eq!((dns_answer(7, &answer), dns_answer(8, &answer)), (Ok(()), Err(None)));
        answer[3] = 2;
        assert!(dns_answer(7, &answer).unwrap_err().unwrap().contains("Server Failure"));
        assert!(dns_answer(7, &answer[..11]).unwrap_err().unwrap().contains("cut off"));
        assert!(dns_question(7, &"a".repeat(70), 6).is_err());
    }

    #[test]
    fn datagrams_are_compared_with_patterns() {
        let expect = [Some(1), None, Some(3)];
        assert!(datagram(&[1, 9, 3, 4], Some(&expect), 0, 255).is_ok());
        assert!(datagram(&[1, 9], Some(&expect), 0, 255).is_err());
        assert!(datagram(&[1, 9, 4], Some(&expect), 0, 255).is_err());
        assert!(datagram(&[0; 9], None, 10, 255).is_err() && datagram(&[0; 9], None, 0, 8).is_err());
    }

    #[test]
    fn replies_of_mail_servers_end_with_a_line_without_dash() {
        assert_eq!(smtp_reply(b"220 hi\r\n"), Ok(Some((220, 8))));
        assert_eq!(smtp_reply(b"250-one\r\n250 two\r\nmore"), Ok(Some((250, 18))));
        assert_eq!(smtp_reply(b"250-one\r\n250 tw"), Ok(None));
        assert!(smtp_reply(b"HTTP/1.1 400\r\n").is_err());
        assert!(smtp_reply(&[b'2'; 3000]).is_err());
        assert!(smtp_reply(b"\n").is_err());
    }

    #[test]
    fn numbers_in_files() {
        assert_eq!(number(b"-254\n"), Ok(-254));
        assert_eq!(number(b""), Ok(0));
        assert!(number(b"x").is_err() && number(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_makes_trouble(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = dns_answer(0, &bytes);
            if let Ok(Some((code, used))) = smtp_reply(&bytes) {
                prop_assert!((200..=599).contains(&code) && used <= bytes.len());
            }
            let _ = number(&bytes);
            let _ = datagram(&bytes, Some(&[Some(1), None]), 0, 300);
            let _ = body(&HttpRequest { body: Some("a+b".into()), ..request() }, &bytes, true);
        }
    }
}
