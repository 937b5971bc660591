//! Inputs by lot: what is nearly right, and what is as wrong as can be.

use tenancy_client_tests::random::Random;

const IDS: [&str; 10] = [
    "acme",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "7",
    "-9223372036854775808",
    "9223372036854775807",
    "b.c:d@e+f-g",
    "007",
    "A",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "tenant_id",
];
const PIECES: [&str; 36] = [
    "'",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "%s",
    "%",
    "$1",
    "*",
    ";",
    "--",
    "\n",
    "\r\n",
    "\t",
    "\u{1}",
    "\u{1b}[31m",
    "\u{7f}",
    " ",
    "ä",
    "а",
    "\u{202e}",
    "\u{feff}",
    "\u{fffd}",
    "😀",
    "e\u{301}",
    "\u{2028}",
    "NULL",
    "default",
    "../",
    "x-tenant-id",
    "-",
    ".",
];

pub fn id(random: &mut Random) -> String {
    random.pick(&IDS).to_owned()
}

/// Bytes; mostly text in UTF-8, sometimes not.
pub fn text(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.weighted(&[10, 3, 2, 1]) {
        0 => id(random).into_bytes(),
        1 => Vec::new(),
        2 => {
            let (piece, count) = (random.pick(&PIECES).to_owned(), random.below(160));
            piece.repeat(count).into_bytes()
        }
        _ => {
            let length = 120 + random.below(20);
            (0..length).map(|_| b"abcDEF09._:@+-"[random.below(14)]).collect()
        }
    };
    for _ in 0..random.weighted(&[2, 5, 3, 2, 1]) {
        let at = random.below(bytes.len() + 1);
        match random.weighted(&[6, 3, 3, 2, 1]) {
            0 => {
                let piece = random.pick(&PIECES).bytes();
                bytes.splice(at..at, piece);
            }
            1 if !bytes.is_empty() => {
                bytes.remove(at.min(bytes.len() - 1));
            }
            2 if !bytes.is_empty() => {
                let place = at.min(bytes.len() - 1);
                bytes[place] ^= 1 << random.below(8);
            }
            3 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
    }
    if random.below(5_000) == 0 {
        bytes = bytes.iter().copied().chain(*b"a").cycle().take(1 << (10 + random.below(11))).collect();
    }
    bytes
}

/// A text inside JSON.
fn string(random: &mut Random) -> String {
    let raw = text(random);
    let text = String::from_utf8_lossy(&raw[..raw.len().min(2_000)]);
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' || random.below(20) == 0 => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    quoted += &format!("\\u{unit:04x}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn number(random: &mut Random) -> String {
    match random.below(9) {
        0 => "0".into(),
        1 => "-0".into(),
        2 => format!("{}", random.below(1_000)),
        3 => "9223372036854775808".into(),
        4 => "1e400".into(),
        5 => format!("1e{}", random.below(20_000)),
        6 => format!("-1.{}e-{}", "0".repeat(random.below(400)), random.below(16_000)),
        7 => "9".repeat(1 + random.below(2_000)),
        _ => "0.1000000000000000055511151231257827".into(),
    }
}

fn key(random: &mut Random) -> String {
    match random.below(10) {
        0..4 => "\"tenant_id\"".into(),
        4 => "\"X-Tenant-ID\"".into(),
        5 => "\"x-tenant-id\"".into(),
        6 => "\"sub\"".into(),
        7 => "\"code\"".into(),
        8 => format!(
            "\"{}\"",
            random.pick(&["kty", "kid", "k", "alg", "use", "key_ops", "crv", "x", "n", "e"])
        ),
        _ => string(random),
    }
}

fn value(random: &mut Random, depth: usize) -> String {
    match random.weighted(&[8, 3, 1, 1, 1, if depth > 0 { 3 } else { 0 }, if depth > 0 { 3 } else { 0 }]) {
        0 => string(random),
        1 => number(random),
        2 => "null".into(),
        3 => "true".into(),
        4 => "false".into(),
        5 => object(random, depth - 1),
        _ => {
            let count = random.below(4);
            let items: Vec<_> = (0..count).map(|_| value(random, depth - 1)).collect();
            format!("[{}]", items.join(","))
        }
    }
}

fn object(random: &mut Random, depth: usize) -> String {
    let count = random.below(5);
    let fields: Vec<_> = (0..count).map(|_| format!("{}:{}", key(random), value(random, depth))).collect();
    format!("{{{}}}", fields.join(","))
}

/// JSON, mostly an object and mostly well-formed.
pub fn json(random: &mut Random) -> Vec<u8> {
    let depth = random.below(4);
    let mut json = match random.weighted(&[20, 3]) {
        0 => object(random, depth),
        _ => value(random, depth),
    };
    if random.below(60) == 0 {
        // Deeper than a parser that calls itself may like.
        let levels = [10, 100, 127, 128, 129, 500, 3_000, 20_000][random.below(8)];
        let (open, close) = if random.chance(50) { ("[", "]") } else { ("{\"tenant_id\":", "}") };
        json = format!("{{\"tenant_id\": {}{json}{}}}", open.repeat(levels), close.repeat(levels));
    }
    if random.below(5_000) == 0 {
        let many: Vec<_> =
            (0..3_000 + random.below(20_000)).map(|n| format!("\"k{n}\":{}", random.below(1_000))).collect();
        json = format!("{{{}}}", many.join(","));
    }
    let mut bytes = json.into_bytes();
    if random.chance(4) && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

/// A host name, more or less.
pub fn host(random: &mut Random) -> Vec<u8> {
    let labels = 1 + random.below(4);
    let mut host: Vec<Vec<u8>> = Vec::new();
    for _ in 0..labels {
        host.push(match random.below(4) {
            0 => text(random),
            1 => b"acme".to_vec(),
            2 => random
                .pick(&["www", "api", "com", "localhost", "127", "xn--80ak6aa92e", "-", ""])
                .as_bytes()
                .to_vec(),
            _ => vec![b'a' + random.below(26) as u8; random.below(70)],
        });
    }
    let mut host = host.join(&b'.');
    host.extend_from_slice(random.pick(&["", "", ":80", ":", ":x", ".", "\n", "/path"]).as_bytes());
    host
}
