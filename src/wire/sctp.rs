//! SCTP common header (RFC 9260) and its CRC32c (appendix A).

use super::be32;

/// Length of the common header.
pub const LEN: usize = 12;

/// Offsets in the common header.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Verification tag.
    pub const TAG: usize = 4;
    /// CRC32c, least significant byte first.
    pub const CHECKSUM: usize = 8;
}

/// The checksum of a packet, its field taken as zero; as the number that goes into the field big-endian.
/// `None` when the packet is shorter than the common header.
pub fn checksum(packet: &[u8]) -> Option<u32> {
    let (header, chunks) = packet.split_at_checked(LEN)?;
    let crc = update(update(!0, &header[..field::CHECKSUM]), &[0; 4]);
    Some((!update(crc, chunks)).swap_bytes())
}

/// Stores the right checksum; `None` when the packet is shorter than the common header.
pub fn fill(packet: &mut [u8]) -> Option<()> {
    let sum = checksum(packet)?;
    packet[field::CHECKSUM..LEN].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// True when the stored checksum is right.
pub fn checksum_ok(packet: &[u8]) -> bool {
    checksum(packet).is_some_and(|c| c == be32(packet, field::CHECKSUM))
}

/// Reflected Castagnoli polynomial.
const POLY: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: what byte `b` does to the CRC when `k` more bytes follow ("slicing by eight").
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut b = 0;
    while b < 256 {
        let mut crc = b as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ POLY } else { crc >> 1 };
            bit += 1;
        }
        t[0][b] = crc;
        b += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut b = 0;
        while b < 256 {
            let before = t[k - 1][b];
            t[k][b] = before >> 8 ^ t[0][(before & 0xff) as usize];
            b += 1;
        }
        k += 1;
    }
    t
}

fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<8>();
    for b in blocks {
        let x = crc ^ u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        crc = TABLES[7][(x & 0xff) as usize]
            ^ TABLES[6][(x >> 8 & 0xff) as usize]
            ^ TABLES[5][(x >> 16 & 0xff) as usize]
            ^ TABLES[4][(x >> 24) as usize]
            ^ TABLES[3][b[4] as usize]
            ^ TABLES[2][b[5] as usize]
            ^ TABLES[1][b[6] as usize]
            ^ TABLES[0][b[7] as usize];
    }
    for b in rest {
        crc = crc >> 8 ^ TABLES[0][((crc ^ u32::from(*b)) & 0xff) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_check_values() {
        // RFC 3720 appendix B.4
        assert_eq!(!update(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!update(!0, &[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(!update(!0, &up), 0x46dd_794e);
        assert_eq!(!update(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pieces_give_the_crc_of_the_whole() {
        let data: Vec<u8> = (0..100u32).map(|i| (i * 31 + 5) as u8).collect();
        for cut in 0..data.len() {
            assert_eq!(update(update(!0, &data[..cut]), &data[cut..]), update(!0, &data));
        }
    }

    #[test]
    fn short_packets_have_no_checksum() {
        assert_eq!(checksum(&[0; 11]), None);
        assert!(!checksum_ok(&[0; 11]));
        assert_eq!(fill(&mut [0; 11]), None);
    }
}
