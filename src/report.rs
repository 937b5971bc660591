//! How are all tenants, on one page? What is on it is SQL (`sql/api/report.sql`); how it looks is here.
//!
//! Guarantees: what users have written is text on the page and nothing else; the page asks for nothing from anywhere, which browsers also enforce by its
//! policy; it is ASCII, so that it is the same by whichever encoding a client writes it to a file.

use pgrx::prelude::*;
use serde::Deserialize;

use crate::error::internal;
use crate::pg::text::Json;

mod page;
mod plot;

/// All that is on the page, as `_tenancy.report_data()` has it.
#[derive(Deserialize)]
struct Report {
    database: String,
    /// When it was made: a moment in UTC, as text.
    at: String,
    server: String,
    version: String,
    /// How many days the activity is of.
    days: u32,
    totals: Totals,
    /// What concerns all tenants.
    checks: Vec<Check>,
    findings: Vec<Finding>,
    activity: Vec<Series>,
    tenants: Vec<Tenant>,
}

#[derive(Deserialize)]
struct Totals {
    tenants: u64,
    active: u64,
    suspended: u64,
    archived: u64,
    unhealthy: u64,
    degraded: u64,
    tables: u64,
    /// Of tables that ANALYZE has not seen, rows and bytes are not known.
    unknown_tables: u64,
    rows: f64,
    bytes: f64,
    findings: u64,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Deserialize)]
struct Check {
    component: String,
    status: Status,
    reason: Option<String>,
    remedy: Option<String>,
}

#[derive(Deserialize)]
struct Finding {
    rule: String,
    severity: String,
    object: String,
    problem: String,
    remedy: String,
}

/// A number for each day.
#[derive(Deserialize)]
struct Series {
    title: String,
    days: Vec<(String, f64)>,
}

#[derive(Deserialize)]
struct Tenant {
    id: String,
    name: Option<String>,
    plan: Option<String>,
    state: String,
    created: String,
    /// None where it is archived.
    status: Option<Status>,
    reasons: Vec<String>,
    rows: f64,
    bytes: f64,
    /// Whether the statistics name it for any table; else it has as many rows as others have on average.
    is_named: bool,
    statements: Option<f64>,
    seconds: Option<f64>,
    quotas: Vec<Quota>,
    /// In how many hours of a day, counted from 0, it used anything.
    hours: Vec<(u32, u32)>,
}

#[derive(Deserialize)]
struct Quota {
    name: String,
    used: f64,
    limit: Option<f64>,
    soft_limit: Option<f64>,
}

/// Returns the page. Immutable. For `tenancy.report()`.
#[pg_extern(schema = "_tenancy", immutable, strict, parallel_safe)]
pub fn report_page(data: Json) -> String {
    let data = data.value().unwrap_or_default();
    let report = serde_json::from_value(data).unwrap_or_else(|error| internal(error));
    page::page(&report).unwrap_or_else(|error| internal(error))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "database": "shop", "at": "2026-11-30 02:00 UTC", "server": "18.1", "version": "0.1.0", "days": 2,
            "totals": {"tenants": 1, "active": 1, "suspended": 0, "archived": 0, "unhealthy": 0, "degraded": 1, "tables": 1, "unknown_tables": 0,
                       "rows": 12.0, "bytes": 8192.0, "findings": 0},
            "checks": [], "findings": [],
            "activity": [{"title": "Tenants with usage", "days": [["2026-11-29", 1.0], ["2026-11-30", 0.0]]}],
            "tenants": [{"id": "acme", "name": "A & B", "plan": null, "state": "active", "created": "2026-11-29", "status": "degraded",
                         "reasons": ["agents: 9 are used"], "rows": 12.0, "bytes": 8192.0, "is_named": true, "statements": 4.0, "seconds": 0.5,
                         "quotas": [{"name": "agents", "used": 9.0, "limit": 10.0, "soft_limit": 8.0}], "hours": [[0, 24]]}]
        })
    }

    fn page_of(data: serde_json::Value) -> String {
        page::page(&serde_json::from_value(data).unwrap()).unwrap()
    }

    #[test]
    fn what_users_have_written_is_text() {
        for hostile in
            ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</style><b>", "&lt;b&gt;"]
        {
            let mut data = sample();
            data["tenants"][0]["name"] = hostile.into();
            data["tenants"][0]["reasons"] = serde_json::json!([hostile]);
            data["tenants"][0]["quotas"][0]["name"] = hostile.into();
            data["activity"][0]["title"] = hostile.into();
            data["activity"][0]["days"][0][0] = hostile.into();
            data["findings"] = serde_json::json!([{"rule": hostile, "severity": "error", "object": hostile, "problem": hostile, "remedy": hostile}]);
            let (page, plain) = (page_of(data), page_of(sample()));
            assert!(!page.contains(hostile), "{hostile}");
            let count = |page: &str, tag: &str| page.matches(tag).count();
            for tag in ["<script", "<img", "<style", "<b>"] {
                assert_eq!(count(&page, tag), count(&plain, tag), "{hostile}: {tag}");
            }
        }
    }

    #[test]
    fn the_page_is_ascii() {
        let mut data = sample();
        data["tenants"][0]["name"] = "Žofie 日本 🙂".into();
        data["activity"][0]["title"] = "Größe".into();
        let page = page_of(data);
        assert!(page.is_ascii());
        assert!(page.contains("&#381;ofie &#26085;&#26412; &#128578;"));
    }

    #[test]
    fn the_policy_names_what_is_inline() {
        let page = page_of(sample());
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let inline =
                page.split(&format!("<{tag}>")).nth(1).unwrap().split(&format!("</{tag}>")).next().unwrap();
            assert!(page.contains(&format!("{directive} '{}'", page::hash_of(inline))), "{tag}");
        }
    }
}
