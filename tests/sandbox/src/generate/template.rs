//! Bytes with holes of a fixed width: an object like thousands of others, of which only digests, sizes and times differ.

/// What makes objects of a kind differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    Name,
    Uid,
    Revision,
    Created,
    CreatedSeconds,
    Repository,
    Config,
    Size,
    Layer(usize),
    LayerSize(usize),
    LayerSizeVarint(usize),
}

/// An object in one encoding.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    holes: Vec<(usize, usize, Hole)>,
}

impl Template {
    /// A sample, in which each of these texts stands for its hole.
    pub(super) fn of(sample: Vec<u8>, marks: &[(Hole, Vec<u8>)]) -> Self {
        let mut holes = Vec::new();
        for (hole, mark) in marks {
            for (start, window) in sample.windows(mark.len()).enumerate() {
                if window == mark {
                    holes.push((start, mark.len(), *hole));
                }
            }
        }
        Self { bytes: sample, holes }
    }

    /// Writes an object: `fill` gets each hole with the bytes to put something into.
    pub(super) fn write(&self, out: &mut Vec<u8>, mut fill: impl FnMut(Hole, &mut [u8])) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for (at, length, hole) in &self.holes {
            fill(*hole, &mut out[start + at..start + at + length]);
        }
    }
}

/// Fills a hole with text of its width.
pub(super) fn text(hole: &mut [u8], text: &str) {
    hole.copy_from_slice(text.as_bytes());
}

/// Fills a hole with a decimal number of its width.
pub(super) fn decimal(hole: &mut [u8], mut number: u64) {
    for digit in hole.iter_mut().rev() {
        *digit = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
    assert_eq!(number, 0, "a number wider than its hole");
}

/// Fills a hole with a varint of its width.
pub(super) fn varint(hole: &mut [u8], mut number: u64) {
    let last = hole.len() - 1;
    for (position, byte) in hole.iter_mut().enumerate() {
        let more = if position < last { 0x80 } else { 0 };
        *byte = (number & 0x7f).to_le_bytes()[0] | more;
        number >>= 7;
    }
    assert_eq!(number, 0, "a number wider than its hole");
}

/// Fills a hole with a `sha256:` digest.
pub(super) fn digest(hole: &mut [u8], words: [u64; 4]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (algorithm, value) = hole.split_at_mut(7);
    algorithm.copy_from_slice(b"sha256:");
    for (word, hex) in words.iter().zip(value.chunks_exact_mut(16)) {
        for (byte, pair) in word.to_be_bytes().iter().zip(hex.chunks_exact_mut(2)) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
    }
}
