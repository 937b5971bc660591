//! `for_each_tenant()`: a raw version-1 function, because what an error of the statement says must arrive whole: its constraint, its
//! position, and a line of CONTEXT that names the tenant.
//!
//! The frames around the raw calls own only plain values and memory of PostgreSQL's, so an error that passes through them skips nothing.
//! What it changes (tenant, role) PostgreSQL restores with the transaction; where there is no error it is restored here.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::datum::Array;
use pgrx::fcinfo::direct_function_call_as_datum;
use pgrx::{FromDatum, IntoDatum, pg_sys, prelude::*};

use super::{
    running, setter,
    text::{self, Json, Text},
};
use crate::error::Error;
use crate::tenant::{MAX_LEN, TenantId};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn InitMaterializedSRF(fcinfo: pg_sys::FunctionCallInfo, flags: u32);
        pub fn NewGUCNestLevel() -> c_int;
        pub fn AtEOXact_GUC(is_commit: bool, level: c_int);
        pub fn GetUserIdAndSecContext(role: *mut pg_sys::Oid, context: *mut c_int);
        pub fn SetUserIdAndSecContext(role: pg_sys::Oid, context: c_int);
        pub fn SPI_connect() -> c_int;
        pub fn SPI_execute(sql: *const c_char, is_read_only: bool, most: std::ffi::c_long) -> c_int;
        pub fn SPI_finish() -> c_int;
        pub fn errcontext_msg(format: *const c_char, ...) -> c_int;
        pub fn set_errcontext_domain(domain: *const c_char) -> c_int;
    }
}

/// The arguments of a call.
pub struct Arguments<'a> {
    pub sql: Option<Text>,
    pub tenants: Option<Array<'a, &'a [u8]>>,
    pub role: Option<Text>,
}

/// What it comes to.
pub struct Visits {
    pub sql: Text,
    pub tenants: Vec<TenantId>,
    /// As which the statement runs, if not as the caller.
    pub role: Option<pg_sys::Oid>,
}

/// Judges the arguments; raises where they are not good.
type Judge = fn(&Arguments) -> Visits;

static mut JUDGE: Option<Judge> = None;

/// Sets the judge of the arguments.
pub fn init(judge: Judge) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { JUDGE = Some(judge) }
}

type Id = [u8; MAX_LEN + 1];

/// The same as plain data, in memory of PostgreSQL's.
struct Plan {
    sql: *const c_char,
    tenants: *const Id,
    count: usize,
    role: pg_sys::Oid,
}

#[pg_guard]
unsafe extern "C-unwind" fn prepare(fcinfo: pg_sys::FunctionCallInfo, plan: *mut Plan) {
    // SAFETY: PostgreSQL passes three arguments, text, text[] and name; `plan` points into the caller's frame. What is allocated lives
    // as long as the call.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(3);
        let arguments = Arguments {
            sql: Text::from_datum(arguments[0].value, arguments[0].isnull),
            tenants: Array::<&[u8]>::from_datum(arguments[1].value, arguments[1].isnull),
            role: (!arguments[2].isnull).then(|| text::of_c_string(arguments[2].value.cast_mut_ptr())),
        };
        let Some(judge) = JUDGE else { return };
        let visits = judge(&arguments);
        let sql = visits.sql.as_bytes();
        let copy = pg_sys::palloc0(sql.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(sql.as_ptr(), copy, sql.len());
        let tenants = pg_sys::palloc_extended(
            size_of::<Id>() * visits.tenants.len().max(1),
            pg_sys::MCXT_ALLOC_HUGE as c_int,
        );
        let tenants = tenants.cast::<Id>();
        for (place, tenant) in visits.tenants.iter().enumerate() {
            tenants.add(place).write(tenant.as_c_str());
        }
        plan.write(Plan {
            sql: copy.cast(),
            tenants,
            count: visits.tenants.len(),
            role: visits.role.unwrap_or(pg_sys::InvalidOid),
        });
    }
}

/// The client's statement goes on for another tenant, as if it had just begun.
#[pg_guard]
unsafe extern "C-unwind" fn begin_anew() {
    running::begin_anew();
}

/// Keeps what the statement has come to for a tenant.
#[pg_guard]
unsafe extern "C-unwind" fn collect(fcinfo: pg_sys::FunctionCallInfo, tenant: *const Id, status: c_int) {
    // SAFETY: SPI is connected and has executed; the result is being materialized.
    unsafe {
        if status < 0 {
            Error::Argument("sql", "must not begin or end a transaction, nor copy from or to the client")
                .raise()
        }
        let id = CStr::from_ptr(tenant.cast());
        // What it has returned would be told of a tenant that it is not of, and what comes after would run for another than before.
        if super::guc::assigned().is_none_or(|assigned| assigned.id.as_bytes() != id.to_bytes()) {
            Error::TenantLeft.raise()
        }
        let count = pg_sys::SPI_processed;
        let result = pg_sys::SPI_tuptable.as_ref().map(|table| {
            let shape = pg_sys::BlessTupleDesc(table.tupdesc);
            let mut rows = vec![b'['];
            for n in 0..count as usize {
                if n > 0 {
                    rows.push(b',');
                }
                let row = pg_sys::heap_copy_tuple_as_datum(*table.vals.add(n), shape);
                let json = direct_function_call_as_datum(pg_sys::row_to_json, &[Some(row)]);
                let json = json.and_then(|json| Text::from_datum(json, false));
                rows.extend_from_slice(json.as_ref().map_or(b"null", Text::as_bytes));
                super::check_for_interrupts();
            }
            rows.push(b']');
            Json::of(Text::of(&rows))
        });
        let columns = [
            Text::of(id.to_bytes()).into_datum(),
            (count as i64).into_datum(),
            result.and_then(Json::into_datum),
        ];
        let mut nulls = columns.map(|column| column.is_none());
        let mut values = columns.map(|column| column.unwrap_or(pg_sys::Datum::from(0)));
        let to = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        pg_sys::tuplestore_putvalues((*to).setResult, (*to).setDesc, values.as_mut_ptr(), nulls.as_mut_ptr());
    }
}

/// The line of CONTEXT.
unsafe extern "C-unwind" fn tell(tenant: *mut c_void) {
    // SAFETY: PostgreSQL calls it while it words an error; the id is a C string.
    unsafe {
        raw::set_errcontext_domain(std::ptr::null());
        raw::errcontext_msg(c"tenancy.for_each_tenant, tenant \"%s\"".as_ptr(), tenant.cast::<c_char>());
    }
}

// SAFETY (of the name): no other library exports symbols with the prefix `tenancy_`.
/// Called by PostgreSQL with a valid call frame and three arguments, where a set is expected.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_for_each_tenant(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let mut plan =
        Plan { sql: std::ptr::null(), tenants: std::ptr::null(), count: 0, role: pg_sys::InvalidOid };
    // SAFETY: PostgreSQL's call frame; `plan` and the line of CONTEXT are plain data of this frame, to which nothing points when it ends.
    unsafe {
        raw::InitMaterializedSRF(fcinfo, 0);
        prepare(fcinfo, &mut plan);
        let (mut role, mut security_context) = (pg_sys::InvalidOid, 0);
        raw::GetUserIdAndSecContext(&mut role, &mut security_context);
        let mut line = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(tell),
            arg: std::ptr::null_mut(),
        };
        pg_sys::error_context_stack = &mut line;
        for n in 0..plan.count {
            let tenant = plan.tenants.add(n);
            line.arg = tenant.cast_mut().cast();
            begin_anew();
            let level = raw::NewGUCNestLevel();
            setter::set(c"tenancy.tenant_id", tenant.cast(), pg_sys::GucAction::GUC_ACTION_SAVE);
            // As in a function with the rights of another: SET ROLE is refused.
            let visitor = if plan.role == pg_sys::InvalidOid { role } else { plan.role };
            let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int;
            raw::SetUserIdAndSecContext(visitor, security_context | local);
            raw::SPI_connect();
            let status = raw::SPI_execute(plan.sql, false, 0);
            collect(fcinfo, tenant, status);
            raw::SPI_finish();
            raw::SetUserIdAndSecContext(role, security_context);
            // Whatever the statement has set goes with it.
            raw::AtEOXact_GUC(false, level);
        }
        pg_sys::error_context_stack = line.previous;
        begin_anew();
        pg_sys::Datum::from(0)
    }
}

super::version_1!(pg_finfo_tenancy_for_each_tenant);
