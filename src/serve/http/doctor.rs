//! The networks behind ports that only the director can ask: the doctor's questions, sent and heard through the
//! workers. Nothing is changed by them, and who asks cannot choose what is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::answer::{Body, Trouble, aside, stream};
use super::routes::Call;
use crate::addr::Mac;
use crate::doctor::Found;
use crate::doctor::network::{Stations, ask_from};
use crate::doctor::station::Station;
use crate::doctor::wire::Wire;
use crate::engine::checks::DOCTOR_PORTS;
use crate::engine::{Engine, PortId};
use crate::serve::workers::Askers;
use crate::wire::{Link, Parsed, eth, number, parse};

/// Frames that may wait to be looked at, by port; what comes while there are so many is lost, as on a wire.
const WAITING: usize = 256;

/// Time between two signs that the answer is still to come.
const SIGN: Duration = Duration::from_secs(1);

/// What may be asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Names of ports; all of them when not said.
    ports: Option<Vec<String>>,
}

/// `POST /v1/doctor`
pub async fn ask(context: Context, call: Call) -> Result<Response<Body>, Trouble> {
    let question: Question = serde_json::from_slice(&call.body).map_err(|e| {
        Trouble::bad(format!("the body is no question: {e}"), r#"for example {"ports": ["outside"]}"#)
    })?;
    let Ok(alone) = context.control.examining().clone().try_acquire_owned() else {
        let why = "the network is being asked already";
        return Err(Trouble::new(StatusCode::CONFLICT, why, "wait until that has ended"));
    };
    let state = context.control.look().await?;
    let (plan, net) = (state.current(), state.catalog.net.clone());
    if let Some(unknown) = question.ports.iter().flatten().find(|n| plan.ports.iter().all(|p| p.name != **n))
    {
        let names: Vec<&str> = plan.ports.iter().map(|p| p.name.as_str()).collect();
        return Err(Trouble::missing(format!(
            "there is no port `{unknown}`; there are: {}",
            names.join(", ")
        )));
    }
    let infos = context.control.ports().await?;
    let workers = context.control.workers().clone();
    let (mut ears, mut stations) = (BTreeMap::new(), Stations::new());
    for (i, (setup, (info, _))) in plan.ports.iter().zip(&infos).enumerate() {
        if question.ports.as_ref().is_some_and(|names| !names.contains(&setup.name)) {
            continue;
        }
        let port = PortId(i as u16);
        let (tell, heard) = sync_channel(WAITING);
        ears.insert(port, (info.link, tell));
        let wire = Outlet {
            port,
            mac: info.mac.unwrap_or_default(),
            bare: info.link == Link::Ip,
            hears_all: setup.device.is_virtual(),
            workers: workers.clone(),
            runtime: tokio::runtime::Handle::current(),
            heard,
        };
        // the director answers for its addresses itself
        stations.insert(port, Station::new(Box::new(wire), Vec::new()));
    }
    let ears = Arc::new(ears);
    let listen = move |engine: &mut Engine, _| {
        let ears = ears.clone();
        engine.listen(move |port, frame| tell(&ears, port, frame));
    };
    workers.ask_all(listen).await?;
    let (response, sender) = stream("application/json");
    tokio::spawn(async move {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let asking = aside(move || {
            let mut found = Found::default();
            ask_from(&plan, net, stations, || !ended.load(Relaxed), &mut found);
            found.findings.sort();
            found.findings.dedup();
            found
        });
        tokio::pin!(asking);
        let found = loop {
            tokio::select! {
                found = &mut asking => break found,
                () = tokio::time::sleep(SIGN) => {}
            }
            // only by writing is found out that nobody waits any more; JSON may begin with blanks
            if sender.send(Bytes::from_static(b" ")).await.is_err() {
                over.store(true, Relaxed);
            }
        };
        // before the next one is let in, who may listen at once; a director that stops listens to nothing
        let _ = workers.ask_all(|engine, _| engine.stop_listening()).await;
        drop(alone);
        if let Ok(found) = found {
            let _ = sender.send(format!("{}\n", json!(found)).into()).await;
        }
    });
    Ok(response)
}

/// Gives a frame on that may be an answer; false when nobody waits for any.
fn tell(ears: &BTreeMap<PortId, (Link, SyncSender<Vec<u8>>)>, port: PortId, frame: &[u8]) -> bool {
    let Some((link, ear)) = ears.get(&port) else { return true };
    if !may_answer(frame, *link) {
        return true;
    }
    let whole = match link {
        Link::Ethernet => frame.to_vec(),
        Link::Ip => framed(frame),
    };
    !matches!(ear.try_send(whole), Err(std::sync::mpsc::TrySendError::Disconnected(_)))
}

/// ARP, ICMP, and what is sent to the doctor's ports.
fn may_answer(frame: &[u8], link: Link) -> bool {
    match parse(frame, link) {
        Ok(Parsed::Arp(_)) => true,
        Ok(Parsed::Ip(meta)) => match meta.proto {
            number::ICMP | number::ICMPV6 => true,
            number::TCP | number::UDP | number::SCTP => DOCTOR_PORTS.contains(&meta.dport),
            _ => false,
        },
        Ok(Parsed::Other(_)) | Err(_) => false,
    }
}

/// A bare packet as a frame from nobody to nobody.
fn framed(packet: &[u8]) -> Vec<u8> {
    let kind = if packet.first().is_some_and(|b| b >> 4 == 4) { number::ETH_IPV4 } else { number::ETH_IPV6 };
    let mut frame = vec![0; 12];
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// A port of the director as the doctor's wire.
struct Outlet {
    port: PortId,
    mac: Mac,
    bare: bool,
    hears_all: bool,
    workers: Askers,
    runtime: tokio::runtime::Handle,
    heard: Receiver<Vec<u8>>,
}

impl Wire for Outlet {
    fn mac(&self) -> Mac {
        self.mac
    }
    fn bare(&self) -> bool {
        self.bare
    }
    // a program on the interface gives the director what names its addresses
    fn hears_all(&self) -> bool {
        self.hears_all
    }
    fn send(&mut self, frame: &[u8]) {
        let frame = if self.bare { frame.get(eth::LEN..).unwrap_or_default() } else { frame }.to_vec();
        let port = self.port;
        let sent = self.workers.ask_sending(0, move |engine, _, out| engine.send_frame(port, &frame, out));
        // the director is stopping: nobody answers
        let _ = self.runtime.block_on(sent);
    }
    fn receive(&mut self, patience: Duration) -> Option<Vec<Vec<u8>>> {
        match self.heard.recv_timeout(patience) {
            Ok(first) => Some(std::iter::once(first).chain(self.heard.try_iter()).collect()),
            Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_an_answer_is_heard_and_only_while_somebody_waits() {
        let (ear, heard) = sync_channel(1);
        let ears = BTreeMap::from([(PortId(1), (Link::Ip, ear))]);
        let packet = |dport: u16| {
            let mut bytes = Vec::new();
            etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(53, dport)
                .write(&mut bytes, b"x")
                .unwrap();
            bytes
        };
        assert!(tell(&ears, PortId(1), &packet(1021)) && tell(&ears, PortId(1), &[]));
        assert!(tell(&ears, PortId(0), &packet(1022)));
        assert!(heard.try_recv().is_err());
        assert!(tell(&ears, PortId(1), &packet(1022)));
        // one more than waits is lost
        assert!(tell(&ears, PortId(1), &packet(1023)));
        let frame = heard.try_recv().unwrap();
        assert_eq!((&frame[12..14], &frame[14..]), (&[8, 0][..], &packet(1022)[..]));
        drop(heard);
        assert!(!tell(&ears, PortId(1), &packet(1022)));
    }
}
