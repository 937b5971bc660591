//! What a statement trigger is told of the statement's rows: its transition tables.
//!
//! They are read from their start through the first read pointer: whoever else reads the same store, a query of another
//! trigger, has a pointer of its own (`ExecInitNamedTuplestoreScan`). What a value weighs is judged before TOAST, because a
//! row is not yet compressed when it is inserted and is when it is deleted.
//!
//! PostgreSQL's functions that are called for each row are declared raw, and called inside one guard for each run of rows of
//! one tenant. What is alive in these frames is plain data, which a longjmp may skip.

use std::ffi::{CStr, c_int};

use pgrx::{FromDatum, IntoDatum, pg_sys, prelude::*};

use super::text::Text;
use crate::tenant::{Malformed, TenantId};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn MakeSingleTupleTableSlot(
            desc: pg_sys::TupleDesc,
            kind: *const pg_sys::TupleTableSlotOps,
        ) -> *mut pg_sys::TupleTableSlot;
        pub fn tuplestore_select_read_pointer(store: *mut pg_sys::Tuplestorestate, pointer: c_int);
        pub fn tuplestore_rescan(store: *mut pg_sys::Tuplestorestate);
        pub fn tuplestore_tuple_count(store: *mut pg_sys::Tuplestorestate) -> i64;
        pub fn tuplestore_gettupleslot(
            store: *mut pg_sys::Tuplestorestate,
            forward: bool,
            copy: bool,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        pub fn systable_getnext(scan: pg_sys::SysScanDesc) -> pg_sys::HeapTuple;
        pub fn ExecStoreHeapTuple(
            tuple: pg_sys::HeapTuple,
            slot: *mut pg_sys::TupleTableSlot,
            should_free: bool,
        ) -> *mut pg_sys::TupleTableSlot;
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, column: c_int);
        pub fn pg_detoast_datum_packed(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
        pub fn toast_raw_datum_size(value: pg_sys::Datum) -> pg_sys::Size;
        pub fn ProcessInterrupts();
    }
}

/// The event that fired a trigger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Event {
    /// That of a trigger's data.
    pub(super) fn of(event: pg_sys::TriggerEvent) -> Event {
        match event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        }
    }
}

/// A statement trigger that is being called.
pub struct Trigger {
    data: *const pg_sys::TriggerData,
}

/// Where the rows of a table tell their tenant, and what is measured of them.
#[derive(Default)]
pub struct Layout {
    tenant: i16,
    kind: Kind,
    measures: Vec<Measure>,
}

/// The type of a tenant column.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Kind {
    #[default]
    Text,
    Uuid,
    Bigint,
    Integer,
}

/// The type of a column that is summed up.
#[derive(Clone, Copy)]
enum Width {
    Smallint,
    Integer,
    Bigint,
}

#[derive(Clone, Copy)]
enum Measure {
    Rows,
    Bytes,
    Sum(i16, Width),
}

/// The bytes of a row besides its values: its header and its line pointer.
const ROW_OVERHEAD: i64 = 28;

/// A tenant id as a column holds it.
pub(super) enum Raw<'a> {
    Text(&'a [u8]),
    Uuid(&'a [u8; 16]),
    Number(i64),
}

impl Raw<'_> {
    pub(super) fn is(&self, id: &TenantId) -> bool {
        match self {
            Raw::Text(text) => *text == id.as_bytes(),
            Raw::Uuid(bytes) => id.uuid().as_ref() == Some(*bytes),
            Raw::Number(number) => id.bigint() == Some(*number),
        }
    }

    pub(super) fn parse(&self) -> Result<TenantId, Malformed> {
        match self {
            Raw::Text(text) => TenantId::parse(text),
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
        Event::of(unsafe { (*self.data).tg_event })
    }

    /// The table that it is called for.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// Where the table has these columns, and whether they are of types that can be counted.
    pub fn layout<'a>(
        &self,
        tenant: &Text,
        measures: impl IntoIterator<Item = &'a Text>,
    ) -> Result<Layout, Text> {
        // SAFETY: an open relation.
        unsafe { layout((*(*self.data).tg_relation).rd_att, tenant, measures) }
    }

    /// The rows as they were before the statement: calls `each` with the tenant and the measures of each run of rows of
    /// one tenant. Returns whether there are rows without a tenant, too. An error where a row's tenant is none that could be registered.
    pub fn old_rows(&self, layout: &Layout, each: impl FnMut(&TenantId, &[i64])) -> Result<bool, Malformed> {
        // SAFETY: valid while the trigger is called.
        unsafe { self.runs((*self.data).tg_oldtable, layout, each) }
    }

    /// The rows as the statement left them, likewise.
    pub fn new_rows(&self, layout: &Layout, each: impl FnMut(&TenantId, &[i64])) -> Result<bool, Malformed> {
        // SAFETY: valid while the trigger is called.
        unsafe { self.runs((*self.data).tg_newtable, layout, each) }
    }

    /// Whether the statement has changed any row.
    pub fn has_rows(&self) -> bool {
        // SAFETY: valid while the trigger is called.
        unsafe {
            let stores = [(*self.data).tg_oldtable, (*self.data).tg_newtable];
            stores.into_iter().any(|store| !store.is_null() && raw::tuplestore_tuple_count(store) > 0)
        }
    }

    unsafe fn runs(
        &self,
        store: *mut pg_sys::Tuplestorestate,
        layout: &Layout,
        mut each: impl FnMut(&TenantId, &[i64]),
    ) -> Result<bool, Malformed> {
        if store.is_null() {
            return Ok(false);
        }
        // SAFETY: the store and the descriptor live while the trigger is called.
        unsafe {
            let desc = (*(*self.data).tg_relation).rd_att;
            let slot = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                raw::tuplestore_select_read_pointer(store, 0);
                raw::tuplestore_rescan(store);
                raw::MakeSingleTupleTableSlot(desc, std::ptr::addr_of!(pg_sys::TTSOpsMinimalTuple))
            });
            let next = || raw::tuplestore_gettupleslot(store, true, false, slot);
            let mut runs = Runs::new(layout, desc);
            runs.add(slot, next, &mut each)?;
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            Ok(runs.has_others)
        }
    }
}

/// Why a table could not be counted.
pub enum Uncounted {
    /// A column is gone, or of another type than a meter counts.
    Column(Text),
    Tenant(Malformed),
}

/// Reads a table as it is in the active snapshot, and its rows only: nothing of the owner's choice runs, no policy, cast or
/// expression, because it is read for the owner of the extension. Calls `each` as for a trigger. A table that is gone has no rows.
pub fn table_rows(
    relation: pg_sys::Oid,
    tenant: &Text,
    measure: &Text,
    mut each: impl FnMut(&TenantId, &[i64]),
) -> Result<(), Uncounted> {
    // SAFETY: called inside a transaction, with an active snapshot. The relation stays open, and so the descriptor and a tuple
    // valid, until the scan is at its end; an error between releases all with the transaction's resources.
    unsafe {
        let table = pg_sys::try_table_open(relation, pg_sys::AccessShareLock as i32);
        if table.is_null() {
            return Ok(());
        }
        let desc = (*table).rd_att;
        let layout = layout(desc, tenant, [measure]).map_err(Uncounted::Column)?;
        let slot = pg_sys::MakeSingleTupleTableSlot(desc, std::ptr::addr_of!(pg_sys::TTSOpsHeapTuple));
        let scan = pg_sys::systable_beginscan(
            table,
            pg_sys::InvalidOid,
            false,
            pg_sys::GetActiveSnapshot(),
            0,
            std::ptr::null_mut(),
        );
        let next = || {
            if pg_sys::InterruptPending != 0 {
                raw::ProcessInterrupts();
            }
            let tuple = raw::systable_getnext(scan);
            if !tuple.is_null() {
                raw::ExecStoreHeapTuple(tuple, slot, false);
            }
            !tuple.is_null()
        };
        Runs::new(&layout, desc).add(slot, next, &mut each).map_err(Uncounted::Tenant)?;
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
    }
    Ok(())
}

/// Adds rows up, for each run of rows of one tenant.
struct Runs<'a> {
    layout: &'a Layout,
    desc: pg_sys::TupleDesc,
    last_column: i32,
    run: Option<TenantId>,
    sums: Vec<i64>,
    /// There are rows without a tenant.
    has_others: bool,
}

impl<'a> Runs<'a> {
    unsafe fn new(layout: &'a Layout, desc: pg_sys::TupleDesc) -> Runs<'a> {
        // SAFETY: the caller passes a valid descriptor, which outlives this.
        let last_column = layout.last_column(unsafe { (*desc).natts });
        let sums = vec![0; layout.measures.len()];
        Runs { layout, desc, last_column, run: None, sums, has_others: false }
    }

    /// Adds all rows up that `next` puts into the slot, and calls `each` on each run of one tenant.
    unsafe fn add(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        next: impl Fn() -> bool,
        each: &mut impl FnMut(&TenantId, &[i64]),
    ) -> Result<(), Malformed> {
        // SAFETY: the caller passes a slot for rows of the descriptor, and a function that is called inside the guard only.
        unsafe {
            while pg_sys::ffi::pg_guard_ffi_boundary(|| self.goes_on_with_another(slot, &next)) {
                self.finish(each);
                let parsed = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    self.add_one(slot);
                    tenant(slot, self.layout).map(|tenant| tenant.parse())
                });
                self.run = parsed.transpose()?;
            }
        }
        self.finish(each);
        Ok(())
    }

    /// Adds rows up until one that is another tenant's is in the slot, or there is none. Called inside a guard.
    unsafe fn goes_on_with_another(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        next: &impl Fn() -> bool,
    ) -> bool {
        // SAFETY: as in `add`; a value is read before the slot moves on.
        unsafe {
            while next() {
                if c_int::from((*slot).tts_nvalid) < self.last_column {
                    raw::slot_getsomeattrs_int(slot, self.last_column);
                }
                match tenant(slot, self.layout) {
                    Some(tenant) if self.run.as_ref().is_some_and(|last| tenant.is(last)) => {
                        self.add_one(slot)
                    }
                    Some(_) => return true,
                    None => self.has_others = true,
                }
            }
        }
        false
    }

    /// Called inside a guard.
    unsafe fn add_one(&mut self, slot: *mut pg_sys::TupleTableSlot) {
        for (sum, measure) in self.sums.iter_mut().zip(&self.layout.measures) {
            // SAFETY: as above.
            *sum = sum.saturating_add(unsafe { measured(slot, self.desc, *measure) });
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(&TenantId, &[i64])) {
        if let Some(last) = self.run.take() {
            each(&last, &self.sums);
            self.sums.fill(0);
        }
    }
}

/// Where a descriptor has the columns; the name of one that it has not, or not of a type that can be counted. An owner can change
/// a column's type at any time, and a value of another would be read as what it is not.
unsafe fn layout<'a>(
    desc: pg_sys::TupleDesc,
    tenant: &Text,
    measures: impl IntoIterator<Item = &'a Text>,
) -> Result<Layout, Text> {
    // SAFETY: the caller passes a valid descriptor, which has `natts` attributes.
    let find = |name: &[u8]| unsafe {
        let found = (0..(*desc).natts).map(|i| attribute(desc, i)).find(|attribute| {
            let its = CStr::from_ptr((**attribute).attname.data.as_ptr()).to_bytes();
            its == name && !(**attribute).attisdropped
        });
        found.map(|attribute| ((*attribute).attnum, (*attribute).atttypid)).ok_or(Text::of(name))
    };
    let (column, kind) = find(tenant.as_bytes())?;
    let kind = Kind::of(kind).ok_or_else(|| tenant.clone())?;
    let mut layout = Layout { tenant: column, kind, measures: Vec::new() };
    for measure in measures {
        layout.measures.push(match (measure.as_bytes(), measure.as_bytes().strip_prefix(b"sum:")) {
            (b"rows", _) => Measure::Rows,
            (b"bytes", _) => Measure::Bytes,
            (_, Some(name)) => match find(name)? {
                (column, pg_sys::INT2OID) => Measure::Sum(column, Width::Smallint),
                (column, pg_sys::INT4OID) => Measure::Sum(column, Width::Integer),
                (column, pg_sys::INT8OID) => Measure::Sum(column, Width::Bigint),
                _ => return Err(Text::of(name)),
            },
            (_, None) => return Err(measure.clone()),
        });
    }
    Ok(layout)
}

impl Layout {
    /// The last column that has to be read.
    fn last_column(&self, columns: i32) -> i32 {
        let needed = self.measures.iter().map(|measure| match measure {
            Measure::Rows => 0,
            Measure::Bytes => columns,
            Measure::Sum(column, _) => i32::from(*column),
        });
        needed.max().unwrap_or(0).max(i32::from(self.tenant))
    }
}

#[cfg(not(feature = "pg18"))]
pub(super) unsafe fn attribute(desc: pg_sys::TupleDesc, index: i32) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller passes an index below the number of attributes.
    unsafe { (*desc).attrs.as_ptr().add(index as usize) }
}

#[cfg(feature = "pg18")]
pub(super) unsafe fn attribute(desc: pg_sys::TupleDesc, index: i32) -> *const pg_sys::FormData_pg_attribute {
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

/// Called inside a guard.
unsafe fn tenant<'a>(slot: *mut pg_sys::TupleTableSlot, layout: &Layout) -> Option<Raw<'a>> {
    // SAFETY: as in `value`; the layout was made of this very descriptor, so it tells what the datum is.
    unsafe { layout.kind.raw(value(slot, layout.tenant)?) }
}

impl Kind {
    /// That of a type; none of one that cannot hold a tenant id.
    pub(super) fn of(kind: pg_sys::Oid) -> Option<Kind> {
        match kind {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Some(Kind::Text),
            pg_sys::UUIDOID => Some(Kind::Uuid),
            pg_sys::INT8OID => Some(Kind::Bigint),
            pg_sys::INT4OID => Some(Kind::Integer),
            _ => None,
        }
    }

    /// The type.
    pub(super) fn number(self) -> pg_sys::Oid {
        match self {
            Kind::Text => pg_sys::TEXTOID,
            Kind::Uuid => pg_sys::UUIDOID,
            Kind::Bigint => pg_sys::INT8OID,
            Kind::Integer => pg_sys::INT4OID,
        }
    }

    /// The function that its values are compared with.
    pub(super) fn equality(self) -> pg_sys::Oid {
        pg_sys::Oid::from(match self {
            Kind::Text => pg_sys::F_TEXTEQ,
            Kind::Uuid => pg_sys::F_UUID_EQ,
            Kind::Bigint => pg_sys::F_INT8EQ,
            Kind::Integer => pg_sys::F_INT4EQ,
        })
    }

    /// A tenant id as a column of that type holds it; none of one that it cannot hold.
    pub(super) fn datum(self, id: &TenantId) -> Option<pg_sys::Datum> {
        match self {
            Kind::Text => id.as_str().into_datum(),
            Kind::Uuid => pgrx::Uuid::from_bytes(id.uuid()?).into_datum(),
            Kind::Bigint => id.bigint()?.into_datum(),
            Kind::Integer => i32::try_from(id.bigint()?).ok()?.into_datum(),
        }
    }

    /// The tenant id that a datum of that type is, which is not null and outlives what is returned. Called inside a guard.
    pub(super) unsafe fn raw<'a>(self, datum: pg_sys::Datum) -> Option<Raw<'a>> {
        // SAFETY: the caller sees to it that the datum is of the type.
        unsafe {
            match self {
                Kind::Text => {
                    let text = raw::pg_detoast_datum_packed(datum.cast_mut_ptr());
                    let bytes = pgrx::varlena::vardata_any(text).cast::<u8>();
                    Some(Raw::Text(std::slice::from_raw_parts(bytes, pgrx::varlena::varsize_any_exhdr(text))))
                }
                Kind::Uuid => Some(Raw::Uuid(&*datum.cast_mut_ptr::<[u8; 16]>())),
                Kind::Bigint => i64::from_datum(datum, false).map(Raw::Number),
                Kind::Integer => i32::from_datum(datum, false).map(|number| Raw::Number(number.into())),
            }
        }
    }
}

/// Called inside a guard.
unsafe fn measured(slot: *mut pg_sys::TupleTableSlot, desc: pg_sys::TupleDesc, measure: Measure) -> i64 {
    // SAFETY: as in `value`.
    unsafe {
        match measure {
            Measure::Rows => 1,
            Measure::Sum(column, width) => value(slot, column).map_or(0, |datum| integer(datum, width)),
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

unsafe fn integer(datum: pg_sys::Datum, width: Width) -> i64 {
    // SAFETY: the width is that of the column's type.
    unsafe {
        match width {
            Width::Smallint => i16::from_datum(datum, false).unwrap_or(0).into(),
            Width::Integer => i32::from_datum(datum, false).unwrap_or(0).into(),
            Width::Bigint => i64::from_datum(datum, false).unwrap_or(0),
        }
    }
}

/// The bytes of a value, uncompressed.
unsafe fn weight(desc: pg_sys::TupleDesc, column: i16, datum: pg_sys::Datum) -> i64 {
    // SAFETY: as in `value`; the length of the type tells what the datum is.
    unsafe {
        match (*attribute(desc, i32::from(column) - 1)).attlen {
            -1 => raw::toast_raw_datum_size(datum) as i64,
            -2 => CStr::from_ptr(datum.cast_mut_ptr()).to_bytes_with_nul().len() as i64,
            length => length.into(),
        }
    }
}
