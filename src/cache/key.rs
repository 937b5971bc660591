//! Under which key is something of a tenant kept in a cache outside of the database?
//!
//! Pure: no PostgreSQL call. A part is written as RFC 3986 writes any text in a URI (section 2.1): letters, digits and `-._~` stand for
//! themselves, and every other byte is a `%` and two digits, as `urllib.parse.quote(part, safe="")` has it, so that nothing in a part is taken
//! for what stands between parts.

/// The key of a resource of a tenant: no two have the same.
pub fn key(tenant: &[u8], kind: &[u8], id: &[u8]) -> String {
    let mut key = String::with_capacity(16 + tenant.len() + kind.len() + id.len());
    key.push_str("tenant");
    for part in [tenant, kind, id] {
        key.push(':');
        escape(part, &mut key);
    }
    key
}

fn escape(part: &[u8], key: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in part {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            key.push(char::from(*byte));
        } else {
            key.push('%');
            key.push(char::from(DIGITS[usize::from(byte >> 4)]));
            key.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_escaped() {
        assert_eq!(key(b"acme", b"agent", b"42"), "tenant:acme:agent:42");
        assert_eq!(key(b"a:b", b"x/y", b" *"), "tenant:a%3Ab:x%2Fy:%20%2A");
        assert_eq!(key(b"a%3Ab", b"", "\u{e9}".as_bytes()), "tenant:a%253Ab::%C3%A9");
    }

    fn unescape(part: &str) -> Vec<u8> {
        let mut bytes = part.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            let digits = [bytes.clone().next(), bytes.clone().nth(1)];
            match (byte, digits) {
                (b'%', [Some(high), Some(low)]) => {
                    bytes.nth(1);
                    let text = [high, low];
                    let text = std::str::from_utf8(&text).expect("digits");
                    out.push(u8::from_str_radix(text, 16).expect("two digits"));
                }
                _ => out.push(byte),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_key_has_one_meaning(parts in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..20))) {
            let key = key(&parts[0], &parts[1], &parts[2]);
            prop_assert!(key.is_ascii());
            let read: Vec<_> = key.split(':').skip(1).map(unescape).collect();
            prop_assert_eq!(read, parts.to_vec());
        }
    }
}
