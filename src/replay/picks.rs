//! Recorded scheduling decisions: which real server a packet went to, told by the frame's address.

use std::net::IpAddr;

use super::compare::{Context, Emitted, first_difference, step_name, verdict};
use super::decode;
use super::frame::routed;
use super::scenario::Scenario;
use crate::addr::Mac;

/// Compares the recorded picks with what was sent. Each pick is `STEP CLIENT:PORT>DST SERVER`, `-` for
/// a packet that no server got. Picks were recorded over direct routing, so the whole frame is known.
pub(super) fn check(s: &Scenario, got: &[Emitted], cx: &Context<'_>) -> Result<(), String> {
    let whole_frames = s.expect.is_none();
    for pick in &s.picks {
        let words: Vec<_> = pick.split_whitespace().collect();
        let [step, flow, server] = words[..] else {
            return Err(format!("pick `{pick}` has not three words"));
        };
        let step: usize = step.parse().map_err(|_| format!("pick `{pick}` has no step"))?;
        let sent = got.iter().filter(|g| g.step == step).find_map(|g| Some((g, server_of(s, &g.bytes)?)));
        let name = step_name(step, cx);
        match (server, sent) {
            ("-", None) => {}
            ("-", Some((_, ip))) => return Err(format!("{name}: {flow} went to {ip}, expected no server")),
            (want, None) => {
                return Err(format!("{name}: {flow} went nowhere ({}), expected {want}", verdict(step, cx)));
            }
            (want, Some((_, ip))) if want.parse() != Ok(ip) => {
                return Err(format!("{name}: {flow} went to {ip}, expected {want}"));
            }
            (_, Some((g, _))) if whole_frames => {
                let Some(Some(input)) = cx.inputs.get(step) else { continue };
                let mac = |at: usize| Mac([0, 1, 2, 3, 4, 5].map(|i| g.bytes[at + i]));
                let want = routed(input, mac(0), mac(6));
                if let Some(at) = first_difference(&want, &g.bytes, &[]) {
                    return Err(format!(
                        "{name}: byte {at} differs from the packet routed on: {}",
                        decode::frame(&g.bytes)
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The neighbour a frame was sent to, gateways left out.
fn server_of(s: &Scenario, frame: &[u8]) -> Option<IpAddr> {
    let to = Mac(frame.get(..6)?.try_into().ok()?);
    s.ports.iter().flat_map(|p| p.neigh.iter().map(move |n| (p, n))).find_map(|(p, n)| {
        let gateway = p.gateway.map(IpAddr::V4) == Some(n.ip) || p.gateway6.map(IpAddr::V6) == Some(n.ip);
        // one MAC may have an address of each family: the frame says which is meant
        let family = n.ip.is_ipv6() == (frame.get(12..14) == Some(&[0x86, 0xdd]));
        (!gateway && family && n.mac.parse() == Ok(to)).then_some(n.ip)
    })
}
