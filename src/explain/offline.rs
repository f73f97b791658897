//! An engine for questions about a configuration that does not run.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Mac;
use crate::config::Plan;
use crate::config::apply::apply;
use crate::config::diag::Complaint;
use crate::config::plan::PortSetup;
use crate::engine::{Engine, EngineOptions, PortId};
use crate::failure::Failure;
use crate::host::{Host, NetPlan, OffloadCaps, PortPlan};
use crate::io::{MacChoice, PortInfo};
use crate::svc::Catalog;
use crate::time::Mono;
use crate::wire::{Link, eth};

use super::{Flow, Question, Report, answer};

/// MTU of a port whose device nobody asked.
const MTU: u32 = 1500;
/// Most connections for which memory is reserved.
const CONNECTIONS: u32 = 100_000;

/// An engine made for a question.
#[derive(Debug)]
pub struct Made {
    /// The engine: no connection is open.
    pub engine: Engine,
    /// What was assumed where nobody could be asked.
    pub assumed: Vec<String>,
}

/// The time of a director that has been running for a minute.
pub const NOW: Mono = Mono::from_millis(60_000);

/// Answers a question by a configuration alone: there is no connection yet, and whoever has to be asked
/// for a MAC address has answered.
///
/// # Errors
/// The configuration cannot run, or the question makes no sense.
pub fn ask(plan: &Plan, question: &Question) -> Result<Report, Failure> {
    let made = engine(plan, question)?;
    let mut report = answer(&made.engine, NOW, question).map_err(wrong)?;
    report.assumed = made.assumed;
    Ok(report)
}

fn wrong(c: Complaint) -> Failure {
    Failure::wrong("the question", c.why, c.help)
}

/// The engine for a question by a configuration alone.
///
/// # Errors
/// As [`ask`].
pub fn engine(plan: &Plan, question: &Question) -> Result<Made, Failure> {
    let made_up = "no connection is open yet; neighbours answer, with MAC addresses made up here";
    let mut assumed = vec![made_up.to_owned()];
    if plan.ports.iter().any(|p| p.mtu.is_none()) {
        assumed.push(format!("the MTU of a port is {MTU} unless the configuration says another"));
    }
    let mut net = net(plan, question).map_err(|wrong| Failure::ports(&wrong))?;
    let mut known: Vec<IpAddr> = plan.services.iter().flat_map(|(_, reals)| reals).map(|d| d.ip).collect();
    if let Some(text) = &question.flow {
        let flow: Flow = text.parse().map_err(wrong)?;
        known.extend([flow.src.ip(), flow.dst.ip()]);
    }
    if let Some(frame) = question.frame.as_deref().and_then(|hex| super::unhex(hex).ok()) {
        known.extend(ends(&frame, question.bare));
    }
    neighbors(&mut net, &known);
    let catalog = Catalog::new(Arc::new(net));
    let (mut catalog, _) =
        apply(plan, &catalog).map_err(|e| Failure::wrong("configuration", e.to_string(), ""))?;
    let options = EngineOptions {
        connection_limit: plan.connection_limit.min(CONNECTIONS),
        ..EngineOptions::default()
    };
    let engine = Engine::new(NOW, options, catalog.commit())
        .map_err(|e| Failure::run("cannot reserve memory", e.to_string(), ""))?;
    Ok(Made { engine, assumed })
}

/// The network of a configuration whose devices nobody opened.
///
/// # Errors
/// What cannot be, by port.
pub fn network(plan: &Plan) -> Result<NetPlan, Vec<(String, Complaint)>> {
    net(plan, &Question::flow(""))
}

fn net(plan: &Plan, question: &Question) -> Result<NetPlan, Vec<(String, Complaint)>> {
    let infos: Vec<_> = plan.ports.iter().enumerate().map(|(i, setup)| info(i, setup, question)).collect();
    plan.net_plan(&infos)
}

/// What the device of a port would say of itself.
fn info(at: usize, setup: &PortSetup, question: &Question) -> PortInfo {
    let link = if setup.device.is_l3() { Link::Ip } else { Link::Ethernet };
    let captured = || {
        let frame = question.frame.as_deref().filter(|_| !question.bare)?;
        let (to, _, _) = eth::read(&super::unhex(frame).ok()?)?;
        let here = question.port.as_ref().map_or(at == 0, |name| *name == setup.name);
        (here && !to.is_group()).then_some(to)
    };
    let made_up = Mac([0x02, 0, 0, 0, 0, at as u8 + 1]);
    let mac = match setup.mac {
        MacChoice::Own(mac) => mac,
        // a frame that was captured was for the director, or there would be no question
        _ => captured().unwrap_or(made_up),
    };
    PortInfo {
        name: setup.name.clone(),
        link,
        device_mac: None,
        mac: (link == Link::Ethernet).then_some(mac),
        mtu: setup.mtu.unwrap_or(MTU),
        offload: OffloadCaps::default(),
    }
}

/// Gives every next hop towards these addresses, and every gateway, a MAC address.
fn neighbors(net: &mut NetPlan, known: &[IpAddr]) {
    let host = Host::new(Mono::ZERO, Arc::new(net.clone()), 0);
    let gateways: Vec<(PortId, IpAddr)> = net
        .ports
        .iter()
        .enumerate()
        .flat_map(|(i, p)| {
            let both = [p.gateway.map(IpAddr::V4), p.gateway6.map(IpAddr::V6)];
            both.into_iter().flatten().map(move |g| (PortId(i as u16), g))
        })
        .collect();
    let hops = known.iter().filter_map(|ip| host.route(*ip)).filter(|r| !r.unreachable);
    let all: Vec<(PortId, IpAddr)> = gateways.into_iter().chain(hops.map(|r| (r.port, r.next_hop))).collect();
    for (n, (port, ip)) in all.into_iter().enumerate() {
        let is_new =
            |p: &PortPlan| p.link == Link::Ethernet && p.neighbors.iter().all(|(known, _)| *known != ip);
        if let Some(port) = net.ports.get_mut(usize::from(port.0)).filter(|p| is_new(p))
            && !host.owns(PortId(0), ip).is_unicast()
        {
            let n = n as u32 + 1;
            let [_, b, c, d] = n.to_be_bytes();
            port.neighbors.push((ip, Mac([0x02, 0xff, 0, b, c, d])));
        }
    }
}

/// Source and destination of a frame.
fn ends(frame: &[u8], bare: bool) -> Vec<IpAddr> {
    let link = if bare { Link::Ip } else { Link::Ethernet };
    match crate::wire::parse(frame, link) {
        Ok(crate::wire::Parsed::Ip(meta)) => vec![meta.src(frame), meta.dst(frame)],
        _ => Vec::new(),
    }
}
