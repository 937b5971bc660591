//! Shared memory: one table of slots in sets, each set under a lock.
//!
//! Only a library in `shared_preload_libraries` gets shared memory, so every caller has a way without. After a crash the
//! postmaster makes it anew, empty. What runs under a lock must neither raise nor allocate: it works on plain values.

use std::ptr::null_mut;

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
const NAME: &std::ffi::CStr = c"tenancy usage";

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

static mut SLOT_SIZE: usize = 0;
static mut COUNT: fn() -> usize = || 0;
static mut FREE: fn(*mut u8, usize) = |_, _| {};
static mut BASE: *mut u8 = null_mut();
static mut TRANCHE: *mut pg_sys::LWLockPadded = null_mut();
static mut SETS: usize = 0;
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Whether the library is being loaded by the postmaster, which alone can ask for shared memory.
pub fn can_be_had() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Asks for a table with at least as many slots as `count` says when the server starts.
pub fn init<T: Slot>(count: fn() -> usize) {
    if !can_be_had() {
        return;
    }
    // SAFETY: the postmaster is single-threaded, and this runs once, when it loads the library.
    unsafe {
        SLOT_SIZE = size_of::<T>();
        COUNT = count;
        FREE = free::<T>;
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

/// Fills memory with free slots.
fn free<T: Slot>(base: *mut u8, count: usize) {
    let base = base.cast::<T>();
    // SAFETY: `startup` passes memory for so many slots, which no other process has yet.
    (0..count).for_each(|n| unsafe { base.add(n).write(T::FREE) });
}

/// The number of sets, and the bytes that they take.
fn dimensions() -> (usize, usize) {
    // SAFETY: written once, at load.
    let (count, slot) = unsafe { (COUNT(), SLOT_SIZE) };
    let sets = count.div_ceil(WAYS).max(1).next_power_of_two();
    (sets, sets * WAYS * slot)
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called by the postmaster at the time for requests; the previous hook may raise, hence the boundary.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        pg_sys::RequestAddinShmemSpace(dimensions().1);
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), LOCKS as i32);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: called by the postmaster before any other process of this server exists, so nobody else initialises it;
    // the memory has the size asked for.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        let (sets, bytes) = dimensions();
        let mut found = false;
        let base = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes, &mut found).cast::<u8>();
        if !found {
            FREE(base, sets * WAYS);
        }
        BASE = base;
        SETS = sets;
        TRANCHE = pg_sys::GetNamedLWLockTranche(NAME.as_ptr());
    }
}

/// Whether there is a table.
pub fn is_there() -> bool {
    // SAFETY: written once, before this process was forked.
    unsafe { !BASE.is_null() }
}

/// Calls `with` on the slots of the set that the hash leads to, alone. None where there is no table.
pub fn with_set<T: Slot, R>(hash: u64, with: impl FnOnce(u32, &mut [T]) -> R) -> Option<R> {
    // SAFETY: SETS is written once, before this process was forked.
    let sets = unsafe { SETS };
    (sets > 0).then(|| {
        let set = hash as usize & (sets - 1);
        locked(set as u32, |slots| with(set as u32, slots))
    })
}

/// The place of a slot that `with_set` gave.
pub fn place(set: u32, way: usize) -> Place {
    Place { set, way: way as u8 }
}

/// Calls `with` on the slot at a place, alone in its set.
pub fn with_slot<T: Slot, R>(place: Place, with: impl FnOnce(&mut T) -> R) -> R {
    locked(place.set, |slots: &mut [T]| with(&mut slots[usize::from(place.way) % WAYS]))
}

fn locked<T: Slot, R>(set: u32, with: impl FnOnce(&mut [T]) -> R) -> R {
    let set = set as usize;
    // SAFETY: a set number comes from `with_set`, so it is below SETS and the slots are inside the table; the lock makes
    // this the only reference to them. `T` is the type of `init`, of which all values in the table are valid.
    unsafe {
        let lock = std::ptr::addr_of_mut!((*TRANCHE.add(set % LOCKS)).lock);
        raw::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let first = BASE.add(set * WAYS * size_of::<T>()).cast::<T>();
        let result = with(std::slice::from_raw_parts_mut(first, WAYS));
        raw::LWLockRelease(lock);
        result
    }
}
