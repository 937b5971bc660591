//! What is the name of a resource, something that is counted?
//!
//! Pure: no PostgreSQL call.

use std::hash::{Hash, Hasher};

/// The name of something that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Resource {
    len: u8,
    bytes: [u8; Resource::MAX_LEN],
}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Resource {
    /// The most bytes of a name, as of PostgreSQL's own.
    const MAX_LEN: usize = 63;

    /// The name of nothing: `parse` returns no such one.
    pub const NONE: Resource = Resource { len: 0, bytes: [0; Resource::MAX_LEN] };

    /// A name has 1 to 63 letters, digits or characters of `. _ : / -`.
    pub fn parse(name: &[u8]) -> Option<Resource> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._:/-".contains(b);
        let is_good = (1..=Resource::MAX_LEN).contains(&name.len()) && name.iter().all(allowed);
        is_good.then(|| {
            let mut bytes = [0; Resource::MAX_LEN];
            bytes[..name.len()].copy_from_slice(name);
            Resource { len: name.len() as u8, bytes }
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        // Only ASCII gets past `parse`.
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_or_refused() {
        for good in ["orders", "api.calls", "tokens/gpt-4", "a", &"r".repeat(63)] {
            assert_eq!(
                Resource::parse(good.as_bytes()).map(|name| name.as_str().to_owned()).as_deref(),
                Some(good)
            );
        }
        for bad in ["", "a b", "a'b", "ä", "a\0", &"r".repeat(64)] {
            assert!(Resource::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
