//! Tells in which slot of a Cluster a session is, from its cookie.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

use daypass_testbed::redis::cluster::SLOTS;

/// The slot of the session whose cookie this is: `name=value`. `None` when it is no cookie of ours.
pub(crate) fn of_cookie(cookie: &str) -> Option<u16> {
    let (_, value) = cookie.split_once('=')?;
    Some(of_key(&record(value)?))
}

/// The key of a session's record, as far as its slot depends on it.
fn record(value: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"daypass session key v1\0");
    hash.update(&bytes);
    let hash = URL_SAFE_NO_PAD.encode(hash.finish().as_ref());
    Some(format!("s:{{{hash}}}"))
}

/// The slot of a key: CRC16/XMODEM of its hash tag.
pub(crate) fn of_key(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map_or(key, |(tag, _)| tag);
    let mut crc: u16 = 0;
    for byte in hashed.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use daypass::session::SessionId;

    use super::*;

    #[test]
    fn a_cookie_leads_to_the_slot_of_its_record() {
        // From the Cluster specification.
        assert_eq!(of_key("123456789"), 0x31C3);
        assert_eq!(of_key("daypass:s:{123456789}"), 0x31C3);
        let id = SessionId::generate();
        let record = record(id.expose()).expect("a cookie");
        let hash = record.split(['{', '}']).nth(1).expect("a tag");
        let bytes = URL_SAFE_NO_PAD.decode(hash).expect("base64");
        let short = bytes[..6]
            .iter()
            .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        assert_eq!(format!("{short:012x}"), id.record_key().short());
    }
}
