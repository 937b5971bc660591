//! What transactions use of resources, counted exactly and without a hot row.
//!
//! Guarantees: what is charged counts from the statement on (`reserved`), so that concurrent transactions together never
//! pass a limit; it becomes used when the transaction has committed, and is given back when it, or the subtransaction that
//! charged, is rolled back. The ledger is written at commit, in the transaction, so a crash loses nothing and invents nothing.
//! Does not decide what the limits are: `quota` does.
//!
//! With the library preloaded, the counters are in shared memory (`cells`). Without, or where no cell is free, whoever charges
//! against a limit locks the row of the total (`_tenancy.usage_totals`) and adds up the ledger: slower, equally exact.
//! The idea of reserving first is escrow: P. O'Neil, "The Escrow Transactional Method", ACM TODS 11(4), 1986.
//!
//! A transaction may give back and take again: its reservation covers the most that its charges add up to at any
//! savepoint, since it can roll back to each.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};

use serde_json::Value;

mod cells;
mod ledger;
mod transaction;

use crate::error::Error;
use crate::period::{Moment, PERIODS, Period, starts};
use crate::pg::{
    self,
    xact::{self, Event},
};
use crate::resource::Resource;
use crate::tenant::TenantId;
pub use cells::Amount;
use transaction::{Ask, Counter, Detail, Hold, Pending, State, TOP, Transaction};

/// Who uses what, and in which ledger that is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    ledger: pg::Oid,
    tenant: TenantId,
    resource: Resource,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i64(Key::hash(self));
    }
}

/// The most that may be used in each of `PERIODS`; none where that is not limited.
pub type Maximums = [Option<i64>; 4];

/// A charge that would pass a limit.
pub struct Refused {
    pub period: Period,
    pub current: i64,
    pub maximum: i64,
}

/// What was used and reserved, before and after a charge.
#[derive(Clone, Copy, Default)]
pub struct Levels {
    pub before: [i64; 4],
    pub after: [i64; 4],
}

/// What a charge is entered as.
#[derive(Clone)]
pub enum Note {
    /// With others of its hour.
    Merged,
    /// By itself, with what the application wants to keep.
    Metadata(Value),
    /// By itself: counting anew found a difference. It is no use of any period.
    Correction,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::new(Transaction::default());
    static LEDGER: Cell<Option<pg::Oid>> = const { Cell::new(None) };
}

/// Asks for shared memory, if it can be had, and listens to transactions.
pub fn init(cells: fn() -> usize) {
    pg::shmem::init::<cells::Cell>(cells);
    xact::listen(|event| match event {
        Event::BeforeCommit => write(),
        Event::BeforePrepare => {
            write();
            prepare();
        }
        // A backend that is terminated comes here from where it was, without unwinding; so nothing that can wait or raise runs
        // while the transaction is borrowed.
        Event::Committed | Event::Prepared | Event::Aborted => {
            if is_used() {
                TRANSACTION.take().end(event);
            }
        }
        Event::SubCommitted(level) => TRANSACTION.with_borrow_mut(|t| t.sub_committed(level)),
        Event::SubAborted(level) => TRANSACTION.with_borrow_mut(|t| t.sub_aborted(level)),
    });
    pg::inval::listen(|changed| {
        if changed.is_none() || changed == LEDGER.get() {
            LEDGER.set(None);
        }
    });
}

fn is_used() -> bool {
    TRANSACTION.with_borrow(|transaction| !transaction.pending.is_empty())
}

fn ledger() -> Option<pg::Oid> {
    LEDGER.get().or_else(|| {
        let found = pg::scan::relation(c"_tenancy", c"usage_open");
        LEDGER.set(found);
        found
    })
}

/// Who uses what, in this database.
pub fn key(tenant: &TenantId, resource: &Resource) -> Key {
    let Some(ledger) = ledger() else { Error::NotInstalled.raise() };
    Key { ledger, tenant: *tenant, resource: *resource }
}

impl Key {
    /// A hash of tenant and resource: FNV-1a, of which the ledger keeps the values, so it never changes.
    fn hash(&self) -> i64 {
        let bytes = self.tenant.as_bytes().iter().chain(&[0]).chain(self.resource.as_bytes());
        bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        }) as i64
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub fn resource(&self) -> &Resource {
        &self.resource
    }
}

/// Charges an amount, which may be negative: what is given back. Refuses a positive one that would pass a maximum.
pub fn charge(key: &Key, amount: i64, maximums: &Maximums, note: Note) -> Result<Levels, Refused> {
    let now = xact::statement_began();
    let place = pending(key, now);
    let base = base(place, amount > 0 && maximums.iter().any(Option::is_some), now);
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.save(place);
        let pending = &mut transaction.pending[place];
        let in_periods = if matches!(note, Note::Correction) { 0 } else { amount.max(0) };
        let ask = Ask { keep: [amount, in_periods], charge: [amount, in_periods] };
        let levels = pending.take(&ask, maximums, &base, now)?;
        // The clock may be behind that of the backend which began the period.
        let hour = pending.state.holds[Period::Hour as usize].since;
        let at = now.max(hour);
        match note {
            Note::Merged => pending.state.note(hour, at, amount),
            note => {
                pending.details.truncate(pending.state.details);
                pending.details.push(Detail { at, amount, note });
                pending.state.details = pending.details.len();
            }
        }
        Ok(levels)
    })
}

/// Keeps room for an amount until the transaction ends, so that charging it will not be refused.
pub fn keep_room(key: &Key, amount: i64, maximums: &Maximums) -> Result<Levels, Refused> {
    let now = xact::statement_began();
    let place = pending(key, now);
    let base = base(place, maximums.iter().any(Option::is_some), now);
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.save(place);
        let ask = Ask { keep: [amount, amount], charge: [0, 0] };
        transaction.pending[place].take(&ask, maximums, &base, now)
    })
}

/// Whether an amount could be charged now.
pub fn has_room(key: &Key, amount: i64, maximums: &Maximums) -> Result<(), Refused> {
    let amounts = amounts(key);
    let holds = TRANSACTION.with_borrow(|transaction| {
        let place = transaction.find(key)?;
        let pending = &transaction.pending[place];
        Some((pending.state.holds, matches!(pending.counter, Counter::Cell(_))))
    });
    let (holds, is_shared) = holds.unwrap_or_default();
    for period in PERIODS {
        let hold = holds[period as usize];
        let hold = if hold.since == amounts[period as usize].since { hold } else { Hold::default() };
        // What this transaction has charged is reserved in the cell; elsewhere nobody knows it yet.
        let (current, more) = if is_shared {
            (amounts[period as usize].total(), hold.charged.saturating_add(amount).saturating_sub(hold.held))
        } else {
            (amounts[period as usize].total().saturating_add(hold.charged), amount)
        };
        match maximums[period as usize] {
            Some(maximum) if more > 0 && current.saturating_add(more) > maximum => {
                return Err(Refused { period, current, maximum });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is used, and reserved by transactions that run, in the periods that it is now.
pub fn amounts(key: &Key) -> [Amount; 4] {
    let starts = starts(xact::statement_began());
    let mut amounts =
        cells::are_there().then(|| cells::peek(key)).flatten().unwrap_or_else(|| ledger::sums(key, &starts));
    cells::advance(&mut amounts, &starts);
    amounts
}

/// What this transaction has charged for good, and what is not in the ledger yet.
pub fn charged(resource: &Resource) -> Vec<(TenantId, i64)> {
    TRANSACTION.with_borrow(|transaction| {
        let of_resource = transaction.pending.iter().filter(|pending| pending.key.resource == *resource);
        of_resource.map(|pending| (pending.key.tenant, pending.state.holds[0].charged)).collect()
    })
}

/// Resources of a tenant's choice that it may use in a transaction: each takes a place in shared memory.
const MOST_TRACKED: usize = 100;

/// Raises an error where the resource would be one too many of the tenant in this transaction.
pub fn refuse_too_many(tenant: &TenantId, resource: &Resource) {
    let is_too_many = TRANSACTION.with_borrow(|transaction| {
        let of_tenant = || transaction.pending.iter().filter(|pending| pending.key.tenant == *tenant);
        of_tenant().count() >= MOST_TRACKED && of_tenant().all(|pending| pending.key.resource != *resource)
    });
    if is_too_many {
        Error::Argument("resource", "must be one of at most 100 in a transaction").raise()
    }
}

/// Whether the transaction has not yet warned that the key is above a soft limit; it has from now on.
pub fn warn_once(key: &Key) -> bool {
    TRANSACTION.with_borrow_mut(|transaction| {
        let place = transaction.find(key);
        place.is_some_and(|place| !std::mem::replace(&mut transaction.pending[place].has_warned, true))
    })
}

/// The place of the key among what is pending; its cell is pinned when it gets one.
fn pending(key: &Key, now: Moment) -> usize {
    let (place, is_written) =
        TRANSACTION.with_borrow(|transaction| (transaction.find(key), transaction.is_written));
    if is_written {
        Error::Internal("usage was charged while the transaction committed").raise()
    }
    let is_counted = |place: &usize| {
        TRANSACTION.with_borrow(|transaction| !matches!(transaction.pending[*place].counter, Counter::Lost))
    };
    if let Some(place) = place.filter(is_counted) {
        return place;
    }
    let counter = counter(key, now);
    // Nothing raises between the pin and its entry here.
    let place = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.by_row += usize::from(matches!(counter, Counter::Row(_)));
        if let Some(place) = place {
            transaction.pending[place].counter = counter;
            transaction.pending[place].counted_at = xact::level();
            return place;
        }
        let place = transaction.pending.len();
        transaction.pending.push(Pending {
            key: *key,
            counter,
            counted_at: xact::level(),
            state: State::default(),
            details: Vec::new(),
            saved_at: TOP,
            has_warned: false,
            prepared_as: None,
        });
        transaction.note_last();
        place
    });
    end_prepared(place)
}

/// Ends at the cell what prepared transactions have charged that have ended since. After the pin is entered, because it may raise.
fn end_prepared(place: usize) -> usize {
    if xact::may_be_prepared()
        && let Counter::Cell(cell) = TRANSACTION.with_borrow(|transaction| transaction.pending[place].counter)
    {
        cells::end_prepared(cell);
    }
    place
}

/// How to count the key: by its cell, which is pinned, or by the row of its total.
fn counter(key: &Key, now: Moment) -> Counter {
    if !cells::are_there() {
        return Counter::Row(None);
    }
    // A cell is loaded for the periods of this moment, and not for those of a statement that began long ago: going on from
    // them to the next would forget what has been used since.
    let load = || ledger::sums(key, &starts(xact::now()));
    let overflown = TRANSACTION.with_borrow(|transaction| transaction.by_row);
    cells::pin(key, now, overflown, load).map_or(Counter::Row(None), Counter::Cell)
}

/// What was used when the row of the total was locked; locks it where that is needed and has not been done.
fn base(place: usize, is_needed: bool, now: Moment) -> [Amount; 4] {
    let starts = starts(now);
    let fresh = starts.map(|since| Amount { since, ..Amount::default() });
    let known = TRANSACTION.with_borrow(|transaction| {
        let pending = &transaction.pending[place];
        match pending.counter {
            Counter::Cell(_) => Ok(fresh),
            Counter::Row(Some((amounts, _))) if amounts.map(|amount| amount.since) == starts => Ok(amounts),
            Counter::Row(_) | Counter::Lost if !is_needed => Ok(fresh),
            Counter::Row(_) | Counter::Lost => Err(pending.key),
        }
    });
    let key = match known {
        Ok(amounts) => return amounts,
        Err(key) => key,
    };
    ledger::lock_total(&key);
    let amounts = ledger::sums(&key, &starts);
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.pending[place].counter = Counter::Row(Some((amounts, xact::level())));
    });
    amounts
}

/// Writes the ledger's entries.
fn write() {
    if !is_used() {
        return;
    }
    let Some(ledger) = ledger() else { return };
    let entries: Vec<ledger::Entry> = TRANSACTION.with_borrow(|transaction| {
        // Those of a ledger that this transaction has dropped went with it.
        let pending = transaction.pending.iter().filter(|pending| pending.key.ledger == ledger);
        pending.flat_map(Pending::entries).collect()
    });
    if !entries.is_empty() {
        ledger::write(ledger, &entries);
    }
    TRANSACTION.with_borrow_mut(|transaction| transaction.is_written = true);
}

/// Leaves what is charged behind for the time between PREPARE and the end of the prepared transaction.
fn prepare() {
    let keys: Vec<Key> = TRANSACTION
        .with_borrow(|transaction| transaction.pending.iter().map(|pending| pending.key).collect());
    if keys.is_empty() {
        return;
    }
    keys.iter().for_each(cells::lock_for_prepared);
    let id = xact::id();
    for (place, key) in keys.iter().enumerate() {
        let counter = TRANSACTION.with_borrow(|transaction| transaction.pending[place].counter);
        if let Counter::Cell(cell) = counter {
            cells::end_prepared(cell);
            if !TRANSACTION.with_borrow_mut(|transaction| transaction.pending[place].prepare(cell, id)) {
                Error::TooManyPrepared(key.resource).raise()
            }
        }
    }
}
