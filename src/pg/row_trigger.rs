//! What a row trigger is told of the row that has changed: its columns before and after, as JSON.
//!
//! Values are converted by PostgreSQL's own `to_json`, with the rights of whoever changes the row. What is kept of a table, its layout, is
//! to be dropped with any invalidation: a column's type may have become another.

use std::ffi::{CStr, c_int};

use pgrx::{pg_sys, prelude::*};

use super::query::Pinned;
use super::text::{Text, of_c_string};
use super::transition::{Event, Kind, attribute};
use crate::tenant::TenantId;

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub static bytea_output: c_int;
        pub fn FunctionCall1Coll(
            function: *mut pg_sys::FmgrInfo,
            collation: pg_sys::Oid,
            argument: pg_sys::Datum,
        ) -> pg_sys::Datum;
        pub fn pg_detoast_datum_packed(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
        pub fn heap_deform_tuple(
            tuple: pg_sys::HeapTuple,
            desc: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        );
        pub fn datum_image_eq(
            one: pg_sys::Datum,
            other: pg_sys::Datum,
            is_by_value: bool,
            length: c_int,
        ) -> bool;
    }
}

/// How values are written, whatever the session's settings are.
const WRITTEN: [(&CStr, &CStr); 4] = [
    (c"extra_float_digits", c"1"),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"bytea_output", c"hex"),
];

/// Of PostgreSQL's `ByteaOutputType`.
const BYTEA_OUTPUT_HEX: c_int = 1;

/// Whether one of them is another now: setting them costs more than most changes.
fn are_values_written_otherwise() -> bool {
    // SAFETY: plain reads of backend-local values.
    unsafe {
        pg_sys::extra_float_digits < 1
            || pg_sys::DateStyle != pg_sys::USE_ISO_DATES as c_int
            || pg_sys::IntervalStyle != pg_sys::INTSTYLE_POSTGRES as c_int
            || raw::bytea_output != BYTEA_OUTPUT_HEX
    }
}

/// What is done with a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Whole,
    /// That it has changed, and not what it holds.
    Masked,
    Not,
}

struct Column {
    /// Its name, as a member of a JSON object: quoted, with a colon.
    member: Vec<u8>,
    shown: Shown,
    length: i16,
    is_by_value: bool,
    is_key: bool,
    /// `to_json` for the column's type; of one that was dropped, none.
    to_json: Option<pg_sys::FmgrInfo>,
}

impl Column {
    /// Whether two values are, to the byte. Called inside a guard.
    unsafe fn are_same(&self, one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
        // SAFETY: values of the column's type.
        unsafe {
            if self.length == -1 {
                let bytes = |datum: pg_sys::Datum| {
                    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
                    std::slice::from_raw_parts(value.cast::<u8>(), pgrx::varlena::varsize_any(value))
                };
                // What is stored out of line, and was not touched, need not be fetched for that.
                if bytes(one) == bytes(other) {
                    return true;
                }
            }
            raw::datum_image_eq(one, other, self.is_by_value, self.length.into())
        }
    }
}

/// A memory context, until dropped. Not pgrx's, which leaves a copy of its name behind with each: a layout is made anew often.
struct Memory(pg_sys::MemoryContext);

impl Memory {
    fn new() -> Memory {
        // SAFETY: a name that lives for good; the sizes are those of PostgreSQL's ALLOCSET_SMALL_SIZES.
        Memory(unsafe {
            let name = c"tenancy audited table".as_ptr();
            pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, name, 0, 1024, 8192)
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: what `new` made, in which nobody works.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}

/// Works in another memory context until dropped, by an error as well; holds the one to go back to.
struct Inside(pg_sys::MemoryContext);

impl Drop for Inside {
    fn drop(&mut self) {
        // SAFETY: a context that outlives the work.
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }
}

/// What is known of a table.
pub struct Layout {
    columns: Vec<Column>,
    /// The place of the tenant column, and its type.
    tenant: Option<(usize, Kind)>,
    /// The table's name with its schema, quoted where needed.
    pub name: Text,
    /// Of what the columns' functions are made.
    _memory: Memory,
}

/// A row trigger that is being called.
pub struct Trigger {
    data: *const pg_sys::TriggerData,
}

/// What has become of a row: JSON objects, in the encoding of the database.
#[derive(Default)]
pub struct Change {
    /// The tenants that the row was of and is of; none where it names none.
    pub old_tenant: Option<TenantId>,
    pub new_tenant: Option<TenantId>,
    /// The key that the row had, or has where it had none before.
    pub key: Option<Vec<u8>>,
    /// The key that it has.
    pub new_key: Option<Vec<u8>>,
    /// What the columns that have changed held before; of an inserted row, nothing.
    pub old: Option<Vec<u8>>,
    pub new: Option<Vec<u8>>,
}

type Handler = fn(&Trigger);
static mut HANDLER: Option<Handler> = None;

/// Sets the function that the trigger function calls.
pub fn init(handler: Handler) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { HANDLER = Some(handler) }
}

// SAFETY (of the name): no other library exports symbols with the prefix `tenancy_`.
/// The trigger function `_tenancy.audit_row`. Called by PostgreSQL with a valid call frame.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_audit_row(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL's call frame, whose context is a TriggerData where its tag says so; HANDLER is written at load.
    unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_TriggerData {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "function audit_row must be called as a trigger"
            );
        }
        let event = (*data).tg_event;
        let is_of_row = event & pg_sys::TRIGGER_EVENT_ROW != 0;
        let is_after = event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        if !is_after || is_of_row == (Event::of(event) == Event::Truncate) {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "function audit_row must be called after a change of a row, or after TRUNCATE"
            );
        }
        if let Some(handler) = HANDLER {
            handler(&Trigger { data });
        }
    }
    pg_sys::Datum::from(0)
}
super::version_1!(pg_finfo_tenancy_audit_row);

impl Trigger {
    pub fn event(&self) -> Event {
        // SAFETY: valid while the trigger is called.
        Event::of(unsafe { (*self.data).tg_event })
    }

    /// The trigger itself: a table may have several, with other arguments.
    pub fn id(&self) -> pg_sys::Oid {
        // SAFETY: valid while the trigger is called.
        unsafe { (*(*self.data).tg_trigger).tgoid }
    }

    pub fn name(&self) -> Text {
        // SAFETY: valid while the trigger is called.
        unsafe { of_c_string((*(*self.data).tg_trigger).tgname) }
    }

    /// The table that it is called for.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: an open relation.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// The trigger's arguments.
    pub fn arguments(&self) -> Vec<Text> {
        // SAFETY: as many C strings as the trigger says.
        unsafe {
            let trigger = &*(*self.data).tg_trigger;
            (0..trigger.tgnargs as usize).map(|n| of_c_string(*trigger.tgargs.add(n))).collect()
        }
    }

    /// What there is to know of the table. `tenant` is the name of its tenant column; an error names it where it is missing, or of a
    /// type that holds no tenant id.
    pub fn layout(&self, tenant: Option<&Text>, shown: impl Fn(&[u8]) -> Shown) -> Result<Layout, Text> {
        // SAFETY: an open relation, whose attributes are those of its rows.
        unsafe {
            let relation = (*self.data).tg_relation;
            let desc = (*relation).rd_att;
            // Not of what is current: that is gone when the trigger returns.
            let memory = Memory::new();
            let key = pg_sys::RelationGetIndexAttrBitmap(
                relation,
                pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_PRIMARY_KEY,
            );
            let mut place = None;
            let mut columns = Vec::new();
            for index in 0..(*desc).natts {
                let column = &*attribute(desc, index);
                let name = CStr::from_ptr(column.attname.data.as_ptr()).to_bytes();
                if !column.attisdropped && tenant.is_some_and(|tenant| tenant.as_bytes() == name) {
                    place = Kind::of(column.atttypid).map(|kind| (index as usize, kind));
                }
                let mut member = Vec::new();
                quote(name, &mut member);
                member.push(b':');
                columns.push(Column {
                    member,
                    shown: if column.attisdropped { Shown::Not } else { shown(name) },
                    length: column.attlen,
                    is_by_value: column.attbyval,
                    is_key: pg_sys::bms_is_member(
                        c_int::from(column.attnum) - pg_sys::FirstLowInvalidHeapAttributeNumber,
                        key,
                    ),
                    to_json: (!column.attisdropped).then(|| to_json(column, &memory)),
                });
            }
            if let (Some(name), None) = (tenant, place) {
                return Err(name.clone());
            }
            let schema = pg_sys::get_namespace_name((*(*relation).rd_rel).relnamespace);
            let table = (*(*relation).rd_rel).relname.data.as_ptr();
            let name = of_c_string(pg_sys::quote_qualified_identifier(schema, table));
            Ok(Layout { columns, tenant: place, name, _memory: memory })
        }
    }

    /// What has become of the row, of the columns that are shown; none where none of them has changed.
    pub fn change(&self, layout: &Layout) -> Option<Change> {
        // Whoever changes a row does not decide how precisely its values are written.
        let _pinned = are_values_written_otherwise().then(|| Pinned::new(&WRITTEN));
        // SAFETY: an AFTER ROW trigger has the rows that its event has, of as many columns as its table.
        unsafe {
            let data = &*self.data;
            let desc = (*data.tg_relation).rd_att;
            assert_eq!((*desc).natts as usize, layout.columns.len(), "a layout is of its table");
            let row = |tuple| Row::of(tuple, desc);
            let (old, new): (Option<Row>, Option<Row>) = match self.event() {
                Event::Insert => (None, Some(row(data.tg_trigtuple))),
                Event::Delete => (Some(row(data.tg_trigtuple)), None),
                Event::Update => (Some(row(data.tg_trigtuple)), Some(row(data.tg_newtuple))),
                Event::Truncate => (None, None),
            };
            let tenant = |row: Option<&Row>| -> Option<TenantId> {
                let (place, kind) = layout.tenant?;
                let datum = row.and_then(|row| row.at(place));
                let raw = datum.and_then(|datum| pg_sys::ffi::pg_guard_ffi_boundary(|| kind.raw(datum)));
                // What cannot be registered is no tenant.
                raw.and_then(|raw| raw.parse().ok())
            };
            let mut change = Change {
                old_tenant: tenant(old.as_ref()),
                new_tenant: tenant(new.as_ref()),
                ..Change::default()
            };
            // Both sides of the story are whole where each is told to another tenant.
            let is_move = old.is_some() && new.is_some() && change.old_tenant != change.new_tenant;
            let mut told = Told::default();
            // What an error leaves behind is outside of it.
            pg_sys::ffi::pg_guard_ffi_boundary(|| told.fill(layout, old.as_ref(), new.as_ref(), is_move));
            let Told { old_key, new_key, before, after } = told;
            if before.is_empty() && after.is_empty() && old.is_some() && new.is_some() {
                return None;
            }
            let finished = |key: Object| (!key.is_empty()).then(|| key.finish());
            change.new_key = finished(new_key);
            change.key = finished(old_key).or_else(|| change.new_key.clone());
            change.old = old.is_some().then(|| before.finish());
            change.new = new.is_some().then(|| after.finish());
            Some(change)
        }
    }
}

/// What is told of a row.
#[derive(Default)]
struct Told {
    old_key: Object,
    new_key: Object,
    before: Object,
    after: Object,
}

impl Told {
    /// Called inside a guard.
    unsafe fn fill(&mut self, layout: &Layout, old: Option<&Row>, new: Option<&Row>, is_move: bool) {
        // SAFETY: rows of as many columns as the layout has.
        unsafe {
            let is_changed =
                |column: &Column, before: Option<pg_sys::Datum>, after: Option<pg_sys::Datum>| {
                    is_move
                        || match (before, after) {
                            (Some(before), Some(after)) => !column.are_same(before, after),
                            (before, after) => before.is_some() != after.is_some(),
                        }
                };
            for (place, column) in layout.columns.iter().enumerate() {
                let (was, is) = (old.map(|row| row.at(place)), new.map(|row| row.at(place)));
                if column.is_key && column.shown != Shown::Not {
                    for (side, key) in [(was, &mut self.old_key), (is, &mut self.new_key)] {
                        if let Some(value) = side.flatten() {
                            key.add(column, Some(value));
                        }
                    }
                }
                if column.shown == Shown::Not || !is_changed(column, was.flatten(), is.flatten()) {
                    continue;
                }
                // What is null of a row that comes or goes says nothing.
                let is_both = was.is_some() && is.is_some() && !is_move;
                for (side, object) in [(was, &mut self.before), (is, &mut self.after)] {
                    if let Some(value) = side
                        && (value.is_some() || is_both)
                    {
                        object.add(column, value);
                    }
                }
            }
        }
    }
}

/// The values of a row.
struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    unsafe fn of(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> Row {
        // SAFETY: a row of that description, which has as many columns.
        unsafe {
            let count = (*desc).natts as usize;
            let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); count], vec![true; count]);
            // Copies what is there, and raises nothing.
            raw::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            Row { values, nulls }
        }
    }

    /// None where it is null.
    fn at(&self, place: usize) -> Option<pg_sys::Datum> {
        let is_null = self.nulls.get(place).is_none_or(|is_null| *is_null);
        if is_null { None } else { self.values.get(place).copied() }
    }
}

/// A JSON object that is being written.
#[derive(Default)]
struct Object(Vec<u8>);

impl Object {
    /// Room for some members, so that most are written where they stay.
    const ROOM: usize = 256;

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Called inside a guard.
    unsafe fn add(&mut self, column: &Column, value: Option<pg_sys::Datum>) {
        if self.is_empty() {
            self.0.reserve(Object::ROOM);
            self.0.push(b'{');
        } else {
            self.0.push(b',');
        }
        self.0.extend(&column.member);
        match (value, column.shown, column.to_json) {
            (None, _, _) => self.0.extend(b"null"),
            (Some(_), Shown::Masked, _) | (_, _, None) => self.0.extend(b"\"***\""),
            // SAFETY: a value of the column's type, for a function that was made for it, which returns a `json`.
            (Some(value), _, Some(mut to_json)) => unsafe {
                let json = raw::FunctionCall1Coll(&mut to_json, pg_sys::InvalidOid, value);
                let json = raw::pg_detoast_datum_packed(json.cast_mut_ptr());
                let bytes = pgrx::varlena::vardata_any(json).cast::<u8>();
                self.0.extend(std::slice::from_raw_parts(bytes, pgrx::varlena::varsize_any_exhdr(json)));
            },
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

/// A JSON string of a name.
fn quote(name: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in name {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => out.extend(format!("\\u{byte:04x}").into_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// `to_json` for a column: it asks for the type of its argument, which a call from an expression would have told it.
unsafe fn to_json(column: &pg_sys::FormData_pg_attribute, memory: &Memory) -> pg_sys::FmgrInfo {
    // SAFETY: nodes that are made in the layout's own memory, and live as long as it does.
    unsafe {
        let mut function = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info_cxt(pg_sys::Oid::from(pg_sys::F_TO_JSON), &mut function, memory.0);
        let expression = {
            let _inside = Inside(pg_sys::MemoryContextSwitchTo(memory.0));
            let argument =
                pg_sys::makeNullConst(column.atttypid, column.atttypmod, column.attcollation).cast();
            let arguments = pg_sys::lappend(std::ptr::null_mut(), argument);
            pg_sys::makeFuncExpr(
                pg_sys::Oid::from(pg_sys::F_TO_JSON),
                pg_sys::JSONOID,
                arguments,
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            )
        };
        function.fn_expr = expression.cast();
        function
    }
}
