//! What the planner knows of the current tenant: how many rows of a protected table are its.
//!
//! PostgreSQL estimates `tenant_id = current_tenant()` by the list of the most common values, as it does for a constant; for a tenant that
//! came, or grew, after the last ANALYZE it takes what is left to all others, which may be next to nothing. `get_relation_stats_hook` adds
//! such a tenant to the list: how often it occurs is counted in the index that leads with the tenant column, up to a limit.
//!
//! The list tells as well which tenants are large; see `crate::statistics`.
//!
//! Behind a policy PostgreSQL shows statistics to LEAKPROOF operators only, because an estimate may call the operator on common values. To those
//! that index pushdown trusts they are lent, while the conditions are estimated that call nothing else (`lend`).
//!
//! Idea: get_actual_variable_range() in PostgreSQL's selfuncs.c, which looks into an index where the histogram may be outdated.

use std::ffi::c_int;

use pgrx::{IntoDatum, pg_sys, prelude::*};

use super::{default::Default, index_pushdown, raw, running, statement::entries, transition::Kind};
use crate::tenant::TenantId;

/// Whom a plan is made for, and who is told of the list.
#[derive(Clone, Copy)]
pub struct Judges {
    /// The current tenant; none in a scope of several.
    pub tenant: fn() -> Option<TenantId>,
    /// Where the tenant is in a table that is protected.
    pub column: fn(pg_sys::Oid) -> Option<Column>,
    /// The same where it is known already; none where it is not.
    pub known_column: fn(pg_sys::Oid) -> Option<Option<Column>>,
    /// Whether to tell of the common tenants of a table.
    pub is_new: fn(pg_sys::Oid) -> bool,
    /// About how many rows a tenant has in a table.
    pub common: fn(pg_sys::Oid, &TenantId, f64),
    /// What is known of a tenant in a table, if it is known.
    pub known: fn(pg_sys::Oid, &TenantId) -> Option<Rows>,
    /// What has been found out.
    pub found: fn(pg_sys::Oid, &TenantId, Rows),
    /// A plan is being made that reads a table by its tenant column; whether it reads others as well.
    pub planned: fn(pg_sys::Oid, bool),
    /// Whether to be told of that, and of the common tenants of a table, would say nothing new.
    pub is_settled: fn(pg_sys::Oid, bool) -> bool,
}

/// The rows of a tenant, where PostgreSQL does not know better.
pub type Rows = Option<f64>;

/// The tenant column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    number: i16,
    kind: Kind,
    default: Option<Default>,
}

/// So many entries of an index are counted: some tenths of a millisecond.
const LIMIT: u32 = 10_000;
/// A table of which fewer rows, or a smaller part, have changed since ANALYZE is as ANALYZE has seen it.
const CHANGED_ROWS: f64 = 1_000.0;
const CHANGED_PART: f64 = 0.002;

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS: pg_sys::get_relation_stats_hook_type = None;
static mut PREVIOUS_OF_INDEX: pg_sys::get_index_stats_hook_type = None;
/// While which plan is made, of which table of it, and of which column statistics are asked for.
type Question = (u64, *const pg_sys::RangeTblEntry, pg_sys::AttrNumber);

const PLACES: usize = 16;
/// Questions that PostgreSQL's own statistics answer: it asks once more for each path that it makes.
static mut UNKNOWN: [Question; PLACES] = [(0, std::ptr::null(), 0); PLACES];
/// Whatever is estimated for this plan may see statistics.
static mut LENDING: *const pg_sys::PlannerInfo = std::ptr::null();

/// Called once, when the library is loaded.
pub fn init(judges: Judges) {
    // SAFETY: a backend is single-threaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS = pg_sys::get_relation_stats_hook;
        pg_sys::get_relation_stats_hook = Some(relation_stats);
        PREVIOUS_OF_INDEX = pg_sys::get_index_stats_hook;
        pg_sys::get_index_stats_hook = Some(index_stats);
    }
}

/// The number of the tenant column of a protected table.
pub fn tenant_column(table: pg_sys::Oid) -> Option<i16> {
    // SAFETY: JUDGES is only written at load.
    unsafe { JUDGES.and_then(|judges| (judges.column)(table)).map(|column| column.number) }
}

/// The same with its default, where that is a call that asks for the tenant. A frame of plain data, which an error may skip.
pub unsafe fn default_of(table: pg_sys::Oid) -> Option<(i16, Default)> {
    #[cold]
    #[pg_guard]
    unsafe extern "C-unwind" fn find(judges: &Judges, table: pg_sys::Oid, found: *mut Option<Column>) {
        // SAFETY: of the caller's frame.
        unsafe { *found = (judges.column)(table) }
    }
    // SAFETY: JUDGES is only written at load; the table is locked.
    unsafe {
        let judges = JUDGES?;
        let column = (judges.known_column)(table).unwrap_or_else(|| {
            let mut found = None;
            find(&judges, table, &mut found);
            found
        })?;
        column.default.map(|default| (column.number, default))
    }
}

/// Statistics are lent until this is dropped, by an error as well.
pub struct Lent(*const pg_sys::PlannerInfo);

/// Lends statistics of protected tables to what is estimated for a plan, which must call nothing that could tell of a value. Not to another
/// plan that is made meanwhile.
pub fn lend(root: *const pg_sys::PlannerInfo) -> Lent {
    // SAFETY: a backend-local pointer, which is only compared.
    Lent(unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(LENDING), root) })
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { LENDING = self.0 }
    }
}

/// Gives the statistics of a column, or of what an index has, to whatever operator is estimated.
unsafe fn supply_lent(
    relation: pg_sys::Oid,
    column: pg_sys::AttrNumber,
    is_inherited: bool,
    variable: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: PostgreSQL's own argument; what is looked up is given to PostgreSQL with the function that releases it.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::STATRELATTINH as c_int;
        let found = raw::SearchSysCache3(cache, relation.into(), column.into(), is_inherited.into());
        (*variable).statsTuple = found;
        (*variable).freefunc = Some(release);
        (*variable).acl_ok = true;
        !found.is_null()
    }
}

unsafe extern "C-unwind" fn release(tuple: pg_sys::HeapTuple) {
    // SAFETY: what `supply_lent` has looked up.
    unsafe { raw::ReleaseSysCache(tuple) }
}

unsafe extern "C-unwind" fn index_stats(
    root: *mut pg_sys::PlannerInfo,
    index: pg_sys::Oid,
    column: pg_sys::AttrNumber,
    variable: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: PostgreSQL's own arguments.
    unsafe {
        let is_lent = is_lent(root, variable);
        PREVIOUS_OF_INDEX.is_some_and(|previous| previous(root, index, column, variable))
            || is_lent && supply_lent(index, column, false, variable)
    }
}

/// The table of the query that statistics are asked for, or null: where PostgreSQL estimates what an index costs, it does not say, and for
/// one of BRIN it leaves there what was on the stack.
unsafe fn rel_of(
    root: *const pg_sys::PlannerInfo,
    variable: *const pg_sys::VariableStatData,
) -> *mut pg_sys::RelOptInfo {
    // SAFETY: the planner's own array, of which the first place is not used. A pointer that is in it is one.
    unsafe {
        let (rel, all) = ((*variable).rel, (*root).simple_rel_array);
        let count = usize::try_from((*root).simple_rel_array_size).unwrap_or(0);
        let is_known =
            !rel.is_null() && !all.is_null() && std::slice::from_raw_parts(all, count).contains(&rel);
        if is_known { rel } else { std::ptr::null_mut() }
    }
}

/// Whether conditions find a single row by a unique index, of whatever tenant.
unsafe fn is_single(rel: *const pg_sys::RelOptInfo) -> bool {
    // SAFETY: a table of the query, or null; an index has as many columns as it says, and an operator family for each.
    unsafe {
        let Some(rel) = rel.as_ref() else { return false };
        let equals = |index: &pg_sys::IndexOptInfo, place: usize| {
            let (column, family) = (*index.indexkeys.add(place), *index.opfamily.add(place));
            let collation = *index.indexcollations.add(place);
            column != 0
                && entries(rel.baserestrictinfo)
                    .iter()
                    .any(|cell| equals_column(cell.ptr_value.cast(), column, family, collation))
        };
        entries(rel.indexlist).iter().any(|cell| {
            let index = &*cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            let is_key = index.unique && index.immediate && index.indpred.is_null();
            is_key && (0..index.nkeycolumns as usize).all(|place| equals(index, place))
        })
    }
}

/// Whether a condition of a table is that a column equals something that is the same for all its rows.
unsafe fn equals_column(
    condition: *const pg_sys::RestrictInfo,
    column: i32,
    family: pg_sys::Oid,
    collation: pg_sys::Oid,
) -> bool {
    // SAFETY: one with such families is an operator with two arguments; the tag of a node tells its type.
    unsafe {
        if !entries((*condition).mergeopfamilies).iter().any(|cell| cell.oid_value == family) {
            return false;
        }
        let operation = (*condition).clause.cast::<pg_sys::OpExpr>();
        let [left, right] = entries((*operation).args) else { return false };
        // Another one may take more for equal.
        if (*operation).inputcollid != collation {
            return false;
        }
        let mut side = match ((*condition).left_relids.is_null(), (*condition).right_relids.is_null()) {
            (false, true) => left.ptr_value.cast::<pg_sys::Node>(),
            (true, false) => right.ptr_value.cast(),
            _ => return false,
        };
        if (*side).type_ == pg_sys::NodeTag::T_RelabelType {
            side = (*side.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        (*side).type_ == pg_sys::NodeTag::T_Var && i32::from((*side.cast::<pg_sys::Var>()).varattno) == column
    }
}

unsafe extern "C-unwind" fn relation_stats(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
    column: pg_sys::AttrNumber,
    variable: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: PostgreSQL's own arguments; a frame of plain data.
    unsafe {
        let is_lent = is_lent(root, variable);
        if PREVIOUS.is_some_and(|previous| previous(root, entry, column, variable)) {
            return true;
        }
        if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
            return false;
        }
        let question: Question = (running::plans(), entry, column);
        let place = std::ptr::addr_of_mut!(UNKNOWN).cast::<Question>().add(column as usize % PLACES);
        if !is_lent && *place == question {
            return false;
        }
        let is_supplied = supply(root, entry, column, variable, is_lent);
        // Where an index's costs are estimated, a question is of no table, and has less of an answer.
        if !is_lent && !is_supplied && !rel_of(root, variable).is_null() {
            *place = question;
        }
        is_supplied
    }
}

/// Whether statistics are lent to what is being estimated.
#[inline]
unsafe fn is_lent(root: *mut pg_sys::PlannerInfo, variable: *const pg_sys::VariableStatData) -> bool {
    // SAFETY: PostgreSQL's own arguments; a pointer of this backend.
    unsafe {
        (*root).qual_security_level > 0 && index_pushdown::estimates(root, rel_of(root, variable))
            || std::ptr::eq(LENDING, root)
    }
}

/// Gives statistics of its own where those that PostgreSQL has do not know the current tenant.
#[pg_guard]
unsafe extern "C-unwind" fn supply(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
    column: pg_sys::AttrNumber,
    variable: *mut pg_sys::VariableStatData,
    is_lent: bool,
) -> bool {
    // SAFETY: as above; the table is locked. What is looked up in a cache is released, or given to PostgreSQL with the function that does.
    unsafe {
        let Some(judges) = JUDGES else { return false };
        let table = (*entry).relid;
        let Some(place) = (judges.column)(table).filter(|place| place.number == column) else {
            return is_lent && supply_lent(table, column, (*entry).inh, variable);
        };
        let rel = rel_of(root, variable);
        // The plan is the same for a tenant of any size.
        if is_single(rel) {
            return false;
        }
        let is_join = (*root).simple_rel_array_size > 2 || !(*root).parent_root.is_null();
        let tenant = (judges.tenant)();
        let found = tenant.and_then(|tenant| (judges.known)(table, &tenant));
        if (rel.is_null() || tenant.is_none() || found == Some(None)) && (judges.is_settled)(table, is_join) {
            return false;
        }
        let is_new = (judges.is_new)(table);
        if rel.is_null() || !is_new && (tenant.is_none() || found == Some(None)) {
            (judges.planned)(table, is_join);
            return false;
        }
        let statistics = pg_sys::SearchSysCache3(
            pg_sys::SysCacheIdentifier::STATRELATTINH as c_int,
            table.into(),
            column.into(),
            (*entry).inh.into(),
        );
        if statistics.is_null() {
            return false;
        }
        let list = Common::of(statistics);
        let tuples = (*rel).tuples;
        if is_new {
            for (value, frequency) in list.values().iter().zip(list.frequencies()) {
                if let Some(Ok(id)) = place.kind.raw(*value).map(|raw| raw.parse()) {
                    (judges.common)(table, &id, f64::from(*frequency) * tuples);
                }
            }
        }
        let is_common = |tenant: &TenantId| {
            list.values().iter().any(|value| place.kind.raw(*value).is_some_and(|raw| raw.is(tenant)))
        };
        let made = tenant.and_then(|tenant| {
            let rows = found.unwrap_or_else(|| {
                let rows = if is_common(&tenant) { None } else { count(table, place, &tenant) };
                (judges.found)(table, &tenant, rows);
                rows
            })?;
            (judges.common)(table, &tenant, rows);
            list.with(statistics, place, &tenant, (rows / tuples.max(1.0)).min(1.0))
        });
        drop(list);
        pg_sys::ReleaseSysCache(statistics);
        (judges.planned)(table, is_join);
        if let Some(made) = made {
            (*variable).statsTuple = made;
            (*variable).freefunc = Some(free);
        }
        made.is_some()
    }
}

unsafe extern "C-unwind" fn free(tuple: pg_sys::HeapTuple) {
    // SAFETY: one that `supply` has made.
    unsafe { pg_sys::heap_freetuple(tuple) }
}

/// The most common values of a column.
struct Common {
    slot: pg_sys::AttStatsSlot,
}

impl Common {
    unsafe fn of(statistics: pg_sys::HeapTuple) -> Common {
        let mut slot = pg_sys::AttStatsSlot::default();
        let flags = pg_sys::ATTSTATSSLOT_VALUES | pg_sys::ATTSTATSSLOT_NUMBERS;
        // SAFETY: a row of pg_statistic. Where it has no such list, the slot is emptied.
        unsafe {
            pg_sys::get_attstatsslot(
                &mut slot,
                statistics,
                pg_sys::STATISTIC_KIND_MCV as c_int,
                pg_sys::InvalidOid,
                flags as c_int,
            );
        }
        Common { slot }
    }

    fn values(&self) -> &[pg_sys::Datum] {
        match self.slot.values.is_null() {
            true => &[],
            // SAFETY: as many as it says.
            false => unsafe { std::slice::from_raw_parts(self.slot.values, self.slot.nvalues as usize) },
        }
    }

    fn frequencies(&self) -> &[f32] {
        match self.slot.numbers.is_null() {
            true => &[],
            // SAFETY: as many as it says.
            false => unsafe { std::slice::from_raw_parts(self.slot.numbers, self.slot.nnumbers as usize) },
        }
    }

    /// The statistics with one more value in the list, which stays in the order of frequency.
    unsafe fn with(
        &self,
        statistics: pg_sys::HeapTuple,
        place: Column,
        tenant: &TenantId,
        frequency: f64,
    ) -> Option<pg_sys::HeapTuple> {
        // The others make up as much less.
        let scaled = |one: &f32| (f64::from(*one) * (1.0 - frequency)) as f32;
        let mut list: Vec<(pg_sys::Datum, f32)> =
            self.values().iter().copied().zip(self.frequencies().iter().map(scaled)).collect();
        let at = list.partition_point(|(_, one)| f64::from(*one) >= frequency);
        list.insert(at, (place.kind.datum(tenant)?, frequency as f32));
        let (mut values, numbers): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        let mut numbers: Vec<_> = numbers.into_iter().filter_map(IntoDatum::into_datum).collect();
        // SAFETY: a row of pg_statistic, which has these columns; arrays of types that PostgreSQL has.
        unsafe {
            let row = pg_sys::GETSTRUCT(statistics).cast::<pg_sys::FormData_pg_statistic>();
            let kinds = [(*row).stakind1, (*row).stakind2, (*row).stakind3, (*row).stakind4, (*row).stakind5];
            let of_kind = |wanted: u32| kinds.iter().position(|kind| *kind as u32 == wanted);
            // One of the five is free where there is no list yet.
            let slot = of_kind(pg_sys::STATISTIC_KIND_MCV).or(of_kind(0)).unwrap_or(0);
            let mut new = [pg_sys::Datum::from(0); pg_sys::Natts_pg_statistic as usize];
            let mut nulls = [false; pg_sys::Natts_pg_statistic as usize];
            let mut replaced = [false; pg_sys::Natts_pg_statistic as usize];
            let mut put = |first: u32, value: pg_sys::Datum| {
                let column = first as usize - 1 + slot;
                (new[column], nulls[column], replaced[column]) = (value, false, true);
            };
            put(pg_sys::Anum_pg_statistic_stakind1, (pg_sys::STATISTIC_KIND_MCV as i16).into());
            put(pg_sys::Anum_pg_statistic_stanumbers1, array(&mut numbers, pg_sys::FLOAT4OID));
            put(pg_sys::Anum_pg_statistic_stavalues1, array(&mut values, place.kind.number()));
            let catalog =
                pg_sys::table_open(pg_sys::StatisticRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let made = pg_sys::heap_modify_tuple(
                statistics,
                (*catalog).rd_att,
                new.as_mut_ptr(),
                nulls.as_mut_ptr(),
                replaced.as_mut_ptr(),
            );
            pg_sys::table_close(catalog, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            Some(made)
        }
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: what `get_attstatsslot` has filled or emptied.
            unsafe { pg_sys::free_attstatsslot(&mut self.slot) }
        }
    }
}

unsafe fn array(elements: &mut [pg_sys::Datum], of: pg_sys::Oid) -> pg_sys::Datum {
    // SAFETY: datums of a type that PostgreSQL has.
    unsafe {
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(of, &mut length, &mut by_value, &mut align);
        let count = elements.len() as c_int;
        pg_sys::construct_array(elements.as_mut_ptr(), count, of, length.into(), by_value, align).into()
    }
}

/// The tenant column of a table, by its policy: the one column that it asks for.
pub fn column(table: pg_sys::Oid, policy: &std::ffi::CStr) -> Option<Column> {
    // SAFETY: a locked relation, whose cache entry stays while it is open.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*relation).rd_rsdesc.as_ref().and_then(|security| {
            let policies = entries(security.policies)
                .iter()
                .map(|cell| cell.ptr_value.cast::<pg_sys::RowSecurityPolicy>());
            let mut ours = policies.filter(|its| std::ffi::CStr::from_ptr((**its).policy_name) == policy);
            let mut columns = std::ptr::null_mut();
            pg_sys::pull_varattnos((*ours.next()?).qual.cast(), 1, &mut columns);
            let first = pg_sys::bms_next_member(columns, -1);
            let number = i16::try_from(first + pg_sys::FirstLowInvalidHeapAttributeNumber).ok()?;
            let is_only = first >= 0 && pg_sys::bms_next_member(columns, first) < 0 && number > 0;
            let attribute = || super::transition::attribute((*relation).rd_att, i32::from(number) - 1);
            is_only.then(|| Kind::of((*attribute()).atttypid)).flatten().map(|kind| Column {
                number,
                kind,
                default: Default::of(relation, number),
            })
        });
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// Whether so much of a table has changed since it was analyzed that a tenant may have come with it; how many rows.
pub fn changed_rows(table: pg_sys::Oid) -> f64 {
    // SAFETY: a function of PostgreSQL that takes the number of a table and returns a bigint.
    let rows: Option<i64> =
        unsafe { pgrx::direct_function_call(pg_sys::pg_stat_get_mod_since_analyze, &[table.into_datum()]) };
    rows.unwrap_or(0) as f64
}

/// Counts a tenant's entries in the index that leads with its column; none where there is no such index or nothing has changed.
unsafe fn count(table: pg_sys::Oid, place: Column, tenant: &TenantId) -> Option<f64> {
    // SAFETY: a table that is locked; its indexes are there as long, and a scan of the index alone returns no rows.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let changed = changed_rows(table);
        let all = f64::from((*(*relation).rd_rel).reltuples);
        let found = (changed >= CHANGED_ROWS && changed >= all * CHANGED_PART).then(|| {
            entries(pg_sys::RelationGetIndexList(relation))
                .iter()
                .find_map(|cell| count_in(relation, cell.oid_value, place, tenant))
        });
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let counted = found.flatten()?;
        // Of a tenant that has more there is a least and a most: the middle, as it is counted in orders of magnitude.
        Some(if counted < LIMIT {
            f64::from(counted)
        } else {
            (f64::from(LIMIT) * changed.max(f64::from(LIMIT))).sqrt()
        })
    }
}

unsafe fn count_in(
    table: pg_sys::Relation,
    number: pg_sys::Oid,
    place: Column,
    tenant: &TenantId,
) -> Option<u32> {
    let value = place.kind.datum(tenant)?;
    // SAFETY: as above.
    unsafe {
        let index = pg_sys::index_open(number, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let is_of_tenant = (*(*index).rd_rel).relam.to_u32() == pg_sys::BTREE_AM_OID.to_u32()
            && (*(*index).rd_index).indisvalid
            && (*(*index).rd_index).indkey.values.as_slice(1).first() == Some(&place.number)
            && pg_sys::heap_attisnull(
                (*index).rd_indextuple,
                pg_sys::Anum_pg_index_indpred as c_int,
                std::ptr::null_mut(),
            );
        let counted = is_of_tenant.then(|| {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                0,
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::InvalidOid,
                *(*index).rd_indcollation,
                place.kind.equality(),
                value,
            );
            let any = std::ptr::addr_of_mut!(pg_sys::SnapshotAnyData);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table, index, any, 1, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(table, index, any, std::ptr::null_mut(), 1, 0);
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let mut counted = 0;
            while counted < LIMIT && !pg_sys::index_getnext_tid(scan, forward).is_null() {
                counted += 1;
            }
            pg_sys::index_endscan(scan);
            counted
        });
        pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        counted
    }
}
