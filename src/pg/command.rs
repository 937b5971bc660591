//! What an ALTER TABLE has done, for event triggers: PostgreSQL hands them the command as a pointer that only C can follow.
//!
//! Called as `_tenancy.altered(pg_ddl_command)`; nothing in SQL can make a value of that type but
//! `pg_event_trigger_ddl_commands()`. The idea is that of PostgreSQL's own `src/test/modules/test_ddl_deparse`.

use pgrx::{IntoDatum, pg_sys, prelude::*};

use super::text::Text;

/// Names what weakens the protection of a table, or adds to it, with the name of the trigger or column where there is one; nothing
/// for other commands.
#[allow(non_upper_case_globals)] // PostgreSQL's names
unsafe fn word(command: *const pg_sys::AlterTableCmd) -> Option<Text> {
    use pg_sys::AlterTableType::*;
    // SAFETY: a valid node, of which `name` is null or a C string.
    unsafe {
        let named = |word: &str| {
            let name = super::text::of_c_string((*command).name);
            Some(Text::of(&[word.as_bytes(), b" ", name.as_bytes()].concat()))
        };
        let plain = |word: &str| Some(Text::of(word.as_bytes()));
        match (*command).subtype {
            AT_DisableRowSecurity | AT_NoForceRowSecurity | AT_EnableRowSecurity | AT_ForceRowSecurity => {
                plain("ROW SECURITY")
            }
            AT_EnableTrig | AT_EnableAlwaysTrig | AT_EnableReplicaTrig | AT_DisableTrig => named("TRIGGER"),
            AT_EnableTrigAll | AT_DisableTrigAll | AT_EnableTrigUser | AT_DisableTrigUser => {
                plain("TRIGGER *")
            }
            // Since 18, NOT NULL is a constraint that can be dropped as such.
            AT_DropNotNull | AT_DropConstraint => plain("NOT NULL"),
            AT_ChangeOwner => plain("OWNER"),
            AT_AttachPartition | AT_AddInherit => plain("CHILD"),
            AT_DropInherit => plain("ORPHAN"),
            AT_AddColumn => plain("COLUMN"),
            #[cfg(feature = "pg15")]
            AT_AddColumnRecurse => plain("COLUMN"),
            _ => None,
        }
    }
}

// SAFETY (of the name): no other library exports symbols with the prefix `tenancy_`.
/// Called by PostgreSQL with a valid call frame and one argument that is not null, a `pg_ddl_command`. Null for another command than
/// a list of changes of one table, or a new name, which changes nothing. CREATE OR REPLACE TRIGGER is `REPLACE`.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_altered(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let mut words: Vec<Text> = Vec::new();
    // SAFETY: the type's values are pointers to commands, which live while the event trigger runs; the member of the union is
    // the one that its type tells, and so is each node.
    unsafe {
        let command = (*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr::<pg_sys::CollectedCommand>();
        if (*command).type_ == pg_sys::CollectedCommandType::SCT_Simple {
            let statement = (*command).parsetree;
            match (*statement).type_ {
                pg_sys::NodeTag::T_RenameStmt => return words.into_datum().unwrap_or(pg_sys::Datum::from(0)),
                pg_sys::NodeTag::T_CreateTrigStmt
                    if (*statement.cast::<pg_sys::CreateTrigStmt>()).replace =>
                {
                    words.push(Text::of(b"REPLACE"));
                    return words.into_datum().unwrap_or(pg_sys::Datum::from(0));
                }
                _ => {}
            }
        }
        if (*command).type_ != pg_sys::CollectedCommandType::SCT_AlterTable {
            (*fcinfo).isnull = true;
            return pg_sys::Datum::from(0);
        }
        let list = (*command).d.alterTable.subcmds;
        let cells = list
            .as_ref()
            .map_or(&[][..], |list| std::slice::from_raw_parts(list.elements, list.length as usize));
        for cell in cells {
            let node = (*cell.ptr_value.cast::<pg_sys::CollectedATSubcmd>()).parsetree;
            if (*node).type_ == pg_sys::NodeTag::T_AlterTableCmd {
                words.extend(word(node.cast()));
            }
        }
    }
    words.into_datum().unwrap_or(pg_sys::Datum::from(0))
}

super::version_1!(pg_finfo_tenancy_altered);
