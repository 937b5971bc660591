//! The page itself. `maud` writes what is a value as text; only what this module draws is not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{Check, Finding, Quota, Report, Series, Status, Tenant, plot};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// How a browser is told of what is inline: whatever else is, it does not run.
pub fn hash_of(inline: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inline.as_bytes())))
}

pub fn page(report: &Report) -> Result<String, plot::Failed> {
    let activity = activity(&report.activity, report.days)?;
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash_of(STYLE),
        hash_of(SCRIPT)
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Tenants of " (report.database) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Tenants of " (report.database) }
                    p { (report.at) ", PostgreSQL " (report.server) ", tenancy " (report.version) }
                }
                main {
                    (totals(report))
                    (checks(&report.checks))
                    (activity)
                    (tenants(report))
                    (findings(&report.findings, report.totals.findings))
                }
                footer { p {
                    "Made by " code { "SELECT tenancy.report();" } " Rows and sizes are estimates, by the statistics of ANALYZE; ~ is the average of all whom they do not name"
                    @if report.totals.unknown_tables > 0 { ". ANALYZE has not seen " (count(report.totals.unknown_tables, "table")) }
                    ". Statements are those since the server has counted them. Usage is by hour, in UTC."
                } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(ascii(&page.into_string()))
}

/// The same page in ASCII.
fn ascii(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    for character in page.chars() {
        match character.is_ascii() {
            true => out.push(character),
            false => out.push_str(&format!("&#{};", u32::from(character))),
        }
    }
    out
}

/// A number with at most three digits: 999, 12.3k, 1.2M.
pub fn short(number: f64) -> String {
    let (mut value, mut units) = (number, ["", "k", "M", "G", "T", "P", "E"].iter());
    let mut unit = units.next().copied().unwrap_or_default();
    // What would be rounded to a thousand is one of the next unit.
    while value.abs() >= 999.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    format!("{}{unit}", digits(value))
}

fn digits(value: f64) -> String {
    let text = if value.abs() < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Bytes as PostgreSQL's `pg_size_pretty` names them.
fn bytes(number: f64) -> String {
    let (mut value, mut units) = (number, ["bytes", "kB", "MB", "GB", "TB", "PB"].iter());
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 1023.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", digits(value))
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        }
    }

    /// A word in a colour, so that the colour is not all that tells.
    fn badge(self) -> Markup {
        html! { span class={ "badge " (self.name()) } { (self.name()) } }
    }
}

fn totals(report: &Report) -> Markup {
    let totals = &report.totals;
    let tile = |number: String, what: &str, note: String| {
        html! { div class="tile" { strong { (number) } span { (what) } @if !note.is_empty() { small { (note) } } } }
    };
    let states = [(totals.active, "active"), (totals.suspended, "suspended"), (totals.archived, "archived")];
    let states =
        states.iter().filter(|(number, _)| *number > 0).map(|(number, state)| format!("{number} {state}"));
    let ill = [(totals.unhealthy, "unhealthy"), (totals.degraded, "degraded")];
    let ill =
        ill.iter().filter(|(number, _)| *number > 0).map(|(number, status)| format!("{number} {status}"));
    html! {
        section class="tiles" aria-label="Totals" {
            (tile(short(totals.tenants as f64), if totals.tenants == 1 { "tenant" } else { "tenants" }, states.collect::<Vec<_>>().join(", ")))
            (tile(short((totals.unhealthy + totals.degraded) as f64), "need attention", ill.collect::<Vec<_>>().join(", ")))
            (tile(short(totals.tables as f64), if totals.tables == 1 { "protected table" } else { "protected tables" }, String::new()))
            (tile(short(totals.rows), "rows of tenants", bytes(totals.bytes)))
            (tile(short(totals.findings as f64), if totals.findings == 1 { "finding" } else { "findings" }, "of lint".into()))
        }
    }
}

fn checks(checks: &[Check]) -> Markup {
    let (well, ill): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.status == Status::Healthy);
    html! {
        section {
            h2 { "What all tenants share" }
            @if !ill.is_empty() {
                table class="cards" {
                    thead { tr { th { "Part" } th { "Status" } th { "Reason" } th { "What to do" } } }
                    tbody { @for check in ill {
                        tr {
                            td data-label="Part" { (check.component) }
                            td data-label="Status" { (check.status.badge()) }
                            td data-label="Reason" { (check.reason.as_deref().unwrap_or_default()) }
                            td data-label="What to do" { @if let Some(remedy) = &check.remedy { code { (remedy) } } }
                        }
                    } }
                }
            }
            p class="well" { (Status::Healthy.badge()) @for check in well { span { (check.component) } } }
        }
    }
}

fn activity(series: &[Series], days: u32) -> Result<Markup, plot::Failed> {
    let plots = series.iter().map(plot::bars).collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        section {
            h2 { "The last " (count(days.into(), "day")) }
            div class="plots" { @for (series, plot) in series.iter().zip(&plots) {
                figure {
                    figcaption { (series.title) }
                    // What plotters draws has texts of its own making, and names of days that it escapes.
                    (PreEscaped(plot))
                }
            } }
        }
    })
}

fn tenants(report: &Report) -> Markup {
    let shown = report.tenants.len();
    let left_out = report.totals.tenants.saturating_sub(shown as u64);
    let header = |name: &str, kind: &str| html! { th scope="col" { button type="button" data-sort=(kind) { (name) } } };
    html! {
        section {
            h2 { "Tenants" }
            div class="tools" {
                label { "Find " input type="search" id="find" autocomplete="off"; }
                label { input type="checkbox" id="attention"; " only what needs attention" }
                output id="found" { (shown) " shown" @if left_out > 0 { ", " (left_out) " left out" } }
            }
            table class="cards" id="tenants" {
                thead { tr {
                    (header("Tenant", "text")) (header("Status", "number")) (header("Rows", "number")) (header("Size", "number"))
                    (header("Statements", "number")) (header("Time", "number")) (header("Quotas", "number")) (header("Hours in use", "number"))
                } }
                tbody { @for tenant in &report.tenants { (row(tenant, report.days)) } }
            }
        }
    }
}

fn row(tenant: &Tenant, days: u32) -> Markup {
    let status = tenant.status.map_or(0, |status| status as u32 + 1);
    let fullest = tenant.quotas.iter().filter_map(Quota::part).fold(0.0, f64::max);
    let hours: u32 = tenant.hours.iter().map(|(_, hours)| hours).sum();
    let about = if tenant.is_named { "" } else { "~" };
    html! {
        tr data-attention[tenant.status.is_some_and(|status| status != Status::Healthy)] {
            td data-label="Tenant" data-value=(tenant.id) {
                strong { (tenant.id) }
                @if let Some(name) = &tenant.name { " " span { (name) } }
                small { @if let Some(plan) = &tenant.plan { "plan " (plan) ", " } "since " (tenant.created) }
            }
            td data-label="Status" data-value=(status) {
                @match tenant.status { Some(status) => (status.badge()), None => span class="badge" { (tenant.state) } }
                @for reason in &tenant.reasons { small { (reason) } }
            }
            td data-label="Rows" class="number" data-value=(tenant.rows) { (about) (short(tenant.rows)) }
            td data-label="Size" class="number" data-value=(tenant.bytes) { (about) (bytes(tenant.bytes)) }
            td data-label="Statements" class="number" data-value=(tenant.statements.unwrap_or(-1.0)) {
                (tenant.statements.map_or("-".into(), short))
            }
            td data-label="Time" class="number" data-value=(tenant.seconds.unwrap_or(-1.0)) {
                (tenant.seconds.map_or("-".into(), |seconds| format!("{} s", digits(seconds))))
            }
            td data-label="Quotas" data-value=(fullest) { @for quota in &tenant.quotas { (bar(quota)) } }
            td data-label="Hours in use" data-value=(hours) { (spark(&tenant.hours, hours, days)) }
        }
    }
}

impl Quota {
    /// How much of it is used: 1 for all of it.
    fn part(&self) -> Option<f64> {
        let whole = self.limit.or(self.soft_limit)?;
        Some(if whole > 0.0 { self.used / whole } else { f64::from(self.used > 0.0) })
    }
}

fn bar(quota: &Quota) -> Markup {
    let part = quota.part().unwrap_or(0.0);
    let soft = quota.soft_limit.zip(quota.limit).map(|(soft, limit)| soft / limit.max(1.0));
    let level = match quota.limit.is_some_and(|limit| quota.used >= limit && quota.used > 0.0) {
        true => "unhealthy",
        false if quota.soft_limit.is_some_and(|soft| quota.used > soft) => "degraded",
        false => "healthy",
    };
    let of = match (quota.limit, quota.soft_limit) {
        (Some(limit), _) => format!("of {}", short(limit)),
        (None, Some(soft)) => format!("of {}, a soft limit", short(soft)),
        (None, None) => String::new(),
    };
    html! {
        div class="quota" {
            span { (quota.name) } span class="number" { (short(quota.used)) " " (of) }
            svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                rect class="track" width="100" height="4" {}
                rect class=(level) width=(format!("{:.1}", 100.0 * part.clamp(0.0, 1.0))) height="4" {}
                @if let Some(soft) = soft.filter(|soft| *soft < 1.0) { rect class="soft" x=(format!("{:.1}", 100.0 * soft)) width="0.6" height="4" {} }
            }
        }
    }
}

/// A bar for each day, as high as there are hours in it in which the tenant used anything.
fn spark(hours: &[(u32, u32)], sum: u32, days: u32) -> Markup {
    if sum == 0 {
        return html! {};
    }
    let bar = |(day, hours): &(u32, u32)| format!("M{day} 24v-{hours}h.8v{hours}z", hours = (*hours).min(24));
    let path: String = hours.iter().map(bar).collect();
    html! {
        svg class="spark" viewBox={ "0 0 " (days) " 24" } preserveAspectRatio="none" role="img" aria-label={ (sum) " hours in " (days) " days" } {
            path d=(path) {}
        }
    }
}

fn findings(findings: &[Finding], all: u64) -> Markup {
    html! {
        section {
            h2 { "Findings of lint" }
            @if findings.is_empty() { p { "None." } } @else {
                table class="cards" {
                    thead { tr { th { "Severity" } th { "Rule" } th { "Object" } th { "Problem" } th { "Remedy" } } }
                    tbody { @for finding in findings {
                        tr {
                            td data-label="Severity" { span class={ "badge " (if finding.severity == "error" { "unhealthy" } else { "degraded" }) } { (finding.severity) } }
                            td data-label="Rule" { (finding.rule) }
                            td data-label="Object" { (finding.object) }
                            td data-label="Problem" { (finding.problem) }
                            td data-label="Remedy" { code { (finding.remedy) } }
                        }
                    } }
                }
                @if all > findings.len() as u64 { p { (all - findings.len() as u64) " more: SELECT * FROM tenancy.lint();" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.2"),
            (99.96, "100"),
            (999.0, "999"),
            (999.6, "1k"),
            (1_234.0, "1.2k"),
            (999_700.0, "1M"),
            (12_345_678.0, "12.3M"),
            (9.2e18, "9.2E"),
            (9.9e22, "99000E"),
            (-1500.0, "-1.5k"),
        ] {
            assert_eq!(short(number), text, "{number}");
        }
        assert_eq!([bytes(8192.0), bytes(1023.7), bytes(1.5e9)], ["8 kB", "1 kB", "1.4 GB"]);
    }
}
