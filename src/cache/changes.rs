//! What this transaction has changed, and how many transactions have.
//!
//! As the transaction commits it is counted in an entry of `_tenancy.cache_changes`, for each tenant and type: in one that no other transaction
//! is counting itself in, so nobody waits, and there are as many entries as transactions have committed at the same time. A snapshot sees
//! the count where it sees the change itself. On a primary and on its standbys, what one snapshot sees is part of what a later one
//! does, so the sum is the same only where the changes are.

use std::cell::RefCell;

use crate::pg::{
    self,
    insert::{Table, Value},
    scan::{self, Relations},
    xact::{self, Event},
};
use crate::resource::Resource;
use crate::tenant::TenantId;

// Columns of _tenancy.cache_changes.
const CHANGES: i32 = 3;

/// How often entries are looked for that others have all changed meanwhile, before there is one more.
const ATTEMPTS: usize = 3;

/// Whose rows have changed (none: everybody's), and of which type (none: of every).
#[derive(Clone, Copy, PartialEq, Eq)]
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
    /// Grows with each, and where some are taken back.
    count: u64,
}

thread_local! {
    static CHANGES_MADE: RefCell<Changes> = RefCell::new(Changes::default());
}

pub fn init() {
    xact::listen(|event| match event {
        Event::BeforeCommit => write(true),
        // PostgreSQL prepares no transaction that notifies.
        Event::BeforePrepare => write(false),
        event => CHANGES_MADE.with_borrow_mut(|changes| changes.note(event)),
    });
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
                self.count += 1;
            }
            event if event.is_end() => *self = Changes::default(),
            _ => {}
        }
    }
}

/// Notes a change, which others see when the transaction commits.
pub fn note(scope: Scope, is_told: bool) {
    CHANGES_MADE.with_borrow_mut(|changes| {
        changes.count += 1;
        match changes.all.iter_mut().find(|change| change.scope == scope) {
            Some(change) => change.is_told |= is_told,
            None => changes.all.push(Change { scope, level: xact::level(), is_told }),
        }
    });
}

/// A mark of what this transaction has changed and not committed, if it has.
pub fn uncommitted(scope: Scope) -> Option<u64> {
    CHANGES_MADE.with_borrow(|changes| {
        let is_changed = changes.all.iter().any(|change| scope.all().contains(&change.scope));
        is_changed.then_some(changes.count)
    })
}

fn write(can_notify: bool) {
    let made = CHANGES_MADE.with_borrow_mut(|changes| std::mem::take(&mut changes.all));
    if made.is_empty() {
        return;
    }
    // The transaction may have dropped the extension, and with it all versions.
    let Some(relations) = super::changes_table() else { return };
    let table = Table::open(relations.table);
    made.iter().for_each(|change| count_one(&table, relations, change.scope));
    let told = made.iter().filter(|change| can_notify && change.is_told);
    let mut channel = None;
    for change in told {
        let [tenant, kind] = change.scope.columns().map(|part| String::from_utf8_lossy(part));
        let or_null = |part: &str| if part.is_empty() { serde_json::Value::Null } else { part.into() };
        let payload = serde_json::json!({"tenant_id": or_null(&tenant), "resource_type": or_null(&kind)});
        pg::notify::notify(channel.get_or_insert_with(super::channel), &payload.to_string());
    }
}

/// Counts this transaction: in an entry that nobody else is changing, or in one of its own.
fn count_one(table: &Table, relations: Relations, scope: Scope) {
    let columns = scope.columns();
    let row = |changes| [Value::Text(columns[0]), Value::Text(columns[1]), Value::Bigint(changes)];
    for _ in 0..ATTEMPTS {
        let read = |row: &scan::Row| (row.place(), row.bigint(CHANGES).unwrap_or(0));
        let entries = scan::rows(relations, &columns, read);
        if entries.is_empty() {
            break;
        }
        if entries.into_iter().any(|(place, changes)| table.try_update(place, row(changes.wrapping_add(1)))) {
            return;
        }
    }
    table.insert_one(row(1));
}

/// How many transactions that the current query sees have changed it.
pub fn count(relations: Relations, scope: Scope) -> i64 {
    let read = |scope: Scope| scan::seen_rows(relations, &scope.columns(), |row| row.bigint(CHANGES));
    scope.all().into_iter().flat_map(read).flatten().fold(0, i64::wrapping_add)
}
