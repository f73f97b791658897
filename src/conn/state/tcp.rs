//! TCP as seen from the middle (IPVS-RULES 73 to 76, vectors `6-state-*`).

use super::Seen;
use super::State::{
    self, TcpClose as CL, TcpCloseWait as CW, TcpEstablished as ES, TcpFinWait as FW, TcpLastAck as LA,
    TcpListen as LI, TcpSynAck as SA, TcpSynRecv as SR, TcpSynSent as SS, TcpTimeWait as TW,
};

/// Rows by flag (SYN, FIN, ACK, RST), columns by state in the kernel's order.
type Table = [[State; 11]; 4];

//                       NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
const INPUT: Table = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];
const OUTPUT: Table = [
    /* syn */ [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];
const INPUT_ONLY: Table = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

// under attack a connection is established only when the client has answered the server's SYN-ACK with
// something the server liked; until then it is SYNACK, which `drop_entry` may drop
const ATTACK_INPUT: Table = [
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
    /* ack */ [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];
const ATTACK_OUTPUT: Table = [
    /* syn */ [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];
const ATTACK_INPUT_ONLY: Table = [
    /* syn */ [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

/// Priority of flags: RST, SYN, FIN, ACK; none of them closes (IPVS-RULES 75).
#[inline(always)]
pub(super) fn step(state: State, seen: Seen, flags: u8) -> State {
    let table = match seen {
        Seen::Input => &INPUT,
        Seen::Output => &OUTPUT,
        Seen::InputOnly => &INPUT_ONLY,
    };
    by(table, state, flags)
}

/// The same under attack.
pub(super) fn step_attack(state: State, seen: Seen, flags: u8) -> State {
    let table = match seen {
        Seen::Input => &ATTACK_INPUT,
        Seen::Output => &ATTACK_OUTPUT,
        Seen::InputOnly => &ATTACK_INPUT_ONLY,
    };
    by(table, state, flags)
}

#[inline]
fn by(table: &Table, state: State, flags: u8) -> State {
    let row = match flags & 0x17 {
        f if f & 0x04 != 0 => 3,
        f if f & 0x02 != 0 => 0,
        f if f & 0x01 != 0 => 1,
        0x10 => 2,
        _ => return CL,
    };
    table[row].get(state as usize).copied().unwrap_or(CL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u8 = 2;
    const A: u8 = 0x10;
    const F: u8 = 1;
    const R: u8 = 4;

    fn run(steps: &[(Seen, u8)]) -> State {
        steps.iter().fold(State::TcpNone, |s, (seen, flags)| step(s, *seen, *flags))
    }

    #[test]
    fn a_nat_session_ends_in_time_wait() {
        use Seen::{Input, Output};
        assert_eq!(run(&[(Input, S), (Output, S | A)]), SR);
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A)]), ES);
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A), (Input, F | A)]), CW);
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A), (Input, F | A), (Output, F | A)]), TW);
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A), (Output, F | A)]), FW);
    }

    #[test]
    fn under_attack_only_the_server_ends_the_doubt() {
        let run =
            |steps: &[(Seen, u8)]| steps.iter().fold(State::TcpNone, |s, (d, f)| step_attack(s, *d, *f));
        use Seen::{Input, InputOnly, Output};
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A), (Input, F | A)]), SA);
        assert_eq!(run(&[(Input, S), (Output, S | A), (Input, A), (Output, A)]), ES);
        assert_eq!(run(&[(InputOnly, S)]), SA);
        assert_eq!(run(&[(InputOnly, S), (InputOnly, A)]), ES);
    }

    #[test]
    fn one_way_sessions_stay_in_fin_wait() {
        use Seen::InputOnly;
        assert_eq!(run(&[(InputOnly, S), (InputOnly, A), (InputOnly, F | A), (InputOnly, A)]), FW);
        assert_eq!(run(&[(InputOnly, S), (InputOnly, A), (InputOnly, R)]), CL);
    }

    #[test]
    fn a_client_reset_of_a_half_open_connection_changes_nothing() {
        assert_eq!(run(&[(Seen::Input, S), (Seen::Input, R)]), SR);
        assert_eq!(run(&[(Seen::Input, S), (Seen::Output, R | A)]), CL);
    }

    #[test]
    fn a_packet_without_flags_closes() {
        assert_eq!(run(&[(Seen::Input, S), (Seen::Input, A), (Seen::Input, 0)]), CL);
        assert_eq!(run(&[(Seen::Input, S), (Seen::Input, A), (Seen::Input, 0x28)]), CL);
    }
}
