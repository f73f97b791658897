//! Connections: asked of the workers in slices, so that no packet waits, and handed on as they come, so
//! that no memory grows with their number.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Context;
use super::answer::{Body, Trouble, json as answer, stream};
use super::routes::Call;
use crate::engine::{ConnRow, Engine};
use crate::ipvsadm::{Names, conns, proc};
use crate::svc::Proto;

/// Places of the table that a worker looks at before it serves packets again: some tens of microseconds.
const SLICE: usize = 512;
/// Most rows of a page.
const PAGE: usize = 10_000;

/// Which connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    proto: Option<u8>,
    client: Option<At>,
    service: Option<At>,
    real: Option<At>,
    state: Option<&'static str>,
}

/// An address, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(IpAddr, Option<u16>);

impl At {
    fn fits(self, a: SocketAddr) -> bool {
        self.0 == a.ip() && self.1.is_none_or(|p| p == a.port())
    }
}

impl Filter {
    fn read(call: &Call) -> Result<Filter, Trouble> {
        let at = |name: &str| {
            call.get(name).map(|text| {
                let bare = || text.trim_start_matches('[').trim_end_matches(']').parse();
                let parsed = text
                    .parse::<SocketAddr>()
                    .map(|a| At(a.ip(), Some(a.port())))
                    .or_else(|_| bare().map(|ip| At(ip, None)));
                parsed.map_err(|_| {
                    Trouble::bad(format!("{name}: `{text}` is no address"), "10.0.0.9 or 10.0.0.9:40000")
                })
            })
        };
        let proto = call.get("protocol").map(|text| match text {
            "tcp" => Ok(Proto::Tcp.number()),
            "udp" => Ok(Proto::Udp.number()),
            "sctp" => Ok(Proto::Sctp.number()),
            _ => Err(Trouble::bad(format!("protocol: `{text}` is not known"), "tcp, udp or sctp")),
        });
        let state = call.get("state").map(|text| {
            let all = ConnRow::states();
            let known = all.iter().copied().find(|name| name.eq_ignore_ascii_case(text));
            known.ok_or_else(|| Trouble::bad(format!("state: `{text}` is not known"), all.join(", ")))
        });
        Ok(Filter {
            proto: proto.transpose()?,
            client: at("client").transpose()?,
            service: at("service").transpose()?,
            real: at("real").transpose()?,
            state: state.transpose()?,
        })
    }
    fn fits(&self, r: &ConnRow) -> bool {
        self.proto.is_none_or(|p| p == r.proto)
            && self.client.is_none_or(|a| a.fits(r.client))
            && self.service.is_none_or(|a| a.fits(r.virt))
            && self.real.is_none_or(|a| a.fits(r.dest))
            && self.state.is_none_or(|s| s == r.state)
    }
}

/// How rows are written.
#[derive(Clone, Debug)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// As `ipvsadm -Lc`; true with the columns of persistence engines.
    Ipvsadm(Option<Names>, bool),
    /// As `/proc/net/ip_vs_conn`.
    Proc,
}

/// Where a walk over all connections stands: worker, place in its tables; templates come last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    worker: usize,
    place: usize,
}

impl Cursor {
    fn read(text: &str) -> Option<Cursor> {
        let (worker, place) = text.split_once('.')?;
        Some(Cursor { worker: worker.parse().ok()?, place: place.parse().ok()? })
    }
    fn text(self) -> String {
        format!("{}.{}", self.worker, self.place)
    }
}

/// One slice of the walk; `None` when all was walked.
async fn slice(
    context: &Context,
    at: Cursor,
    filter: &Filter,
) -> Result<Option<(Vec<ConnRow>, Cursor)>, Trouble> {
    let workers = context.control.workers();
    if at.worker < workers.count() {
        let filter = filter.clone();
        let look = move |engine: &mut Engine, now| {
            let (mut rows, next) = engine.connection_slice(now, at.place, SLICE);
            rows.retain(|r| filter.fits(r));
            (rows, next)
        };
        let (rows, next) = workers.ask(at.worker, look).await?;
        let next = match next {
            Some(place) => Cursor { place, ..at },
            None => Cursor { worker: at.worker + 1, place: 0 },
        };
        return Ok(Some((rows, next)));
    }
    if at.worker > workers.count() {
        return Ok(None);
    }
    // templates are shared by all workers and need none of them
    let state = context.control.look().await?;
    let now = crate::worker::clock::now();
    let mut rows = crate::engine::template_rows(state.catalog.templates(), now);
    rows.retain(|r| filter.fits(r));
    Ok(Some((rows, Cursor { worker: at.worker + 1, place: 0 })))
}

/// `GET /v1/connections`
pub async fn get(context: Context, call: Call) -> Result<Response<Body>, Trouble> {
    let filter = Filter::read(&call)?;
    let wants_lines = call.accept.contains("application/x-ndjson");
    let (numeric, persistence) = (call.flag("numeric")?, call.flag("persistence")?);
    let format = call.get("format").unwrap_or(if wants_lines { "ndjson" } else { "json" });
    let streamed = matches!(format, "ndjson" | "ipvsadm" | "proc");
    if let Some(name) = ["limit", "cursor"].into_iter().find(|n| streamed && call.get(n).is_some()) {
        let why = format!("{name} is for pages, and format {format} has none");
        return Err(Trouble::bad(why, "leave it out, or ask for format=json"));
    }
    match format {
        "ndjson" => Ok(stream_all(context, Format::Ndjson, filter)),
        "ipvsadm" => {
            let names = (!numeric).then(super::change::own_names);
            Ok(stream_all(context, Format::Ipvsadm(names, persistence), filter))
        }
        "proc" => Ok(stream_all(context, Format::Proc, filter)),
        "json" => page(context, &call, &filter).await,
        other => Err(Trouble::bad(format!("format `{other}` is not known"), "json, ndjson, ipvsadm or proc")),
    }
}

async fn page(context: Context, call: &Call, filter: &Filter) -> Result<Response<Body>, Trouble> {
    let limit = call.get("limit").map_or(Ok(1000), str::parse).ok().filter(|n| (1..=PAGE).contains(n));
    let limit = limit.ok_or_else(|| Trouble::bad("limit is out of range", format!("1 to {PAGE}")))?;
    let mut at = match call.get("cursor") {
        None => Cursor::default(),
        Some(text) => Cursor::read(text).ok_or_else(|| {
            Trouble::bad(format!("cursor `{text}` is none of ours"), "give `next` of the page before")
        })?,
    };
    let mut rows: Vec<Value> = Vec::new();
    let mut next = None;
    while let Some((some, after)) = slice(&context, at, filter).await? {
        // a slice is never cut, so a page may be a little longer than asked
        rows.extend(some.iter().map(row));
        at = after;
        if rows.len() >= limit {
            next = Some(at.text());
            break;
        }
    }
    Ok(answer(&json!({ "connections": rows, "next": next })))
}

/// All connections, as they come.
pub fn stream_all(context: Context, format: Format, filter: Filter) -> Response<Body> {
    let kind = match format {
        Format::Ndjson => "application/x-ndjson",
        Format::Ipvsadm(..) | Format::Proc => "text/plain; charset=utf-8",
    };
    let (response, sender) = stream(kind);
    tokio::spawn(walk(context, format, filter, sender));
    response
}

async fn walk(context: Context, format: Format, filter: Filter, sender: mpsc::Sender<Bytes>) {
    let mut text = match &format {
        Format::Ndjson => String::new(),
        Format::Ipvsadm(_, persistence) => conns::title(*persistence),
        Format::Proc => proc::CONN_TITLE.to_owned(),
    };
    let mut at = Cursor::default();
    // a director that stops ends the list where it is
    while let Ok(Some((rows, next))) = slice(&context, at, &filter).await {
        for r in &rows {
            match &format {
                Format::Ndjson => {
                    // writing to a String cannot fail
                    let _ = writeln!(text, "{}", row(r));
                }
                Format::Ipvsadm(names, persistence) => {
                    conns::line(&mut text, r, *persistence, names.as_ref())
                }
                Format::Proc => proc::conn_line(&mut text, r),
            }
        }
        if !text.is_empty() && sender.send(std::mem::take(&mut text).into()).await.is_err() {
            return;
        }
        at = next;
        tokio::task::yield_now().await;
    }
    let _ = sender.send(text.into()).await;
}

fn row(r: &ConnRow) -> Value {
    let proto = Proto::from_number(r.proto).map_or("ip", Proto::name);
    let mut value = json!({
        "protocol": proto,
        "state": r.state,
        "expires": r.expires.as_secs(),
        "client": r.client.to_string(),
        "service": r.virt.to_string(),
        "real": r.dest.to_string(),
    });
    if let Some(local) = r.local {
        value["local"] = json!(local.to_string());
    }
    if let Some((name, data)) = &r.pe {
        value["persistence_engine"] = json!({ "name": name, "data": data });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Filter, hyper::StatusCode> {
        let request = hyper::Request::get(format!("/v1/connections?{query}")).body(()).unwrap();
        let call = Call::new(&request.into_parts().0, Vec::new(), Bytes::new()).unwrap();
        Filter::read(&call).map_err(|t| t.into_response().status())
    }

    #[test]
    fn a_filter_that_can_fit_nothing_is_refused() {
        for name in ConnRow::states() {
            let filter = read(&format!("state={}", name.to_lowercase())).unwrap();
            assert_eq!(filter.state, Some(name));
        }
        for typo in
            ["state=typo", "state=", "protocol=icmp", "client=10.0.0", "real=10.0.0.1:x", "service=web"]
        {
            assert_eq!(read(typo), Err(hyper::StatusCode::BAD_REQUEST), "{typo}");
        }
    }
}
