//! What this transaction has changed, and how many transactions have.
//!
//! As the transaction commits it adds a random number to an entry of `_tenancy.cache_changes`, for each tenant and type. Entries are added up: two
//! snapshots have the same sum only where they see the same transactions, of whatever history, up to a chance of one in 2^64. A snapshot sees
//! the number where it sees the change itself.
//!
//! Nobody waits: an entry that another transaction is adding to is left alone, so there are as many as have committed at the same time. A
//! backend remembers the one that it added to last.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::pg::{
    self,
    insert::{Place, Table, Value},
    scan::{self, Relations},
    xact::{self, Event},
};
use crate::resource::Resource;
use crate::tenant::TenantId;

// Columns of _tenancy.cache_changes.
const CHANGES: i32 = 3;

/// How often entries are looked for that others have all added to meanwhile, before there is one more.
const ATTEMPTS: usize = 3;

/// Whose rows have changed (none: everybody's), and of which type (none: of every).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    pub tenant: Option<TenantId>,
    pub kind: Option<Resource>,
}

impl Scope {
    /// As the table has it.
    fn columns(&self) -> [&[u8]; 2] {
        [
            self.tenant.as_ref().map_or(b"", TenantId::as_bytes),
            self.kind.as_ref().map_or(b"", Resource::as_bytes),
        ]
    }

    /// Those that it is part of, itself the first.
    fn all(self) -> [Scope; 4] {
        let (tenant, kind) = (self.tenant, self.kind);
        [(tenant, kind), (None, kind), (tenant, None), (None, None)]
            .map(|(tenant, kind)| Scope { tenant, kind })
    }
}

struct Change {
    scope: Scope,
    /// The nesting level at which it was made first.
    level: i32,
    /// Whoever listens is to hear of it.
    is_told: bool,
}

#[derive(Default)]
struct Changes {
    all: Vec<Change>,
    /// What the transaction has added to, when it commits: where, and what is there then.
    added: Vec<(Scope, Place, i64)>,
}

thread_local! {
    static CHANGES_MADE: RefCell<Changes> = RefCell::new(Changes::default());
    /// Where this backend has added to last, and what was there then; until the table is another.
    static PLACES: RefCell<HashMap<Scope, (Place, i64)>> = RefCell::new(HashMap::new());
    /// This backend, and how many changes it has made or taken back.
    static MARK: RefCell<(u64, u64)> = const { RefCell::new((0, 0)) };
}

/// As many places are remembered.
const MOST_PLACES: usize = 4096;

pub fn init() {
    xact::listen(|event| match event {
        Event::BeforeCommit => write(true),
        // PostgreSQL prepares no transaction that notifies.
        Event::BeforePrepare => write(false),
        event => CHANGES_MADE.with_borrow_mut(|changes| changes.note(event)),
    });
}

/// The table of entries may be another: rows may be elsewhere.
pub fn forget_places() {
    PLACES.with_borrow_mut(HashMap::clear);
}

/// A text that no other transaction has, and this one only until its next change.
pub fn mark() -> String {
    MARK.with_borrow_mut(|(backend, count)| {
        if *backend == 0 {
            *backend = u64::from_ne_bytes(pg::random()) | 1;
        }
        format!("{backend:x}.{count}")
    })
}

fn count_change() {
    MARK.with_borrow_mut(|(_, count)| *count += 1);
}

impl Changes {
    fn note(&mut self, event: Event) {
        match event {
            Event::SubCommitted(level) => {
                for change in self.all.iter_mut().filter(|change| change.level >= level) {
                    change.level = level - 1;
                }
            }
            Event::SubAborted(level) => {
                self.all.retain(|change| change.level < level);
                count_change();
            }
            Event::Committed => {
                let added = std::mem::take(self).added;
                PLACES.with_borrow_mut(|places| {
                    if places.len() + added.len() > MOST_PLACES {
                        places.clear();
                    }
                    places.extend(added.into_iter().map(|(scope, place, sum)| (scope, (place, sum))));
                });
            }
            event if event.is_end() => *self = Changes::default(),
            _ => {}
        }
    }
}

/// Notes a change, which others see when the transaction commits.
pub fn note(scope: Scope, is_told: bool) {
    count_change();
    CHANGES_MADE.with_borrow_mut(|changes| {
        match changes.all.iter_mut().find(|change| change.scope == scope) {
            Some(change) => change.is_told |= is_told,
            None => changes.all.push(Change { scope, level: xact::level(), is_told }),
        }
    });
}

/// Whether this transaction has changed some of it, and not committed.
pub fn is_changed(scope: Scope) -> bool {
    CHANGES_MADE.with_borrow(|changes| changes.all.iter().any(|change| scope.all().contains(&change.scope)))
}

fn write(can_notify: bool) {
    let made = CHANGES_MADE.with_borrow_mut(|changes| std::mem::take(&mut changes.all));
    if made.is_empty() {
        return;
    }
    // The transaction may have dropped the extension, and with it all versions.
    let Some(relations) = super::changes_table() else { return };
    let table = Table::open(relations.table);
    made.iter().for_each(|change| add(&table, relations, change.scope));
    let told = made.iter().filter(|change| can_notify && change.is_told);
    let mut channel = None;
    for change in told {
        let [tenant, kind] = change.scope.columns().map(|part| String::from_utf8_lossy(part));
        let or_null = |part: &str| if part.is_empty() { serde_json::Value::Null } else { part.into() };
        let payload = serde_json::json!({"tenant_id": or_null(&tenant), "resource_type": or_null(&kind)});
        pg::notify::notify(channel.get_or_insert_with(super::channel), &payload.to_string());
    }
}

/// Adds to an entry that nobody else is adding to, or makes one.
fn add(table: &Table, relations: Relations, scope: Scope) {
    let columns = scope.columns();
    let number = i64::from_ne_bytes(pg::random());
    let row = |sum| [Value::Text(columns[0]), Value::Text(columns[1]), Value::Bigint(sum)];
    // What is there is known by the number: no other entry has it.
    let try_at = |(place, sum): (_, i64)| {
        let to = sum.wrapping_add(number);
        table.try_update(place, (CHANGES, sum), row(to)).map(|place| (place, to))
    };
    let known = PLACES.with_borrow_mut(|places| places.remove(&scope));
    let mut added = known.and_then(try_at);
    // A look at the others would be a conflict with whoever adds to one.
    if added.is_none() && !xact::is_serializable() {
        for _ in 0..ATTEMPTS {
            let read = |row: &scan::Row| (row.place(), row.bigint(CHANGES).unwrap_or(0));
            let entries = scan::rows(relations, &columns, read);
            let is_none = entries.is_empty();
            added = entries.into_iter().find_map(try_at);
            if added.is_some() || is_none {
                break;
            }
        }
    }
    let added = added.or_else(|| Some((table.insert_one(row(number))?, number)));
    if let Some((place, sum)) = added {
        CHANGES_MADE.with_borrow_mut(|changes| changes.added.push((scope, place, sum)));
    }
}

/// What the transactions that the current query sees have added.
pub fn sum(relations: Relations, scope: Scope) -> i64 {
    let read = |scope: Scope| scan::seen_rows(relations, &scope.columns(), |row| row.bigint(CHANGES));
    scope.all().into_iter().flat_map(read).flatten().fold(0, i64::wrapping_add)
}
