//! What does DROP EXTENSION leave?
//!
//! Guarantees: by DROP EXTENSION no table that was isolated is open to anybody afterwards, unless `unprotect` has given it back; and whoever drops the
//! extension is told which are closed. Where a policy of the user's own would open one, the extension is not dropped.

use std::cell::RefCell;

use crate::error::{Error, warn_of_closed};
use crate::pg::{
    self,
    dropping::{self, Listener},
};
use crate::registry::names;

thread_local! {
    /// Tables that keep row-level security without its policies.
    static CLOSED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

pub fn init() {
    dropping::listen(Listener { begins, ended });
}

fn begins(is_cascade: bool) {
    CLOSED.take();
    // To others PostgreSQL says that they may not.
    let Some(table) = pg::scan::table(c"protected").filter(|_| pg::user::is_superuser()) else { return };
    if !is_cascade {
        let query = "SELECT DISTINCT u.relation::text FROM (
                 SELECT relation FROM _tenancy.protected UNION ALL SELECT relation FROM _tenancy.meters
                 UNION ALL SELECT relation FROM _tenancy.audited UNION ALL SELECT relation FROM _tenancy.cache_watches
                 UNION ALL SELECT relation FROM _tenancy.migrations WHERE phase <> 'done'
             ) AS u WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = u.relation)";
        let count = names(table, query, &[]).len();
        if count > 0 {
            Error::ExtensionInUse(count).raise()
        }
        return;
    }
    // What calls a function of the extension goes with it.
    let query = "WITH goes AS (
             SELECT d.objid FROM pg_depend d JOIN pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid
             JOIN pg_extension e ON e.oid = m.refobjid AND e.extname = 'tenancy'
             WHERE d.classid = 'pg_policy'::regclass AND m.refclassid = 'pg_extension'::regclass AND m.deptype = 'e'
         )
         SELECT DISTINCT c.oid::regclass::text FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
         JOIN pg_policy own ON own.polrelid = c.oid AND own.polpermissive AND own.polcmd <> 'a' AND own.oid NOT IN (SELECT objid FROM goes)
         WHERE p.polname = 'tenancy_isolation' AND NOT p.polpermissive AND p.oid IN (SELECT objid FROM goes)
           AND c.relnamespace <> '_tenancy'::regnamespace ORDER BY 1";
    if let Some(open) = names(table, query, &[]).first() {
        Error::WouldBeOpen(open).raise()
    }
    // Partitions have policies of their own.
    let query = "SELECT c.oid::regclass::text FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
             WHERE p.polname = 'tenancy_isolation' AND c.relrowsecurity AND c.relnamespace <> '_tenancy'::regnamespace ORDER BY 1";
    CLOSED.set(names(table, query, &[]));
}

fn ended() {
    let closed = CLOSED.take();
    if !closed.is_empty() {
        warn_of_closed(&closed);
    }
}
