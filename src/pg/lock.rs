//! Locks of PostgreSQL's lock manager that belong to this extension: they wait with a deadlock check, yield to Ctrl-C and
//! `lock_timeout`, and are released when their transaction ends, however it does.
//!
//! All but that of a schema are advisory locks in a class of their own, which no function gives to users, so nobody can hold them up.

use pgrx::pg_sys;

/// Users' advisory locks are of the classes 1 and 2.
const CLASS: u16 = 0x7E4A;

#[derive(Clone, Copy)]
pub enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    fn of_postgres(self) -> i32 {
        match self {
            Mode::Shared => pg_sys::ShareLock as i32,
            Mode::Exclusive => pg_sys::ExclusiveLock as i32,
        }
    }
}

fn tag(key: u64) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: a plain read of a backend-local value.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (key >> 32) as u32,
        locktag_field3: key as u32,
        locktag_field4: CLASS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Takes the lock of that number in this database, until it is released or the transaction ends.
pub fn take(key: u64, mode: Mode) {
    // SAFETY: called inside a transaction, on a valid tag.
    unsafe {
        pg_sys::LockAcquire(&tag(key), mode.of_postgres(), false, false);
    }
}

/// Takes it if nobody else holds it in a mode that stands against that; returns whether it did.
pub fn try_take(key: u64, mode: Mode) -> bool {
    // SAFETY: as above.
    let result = unsafe { pg_sys::LockAcquire(&tag(key), mode.of_postgres(), false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Gives back a lock that `take` took.
pub fn release(key: u64, mode: Mode) {
    // SAFETY: as above.
    unsafe {
        pg_sys::LockRelease(&tag(key), mode.of_postgres(), false);
    }
}

/// Waits for all transactions that have made something in a schema to end, and keeps others from making anything there until this one
/// ends. PostgreSQL's own lock of the schema, which each CREATE takes, and nobody who only uses what is there.
pub fn schema(schema: pg_sys::Oid) {
    // SAFETY: called inside a transaction; raises nothing but what any wait for a lock may.
    unsafe {
        let mode = pg_sys::AccessExclusiveLock as i32;
        pg_sys::LockDatabaseObject(pg_sys::NamespaceRelationId, schema, 0, mode);
    }
}
