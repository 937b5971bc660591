//! What chains the entries of the audit trail?
//!
//! Each entry carries a SHA-256 hash of itself and of the hash of the entry before it in its segment; the first one, of where the segment
//! begins. So whoever changes, removes or moves an entry would have to change every later one of its segment.
//! The idea is that of Haber and Stornetta, "How to time-stamp a digital document" (1991).
//! Pure: no PostgreSQL call. The order and form of the fields never change: hashes are kept for years.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// What an entry says, as it is stored: texts in the encoding of the database.
#[derive(Clone, Copy, Default)]
pub struct Entry<'a> {
    /// None where it is of no tenant.
    pub tenant: Option<&'a [u8]>,
    /// Microseconds since 2000-01-01 UTC.
    pub recorded_at: i64,
    pub operation: &'a [u8],
    pub relation: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    pub old: Option<&'a [u8]>,
    pub new: Option<&'a [u8]>,
    pub detail: Option<&'a [u8]>,
    pub actor: Option<&'a [u8]>,
    pub role: &'a [u8],
    pub session: &'a [u8],
    pub transaction: i64,
}

/// Where a segment begins: after an entry of another segment of the same tenant, if it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub segment: i64,
    pub number: i64,
    pub hash: Hash,
}

/// Fields, one after the other: hashed at once, which costs less than one by one.
struct Hasher(Vec<u8>);

impl Hasher {
    fn new(what: &[u8]) -> Hasher {
        let mut fields = Vec::with_capacity(1024);
        fields.extend_from_slice(what);
        Hasher(fields)
    }

    /// With its length, so that no two lists of fields are the same bytes.
    fn bytes(mut self, field: Option<&[u8]>) -> Hasher {
        let length = field.map_or(u64::MAX, |field| field.len() as u64);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(field.unwrap_or_default());
        self
    }

    fn number(mut self, number: i64) -> Hasher {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn finish(self) -> Hash {
        Sha256::digest(&self.0).into()
    }
}

/// What the first entry of a segment is chained to.
pub fn start(tenant: Option<&[u8]>, segment: i64, after: Option<&Link>) -> Hash {
    let hasher = Hasher::new(b"tenancy audit segment").bytes(tenant).number(segment);
    match after {
        None => hasher.bytes(None),
        Some(link) => hasher.bytes(Some(&link.hash)).number(link.segment).number(link.number),
    }
    .finish()
}

/// The hash of an entry, the `number`th of its segment, after the one with the hash `previous`.
pub fn hash(previous: &Hash, segment: i64, number: i64, entry: &Entry) -> Hash {
    Hasher::new(b"tenancy audit entry")
        .bytes(Some(previous))
        .number(segment)
        .number(number)
        .bytes(entry.tenant)
        .number(entry.recorded_at)
        .bytes(Some(entry.operation))
        .bytes(entry.relation)
        .bytes(entry.key)
        .bytes(entry.old)
        .bytes(entry.new)
        .bytes(entry.detail)
        .bytes(entry.actor)
        .bytes(Some(entry.role))
        .bytes(Some(entry.session))
        .number(entry.transaction)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry {
        tenant: Some(b"acme"),
        recorded_at: 1,
        operation: b"UPDATE",
        relation: Some(b"public.orders"),
        key: Some(b"{\"id\":1}"),
        old: Some(b"{\"n\":1}"),
        new: Some(b"{\"n\":2}"),
        detail: None,
        actor: Some(b"ann"),
        role: b"app",
        session: b"1.2",
        transaction: 7,
    };

    #[test]
    fn every_field_counts() {
        let (start, of) = (start(Some(b"acme"), 5, None), hash);
        let original = of(&start, 5, 1, &ENTRY);
        let others = [
            Entry { tenant: None, ..ENTRY },
            Entry { tenant: Some(b"beta"), ..ENTRY },
            Entry { recorded_at: 2, ..ENTRY },
            Entry { operation: b"DELETE", ..ENTRY },
            Entry { relation: None, ..ENTRY },
            Entry { key: Some(b"{\"id\":2}"), ..ENTRY },
            Entry { old: None, ..ENTRY },
            Entry { old: ENTRY.new, new: ENTRY.old, ..ENTRY },
            Entry { new: Some(b""), ..ENTRY },
            Entry { detail: Some(b"{}"), ..ENTRY },
            Entry { actor: None, ..ENTRY },
            Entry { role: b"ap", session: b"p1.2", ..ENTRY },
            Entry { session: b"1.3", ..ENTRY },
            Entry { transaction: 8, ..ENTRY },
        ];
        let mut hashes: Vec<Hash> = others.iter().map(|entry| of(&start, 5, 1, entry)).collect();
        hashes.extend([
            of(&start, 5, 2, &ENTRY),
            of(&start, 6, 1, &ENTRY),
            of(&original, 5, 1, &ENTRY),
            original,
        ]);
        for (place, one) in hashes.iter().enumerate() {
            assert!(hashes.iter().skip(place + 1).all(|other| other != one), "{place}");
        }
    }

    #[test]
    fn every_start_is_another() {
        let link = Link { segment: 1, number: 2, hash: [3; 32] };
        let starts = [
            start(None, 5, None),
            start(Some(b""), 5, None),
            start(Some(b"acme"), 5, None),
            start(Some(b"acme"), 6, None),
            start(Some(b"acme"), 5, Some(&link)),
            start(Some(b"acme"), 5, Some(&Link { segment: 2, ..link })),
            start(Some(b"acme"), 5, Some(&Link { number: 1, ..link })),
            start(Some(b"acme"), 5, Some(&Link { hash: [4; 32], ..link })),
        ];
        for (place, one) in starts.iter().enumerate() {
            assert!(starts.iter().skip(place + 1).all(|other| other != one), "{place}");
        }
    }

    #[test]
    fn hashes_stay_what_they_are() {
        let first = start(Some(b"acme"), 5, None);
        let hex = |hash: Hash| hash.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(first), "61c7ac5d49cd06ea80c4c85615e1c1086093f6f3eb30dfab86ffa18393b86a3f");
        assert_eq!(
            hex(hash(&first, 5, 1, &ENTRY)),
            "90d8b3468ba78670b1e47201d025d142b5b87f883c8d7f7e1a27d29b010f59e6"
        );
    }
}
