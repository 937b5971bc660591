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
use std::ffi::CString;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

mod cells;
mod ledger;
mod transaction;

use crate::error::Error;
use crate::period::{Moment, PERIODS, Period, Span, starts};
use crate::pg::{
    self,
    xact::{self, Event},
};
use crate::resource::Resource;
use crate::tenant::TenantId;
pub use cells::{Amount, is_preloaded};
use transaction::{Ask, Counter, Detail, Hold, Pending, Transaction, reserve};

/// Who uses what, and in which ledger that is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    ledger: pg::Oid,
    tenant: TenantId,
    resource: Resource,
    /// None where `PERIODS` are counted.
    interval: Option<Interval>,
}

/// A period of another length, over which all tenants' use of a resource is counted, by counters of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Interval {
    /// New each time that the period is asked for: counters of one that was given up are not taken up again.
    pub id: i64,
    pub span: Span,
}

/// The place among the counters of an interval's key where it is counted; the others stay at zero.
const OVER: usize = Period::Hour as usize;

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i64(Key::hash(self));
    }
}

/// The most that may be used; none where that is not limited.
#[derive(Default)]
pub struct Maximums {
    /// In each of `PERIODS`.
    pub standard: [Option<i64>; 4],
    /// In all other periods over which the resource is counted.
    pub others: Vec<(Interval, Option<i64>)>,
    /// That of the intervals, when they were read.
    pub generation: u64,
}

impl Maximums {
    pub fn is_unlimited(&self) -> bool {
        self.standard.iter().all(Option::is_none) && self.others.iter().all(|(_, maximum)| maximum.is_none())
    }
}

/// A charge that would pass a limit.
pub struct Refused {
    /// Of the period: among `PERIODS`, then among `Maximums::others`.
    pub place: usize,
    pub current: i64,
    pub maximum: i64,
}

impl Refused {
    /// The same refusal, by the maximum at a place among `Maximums::others`.
    fn over(self, place: usize) -> Refused {
        Refused { place: PERIODS.len() + place, ..self }
    }
}

/// What was used and reserved over a period, before and after a charge.
#[derive(Clone, Copy, Default)]
pub struct Level {
    pub before: i64,
    pub after: i64,
}

/// The same for `PERIODS`.
type Levels = [Level; 4];

/// What a charge came to.
pub struct Charged {
    pub standard: Levels,
    /// For each of `Maximums::others`.
    pub others: Vec<Level>,
}

/// What a charge is entered as.
#[derive(Clone)]
pub enum Note {
    /// With others of the same periods.
    Merged,
    /// By itself, with what the application wants to keep, a JSON object.
    Metadata(CString),
    /// By itself: counting anew found a difference. It is no use of any period.
    Correction,
}

/// Over which intervals the use of a resource is counted.
#[derive(Clone, Copy)]
pub struct Intervals {
    pub of: fn(&Resource) -> Rc<[Interval]>,
    /// Changes whenever that may have changed for any resource; never zero.
    pub generation: fn() -> u64,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::new(Transaction::default());
    static LEDGER: Cell<Option<pg::Oid>> = const { Cell::new(None) };
    /// The intervals over which a resource is counted.
    static INTERVALS: Cell<Intervals> = Cell::new(Intervals { of: |_| Rc::new([]), generation: || 0 });
}

/// Asks for shared memory, if it can be had, and listens to transactions. `intervals` knows over which the use of a resource is
/// counted, and gets to know of a new one at the latest when the ledger is locked (see `write`).
pub fn init(cells: fn() -> usize, intervals: Intervals) {
    INTERVALS.set(intervals);
    self::cells::init(cells);
    xact::listen(|event| match event {
        Event::BeforeCommit => write(),
        Event::BeforePrepare => {
            write();
            prepare();
        }
        // A backend that is terminated comes here from where it was, without unwinding; so nothing that can be interrupted or raise
        // runs while the transaction is borrowed.
        Event::Committed | Event::Prepared | Event::Aborted => {
            if is_used() {
                TRANSACTION.with_borrow_mut(|transaction| transaction.end(event));
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
        let found = pg::scan::table(c"usage_open");
        LEDGER.set(found);
        found
    })
}

/// Who uses what, in this database.
pub fn key(tenant: &TenantId, resource: &Resource) -> Key {
    let Some(ledger) = ledger() else { Error::NotInstalled.raise() };
    Key { ledger, tenant: *tenant, resource: *resource, interval: None }
}

impl Key {
    /// The bits of a hash that are left to those who write it.
    const LANES: i64 = 7;

    /// A hash of tenant and resource: FNV-1a, of which the ledger keeps the values, so it never changes.
    fn hash(&self) -> i64 {
        let bytes = self.tenant.as_bytes().iter().chain(&[0]).chain(self.resource.as_bytes());
        let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        hash as i64 & !Key::LANES
    }

    /// The same over an interval.
    fn over(&self, interval: Interval) -> Key {
        Key { interval: Some(interval), ..*self }
    }

    /// Whether something is counted at the place.
    fn counts_at(&self, place: usize) -> bool {
        self.interval.is_none() || place == OVER
    }

    /// When the periods began that hold this moment.
    fn starts(&self, at: Moment) -> [Moment; 4] {
        starts_of(self.interval, at)
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub fn resource(&self) -> &Resource {
        &self.resource
    }
}

fn starts_of(interval: Option<Interval>, at: Moment) -> [Moment; 4] {
    interval.map_or_else(|| starts(at), |interval| [0, interval.span.start(at), 0, 0])
}

/// Charges an amount, which may be negative: what is given back. Refuses a positive one that would pass a maximum.
pub fn charge(key: &Key, amount: i64, maximums: &Maximums, note: Note) -> Result<Charged, Refused> {
    TRANSACTION.with_borrow_mut(|transaction| transaction.note_generation(maximums.generation));
    let in_periods = if matches!(note, Note::Correction) { 0 } else { amount.max(0) };
    let ask = Ask { keep: [amount, in_periods], charge: [amount, in_periods] };
    let taken = take_all(key, &ask, maximums)?;
    TRANSACTION.with_borrow_mut(|transaction| {
        let pending = &mut transaction.pending[taken.place];
        match note {
            Note::Merged => pending.state.note(taken.since, taken.at, amount),
            note => {
                pending.details.truncate(pending.state.details);
                pending.details.push(Detail { at: taken.at, amount, note });
                pending.state.details = pending.details.len();
            }
        }
    });
    Ok(taken.charged)
}

/// Keeps room for an amount until the transaction ends, so that charging it will not be refused.
pub fn keep_room(key: &Key, amount: i64, maximums: &Maximums) -> Result<Charged, Refused> {
    let ask = Ask { keep: [amount, amount], charge: [0, 0] };
    take_all(key, &ask, maximums).map(|taken| taken.charged)
}

struct Taken {
    charged: Charged,
    /// Of the key, without an interval, among what is pending.
    place: usize,
    /// When it counts.
    at: Moment,
    /// When the last of the periods began that it counts in.
    since: Moment,
}

/// Takes what is asked for over all periods.
///
/// The clock of a statement may be behind that of the one that began a period, so each counter may stand in a later period
/// than the statement began in. What is charged is entered in the ledger at a moment that is in no later period than those
/// that it was counted in: or it would be found in one that did not know of it, when that is loaded.
fn take_all(key: &Key, ask: &Ask, maximums: &Maximums) -> Result<Taken, Refused> {
    let mut others = Vec::new();
    let mut at = xact::statement_began();
    if maximums.others.is_empty()
        && let Some(taken) = take_first(key, ask, &maximums.standard, at)
    {
        return taken;
    }
    for (n, (interval, maximum)) in maximums.others.iter().enumerate() {
        let taken = take_over(key, *interval, ask, *maximum, at).map_err(|refused| refused.over(n))?;
        at = at.max(taken.1);
        others.push(taken);
    }
    let place = pending(key, at);
    let base = base(place, ask.keep[0] > 0 && maximums.standard.iter().any(Option::is_some), at);
    let (standard, began) = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.save(place);
        let pending = &mut transaction.pending[place];
        let standard = pending.take(ask, &maximums.standard, &base, at)?;
        Ok((standard, pending.state.holds[Period::Hour as usize].since))
    })?;
    at = at.max(began);
    for (n, (interval, maximum)) in maximums.others.iter().enumerate() {
        if interval.span.start(at) > others[n].1 {
            others[n] = take_over(key, *interval, ask, *maximum, at).map_err(|refused| refused.over(n))?;
        }
    }
    let since = others.iter().fold(began, |since, (_, began)| since.max(*began));
    let others = others.into_iter().map(|(level, _)| level).collect();
    Ok(Taken { charged: Charged { standard, others }, place, at, since })
}

/// The same where the key has not been charged in this transaction and its cell is in memory, as usually: pinned and charged in one
/// turn of the cell's lock. None where that is not so.
fn take_first(
    key: &Key,
    ask: &Ask,
    maximums: &[Option<i64>; 4],
    at: Moment,
) -> Option<Result<Taken, Refused>> {
    let is_first =
        TRANSACTION.with_borrow(|transaction| !transaction.is_written && transaction.find(key).is_none());
    if !is_first || !cells::are_there() {
        return None;
    }
    let (starts, nothing) = (key.starts(at), [Hold::default(); 4]);
    let taken = cells::pin_after(key, at, |cell| reserve(key, &nothing, cell, ask, maximums, &starts))?;
    Some(taken.map(|(cell, (holds, standard))| {
        let place = TRANSACTION.with_borrow_mut(|transaction| {
            let place = transaction.enter(key, Counter::Cell(cell));
            transaction.save(place);
            transaction.pending[place].state.holds = holds;
            place
        });
        let since = holds[Period::Hour as usize].since;
        Taken { charged: Charged { standard, others: Vec::new() }, place, at: at.max(since), since }
    }))
}

/// Takes what is asked for over an interval; returns the level, and when the period began. What the transaction has charged
/// before it knew of the interval is taken as well, whatever the maximum.
fn take_over(
    key: &Key,
    interval: Interval,
    ask: &Ask,
    maximum: Option<i64>,
    now: Moment,
) -> Result<(Level, Moment), Refused> {
    let start = interval.span.start(now);
    let is_missing =
        TRANSACTION.with_borrow(|transaction| transaction.missing_over(key, interval, start) != 0);
    if ask.keep[1] == 0 && !is_missing {
        return Ok((Level::default(), start));
    }
    let place = pending(&key.over(interval), now);
    let base = base(place, maximum.is_some(), now);
    let take = |transaction: &mut Transaction, keep: i64, charge: i64, maximum: Option<i64>| {
        let ask = Ask { keep: [0, keep], charge: [0, charge] };
        transaction.pending[place].take(&ask, &[None, maximum, None, None], &base, now)
    };
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.save(place);
        // Nothing yet, but to learn in which period the counter is.
        take(transaction, 0, 0, None)?;
        let began = transaction.pending[place].state.holds[OVER].since;
        let earlier = transaction.missing_over(key, interval, began);
        take(transaction, earlier, earlier, None)?;
        transaction.pending[place].state.is_joined = true;
        let levels = take(transaction, ask.keep[1], ask.charge[1], maximum)?;
        Ok((levels[OVER], transaction.pending[place].state.holds[OVER].since))
    })
}

/// Whether an amount could be charged now.
pub fn has_room(key: &Key, amount: i64, maximums: &Maximums) -> bool {
    let mut others = maximums.others.iter().filter(|(_, maximum)| maximum.is_some());
    let is_limited = maximums.standard.iter().any(Option::is_some);
    (!is_limited || has_room_for(key, amount, &maximums.standard))
        && others.all(|(interval, maximum)| {
            let start = interval.span.start(xact::statement_began());
            let earlier =
                TRANSACTION.with_borrow(|transaction| transaction.missing_over(key, *interval, start));
            has_room_for(&key.over(*interval), amount.saturating_add(earlier), &[None, *maximum, None, None])
        })
}

fn has_room_for(key: &Key, amount: i64, maximums: &[Option<i64>; 4]) -> bool {
    let amounts = loaded(key, xact::statement_began());
    let (holds, is_shared) = TRANSACTION.with_borrow(|transaction| {
        let pending = transaction.find(key).map(|place| &transaction.pending[place]);
        pending
            .map(|pending| (pending.state.holds, matches!(pending.counter, Counter::Cell(_))))
            .unwrap_or_default()
    });
    (0..4).all(|place| {
        let hold = holds[place];
        let hold = if hold.since == amounts[place].since { hold } else { Hold::default() };
        // What this transaction has charged is reserved in the cell; elsewhere nobody knows it yet.
        let (current, more) = if is_shared {
            (amounts[place].total(), hold.charged.saturating_add(amount).saturating_sub(hold.held))
        } else {
            (amounts[place].total().saturating_add(hold.charged), amount)
        };
        more <= 0 || maximums[place].is_none_or(|maximum| current.saturating_add(more) <= maximum)
    })
}

/// What is used, and reserved by transactions that run, in the periods that it is now; the counters stay as they are.
pub fn amounts(key: &Key) -> [Amount; 4] {
    current(key, xact::statement_began(), |starts| ledger::sums(key, starts))
}

/// The same over an interval.
pub fn amount_over(key: &Key, interval: Interval) -> Amount {
    amounts(&key.over(interval))[OVER]
}

/// The same, of a key that is likely to be asked for again: it gets a cell where there is place.
fn loaded(key: &Key, now: Moment) -> [Amount; 4] {
    current(key, now, |starts| {
        let load = || ledger::sums(key, &key.starts(xact::now()));
        // A cell would not know what this transaction has charged without one.
        let counts_by_row = TRANSACTION.with_borrow(|transaction| transaction.by_row > 0);
        let found = (cells::are_there() && !counts_by_row).then(|| cells::load(key, now, load));
        found.unwrap_or_else(|| ledger::sums(key, starts))
    })
}

fn current(key: &Key, now: Moment, otherwise: impl FnOnce(&[Moment; 4]) -> [Amount; 4]) -> [Amount; 4] {
    let starts = key.starts(now);
    let mut amounts =
        cells::are_there().then(|| cells::peek(key)).flatten().unwrap_or_else(|| otherwise(&starts));
    cells::advance(&mut amounts, &starts);
    amounts
}

/// Lets one transaction at a time settle the ledger: two would wait for each other's sums.
pub fn lock_settling() {
    pg::lock::take(cells::SETTLING, pg::lock::Mode::Exclusive);
}

/// What this transaction has charged for good, and what is not in the ledger yet.
pub fn charged(resource: &Resource) -> Vec<(TenantId, i64)> {
    TRANSACTION.with_borrow(|transaction| {
        let of_resource = transaction.standard().filter(|pending| pending.key.resource == *resource);
        of_resource.map(|pending| (pending.key.tenant, pending.state.holds[0].charged)).collect()
    })
}

/// Resources of a tenant's choice that it may use in a transaction: each takes a place in shared memory.
const MOST_TRACKED: usize = 100;

/// Raises an error where the resource would be one too many of the tenant in this transaction.
pub fn refuse_too_many(tenant: &TenantId, resource: &Resource) {
    let is_too_many = TRANSACTION.with_borrow(|transaction| {
        let of_tenant = || transaction.standard().filter(|pending| pending.key.tenant == *tenant);
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
        transaction.enter(key, counter)
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
    let load = || ledger::sums(key, &key.starts(xact::now()));
    let overflown = TRANSACTION.with_borrow(|transaction| transaction.by_row);
    cells::pin(key, now, overflown, load).map_or(Counter::Row(None), Counter::Cell)
}

/// What was used when the row of the total was locked; locks it where that is needed and has not been done.
fn base(place: usize, is_needed: bool, now: Moment) -> [Amount; 4] {
    let (key, counter) = TRANSACTION.with_borrow(|transaction| {
        let pending = &transaction.pending[place];
        (pending.key, pending.counter)
    });
    // A cell knows what is used itself.
    if matches!(counter, Counter::Cell(_)) {
        return [Amount::default(); 4];
    }
    let starts = key.starts(now);
    match counter {
        Counter::Row(Some((amounts, _))) if amounts.map(|amount| amount.since) == starts => return amounts,
        _ if !is_needed => return starts.map(|since| Amount { since, ..Amount::default() }),
        _ => {}
    }
    ledger::lock_total(&key);
    let amounts = ledger::sums(&key, &starts);
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.pending[place].counter = Counter::Row(Some((amounts, xact::level())));
    });
    amounts
}

/// Writes the ledger's entries.
///
/// Whoever has a resource counted over a new interval locks the ledger until that is committed, against all who write to it.
/// So a transaction that charges has either committed before, and is in what the interval's counters are loaded from, or
/// learns of the interval here, where it takes the lock, and counts over it what it has charged.
fn write() {
    if !is_used() {
        return;
    }
    let Some(ledger) = ledger() else { return };
    // Entries of a ledger that this transaction has dropped went with it.
    let is_written = |pending: &&Pending| pending.key.ledger == ledger && pending.has_entries();
    if TRANSACTION.with_borrow(|transaction| transaction.standard().any(|pending| is_written(&pending))) {
        let table = pg::insert::Table::open(ledger);
        let generation = (INTERVALS.get().generation)();
        if TRANSACTION.with_borrow(|transaction| transaction.generation != Some(generation)) {
            let keys: Vec<Key> = TRANSACTION.with_borrow(|transaction| {
                transaction.standard().filter(is_written).map(|pending| pending.key).collect()
            });
            keys.iter().for_each(count_over_new_intervals);
        }
        let entries: Vec<ledger::Entry> = TRANSACTION.with_borrow(|transaction| {
            transaction.standard().filter(is_written).flat_map(Pending::entries).collect()
        });
        ledger::write(&table, &entries);
    }
    TRANSACTION.with_borrow_mut(|transaction| transaction.is_written = true);
}

fn count_over_new_intervals(key: &Key) {
    for interval in (INTERVALS.get().of)(&key.resource).iter() {
        let nothing = Ask { keep: [0, 0], charge: [0, 0] };
        if take_over(key, *interval, &nothing, None, xact::now()).is_err() {
            Error::Internal("more is used than can be counted").raise()
        }
    }
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
