//! The counters in shared memory: one cell for each tenant and resource that is in use.
//!
//! Guarantees: a cell counts what is committed (`used`) and what transactions may still commit (`reserved`). Whoever
//! charges pins the cell until their transaction has ended for everybody to see, and only a cell that nobody has pinned is
//! evicted. So a cell that is not there has no transaction in flight, and is loaded from the ledger (`ledger::sums`).
//! Bounded: a full set evicts the cell that was used longest ago. Where all are pinned there is no place, and the caller
//! goes the way without shared memory.

use std::convert::Infallible;

use super::{Interval, Key, starts_of};
use crate::period::Moment;
use crate::pg::{
    self,
    lock::{self, Mode},
    shmem::{self, Place, Slot, Table},
};
use crate::resource::Resource;
use crate::tenant::TenantId;

static CELLS: Table<Cell> = Table::new(c"tenancy usage");

/// Asks for so many cells when the server starts.
pub fn init(count: fn() -> usize) {
    CELLS.init(count);
}

/// What is counted over one period.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Amount {
    /// When the period began; zero for the standing one.
    pub since: Moment,
    pub used: i64,
    pub reserved: i64,
}

impl Amount {
    pub fn total(&self) -> i64 {
        self.used.saturating_add(self.reserved)
    }
}

/// What a transaction that is prepared, and neither committed nor rolled back, has charged.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Prepared {
    /// Zero where there is none.
    transaction: u32,
    hour: Moment,
    charged: [i64; 4],
}

/// Prepared transactions that may be pending at one cell.
const PREPARED: usize = 8;

/// The counters of one tenant and resource, one for each of `PERIODS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Cell {
    is_taken: bool,
    /// Transactions that may still change it, prepared ones among them.
    pins: u32,
    used_at: Moment,
    database: u32,
    ledger: u32,
    tenant: TenantId,
    resource: Resource,
    interval: Option<Interval>,
    pub amounts: [Amount; 4],
    prepared: [Prepared; PREPARED],
}

impl Slot for Cell {
    const FREE: Cell = Cell {
        is_taken: false,
        pins: 0,
        used_at: 0,
        database: 0,
        ledger: 0,
        tenant: TenantId::NONE,
        resource: Resource::NONE,
        interval: None,
        amounts: [Amount { since: 0, used: 0, reserved: 0 }; 4],
        prepared: [Prepared { transaction: 0, hour: 0, charged: [0; 4] }; PREPARED],
    };
}

impl Cell {
    fn is(&self, key: &Key) -> bool {
        self.is_taken
            && self.ledger == key.ledger.to_u32()
            && self.database == pg::database().to_u32()
            && self.interval == key.interval
            && self.resource == key.resource
            && self.tenant == key.tenant
    }

    /// Ends what a transaction has charged: what it reserved becomes used, or is given back. A period that has ended since
    /// has no counter any more.
    pub fn end(&mut self, starts: &[Moment; 4], charged: &[i64; 4], held: &[i64; 4], is_committed: bool) {
        for (place, amount) in self.amounts.iter_mut().enumerate() {
            if amount.since == starts[place] {
                amount.reserved -= held[place];
                if is_committed {
                    amount.used = amount.used.saturating_add(charged[place]);
                }
            }
        }
    }

    /// Ends what the prepared transaction has charged, if it has not been ended by another.
    fn end_prepared(&mut self, transaction: u32, is_committed: bool) -> bool {
        let Some(found) = self.prepared.iter_mut().find(|entry| entry.transaction == transaction) else {
            return false;
        };
        let entry = std::mem::take(found);
        self.end(
            &starts_of(self.interval, entry.hour),
            &entry.charged,
            &entry.charged.map(|n| n.max(0)),
            is_committed,
        );
        self.pins = self.pins.saturating_sub(1);
        true
    }

    /// Goes on to the periods that began since.
    pub fn advance(&mut self, starts: &[Moment; 4]) {
        advance(&mut self.amounts, starts);
    }
}

/// The same, of amounts.
pub fn advance(amounts: &mut [Amount; 4], starts: &[Moment; 4]) {
    for (amount, start) in amounts.iter_mut().zip(starts) {
        if amount.since < *start {
            *amount = Amount { since: *start, used: 0, reserved: 0 };
        }
    }
}

/// The lock that keeps all from loading a cell: for a transaction that charges more keys without one than it is good to lock
/// one by one. Nobody waits for it: who cannot load a cell counts without.
const LOADING: u64 = 0;
/// The lock of those who settle the ledger. Those of keys are odd.
pub const SETTLING: u64 = 2;
/// Keys without a cell that a transaction locks one by one.
const ONE_BY_ONE: usize = 64;

fn hash(key: &Key) -> u64 {
    // Its low bits choose a set, so those of the database and the ledger are mixed in well.
    let place = u64::from(key.ledger.to_u32()) << 32 | u64::from(pg::database().to_u32());
    let place = place ^ key.interval.map_or(0, |interval| interval.id as u64);
    (key.hash() as u64 ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}

/// Whether the server has shared memory of ours: it loaded the library when it started.
pub fn is_preloaded() -> bool {
    CELLS.is_there()
}

/// Whether there are counters in shared memory, and they may be used.
pub fn are_there() -> bool {
    is_preloaded() && !pg::xact::in_recovery()
}

/// The counters of the key, if they are in memory.
pub fn peek(key: &Key) -> Option<[Amount; 4]> {
    let hash = hash(key);
    let find = || {
        CELLS.with_set(hash, |set, cells: &mut [Cell]| {
            let way = cells.iter().position(|cell| cell.is(key))?;
            Some((shmem::place(set, way), cells[way].amounts))
        })?
    };
    // The cell may be evicted meanwhile: then this ends what the same transactions have charged on another.
    end_prepared(find()?.0);
    find().map(|(_, amounts)| amounts)
}

fn pin_existing(key: &Key, hash: u64, now: Moment) -> Option<Place> {
    let pinned: Result<(Place, ()), Infallible> = pin_where(key, hash, now, |_| Ok(()))?;
    pinned.ok().map(|(place, ())| place)
}

/// Changes the cell of the key, if it is in memory, and pins it unless `change` refuses.
fn pin_where<T, E>(
    key: &Key,
    hash: u64,
    now: Moment,
    change: impl FnOnce(&mut Cell) -> Result<T, E>,
) -> Option<Result<(Place, T), E>> {
    CELLS.with_set(hash, |set, cells: &mut [Cell]| {
        let way = cells.iter().position(|cell| cell.is(key))?;
        Some(change(&mut cells[way]).map(|changed| {
            cells[way].pins += 1;
            cells[way].used_at = now;
            (shmem::place(set, way), changed)
        }))
    })?
}

/// The same, for who can go without: nothing is done where prepared transactions have charged the cell, which may have ended
/// since. `change` must neither raise nor allocate.
pub fn pin_after<T, E>(
    key: &Key,
    now: Moment,
    change: impl FnOnce(&mut Cell) -> Result<T, E>,
) -> Option<Result<(Place, T), E>> {
    let may_be_prepared = pg::xact::may_be_prepared();
    let pinned = pin_where(key, hash(key), now, |cell| {
        if may_be_prepared && cell.prepared.iter().any(|entry| entry.transaction != 0) {
            return Err(None);
        }
        change(cell).map_err(Some)
    })?;
    match pinned {
        Ok(pinned) => Some(Ok(pinned)),
        Err(refused) => refused.map(Err),
    }
}

fn place_new(key: &Key, hash: u64, now: Moment, amounts: [Amount; 4], pins: u32) -> Option<Place> {
    CELLS.with_set(hash, |set, cells: &mut [Cell]| {
        let free = cells.iter().position(|cell| !cell.is_taken);
        let unpinned = || {
            let idle = cells.iter().enumerate().filter(|(_, cell)| cell.pins == 0);
            idle.min_by_key(|(_, cell)| cell.used_at).map(|(way, _)| way)
        };
        let way = free.or_else(unpinned)?;
        cells[way] = Cell {
            is_taken: true,
            pins,
            used_at: now,
            database: pg::database().to_u32(),
            ledger: key.ledger.to_u32(),
            tenant: key.tenant,
            resource: key.resource,
            interval: key.interval,
            amounts,
            prepared: [Prepared::default(); PREPARED],
        };
        Some(shmem::place(set, way))
    })?
}

/// Ends the charges of prepared transactions that were committed or rolled back since. PostgreSQL tells nobody when that
/// happens, so whoever uses the cell asks.
pub fn end_prepared(place: Place) {
    let pending = CELLS.with_slot(place, |cell: &mut Cell| cell.prepared.map(|entry| entry.transaction));
    for transaction in pending.into_iter().filter(|number| *number != 0) {
        // Outside of the cell's lock, because this may read from disk.
        if let Some(is_committed) = pg::xact::outcome(transaction) {
            CELLS.with_slot(place, |cell: &mut Cell| cell.end_prepared(transaction, is_committed));
        }
    }
}

/// The same for the cells among which the hash would have a place.
fn end_all_prepared(hash: u64) {
    let set = CELLS.with_set(hash, |set, _: &mut [Cell]| set);
    for way in 0..shmem::WAYS {
        if let Some(set) = set {
            end_prepared(shmem::place(set, way));
        }
    }
}

/// Notes what the transaction has charged on a cell that it has pinned, for the time between its PREPARE and its end. From then
/// on the cell holds what `charged` asks for. False where too many are pending there.
pub fn prepare(place: Place, transaction: u32, hour: Moment, charged: [i64; 4]) -> bool {
    CELLS.with_slot(place, |cell: &mut Cell| {
        let free = cell.prepared.iter_mut().find(|entry| entry.transaction == 0);
        free.map(|entry| *entry = Prepared { transaction, hour, charged }).is_some()
    })
}

/// Takes back what `prepare` noted, for a transaction that was not prepared after all.
pub fn roll_back_prepared(place: Place, transaction: u32) {
    CELLS.with_slot(place, |cell: &mut Cell| cell.end_prepared(transaction, false));
}

/// Keeps the cell of the key from being loaded until the transaction ends, even if it is prepared and the server restarted.
pub fn lock_for_prepared(key: &Key) {
    lock::take(hash(key) | 1, Mode::Shared);
}

/// Waits for prepared transactions that have charged the key.
pub fn wait_for_prepared(key: &Key) {
    if pg::xact::may_be_prepared() {
        lock::take(hash(key) | 1, Mode::Exclusive);
    }
}

/// Pins the cell of the key, which is loaded first where it is not in memory: `load` sums up the ledger as it is committed
/// at the time of the call. None where no place is free: then nobody else can load it either, until the (sub)transaction ends.
/// `overflown` is the number of keys for which that was so before, in this transaction.
pub fn pin(key: &Key, now: Moment, overflown: usize, load: impl FnOnce() -> [Amount; 4]) -> Option<Place> {
    let hash = hash(key);
    if let Some(place) = pin_existing(key, hash, now) {
        return Some(place);
    }
    if overflown >= ONE_BY_ONE && lock::try_take(LOADING, Mode::Exclusive) {
        return pin_existing(key, hash, now);
    }
    // One loader at a time for a key: what another had loaded could be charged, committed and evicted again between our
    // look at the ledger and our use of it.
    let own = hash | 1;
    lock::take(own, Mode::Exclusive);
    let place = pin_existing(key, hash, now).or_else(|| {
        if !lock::try_take(LOADING, Mode::Shared) {
            return None;
        }
        let amounts = load();
        let place = place_new(key, hash, now, amounts, 1).or_else(|| {
            // Cells may be pinned by prepared transactions that have ended since.
            end_all_prepared(hash);
            place_new(key, hash, now, amounts, 1)
        });
        lock::release(LOADING, Mode::Shared);
        place
    });
    if place.is_some() {
        lock::release(own, Mode::Exclusive);
    }
    place
}

/// What is counted of the key, for who only looks: its cell is loaded where that holds nobody up, and there is place.
pub fn load(key: &Key, now: Moment, load: impl FnOnce() -> [Amount; 4]) -> [Amount; 4] {
    let own = hash(key) | 1;
    if !lock::try_take(own, Mode::Exclusive) {
        return load();
    }
    let may_load = lock::try_take(LOADING, Mode::Shared);
    let amounts = peek(key).unwrap_or_else(|| {
        let amounts = load();
        if may_load {
            let _place = place_new(key, hash(key), now, amounts, 0);
        }
        amounts
    });
    if may_load {
        lock::release(LOADING, Mode::Shared);
    }
    lock::release(own, Mode::Exclusive);
    amounts
}

/// Calls `with` on a pinned cell.
pub fn with<R>(place: Place, with: impl FnOnce(&mut Cell) -> R) -> R {
    CELLS.with_slot(place, with)
}

/// Unpins a cell after a last change.
pub fn unpin(place: Place, last: impl FnOnce(&mut Cell)) {
    CELLS.with_slot(place, |cell: &mut Cell| {
        last(cell);
        cell.pins = cell.pins.saturating_sub(1);
    });
}
