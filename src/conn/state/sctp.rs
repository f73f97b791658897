//! SCTP as seen from the middle: four-way handshakes begun by either side (vectors `1-fwd-*-sctp*`).

use super::Seen;
use super::State::{
    self, SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR,
    SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

/// Rows by event, columns by state: NONE I1 IN CS CR CW CO CE ES SS SR SA RJ CL.
type Table = [[State; 14]; 10];

const INPUT: Table = [
    /* data              */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* INIT              */ [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    /* INIT ACK          */ [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ECHO       */ [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ACK        */ [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    /* SHUTDOWN          */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* SHUTDOWN ACK      */ [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    /* SHUTDOWN COMPLETE */ [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    /* ERROR             */ [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    /* ABORT             */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];
const OUTPUT: Table = [
    /* data              */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* INIT              */ [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    /* INIT ACK          */ [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ECHO       */ [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ACK        */ [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* SHUTDOWN          */ [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    /* SHUTDOWN ACK      */ [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    /* SHUTDOWN COMPLETE */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ERROR             */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ABORT             */ [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
];
const INPUT_ONLY: Table = [
    /* data              */ [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* INIT              */ [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    /* INIT ACK          */ [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ECHO       */ [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* COOKIE ACK        */ [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* SHUTDOWN          */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* SHUTDOWN ACK      */ [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    /* SHUTDOWN COMPLETE */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    /* ERROR             */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ABORT             */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

const DATA: usize = 0;
const ABORT: usize = 9;

/// The event of a packet, from its chunks (everything behind the 12-byte common header): the first chunk
/// decides, except that an ABORT bundled behind COOKIE ECHO or COOKIE ACK wins (RFC 9260 section 3.3.7).
/// `None` when there is no whole chunk header.
pub fn chunk_event(chunks: &[u8]) -> Option<usize> {
    let first = chunks.get(..4)?;
    let event = event_of(first[0]);
    if matches!(first[0], 10 | 11) {
        let len = usize::from(u16::from_be_bytes([first[2], first[3]]));
        let second = chunks.get(len.next_multiple_of(4)..).and_then(|c| c.get(..4));
        if len >= 4 && second.is_some_and(|c| c[0] == 6) {
            return Some(ABORT);
        }
    }
    Some(event)
}

fn event_of(chunk: u8) -> usize {
    match chunk {
        1 => 1,
        2 => 2,
        6 => ABORT,
        7 => 5,
        8 => 6,
        9 => 8,
        10 => 3,
        11 => 4,
        14 => 7,
        _ => DATA,
    }
}

pub(super) fn step(state: State, seen: Seen, event: usize) -> State {
    let table = match seen {
        Seen::Input => &INPUT,
        Seen::Output => &OUTPUT,
        Seen::InputOnly => &INPUT_ONLY,
    };
    let column = (state as usize).wrapping_sub(State::SctpNone as usize);
    table.get(event).and_then(|row| row.get(column)).copied().unwrap_or(CL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_nat_association() {
        use Seen::{Input, Output};
        let steps = [
            (Input, 1u8, "INIT1"),
            (Output, 2, "C-SENT"),
            (Input, 10, "C-REPLIED"),
            (Output, 11, "ESTABLISHED"),
            (Input, 0, "ESTABLISHED"),
            (Input, 7, "S-RECEIVED"),
            (Output, 8, "S-ACK-SENT"),
            (Input, 14, "CLOSED"),
        ];
        let mut s = State::SctpNone;
        for (seen, chunk, want) in steps {
            s = step(s, seen, chunk_event(&[chunk, 0, 0, 4]).unwrap());
            assert_eq!(s.name(), want, "chunk {chunk}");
        }
    }

    #[test]
    fn an_abort_behind_a_cookie_echo_decides() {
        assert_eq!(chunk_event(&[10, 0, 0, 6, 1, 2, 0, 0, 6, 0, 0, 4]), Some(ABORT));
        assert_eq!(chunk_event(&[10, 0, 0, 6, 1, 2, 0, 0, 0, 0, 0, 4]), Some(3));
        assert_eq!(chunk_event(&[10, 0, 0]), None);
        assert_eq!(chunk_event(&[10, 0, 0, 0, 6, 0, 0, 4]), Some(3));
    }
}
