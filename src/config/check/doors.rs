//! Where the director may be asked over TCP, and by whom.

use crate::config::diag::Report;
use crate::config::doc::DirectorDoc;
use crate::config::plan::{HttpPlan, TlsFiles};

/// `http` with what protects it: both a token and TLS wherever others can reach it.
pub(super) fn http(d: &DirectorDoc, report: &mut Report) -> Option<HttpPlan> {
    let (token, certificate, key) = (&d.http_token_file, &d.http_certificate_file, &d.http_key_file);
    match (certificate, key) {
        (Some(certificate), None) => report.error(
            &certificate.place,
            "the certificate has no private key",
            "add http_key_file = \"/etc/softlvs/http-key.pem\"",
        ),
        (None, Some(key)) => report.error(
            &key.place,
            "the private key has no certificate",
            "add http_certificate_file = \"/etc/softlvs/http-certificate.pem\"",
        ),
        _ => {}
    }
    let Some(http) = &d.http else {
        if let Some(file) = [token, certificate, key].into_iter().flatten().next() {
            report.error(
                &file.place,
                "there is no `http` that it could protect",
                "add http = \"0.0.0.0:9980\" (or --http), or leave it out",
            );
        }
        return None;
    };
    // half of TLS has been complained about already
    let has_tls = certificate.is_some() || key.is_some();
    let (lacks, help) = match (token.is_some(), has_tls) {
        (true, true) => ("", ""),
        (true, false) => (
            "no TLS: whoever listens on the way learns the token",
            "add http_certificate_file and http_key_file",
        ),
        (false, true) => ("no token", "add http_token_file = \"/etc/softlvs/http-token\""),
        (false, false) => (
            "neither a token nor TLS",
            "write 127.0.0.1:PORT or [::1]:PORT, or add http_token_file, http_certificate_file and http_key_file",
        ),
    };
    if !http.value.ip().is_loopback() && !lacks.is_empty() {
        let why = format!("{} can be reached by others, and there is {lacks}", http.value);
        report.error(&http.place, why, help);
    }
    let tls = certificate
        .as_ref()
        .zip(key.as_ref())
        .map(|(c, k)| TlsFiles { certificate: c.value.clone(), key: k.value.clone() });
    Some(HttpPlan { address: http.value, token_file: token.as_ref().map(|t| t.value.clone()), tls })
}
