//! Shared memory: tables of slots in sets, each set under a lock.
//!
//! Only a library in `shared_preload_libraries` gets shared memory, so every caller has a way without. After a crash the
//! postmaster makes it anew, empty. What runs under a lock must neither raise nor allocate: it works on plain values.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{addr_of_mut, null_mut};

use pgrx::{pg_sys, prelude::*};

/// A light-weight lock: taking it raises an error only where a process holds hundreds, so it goes without a guard.
mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
        pub fn LWLockRelease(lock: *mut pg_sys::LWLock);
    }
}

/// Slots that one lock guards, and among which a newcomer finds its place.
pub const WAYS: usize = 8;
const LOCKS: usize = 128;

/// A value that may live in shared memory: plain data, no pointers.
pub trait Slot: Copy + 'static {
    /// A slot that is not taken.
    const FREE: Self;
}

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    set: u32,
    way: u8,
}

/// The place of a slot that `with_set` gave.
pub fn place(set: u32, way: usize) -> Place {
    Place { set, way: way as u8 }
}

/// Slots of one type, under a name that no other has.
pub struct Table<T: Slot> {
    name: &'static CStr,
    state: UnsafeCell<State>,
    slots: PhantomData<fn(T)>,
}

#[derive(Clone, Copy)]
struct State {
    count: fn() -> usize,
    base: *mut u8,
    tranche: *mut pg_sys::LWLockPadded,
    sets: usize,
}

// SAFETY: written by the postmaster only, before any other process exists; a process of PostgreSQL has one thread.
unsafe impl<T: Slot> Sync for Table<T> {}

/// What the postmaster does with each table.
trait Shared {
    unsafe fn request(&self);
    unsafe fn start(&self);
}

static mut TABLES: Vec<&'static dyn Shared> = Vec::new();
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Whether the library is being loaded by the postmaster, which alone can ask for shared memory.
pub fn can_be_had() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

impl<T: Slot> Table<T> {
    pub const fn new(name: &'static CStr) -> Table<T> {
        let state = State { count: || 0, base: null_mut(), tranche: null_mut(), sets: 0 };
        Table { name, state: UnsafeCell::new(state), slots: PhantomData }
    }

    /// Asks for at least as many slots as `count` says when the server starts; for none where it says zero.
    pub fn init(&'static self, count: fn() -> usize) {
        if !can_be_had() {
            return;
        }
        // SAFETY: the postmaster is single-threaded, and this runs once for a table, when it loads the library.
        unsafe {
            (*self.state.get()).count = count;
            let tables = &mut *addr_of_mut!(TABLES);
            if tables.is_empty() {
                PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
                pg_sys::shmem_request_hook = Some(request);
                PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
                pg_sys::shmem_startup_hook = Some(startup);
            }
            tables.push(self);
        }
    }

    fn state(&self) -> State {
        // SAFETY: see `Sync`; a copy of plain data.
        unsafe { *self.state.get() }
    }

    /// The number of sets, and the bytes that they take.
    fn dimensions(&self) -> (usize, usize) {
        let count = (self.state().count)();
        let sets = if count == 0 { 0 } else { count.div_ceil(WAYS).next_power_of_two() };
        (sets, sets * WAYS * size_of::<T>())
    }

    /// Whether there is a table.
    pub fn is_there(&self) -> bool {
        self.state().sets > 0
    }

    /// Calls `with` on the slots of the set that the hash leads to, alone. None where there is no table.
    pub fn with_set<R>(&self, hash: u64, with: impl FnOnce(u32, &mut [T]) -> R) -> Option<R> {
        let sets = self.state().sets;
        (sets > 0).then(|| {
            let set = hash as usize & (sets - 1);
            self.locked(set as u32, |slots| with(set as u32, slots))
        })
    }

    /// How many sets there are.
    pub fn sets(&self) -> usize {
        self.state().sets
    }

    /// Calls `with` on the slot at a place, alone in its set.
    pub fn with_slot<R>(&self, place: Place, with: impl FnOnce(&mut T) -> R) -> R {
        self.locked(place.set, |slots: &mut [T]| with(&mut slots[usize::from(place.way) % WAYS]))
    }

    fn locked<R>(&self, set: u32, with: impl FnOnce(&mut [T]) -> R) -> R {
        let (set, state) = (set as usize, self.state());
        // SAFETY: a set number comes from `with_set`, so it is below `sets` and the slots are inside the table; the lock makes
        // this the only reference to them. All values in the table are valid.
        unsafe {
            let lock = addr_of_mut!((*state.tranche.add(set % LOCKS)).lock);
            raw::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let first = state.base.add(set * WAYS * size_of::<T>()).cast::<T>();
            let result = with(std::slice::from_raw_parts_mut(first, WAYS));
            raw::LWLockRelease(lock);
            result
        }
    }
}

impl<T: Slot> Shared for Table<T> {
    unsafe fn request(&self) {
        // SAFETY: called by the postmaster at the time for requests.
        unsafe {
            if self.dimensions().0 > 0 {
                pg_sys::RequestAddinShmemSpace(self.dimensions().1);
                pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), LOCKS as i32);
            }
        }
    }

    unsafe fn start(&self) {
        let (sets, bytes) = self.dimensions();
        if sets == 0 {
            return;
        }
        // SAFETY: called by the postmaster before any other process of this server exists, so nobody else initialises it;
        // the memory has the size asked for.
        unsafe {
            let mut found = false;
            let base = pg_sys::ShmemInitStruct(self.name.as_ptr(), bytes, &mut found).cast::<u8>();
            if !found {
                let first = base.cast::<T>();
                (0..sets * WAYS).for_each(|n| first.add(n).write(T::FREE));
            }
            let tranche = pg_sys::GetNamedLWLockTranche(self.name.as_ptr());
            *self.state.get() = State { base, tranche, sets, ..self.state() };
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called by the postmaster at the time for requests; the previous hook may raise, hence the boundary.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        (*addr_of_mut!(TABLES)).iter().for_each(|table| table.request());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: likewise, when the memory is there.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        (*addr_of_mut!(TABLES)).iter().for_each(|table| table.start());
    }
}
