//! What a tenant id is.
//!
//! Guarantees: an id has exactly one spelling (`TenantId::parse` returns it), so two registered tenants can
//! never meet in a `uuid` or `bigint` column. Does not know whether the tenant exists: see `registry`.
//! Pure: no PostgreSQL call, so that it is tested and fuzzed without a server.
//!
//! `sql/schema/20_tenants.sql` repeats the two forms as generated columns; a test compares both.

use std::hash::{Hash, Hasher};

/// The most bytes an id may have. Room for a domain-like name, small enough to sit in fixed buffers.
pub const MAX_LEN: usize = 128;

/// The bytes that an id may have.
const ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let is_other = matches!(byte as u8, b'.' | b'_' | b':' | b'@' | b'+' | b'-');
        allowed[byte] = is_other || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    allowed
};

/// A well-formed tenant id in its one spelling.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TenantId {
    len: u8,
    bytes: [u8; MAX_LEN],
}

impl Hash for TenantId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Why a text is not a tenant id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Empty,
    TooLong,
    Character,
}

impl Malformed {
    pub fn reason(self) -> &'static str {
        match self {
            Malformed::Empty => "it is empty",
            Malformed::TooLong => "it is longer than 128 characters",
            Malformed::Character => "it has a character other than letters, digits and . _ : @ + -",
        }
    }
}

impl TenantId {
    /// The id of no tenant: `parse` returns no such one.
    pub const NONE: TenantId = TenantId { len: 0, bytes: [0; MAX_LEN] };

    /// What stands for the tenants of a scope in which there are several: no id, as `parse` returns no such one.
    pub fn scope(number: i64) -> TenantId {
        let text = format!("(cross-tenant scope {number})");
        let mut id = TenantId { len: 0, bytes: [0; MAX_LEN] };
        for (to, from) in id.bytes.iter_mut().zip(text.bytes()) {
            *to = from;
            id.len += 1;
        }
        id
    }

    /// The same from its text.
    pub fn parse_scope(text: &[u8]) -> Option<TenantId> {
        let number = text.strip_prefix(b"(cross-tenant scope ")?.strip_suffix(b")")?;
        Some(TenantId::scope(std::str::from_utf8(number).ok()?.parse().ok()?))
    }

    /// Whether it stands for several.
    pub fn is_scope(&self) -> bool {
        self.bytes[0] == b'('
    }

    /// Returns the id in its one spelling: a UUID in lower case, anything else as it stands.
    pub fn parse(text: &[u8]) -> Result<TenantId, Malformed> {
        let mut id = TenantId::NONE;
        id.read(text).map(|()| id)
    }

    /// The same in the place of another, or of part of it where the text is malformed.
    pub fn read(&mut self, text: &[u8]) -> Result<(), Malformed> {
        match text.len() {
            0 => return Err(Malformed::Empty),
            n if n > MAX_LEN => return Err(Malformed::TooLong),
            n => self.len = n as u8,
        }
        self.bytes = [0; MAX_LEN];
        for (to, from) in self.bytes.iter_mut().zip(text) {
            if !ALLOWED[usize::from(*from)] {
                return Err(Malformed::Character);
            }
            *to = *from;
        }
        if uuid_of(text).is_some() {
            self.bytes.make_ascii_lowercase();
        }
        Ok(())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        // Only ASCII gets past `parse`, so the fallback is unreachable; it fails closed: "" is never registered.
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// The id followed by a NUL at least.
    pub fn as_c_str(&self) -> [u8; MAX_LEN + 1] {
        let mut text = [0; MAX_LEN + 1];
        text[..MAX_LEN].copy_from_slice(&self.bytes);
        text
    }

    /// The id as a `uuid` column holds it; none unless it is written 8-4-4-4-12.
    pub fn uuid(&self) -> Option<[u8; 16]> {
        uuid_of(self.as_str().as_bytes())
    }

    /// The id as a `bigint` column holds it; none unless it is that number's usual spelling, so `007` is not `7`.
    pub fn bigint(&self) -> Option<i64> {
        let number: i64 = self.as_str().parse().ok()?;
        (number.to_string() == self.as_str()).then_some(number)
    }
}

fn uuid_of(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|&i| text.get(i) != Some(&b'-')) {
        return None;
    }
    let mut digits = text.iter().enumerate().filter(|(i, _)| ![8, 13, 18, 23].contains(i)).map(|(_, b)| *b);
    let mut out = [0u8; 16];
    for byte in &mut out {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> TenantId {
        TenantId::parse(text.as_bytes()).expect("well-formed")
    }

    #[test]
    fn refuses_what_could_confuse() {
        assert_eq!(TenantId::parse(b"").err(), Some(Malformed::Empty));
        assert_eq!(TenantId::parse(&[b'a'; 129]).err(), Some(Malformed::TooLong));
        for bad in ["a b", "*", "a,b", "a'b", "a\"b", "a\nb", "a\0b", "ä", "{a}", "a/b", "%", "а"] {
            assert_eq!(TenantId::parse(bad.as_bytes()).err(), Some(Malformed::Character), "{bad}");
        }
        assert_eq!(parse(&"a".repeat(128)).as_str().len(), 128);
    }

    #[test]
    fn one_spelling_per_uuid_and_number() {
        let upper = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
        assert_eq!(parse(upper).as_str(), upper.to_lowercase());
        assert!(parse(upper) == parse(&upper.to_lowercase()));
        assert!(parse("a0eebc999c0b4ef8bb6d6bb9bd380a11").uuid().is_none());
        assert_eq!(parse("-9223372036854775808").bigint(), Some(i64::MIN));
        for not in ["007", "+7", "-0", "7.0", "9223372036854775808", "a", "-"] {
            assert_eq!(parse(not).bigint(), None, "{not}");
        }
        assert!(parse("Acme") != parse("acme"));
    }

    /// What is nearly an id, compared with what an id is said to be; TENANCY_CASES says how many (CI: 100,000).
    #[test]
    fn mutated_ids() {
        let cases = std::env::var("TENANCY_CASES").map_or(100_000, |text| text.parse().expect("a number"));
        let seeds =
            ["acme", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "-9223372036854775808", "0", "b.c:d@e+f-g"];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let (mut accepted, mut uuids, mut numbers) = (0, 0, 0);
        for _ in 0..cases {
            let mut text = seeds[random(seeds.len())].as_bytes().to_vec();
            if random(20) == 0 {
                text = text.repeat(1 + random(40));
            }
            for _ in 0..random(4) {
                let at = random(text.len() + 1);
                match random(5) {
                    0 => text.insert(at, random(256) as u8),
                    1 => text.insert(at, b"0123456789abcdefABCDEF-+._:@ "[random(29)]),
                    2 if at < text.len() => text[at] ^= 1 << random(8),
                    3 if at < text.len() => drop(text.remove(at)),
                    _ => text.make_ascii_uppercase(),
                }
            }
            let good = |c: char| c.is_ascii_alphanumeric() || "._:@+-".contains(c);
            let expected =
                str::from_utf8(&text).is_ok_and(|t| (1..=128).contains(&t.len()) && t.chars().all(good));
            let Ok(id) = TenantId::parse(&text) else {
                assert!(!expected, "{text:?}");
                continue;
            };
            assert!(expected && id.as_bytes().eq_ignore_ascii_case(&text), "{text:?}");
            assert!(TenantId::parse(id.as_bytes()) == Ok(id));
            assert!(id.as_bytes() == text || id.uuid().is_some(), "{text:?}");
            // The forms of two ids are the same only where the ids are.
            if let Some(uuid) = id.uuid() {
                let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, id.as_str().replace('-', ""));
                uuids += 1;
            }
            if let Some(number) = id.bigint() {
                assert_eq!(number.to_string(), id.as_str());
                numbers += 1;
            }
            accepted += 1;
        }
        println!("{accepted} of {cases} are ids, {uuids} UUIDs, {numbers} numbers");
        assert!([accepted, uuids, numbers].iter().all(|n| n * 50 > cases), "hardly any was tried");
    }

    proptest! {
        #[test]
        fn never_panics_and_parsing_is_idempotent(text in "\\PC{0,140}") {
            if let Ok(id) = TenantId::parse(text.as_bytes()) {
                prop_assert!(TenantId::parse(id.as_str().as_bytes()) == Ok(id));
                let _ = (id.uuid(), id.bigint());
            }
        }

        #[test]
        fn numbers_round_trip(number: i64) {
            prop_assert_eq!(parse(&number.to_string()).bigint(), Some(number));
        }

        #[test]
        fn uuids_round_trip(number: u128) {
            let hex = format!("{number:032X}");
            let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
            prop_assert_eq!(parse(&text).uuid(), Some(number.to_be_bytes()));
        }

        #[test]
        fn two_ids_share_no_form(a in "[0-9+-]{1,4}", b in "[0-9+-]{1,4}") {
            let (a, b) = (parse(&a), parse(&b));
            prop_assert!(a == b || a.bigint().is_none() || a.bigint() != b.bigint());
        }
    }
}
