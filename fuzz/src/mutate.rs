//! Inputs made from inputs.

/// One input: the parts that a target names.
pub(crate) type Input = Vec<Vec<u8>>;

/// Longest part, in bytes: past every bound of what is fuzzed.
const PART_BYTES_MAX: usize = 10_000;

/// What random bytes seldom become.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\u0061",
    "\\",
    "null",
    "true",
    "0",
    "-1",
    "1e309",
    "9007199254740992",
    "18446744073709551615",
    "\"alg\":",
    "\"HS256\"",
    "\"ES256\"",
    "\"none\"",
    "\"kid\":",
    "\"typ\":\"JWT\"",
    "\"crit\":[]",
    "\"iss\":",
    "\"aud\":",
    "\"sub\":",
    "\"exp\":",
    "\"iat\":",
    "\"nbf\":",
    "\"jti\":",
    "\"tenant_id\":",
    "\"cnf\":{}",
    "\"keys\":[",
    "\"kty\":\"EC\"",
    "\"kty\":\"RSA\"",
    "\"kty\":\"OKP\"",
    "\"crv\":\"P-256\"",
    "\"x\":",
    "\"n\":",
    "\"e\":\"AQAB\"",
    "\"use\":\"sig\"",
    "\"d\":\"\"",
    ".",
    "..",
    "=",
    "Bearer ",
    "pck_live_",
    "__Host-sid=",
    ";",
    "%5f",
    "$",
    "\u{feff}",
    "\u{202e}",
    "\0",
];

/// SplitMix64: a run is told by its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// An input like one of the corpus, with a few changes.
pub(crate) fn mutated(corpus: &[Input], random: &mut Random) -> Input {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let part = random.below(input.len());
        let other = &corpus[random.below(corpus.len())][part];
        let bytes = &mut input[part];
        change(bytes, other, random);
        bytes.truncate(PART_BYTES_MAX);
    }
    input
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let span = |random: &mut Random, length: usize| {
        let from = random.below(length);
        from..from + 1 + random.below((length - from).min(40))
    };
    let is_empty = bytes.is_empty();
    let on = at.min(bytes.len().saturating_sub(1));
    match random.below(8) {
        0 if !is_empty => bytes[on] ^= 1 << random.below(8),
        1 if !is_empty => bytes[on] = random.below(256) as u8,
        2 if !is_empty => drop(bytes.drain(span(random, bytes.len()))),
        3 if !is_empty => {
            let copy = bytes[span(random, bytes.len())].to_vec();
            let times = [1, 1, 2, 9, 200][random.below(5)];
            bytes.splice(at..at, copy.repeat(times));
        }
        4 if !other.is_empty() => {
            let copy = other[span(random, other.len())].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => *bytes = other.to_vec(),
        _ => {
            let word = WORDS[random.below(WORDS.len())].as_bytes();
            bytes.splice(at..at, word.iter().copied());
        }
    }
}
