//! What this transaction has changed, and how many transactions have.
//!
//! An entry of `_tenancy.cache_changes` is written as the transaction commits, for each tenant and type: nobody waits for anybody, and a
//! snapshot sees it where it sees the change itself. Each has the number of transactions that it stands for, so that entries can be put
//! together while others write and read. On a primary and on its standbys, what one snapshot sees is part of what a later one does, so
//! the sum is the same where the changes are.

use std::cell::RefCell;

use crate::error::internal;
use crate::pg::{
    self,
    insert::{Table, Value},
    text::Text,
    xact::{self, Event},
};
use crate::resource::Resource;
use crate::tenant::TenantId;

// Columns of _tenancy.cache_changes.
const CHANGES: i32 = 3;

/// Of every so many transactions, one puts entries together.
const PUT_TOGETHER: u64 = 16;

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
    let table = super::table(c"cache_changes");
    let number = [Value::Bigint(1)];
    let rows = made.iter().map(|change| {
        let [tenant, kind] = change.scope.columns();
        [Value::Text(tenant), Value::Text(kind), number[0]]
    });
    Table::open(table).insert(rows);
    // Not where a row that another has put together with others is an error.
    if !xact::keeps_snapshot() && is_turn() {
        // No query is running, whose snapshot this would be.
        pg::query::at_latest(|| made.iter().for_each(|change| put_together(table, change.scope)));
    }
    let told = made.iter().filter(|change| can_notify && change.is_told);
    let mut channel = None;
    for change in told {
        let [tenant, kind] = change.scope.columns().map(|part| String::from_utf8_lossy(part));
        let or_null = |part: &str| if part.is_empty() { serde_json::Value::Null } else { part.into() };
        let payload = serde_json::json!({"tenant_id": or_null(&tenant), "resource_type": or_null(&kind)});
        pg::notify::notify(channel.get_or_insert_with(super::channel), &payload.to_string());
    }
}

/// By the number of the transaction, mixed, so that each session has its turn.
fn is_turn() -> bool {
    (xact::full_id() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & (PUT_TOGETHER - 1) == 0
}

/// Makes one entry of those that nobody else puts together.
pub fn put_together(table: pg::Oid, scope: Scope) {
    let [tenant, kind] = scope.columns().map(|part| Text::of(part).argument());
    let command = "WITH gone AS (
            DELETE FROM _tenancy.cache_changes c WHERE c.ctid = ANY (ARRAY(
                SELECT o.ctid FROM _tenancy.cache_changes o WHERE o.tenant_id = $1 AND o.resource_type = $2 LIMIT 1000 FOR UPDATE SKIP LOCKED))
            RETURNING c.changes)
        INSERT INTO _tenancy.cache_changes (tenant_id, resource_type, changes)
            SELECT $1, $2, sum(g.changes)::bigint FROM gone g HAVING count(*) > 0";
    pg::query::run_planned(table, command, &[tenant, kind]).unwrap_or_else(|error| internal(error));
}

/// How many transactions that the current query sees have changed it.
pub fn count(relations: pg::scan::Relations, scope: Scope) -> i64 {
    let read = |scope: Scope| pg::scan::seen_rows(relations, &scope.columns(), |row| row.bigint(CHANGES));
    scope.all().into_iter().flat_map(read).flatten().fold(0, i64::wrapping_add)
}
