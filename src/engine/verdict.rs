//! What became of a packet. Every packet in ends in exactly one verdict, every drop has one name.

use crate::svc::WorkerId;

/// Index of a port in the configuration's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// The answer of the engine for one packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet, as it now is, on this port.
    Send(PortId),
    /// The packet was used up here; nothing of it is to be sent by the caller.
    Taken(Taken),
    /// The packet is another worker's and is to be given to it as it is. Only with several workers.
    HandTo(WorkerId),
    /// The packet is dropped.
    Drop(DropReason),
}

/// Ways in which a packet is used up without being forwarded itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was for the director itself (ARP, neighbour discovery, echo, what got a reset or an error).
    Local,
    /// It waits for its next hop's MAC address, a copy is kept.
    Parked,
    /// It was sent as several packets through [`crate::buf::Out`] (segments, fragments).
    Split,
    /// It is a fragment kept until its datagram is complete.
    Reassembling,
    /// It completed a datagram that was given to the worker it belongs to. Only with several workers.
    Handed,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped. The name is the counter, the metrics label and the trace text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)* }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];
            /// The label in counters, metrics and traces.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
            /// One line for people: what it means.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+),)* }
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than a link header.
    ShortFrame = "short_frame",
    /// The frame is for another station (destination MAC is not ours).
    OtherStation = "other_station",
    /// A unicast IP packet came in a broadcast or multicast frame.
    GroupFrame = "group_frame",
    /// An EtherType the director does not handle.
    EtherType = "ethertype",
    /// The frame ends before the IP header does.
    ShortIpHeader = "short_ip_header",
    /// The IP version does not match the EtherType.
    BadVersion = "bad_version",
    /// The IPv4 header length field is below 20 or beyond the frame.
    BadIpHeaderLength = "bad_ip_header_length",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad_ip_checksum",
    /// The IP length field is below the header or beyond the frame.
    BadIpLength = "bad_ip_length",
    /// An IPv6 extension header is cut off, or there are too many.
    BadExtension = "bad_extension",
    /// The transport header is cut off.
    ShortTransport = "short_transport",
    /// The source address can be nobody's (loopback, multicast, broadcast, zero, or our own).
    MartianSource = "martian_source",
    /// The destination address can be nobody's.
    MartianDestination = "martian_destination",
    /// Not for us, and forwarding is off.
    NotOurs = "not_ours",
    /// An ARP packet that makes no sense or is not for us.
    BadArp = "bad_arp",
    /// A neighbour discovery packet that fails RFC 4861's checks or is not for us.
    BadNd = "bad_nd",
    /// An ICMP or ICMPv6 packet with a wrong checksum.
    BadIcmpChecksum = "bad_icmp_checksum",
    /// A TCP or UDP packet to the director itself with a wrong checksum.
    BadTransportChecksum = "bad_transport_checksum",
    /// An ICMP message the director has no use for.
    IcmpIgnored = "icmp_ignored",
    /// An ICMP error about a connection the director does not have.
    IcmpNoConnection = "icmp_no_connection",
    /// The TTL or hop limit ran out; the sender was told unless the rate limit was reached.
    TtlExpired = "ttl_expired",
    /// No route to the destination.
    NoRoute = "no_route",
    /// A route says unreachable.
    Unreachable = "unreachable",
    /// The next hop does not answer ARP or neighbour solicitations.
    NeighborFailed = "neighbor_failed",
    /// Too many packets wait for this next hop already.
    NeighborQueueFull = "neighbor_queue_full",
    /// The table of neighbours is full.
    NeighborTableFull = "neighbor_table_full",
    /// Larger than the MTU of the way out and not to be fragmented; the sender was told.
    TooBig = "too_big",
    /// No service takes it, and nothing is answered: `closed = "drop"`, or it is a reset itself.
    NoService = "no_service",
    /// The packet belongs to no connection and cannot begin one; answered with a reset where it can be.
    NotSyn = "not_syn",
    /// The service has no real server that could take the connection.
    NoDestination = "no_destination",
    /// The connection's real server was removed (`expire_nodest_conn = 0`: dropped in silence).
    DestinationGone = "destination_gone",
    /// The connection table has reached `connection_limit`.
    TableFull = "table_full",
    /// Too many tuples fall on one place of the connection table, which by chance they never do.
    TableCrowded = "table_crowded",
    /// Every real server already has a live connection with the same reply tuple.
    ReplyTupleTaken = "reply_tuple_taken",
    /// FULLNAT: no local address and port is free towards this real server.
    LocalPortsExhausted = "local_ports_exhausted",
    /// FULLNAT: no local address of the packet's family.
    NoLocalAddress = "no_local_address",
    /// The forwarding method cannot carry this packet (another family without a tunnel, DR over an L3 port).
    CannotForward = "cannot_forward",
    /// The packet buffer has no room for the outer header.
    NoHeadroom = "no_headroom",
    /// The protocol is not one that is balanced.
    Protocol = "protocol",
    /// IPv4 options that make no sense; the sender was told.
    BadIpOptions = "bad_ip_options",
    /// A source route: nobody's packets are led around by their senders.
    SourceRoute = "source_route",
    /// A fragment that cannot be used (overlap, bad length, or beyond 65,535 bytes).
    BadFragment = "bad_fragment",
    /// Memory for fragments is used up.
    FragmentLimit = "fragment_limit",
    /// A super-frame that cannot be cut into segments.
    BadSegmentation = "bad_segmentation",
    /// A partial checksum whose position does not fit the packet.
    BadOffload = "bad_offload",
    /// A tunnel packet to the VIP itself, or nested deeper than configured.
    Nested = "nested",
    /// A GRE or GUE header that is cut off, asks for what is not spoken here, or fails its checksum.
    BadTunnel = "bad_tunnel",
    /// The defence `drop_packet` dropped a new connection.
    DropPacketDefence = "drop_packet_defence",
    /// The persistence engine did not find what it needs in the packet.
    PersistenceData = "persistence_data",
    /// The worker that the packet belongs to has too many waiting already.
    HandoverFull = "handover_full",
    /// The device refused the packet (queue full).
    DeviceFull = "device_full",
    /// The device refused the packet (too long, or an offload it cannot do).
    DeviceRefused = "device_refused",
    /// The device is gone or down.
    DeviceDown = "device_down",
}

/// Packets dropped, by reason.
#[derive(Clone, Debug)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> DropCounters {
        DropCounters([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one drop.
    #[inline]
    pub fn count(&mut self, why: DropReason) {
        self.0[why as usize] += 1;
    }
    /// Adds what another worker counted.
    pub fn add(&mut self, other: &DropCounters) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum += n);
    }
    /// How often packets were dropped for this reason.
    pub fn of(&self, why: DropReason) -> u64 {
        self.0[why as usize]
    }
    /// All drops.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
    /// Reasons seen at least once, with their counts.
    pub fn seen(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|r| (*r, self.of(*r))).filter(|(_, n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_label() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn counters_add_up() {
        let mut c = DropCounters::default();
        c.count(DropReason::NoRoute);
        c.count(DropReason::NoRoute);
        c.count(DropReason::TooBig);
        assert_eq!((c.of(DropReason::NoRoute), c.total()), (2, 3));
        assert_eq!(c.seen().count(), 2);
    }
}
