//! What a statement trigger is told of the statement's rows: its transition tables.
//!
//! They are read from their start through the first read pointer: whoever else reads the same store, a query of another
//! trigger, has a pointer of its own (`ExecInitNamedTuplestoreScan`). What a value weighs is judged before TOAST, because a
//! row is not yet compressed when it is inserted and is when it is deleted.

use std::ffi::CStr;

use pgrx::{FromDatum, pg_sys, prelude::*};

use crate::tenant::{Malformed, TenantId};

/// The event that fired a trigger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A statement trigger that is being called.
pub struct Trigger {
    data: *const pg_sys::TriggerData,
}

/// Where the rows of a table tell their tenant, and what is measured of them.
pub struct Layout {
    pub tenant: i16,
    pub measures: Vec<Measure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Rows,
    Bytes,
    /// The sum of an integer column.
    Sum(i16),
}

/// The bytes of a row besides its values: its header and its line pointer.
const ROW_OVERHEAD: i64 = 28;

/// A tenant id as a column holds it.
enum Raw<'a> {
    Text(&'a str),
    Uuid(&'a [u8; 16]),
    Number(i64),
}

impl Raw<'_> {
    fn is(&self, id: &TenantId) -> bool {
        match self {
            Raw::Text(text) => text.as_bytes() == id.as_bytes(),
            Raw::Uuid(bytes) => id.uuid().as_ref() == Some(*bytes),
            Raw::Number(number) => id.bigint() == Some(*number),
        }
    }

    fn parse(&self) -> Result<TenantId, Malformed> {
        match self {
            Raw::Text(text) => TenantId::parse(text.as_bytes()),
            Raw::Uuid(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                TenantId::parse(parts.join("-").as_bytes())
            }
            Raw::Number(number) => TenantId::parse(number.to_string().as_bytes()),
        }
    }
}

type Handler = fn(&Trigger);
static mut HANDLER: Option<Handler> = None;

/// Sets the function that the trigger function calls.
pub fn init(handler: Handler) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { HANDLER = Some(handler) }
}

// SAFETY (of the name): no other library exports symbols with the prefix `tenancy_`.
/// The trigger function `_tenancy.meter_rows`. Called by PostgreSQL with a valid call frame.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_meter_rows(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL's call frame, whose context is a TriggerData where its tag says so; HANDLER is written at load.
    unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_TriggerData {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "function meter_rows must be called as a trigger"
            );
        }
        if let Some(handler) = HANDLER {
            handler(&Trigger { data });
        }
    }
    pg_sys::Datum::from(0)
}
super::version_1!(pg_finfo_tenancy_meter_rows);

impl Trigger {
    pub fn event(&self) -> Event {
        // SAFETY: valid while the trigger is called.
        match unsafe { (*self.data).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        }
    }

    /// The number of the trigger in the catalog.
    pub fn id(&self) -> pg_sys::Oid {
        // SAFETY: valid while the trigger is called.
        unsafe { (*(*self.data).tg_trigger).tgoid }
    }

    /// The arguments of CREATE TRIGGER.
    pub fn arguments(&self) -> Vec<&str> {
        // SAFETY: `tgargs` has `tgnargs` C strings, which live as long as the relation's cache entry, pinned by the
        // trigger's call.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            (0..(*trigger).tgnargs as usize)
                .map(|i| CStr::from_ptr(*(*trigger).tgargs.add(i)).to_str().unwrap_or(""))
                .collect()
        }
    }

    /// The number of the column of that name, if there is one.
    pub fn column(&self, name: &str) -> Option<i16> {
        // SAFETY: an open relation, whose descriptor has `natts` attributes.
        unsafe {
            let desc = (*(*self.data).tg_relation).rd_att;
            (0..(*desc).natts).find_map(|i| {
                let attribute = attribute(desc, i);
                let same = CStr::from_ptr((*attribute).attname.data.as_ptr()).to_bytes() == name.as_bytes();
                (same && !(*attribute).attisdropped).then_some((*attribute).attnum)
            })
        }
    }

    /// The rows as they were before the statement: calls `each` with the tenant and the measures of each run of rows of
    /// one tenant. Rows without a tenant are nobody's. An error where a row's tenant is none that could be registered.
    pub fn old_rows(&self, layout: &Layout, each: impl FnMut(&TenantId, &[i64])) -> Result<(), Malformed> {
        // SAFETY: valid while the trigger is called.
        unsafe { self.runs((*self.data).tg_oldtable, layout, each) }
    }

    /// The rows as the statement left them, likewise.
    pub fn new_rows(&self, layout: &Layout, each: impl FnMut(&TenantId, &[i64])) -> Result<(), Malformed> {
        // SAFETY: valid while the trigger is called.
        unsafe { self.runs((*self.data).tg_newtable, layout, each) }
    }

    unsafe fn runs(
        &self,
        store: *mut pg_sys::Tuplestorestate,
        layout: &Layout,
        mut each: impl FnMut(&TenantId, &[i64]),
    ) -> Result<(), Malformed> {
        if store.is_null() {
            return Ok(());
        }
        // SAFETY: the store and the descriptor live while the trigger is called. A value is read before the slot moves on.
        unsafe {
            let desc = (*(*self.data).tg_relation).rd_att;
            let slot = pg_sys::MakeSingleTupleTableSlot(desc, std::ptr::addr_of!(pg_sys::TTSOpsMinimalTuple));
            pg_sys::tuplestore_select_read_pointer(store, 0);
            pg_sys::tuplestore_rescan(store);
            let kind = (*attribute(desc, i32::from(layout.tenant) - 1)).atttypid;
            let last_column = layout.last_column((*desc).natts);
            let mut run: Option<TenantId> = None;
            let mut sums = vec![0i64; layout.measures.len()];
            while pg_sys::tuplestore_gettupleslot(store, true, false, slot) {
                if i32::from((*slot).tts_nvalid) < last_column {
                    pg_sys::slot_getsomeattrs_int(slot, last_column);
                }
                let Some(raw) = raw(slot, layout.tenant, kind) else { continue };
                if !run.as_ref().is_some_and(|last| raw.is(last)) {
                    if let Some(last) = &run {
                        each(last, &sums);
                        sums.fill(0);
                    }
                    run = Some(raw.parse()?);
                }
                for (sum, measure) in sums.iter_mut().zip(&layout.measures) {
                    *sum = sum.saturating_add(measured(slot, desc, *measure));
                }
            }
            if let Some(last) = &run {
                each(last, &sums);
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        Ok(())
    }
}

impl Layout {
    /// The last column that has to be read.
    fn last_column(&self, columns: i32) -> i32 {
        let needed = self.measures.iter().map(|measure| match measure {
            Measure::Rows => 0,
            Measure::Bytes => columns,
            Measure::Sum(column) => i32::from(*column),
        });
        needed.max().unwrap_or(0).max(i32::from(self.tenant))
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn attribute(desc: pg_sys::TupleDesc, index: i32) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller passes an index below the number of attributes.
    unsafe { (*desc).attrs.as_ptr().add(index as usize) }
}

#[cfg(feature = "pg18")]
unsafe fn attribute(desc: pg_sys::TupleDesc, index: i32) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller passes an index below the number of attributes.
    unsafe { pg_sys::TupleDescAttr(desc, index) }
}

/// A value of the slot's row, if it is not null.
unsafe fn value(slot: *mut pg_sys::TupleTableSlot, column: i16) -> Option<pg_sys::Datum> {
    // SAFETY: the caller has had the columns up to this one read into the slot.
    unsafe {
        let index = column as usize - 1;
        (!*(*slot).tts_isnull.add(index)).then(|| *(*slot).tts_values.add(index))
    }
}

unsafe fn raw<'a>(slot: *mut pg_sys::TupleTableSlot, column: i16, kind: pg_sys::Oid) -> Option<Raw<'a>> {
    // SAFETY: as in `value`; the type tells what the datum is.
    unsafe {
        let datum = value(slot, column)?;
        match kind {
            pg_sys::UUIDOID => Some(Raw::Uuid(&*datum.cast_mut_ptr::<[u8; 16]>())),
            pg_sys::INT8OID => i64::from_datum(datum, false).map(Raw::Number),
            pg_sys::INT4OID => i32::from_datum(datum, false).map(|number| Raw::Number(number.into())),
            _ => <&str>::from_datum(datum, false).map(Raw::Text),
        }
    }
}

unsafe fn measured(slot: *mut pg_sys::TupleTableSlot, desc: pg_sys::TupleDesc, measure: Measure) -> i64 {
    // SAFETY: as in `value`.
    unsafe {
        match measure {
            Measure::Rows => 1,
            Measure::Sum(column) => value(slot, column).map_or(0, |datum| integer(desc, column, datum)),
            Measure::Bytes => {
                let values = 1..=(*desc).natts as i16;
                ROW_OVERHEAD
                    + values
                        .filter_map(|column| value(slot, column).map(|datum| weight(desc, column, datum)))
                        .sum::<i64>()
            }
        }
    }
}

unsafe fn integer(desc: pg_sys::TupleDesc, column: i16, datum: pg_sys::Datum) -> i64 {
    // SAFETY: as in `value`.
    unsafe {
        match (*attribute(desc, i32::from(column) - 1)).atttypid {
            pg_sys::INT2OID => i16::from_datum(datum, false).unwrap_or(0).into(),
            pg_sys::INT4OID => i32::from_datum(datum, false).unwrap_or(0).into(),
            _ => i64::from_datum(datum, false).unwrap_or(0),
        }
    }
}

/// The bytes of a value, uncompressed.
unsafe fn weight(desc: pg_sys::TupleDesc, column: i16, datum: pg_sys::Datum) -> i64 {
    // SAFETY: as in `value`; the length of the type tells what the datum is.
    unsafe {
        match (*attribute(desc, i32::from(column) - 1)).attlen {
            -1 => pg_sys::toast_raw_datum_size(datum) as i64,
            -2 => CStr::from_ptr(datum.cast_mut_ptr()).to_bytes_with_nul().len() as i64,
            length => length.into(),
        }
    }
}

/// The bytes of a row, as `Measure::Bytes` counts them. For `_tenancy.row_bytes`.
pub fn row_bytes(row: pgrx::AnyElement) -> i64 {
    // SAFETY: the caller passes a value of a row type; the descriptor is pinned until it is released.
    unsafe {
        let header =
            pg_sys::pg_detoast_datum(row.datum().cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let (kind, modifier) =
            ((*header).t_choice.t_datum.datum_typeid, (*header).t_choice.t_datum.datum_typmod);
        let desc = pg_sys::lookup_rowtype_tupdesc(kind, modifier);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let slot = pg_sys::MakeSingleTupleTableSlot(desc, std::ptr::addr_of!(pg_sys::TTSOpsHeapTuple));
        pg_sys::ExecStoreHeapTuple(&mut tuple, slot, false);
        pg_sys::slot_getsomeattrs_int(slot, (*desc).natts);
        let bytes = measured(slot, desc, Measure::Bytes);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        if (*desc).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(desc);
        }
        bytes
    }
}
