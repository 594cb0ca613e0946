//! Follows the frames of a WebSocket as far as to know where one ends, and makes the one that closes it (RFC 6455).

use bytes::Bytes;

use crate::metrics::StreamEnd;

/// Where the bytes sent so far leave a WebSocket. Reads the frames' headers only, in constant space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frames {
    /// The header of the frame that has begun.
    header: [u8; LONGEST_HEADER],
    /// How much of it is there.
    have: usize,
    /// What is left of the frame's payload.
    payload: u64,
    /// The peer has closed, or what was sent is no WebSocket: there is nothing to add.
    closed: bool,
}

impl Frames {
    /// These bytes were sent.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.closed {
            if self.payload > 0 {
                let step =
                    usize::try_from(self.payload).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.payload -= step as u64;
                bytes = &bytes[step..];
                continue;
            }
            let wanted = self.header_length();
            let step = (wanted - self.have).min(bytes.len());
            self.header[self.have..self.have + step].copy_from_slice(&bytes[..step]);
            self.have += step;
            bytes = &bytes[step..];
            // The first two bytes may have told of more.
            if self.have == self.header_length() {
                self.begin_payload();
            }
        }
    }

    /// Whether a close frame has begun: no other follows it (§5.5.1).
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a frame of ours may come next: after a whole frame, also between the fragments of a message (§5.4).
    pub fn takes_close(&self) -> bool {
        !self.closed && self.have == 0 && self.payload == 0
    }

    /// Bytes of the header as far as it is known (§5.2).
    fn header_length(&self) -> usize {
        if self.have < SHORTEST_HEADER {
            return SHORTEST_HEADER;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        SHORTEST_HEADER + extended + mask
    }

    fn begin_payload(&mut self) {
        let length = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => {
                let mut long = [0; 8];
                long.copy_from_slice(&self.header[2..10]);
                u64::from_be_bytes(long)
            }
            short => u64::from(short),
        };
        let closes = self.header[0] & 0x0f == CLOSE;
        // The most significant bit must be 0: beyond it nobody knows what is meant.
        self.closed = closes || length > i64::MAX.cast_unsigned();
        self.payload = length;
        self.have = 0;
    }
}

/// The frame that tells a client why its WebSocket ends. Unmasked, as from a server (§5.1).
pub fn close(why: StreamEnd) -> Bytes {
    let (code, text) = match why {
        StreamEnd::Revoked => (POLICY, "session revoked"),
        StreamEnd::Expired => (POLICY, "session expired"),
        StreamEnd::Idle => (POLICY, "session idle"),
        StreamEnd::StoreUnavailable => (TRY_AGAIN, "store unavailable"),
    };
    let mut frame = Vec::with_capacity(4 + text.len());
    // Shorter than 126, which one byte tells.
    let length = u8::try_from(2 + text.len()).unwrap_or(2);
    frame.extend_from_slice(&[0x80 | CLOSE, length]);
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame.into()
}

const SHORTEST_HEADER: usize = 2;
const LONGEST_HEADER: usize = 14;
/// Opcode of a close frame.
const CLOSE: u8 = 8;
/// Policy violation (§7.4.1): what libraries do not answer by connecting again at once.
const POLICY: u16 = 1008;
/// Try again later, from the registry of close codes (§11.7).
const TRY_AGAIN: u16 = 1013;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as §5.2 draws it.
    fn frame(first: u8, payload: &[u8], mask: bool) -> Vec<u8> {
        let masked = if mask { 0x80 } else { 0 };
        let mut frame = vec![first];
        let length = payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..126), _) => frame.push(masked | short),
            (_, Ok(middle)) => {
                frame.push(masked | 0x7e);
                frame.extend_from_slice(&middle.to_be_bytes());
            }
            _ => {
                frame.push(masked | 0x7f);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if mask {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_close_frame_fits_between_frames_only() {
        let text = frame(0x81, b"hello", false);
        for (name, sent, want) in [
            ("nothing yet", vec![], true),
            ("half a header", text[..1].to_vec(), false),
            ("a header", text[..2].to_vec(), false),
            ("half a payload", text[..4].to_vec(), false),
            ("a whole frame", text.clone(), true),
            ("a first fragment", frame(0x01, b"hel", false), true),
            ("an empty frame", frame(0x81, b"", false), true),
            (
                "half a long header",
                frame(0x82, &[0; 300], false)[..3].to_vec(),
                false,
            ),
            ("a masked frame", frame(0x82, &[0; 300], true), true),
            (
                "the server's own close",
                frame(0x88, &[3, 232], false),
                false,
            ),
            (
                "anything after a close",
                [frame(0x88, &[], false), text].concat(),
                false,
            ),
            (
                "a length that cannot be",
                vec![0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0],
                false,
            ),
        ] {
            let mut frames = Frames::default();
            frames.passed(&sent);
            assert_eq!(frames.takes_close(), want, "{name}");
        }
    }

    #[test]
    fn the_close_frame_is_one_and_fits_a_control_frame() {
        for why in StreamEnd::ALL {
            let bytes = close(*why);
            // §5.5: at most 125 bytes of payload, not fragmented.
            assert_eq!(bytes[0], 0x88);
            assert_eq!(usize::from(bytes[1]), bytes.len() - 2);
            assert!(bytes.len() <= 127);
            let mut frames = Frames::default();
            frames.passed(&bytes);
            assert!(frames.closed && frames.payload == u64::from(bytes[1]));
        }
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let lengths = prop_oneof![0_usize..4, 120_usize..130, 65_530_usize..65_540];
        let one = (
            prop_oneof![0_u8..8, 9_u8..16],
            any::<u8>(),
            lengths,
            any::<bool>(),
        );
        let one = one.prop_map(|(opcode, bits, length, mask)| {
            frame((bits & 0xf0) | opcode, &vec![bits; length], mask)
        });
        proptest::collection::vec(one, 0..5)
    }

    proptest! {
        #[test]
        fn the_pieces_that_frames_come_in_do_not_matter(
            frames in frames(),
            sizes in proptest::collection::vec(1_usize..70_000, 1..40),
        ) {
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let all = frames.concat();
            let (mut follower, mut at) = (Frames::default(), 0);
            for size in sizes.iter().cycle() {
                let next = (at + size).min(all.len());
                follower.passed(&all[at..next]);
                at = next;
                let boundary = at == 0 || ends.contains(&at);
                prop_assert_eq!(follower.takes_close(), boundary, "after {} of {}", at, all.len());
                if at == all.len() { break }
            }
        }

        #[test]
        fn arbitrary_bytes_mean_the_same_at_once_and_one_by_one(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (mut once, mut each) = (Frames::default(), Frames::default());
            once.passed(&bytes);
            for byte in &bytes {
                each.passed(&[*byte]);
            }
            prop_assert_eq!(once.takes_close(), each.takes_close());
            prop_assert_eq!((once.have, once.payload, once.closed), (each.have, each.payload, each.closed));
        }
    }
}
