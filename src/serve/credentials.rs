//! Tokens and TLS of the TCP port, as they are in files: read whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq as _};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig, version};

use crate::config::plan::{HttpPlan, TlsFiles};
use crate::failure::Failure;

/// Longest file that is read, bytes.
const FILE: u64 = 1 << 20;
/// Most tokens that hold at a time.
const TOKENS: usize = 16;
/// Shortest and longest token, characters: 16 of them at random are beyond guessing.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=256;
/// How a token comes to be.
const NEW_TOKEN: &str = "make one: (umask 077; openssl rand -hex 32 >";

/// Who may ask, and how it is kept secret. Shows nothing of itself: no `Debug`.
pub(super) struct Credentials {
    tokens: Option<Vec<Token>>,
    tls: Option<Tls>,
}

/// Padded, so that comparing takes the same time for all.
struct Token([u8; *TOKEN.end()], usize);

struct Tls {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, holds nothing that is of use, or can be read by everybody.
    pub(super) fn read(plan: &HttpPlan) -> Result<Credentials, Failure> {
        Ok(Credentials {
            tokens: plan.token_file.as_deref().map(tokens).transpose()?,
            tls: plan.tls.as_ref().map(tls).transpose()?,
        })
    }
    /// True when no token is asked for.
    pub(super) fn is_open(&self) -> bool {
        self.tokens.is_none()
    }
    /// True for the value of an `Authorization` header with one of the tokens. How long it takes tells
    /// nothing about them.
    pub(super) fn admits(&self, header: &[u8]) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        let (scheme, shown) = header.split_at_checked(7).unwrap_or((header, b""));
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return false;
        }
        let shown = Token::new(shown.trim_ascii());
        tokens.iter().fold(Choice::from(0), |found, token| found | token.same(&shown)).into()
    }
    /// TLS, when it is spoken.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|tls| tls.config.clone())
    }
    /// True for a name or address that the certificate stands for.
    pub(super) fn names(&self, host: &str) -> bool {
        let Some(tls) = &self.tls else { return false };
        let (Ok(name), Ok(certificate)) =
            (ServerName::try_from(host), ParsedCertificate::try_from(&tls.certificate))
        else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }
}

impl Token {
    /// What is too long becomes one that equals none of the right length.
    fn new(text: &[u8]) -> Token {
        let mut padded = [0; *TOKEN.end()];
        let kept = text.len().min(padded.len());
        padded[..kept].copy_from_slice(&text[..kept]);
        Token(padded, text.len())
    }
    fn same(&self, other: &Token) -> Choice {
        self.0.ct_eq(&other.0) & self.1.ct_eq(&other.1)
    }
}

fn tokens(path: &str) -> Result<Vec<Token>, Failure> {
    let key = "http_token_file";
    let text = read(key, path, true)?;
    let mut tokens = Vec::new();
    for (i, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        // RFC 6750 section 2.1, b64token
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
        let wrong = match (line.iter().all(legal), TOKEN.contains(&line.len())) {
            (true, true) => None,
            (false, _) => {
                Some("holds characters that no token has (letters, digits and -._~+/= are fine)".to_owned())
            }
            (_, false) => {
                Some(format!("has {} characters: {} to {}", line.len(), TOKEN.start(), TOKEN.end()))
            }
        };
        if let Some(why) = wrong {
            return Err(refuse(key, path, &format!("line {} {why}", i + 1), &format!("{NEW_TOKEN}{path})")));
        }
        tokens.push(Token::new(line));
    }
    match tokens.len() {
        0 => Err(refuse(key, path, "there is no token in it", &format!("{NEW_TOKEN}{path})"))),
        1..=TOKENS => Ok(tokens),
        n => {
            Err(refuse(key, path, &format!("there are {n} tokens in it"), &format!("at most {TOKENS} hold")))
        }
    }
}

fn tls(files: &TlsFiles) -> Result<Tls, Failure> {
    let (of_certificate, of_key) = ("http_certificate_file", "http_key_file");
    let text = read(of_certificate, &files.certificate, false)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let pem = "it begins with -----BEGIN CERTIFICATE-----; the server's own comes first";
    let chain = chain.map_err(|e| refuse(of_certificate, &files.certificate, &e.to_string(), pem))?;
    let Some(certificate) = chain.first().cloned() else {
        return Err(refuse(of_certificate, &files.certificate, "there is no certificate in it", pem));
    };
    let text = read(of_key, &files.key, true)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let help = "it begins with -----BEGIN PRIVATE KEY----- and has no passphrase";
        refuse(of_key, &files.key, "there is no private key in it", help)
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|e| refuse(of_key, &files.key, &e.to_string(), ""))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| match e {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => refuse(
                of_key,
                &files.key,
                &format!("it is not the key of the certificate in {}", files.certificate),
                "give the two that were made together",
            ),
            Error::InvalidCertificate(e) => {
                refuse(of_certificate, &files.certificate, &format!("its certificate is broken: {e:?}"), pem)
            }
            e => refuse(
                of_key,
                &files.key,
                &format!("the key cannot be used: {e}"),
                "RSA, P-256, P-384 or Ed25519",
            ),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls { config: Arc::new(config), certificate })
}

/// A file in whole; a `secret` one must not be everybody's.
fn read(key: &str, path: &str, secret: bool) -> Result<Vec<u8>, Failure> {
    let missing = |e: std::io::Error| refuse(key, path, &e.to_string(), "name a file the director may read");
    // a named pipe must not hold up the start
    let file: File =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(missing)?;
    let about = file.metadata().map_err(missing)?;
    if !about.is_file() {
        return Err(refuse(key, path, "it is no regular file", "name a file"));
    }
    if about.len() > FILE {
        return Err(refuse(key, path, "it is longer than a megabyte", "name the right file"));
    }
    let mode = about.permissions().mode() & 0o777;
    if secret && mode & 0o007 != 0 {
        let why = format!("everybody may use it (mode {mode:03o})");
        return Err(refuse(key, path, &why, &format!("chmod 600 {path}")));
    }
    let mut text = Vec::new();
    file.take(FILE).read_to_end(&mut text).map_err(missing)?;
    if text.trim_ascii().is_empty() {
        let help = if key == "http_token_file" { format!("{NEW_TOKEN}{path})") } else { String::new() };
        return Err(refuse(key, path, "it is empty", &help));
    }
    Ok(text)
}

fn refuse(key: &str, path: &str, why: &str, help: &str) -> Failure {
    Failure::wrong(format!("director.{key}"), format!("{path}: {why}"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }
        fn put(&self, name: &str, text: &[u8], mode: u32) -> String {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        }
    }

    const PEM: &str = include_str!("../../tests/probe/server.pem");

    fn parts() -> (&'static str, &'static str) {
        let key = PEM.find("-----BEGIN PRIVATE").or_else(|| PEM.find("-----BEGIN EC PRIVATE")).unwrap();
        let certificate = PEM.find("-----BEGIN CERT").unwrap();
        let (first, second) = PEM.split_at(key.max(certificate));
        if key < certificate { (second, first) } else { (first, second) }
    }

    fn plan(token: Option<String>, tls: Option<(String, String)>) -> HttpPlan {
        let tls = tls.map(|(certificate, key)| TlsFiles { certificate, key });
        HttpPlan { address: "127.0.0.1:0".parse().unwrap(), token_file: token, tls }
    }

    fn why(plan: &HttpPlan) -> String {
        Credentials::read(plan).err().map(|f| f.messages().join("\n")).unwrap_or_default()
    }

    #[test]
    fn each_token_of_the_file_admits_and_nothing_else_does() {
        let folder = Folder::new();
        let file = folder.put("t", b"0123456789abcdef\r\n\n  Zm9vYmFyYmF6cXV4Cg== \n", 0o640);
        let read = Credentials::read(&plan(Some(file), None)).unwrap();
        for (header, wanted) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef ", true),
            ("Bearer Zm9vYmFyYmF6cXV4Cg==", true),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer 0123456789abcdeF", false),
            ("Bearer 0123456789abcdef\0", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
        ] {
            assert_eq!(read.admits(header.as_bytes()), wanted, "{header:?}");
        }
        assert!(!read.admits(&[b"Bearer ".as_slice(), &[0xff; 4096]].concat()));
        assert!(!read.is_open() && read.tls().is_none() && !read.names("localhost"));
    }

    #[test]
    fn a_file_that_protects_nothing_is_refused_with_its_key_and_remedy() {
        let folder = Folder::new();
        let made = std::cell::Cell::new(0);
        let token = |text: &[u8], mode| {
            let name = made.replace(made.get() + 1).to_string();
            plan(Some(folder.put(&name, text, mode)), None)
        };
        let long = "a".repeat(257);
        for (plan, wanted) in [
            (token(b"0123456789abcdef", 0o644), "everybody may use it (mode 644)\nhelp: chmod 600 "),
            (token(b"0123456789abcdef", 0o602), "everybody may use it (mode 602)"),
            (token(b" \n", 0o600), "it is empty\nhelp: make one: (umask 077; openssl rand"),
            (token(b"x\n", 0o600), "line 1 has 1 characters: 16 to 256"),
            (token(long.as_bytes(), 0o600), "line 1 has 257 characters"),
            (token(b"0123456789abcdef\npass word of sixteen", 0o600), "line 2 holds characters"),
            (token(&b"0123456789abcdef\n".repeat(17), 0o600), "there are 17 tokens"),
            (plan(Some(folder.0.path().display().to_string()), None), "it is no regular file"),
            (plan(Some("/nowhere/token".into()), None), "No such file"),
        ] {
            let why = why(&plan);
            assert!(why.starts_with("error: director.http_token_file: /"), "{why}");
            assert!(why.contains(wanted), "{why}");
        }
    }

    #[test]
    fn certificate_and_key_must_be_there_and_belong_together() {
        let folder = Folder::new();
        let (certificate, key) = parts();
        let good = folder.put("c", certificate.as_bytes(), 0o644);
        let its_key = folder.put("k", key.as_bytes(), 0o600);
        let read = Credentials::read(&plan(None, Some((good.clone(), its_key.clone())))).unwrap();
        assert!(read.is_open() && read.admits(b"") && read.tls().is_some());
        assert!(read.names("www.example.org"));
        assert!(!read.names("evil.example") && !read.names("") && !read.names("10.255.0.1"));
        const OTHER: &str = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEIE5UX+WXTJhTtpFfHT9A5sW5PcJYlSlGv4xxKlZ9ct3L\n-----END PRIVATE KEY-----\n";
        for (certificate, key, wanted) in [
            (&good, folder.put("k2", OTHER.as_bytes(), 0o600), "http_key_file: "),
            (&good, folder.put("k3", key.as_bytes(), 0o644), "everybody may use it (mode 644)"),
            (&good, folder.put("k4", certificate.as_bytes(), 0o600), "there is no private key in it"),
            (&good, folder.put("k5", b"", 0o600), "it is empty"),
            (&folder.put("c2", key.as_bytes(), 0o644), its_key.clone(), "there is no certificate in it"),
            (
                &folder.put("c3", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644),
                its_key.clone(),
                "director.http_",
            ),
            (
                &folder.put("c4", b"-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n", 0o644),
                its_key.clone(),
                "http_certificate_file: ",
            ),
        ] {
            let why = why(&plan(None, Some((certificate.clone(), key))));
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
        let why = why(&plan(None, Some((good, folder.put("k2", OTHER.as_bytes(), 0o600)))));
        assert!(why.contains("it is not the key of the certificate in "), "{why}");
    }
}
