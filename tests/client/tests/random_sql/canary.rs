//! Values that tell whose row they are from, and the search for those of others in whatever the server says.

use std::collections::BTreeSet;

pub const TENANTS: usize = 3;
const MARKS: [&str; TENANTS] = ["kqxalf", "kqxbet", "kqxgam"];

/// How a world writes its tenants' ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ids {
    Text,
    Uuid,
    Bigint,
    Integer,
}

impl Ids {
    pub fn id(self, tenant: usize) -> String {
        match self {
            Ids::Text => MARKS[tenant].to_owned(),
            Ids::Uuid => format!("f1c{0}f1c{0}-0000-4000-8000-000000000000", tenant + 1),
            Ids::Bigint => number(tenant, 99_999).to_string(),
            Ids::Integer => key(tenant, 9_999).to_string(),
        }
    }
}

/// A value of a column `id`; `row` is below 10,000.
pub fn key(tenant: usize, row: usize) -> i32 {
    (190_461 + tenant as i32) * 10_000 + row as i32
}

/// A value of a column `n`.
pub fn number(tenant: usize, row: usize) -> i64 {
    (73_190_461 + tenant as i64) * 100_000_000_000 + row as i64
}

/// A value of a column `s`.
pub fn text(tenant: usize, row: usize) -> String {
    format!("{}-r{row}", MARKS[tenant])
}

fn is_of(token: &str, tenant: usize) -> bool {
    let mark = MARKS[tenant];
    let (reversed, hex): (String, String) =
        (mark.chars().rev().collect(), mark.bytes().map(|byte| format!("{byte:02x}")).collect());
    let uuid = format!("f1c{0}f1c{0}", tenant + 1);
    let number = (73_190_461 + tenant).to_string();
    // A key is a whole number of ten digits; the first six alone could be part of anything.
    let key = (190_461 + tenant).to_string();
    let is_key = |part: &str| part.len() == 10 && part.starts_with(&key);
    [mark, &reversed, &hex, &uuid, &number].iter().any(|mark| token.contains(*mark))
        || token.split(|c: char| !c.is_ascii_digit()).any(is_key)
}

/// The words of a text that bear a mark of a tenant other than this one.
pub fn foreign(text: &str, tenant: usize) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .filter(|token| token.len() >= 6)
        .map(str::to_ascii_lowercase)
        .filter(|token| (0..TENANTS).any(|other| other != tenant && is_of(token, other)))
        .collect()
}

#[test]
fn canaries_are_recognised() {
    for ids in [Ids::Text, Ids::Uuid, Ids::Bigint, Ids::Integer] {
        assert_eq!(foreign(&ids.id(1), 0).len(), 1, "{ids:?}");
        assert!(foreign(&ids.id(1), 1).is_empty(), "{ids:?}");
    }
    let leaks = [
        key(2, 17).to_string(),
        format!("({},{})", key(0, 3), text(2, 3)),
        number(2, 7).to_string(),
        format!("{}.50000", number(2, 7)),
        format!("x{}", text(2, 1).to_uppercase()),
        format!("{{\"k\": \"{}\"}}", text(2, 1)),
        "mag".to_owned() + "xqk",
        "\\x6b717867616d2d72".to_owned(),
    ];
    for leak in leaks {
        assert_eq!(foreign(&leak, 0).len(), 1, "{leak}");
    }
    assert!(foreign("1904639 cost=190463.00 19046301234567", 0).is_empty());
}
