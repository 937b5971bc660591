//! Whatever is given to a parameter or to an argument of type jsonb, the answer is a result or an error of the catalogue.
//!
//! Many inputs go in one round trip to a function that tries each in a subtransaction. `TENANCY_CASES` is the number of inputs for
//! each target, `TENANCY_SEED` replays a run, `TENANCY_TARGET` tries only the targets whose names have that in them.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postgres::Client;
use tenancy_client_tests::Database;
use tenancy_client_tests::property::{number, seed};
use tenancy_client_tests::random::Random;

/// Inputs for each target.
const CASES: usize = 3_000;
const BATCH: usize = 1_000;
/// Far more than any of these needs.
const SLOW: Duration = Duration::from_secs(20);
/// What a backend may grow by between the first tenth of its inputs and the end, however many there are: the room of one large input, and of
/// caches that are filled anew. With a million inputs, that is less than 24 bytes for each.
const GROWTH: u64 = 24 << 20;

/// Targets: a name, what it is given, who calls it, and the call of the input `t`, as jsonb `j`, as members of a good key `k`; `n` is a number by lot.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    input: Input,
    by_admin: bool,
    call: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    Text,
    Host,
    Json,
}

const fn of(name: &'static str, input: Input, by_admin: bool, call: &'static str) -> Target {
    Target { name, input, by_admin, call }
}

const TARGETS: [Target; 39] = [
    of("set_config", Input::Text, false, "PERFORM set_config('tenancy.tenant_id', t, true)"),
    of("SET LOCAL", Input::Text, false, "EXECUTE format('SET LOCAL tenancy.tenant_id = %L', t)"),
    of("SET, then used", Input::Text, false, "PERFORM set_config('tenancy.tenant_id', t, true), tenancy.current_tenant()"),
    of("set_tenant", Input::Text, false, "PERFORM tenancy.set_tenant(t)"),
    of("normalize_tenant_id", Input::Text, false, "PERFORM tenancy.normalize_tenant_id(t)"),
    of("user_id", Input::Text, true, "PERFORM set_config('tenancy.user_id', t, true), tenancy.context()"),
    of("cross_tenant", Input::Text, false, "PERFORM set_config('tenancy.cross_tenant', t, true), tenancy.context()"),
    // What begins a scope is on record for good, so few inputs do.
    of(
        "begin_cross_tenant",
        Input::Text,
        false,
        "PERFORM tenancy.begin_cross_tenant(CASE WHEN length(t) % 64 = 0 THEN '{*}' ELSE ARRAY[t] END, t), tenancy.context()",
    ),
    of("default_tenant", Input::Text, true, "PERFORM set_config('tenancy.default_tenant', t, true), tenancy.context()"),
    of("check_quota", Input::Text, false, "PERFORM tenancy.check_quota(t)"),
    of("claims", Input::Json, false, "PERFORM tenancy.resolve_tenant(j)"),
    of("headers", Input::Json, false, "PERFORM tenancy.resolve_tenant(NULL, j)"),
    of("claims, headers, host", Input::Json, false, "PERFORM tenancy.resolve_tenant(j -> 'sub', j, j ->> 'tenant_id')"),
    of("host", Input::Host, false, "PERFORM tenancy.resolve_tenant(NULL, NULL, t)"),
    of(
        "pre_request",
        Input::Json,
        false,
        "PERFORM set_config('request.jwt.claims', j::text, true), set_config('request.headers', (j -> 'sub')::text, true);
         PERFORM tenancy.pre_request()",
    ),
    of("track_usage resource", Input::Text, false, "PERFORM tenancy.track_usage(t)"),
    of("track_usage metadata", Input::Json, false, "PERFORM tenancy.track_usage('calls', 1, j)"),
    of("create_tenant", Input::Text, true, "PERFORM tenancy.create_tenant(t, t, t, t)"),
    of("create_tenant settings", Input::Json, true, "PERFORM tenancy.create_tenant('new', settings => j)"),
    of("token", Input::Text, false, "PERFORM set_config('tenancy.token', t, true)"),
    of(
        "authenticate",
        Input::Json,
        false,
        "PERFORM tenancy.authenticate(CASE WHEN length(t) % 2 = 0 THEN j ELSE jsonb_build_object('token', t) END)",
    ),
    // Each hash takes its time, so few inputs are a password.
    of(
        "sign_in",
        Input::Json,
        false,
        "PERFORM _tenancy.sign_in(CASE WHEN length(t) % 64 = 0 THEN jsonb_build_object('tenant_id', t, 'email', t, 'password', t) ELSE j END)",
    ),
    of(
        "set_issuer",
        Input::Json,
        true,
        "PERFORM tenancy.set_issuer('other', CASE WHEN length(t) % 2 = 0 THEN j ELSE jsonb_build_object('keys', jsonb_build_array(k)) END)",
    ),
    of(
        "set_identity_provider",
        Input::Json,
        true,
        "PERFORM tenancy.set_identity_provider('acme', 'of acme', NULL, CASE WHEN length(t) % 2 = 0 THEN j ELSE jsonb_build_object('keys', jsonb_build_array(k)) END)",
    ),
    of(
        "set_signing_key",
        Input::Json,
        true,
        "PERFORM tenancy.set_signing_key('other', CASE WHEN length(t) % 2 = 0 THEN j ELSE k END)",
    ),
    of("sign_token", Input::Json, true, "PERFORM tenancy.sign_token('here', 'acme', claims => j)"),
    of("cache_key", Input::Text, false, "PERFORM set_config('tenancy.tenant_id', 'acme', true), tenancy.cache_key(t, t), tenancy.cache_get(t), tenancy.cache_version(t)"),
    of(
        "cache_set",
        Input::Json,
        false,
        "PERFORM set_config('tenancy.tenant_id', 'acme', true), tenancy.cache_set(coalesce(j ->> 'sub', left(t, 1000)), j), _tenancy.keep_entry(left(t, 1000), j, 'infinity')",
    ),
    of(
        "record_metric",
        Input::Json,
        false,
        "PERFORM set_config('tenancy.tenant_id', 'acme', true), tenancy.record_metric('fuzzed_total', j), tenancy.record_metric(coalesce(j ->> 'sub', 'fuzzed'))",
    ),
    // What protect and the event triggers call with the rights of a table's owner, who can call it as well: owned is protected, fresh is not.
    // What was saved is read with that of all other tables.
    of(
        "save_protection",
        Input::Json,
        false,
        "PERFORM _tenancy.save_protection('owned', 'tenant', 'tenant_id', bent(p.options, j, n % 2 * n), bent(p.undo, j, (n + 1) % 2 * n)) FROM _tenancy.protection('owned') p;
         PERFORM count(drift) FROM tenancy.protected_tables",
    ),
    of(
        "add_protection",
        Input::Json,
        false,
        "IF n % 3 = 0 THEN PERFORM _tenancy.begin_change('fresh'); END IF;
         PERFORM _tenancy.add_protection('fresh', 'tenant', 'tenant_id', bent(p.options, j, n % 2 * n), bent(p.undo, j, (n + 1) % 2 * n)) FROM _tenancy.protection('owned') p;
         PERFORM count(drift) FROM tenancy.protected_tables",
    ),
    of(
        "unprotect",
        Input::Json,
        false,
        "PERFORM _tenancy.save_protection('owned', 'tenant', 'tenant_id', p.options, bent(p.undo, j, n) || CASE n % 5 WHEN 0 THEN jsonb_build_object('revoked', jsonb_build_array(j)) ELSE '{}' END)
         FROM _tenancy.protection('owned') p;
         IF n % 4 = 0 THEN PERFORM tenancy.unprotect('owned'); END IF",
    ),
    of(
        "weakness",
        Input::Json,
        false,
        "PERFORM _tenancy.weakness('owned', 'tenant', 'tenant_id', bent('{\"access\": true}', j, n), '{ROW SECURITY,NOT NULL,OWNER,TRIGGERS,POLICY}')",
    ),
    of(
        "drift",
        Input::Json,
        false,
        "PERFORM _tenancy.drift('owned', (ARRAY['tenant', 'shared', 'audit', 'system', t])[1 + n % 5], 'tenant_id', bent(p.options, j, n % 2 * n), bent(p.undo, j, (n + 1) % 2 * n)) FROM _tenancy.protection('owned') p",
    ),
    of(
        "apply",
        Input::Json,
        false,
        "PERFORM _tenancy.apply(CASE n % 8 WHEN 0 THEN 'fresh' ELSE 'owned' END::regclass, 'tenant', 'tenant_id', bent(p.options, j, n % 2 * n), true, bent(p.undo, j, (n + 1) % 2 * n)) FROM _tenancy.protection('owned') p",
    ),
    of("metric_line", Input::Json, false, "PERFORM _tenancy.metric_line('fuzzed', j, n)"),
    // Granted to nobody, and given what report_data makes: names of any kind, and what is none of its.
    of(
        "report_page",
        Input::Json,
        true,
        "PERFORM _tenancy.report_page(CASE n % 4 WHEN 0 THEN bent(p.page, j, n / 64) ELSE jsonb_set(p.page, '{tenants,0,name}', to_jsonb(t)) END) FROM page p",
    ),
    of("raise code", Input::Text, false, "PERFORM _tenancy.raise(t, t, '{}', t)"),
    of("raise detail", Input::Json, false, "PERFORM _tenancy.raise('TENANT_NOT_FOUND', 'not found', j)"),
];

/// The targets that never succeed, and those that never fail, with what can be read as a text, or as JSON: in an encoding of single bytes, almost
/// every text of a user is good.
const NEVER_GOOD: [&str; 4] = ["authenticate", "sign_in", "raise code", "raise detail"];
const NEVER_BAD: [&str; 1] = ["user_id"];

/// Targets that are told of a code that is none, or of a page that report_data did not make: a defect of whoever calls them.
const MAY_BE_INTERNAL: [&str; 2] = ["raise code", "report_page"];

/// What PostgreSQL itself says of nonsense that somebody gives by hand to a function of the schema _tenancy: targets, and how it begins. It is the
/// call of that somebody that fails, or unprotect of a table for which its owner has saved nonsense.
const OF_POSTGRESQL: [(&str, &str); 7] = [
    ("save_protection", "23514 new row for relation"),
    ("add_protection", "23514 new row for relation"),
    ("unprotect", "23514 new row for relation"),
    ("weakness", "22P02 invalid input syntax for type boolean"),
    ("drift", "22P02 invalid input syntax for type boolean"),
    ("apply", "22P02 invalid input syntax for type boolean"),
    ("metric_line", "22023 cannot call jsonb_each_text on a non-object"),
];

/// They run commands, or look at a whole table: a twentieth of the inputs, where that is enough, and fewer at once.
const SLOWER: [&str; 6] = ["save_protection", "add_protection", "unprotect", "weakness", "drift", "apply"];
const ENOUGH: usize = 1_000;

/// Tries each input and rolls back what it did: outcomes with their number, an example, and the time of the slowest.
fn probe(target: &Target) -> String {
    let Target { call, .. } = target;
    let json = if target.input == Input::Json {
        "j := t::jsonb;
                     n := hashtext(t) & 1048575;
                     k := jsonb_build_object('kty', 'oct', 'k', repeat('A', 43)) || CASE jsonb_typeof(j) WHEN 'object' THEN j ELSE '{}' END;"
    } else {
        ""
    };
    format!(
        "CREATE OR REPLACE FUNCTION pg_temp.probe(inputs bytea[]) RETURNS TABLE (outcome text, example bytea) LANGUAGE plpgsql AS $probe$
         DECLARE
             b bytea; t text; j jsonb; k jsonb; n integer; state text; detail text; message text;
         BEGIN
             FOREACH b IN ARRAY inputs LOOP
                 BEGIN
                     t := convert_from(b, getdatabaseencoding());
                     {json}
                 EXCEPTION WHEN OTHERS THEN
                     -- PostgreSQL's own refusal: no text, or no JSON.
                     outcome := 'not read'; example := b;
                     RETURN NEXT;
                     CONTINUE;
                 END;
                 BEGIN
                     {call};
                     RAISE SQLSTATE 'ZZ999';
                 EXCEPTION WHEN OTHERS THEN
                     GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL, message = MESSAGE_TEXT;
                 END;
                 outcome := CASE WHEN state = 'ZZ999' THEN 'ok' ELSE state || ' ' || CASE WHEN detail LIKE '{{\"code\":%'
                     THEN coalesce(detail::json ->> 'code', detail)
                     -- Without what it quotes of the input.
                     ELSE regexp_replace(left(message, 80), '\".*', '\"...') END END;
                 example := b;
                 RETURN NEXT;
             END LOOP;
         END $probe$"
    )
}

/// Resident memory of a backend that is its own.
fn memory(pid: i32) -> Option<u64> {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: Vec<u64> = pages.split(' ').filter_map(|number| number.trim().parse().ok()).collect();
    Some((pages.get(1)? - pages.get(2)?) * 4096)
}

struct Outcomes {
    /// Each with its number and the first input that gave it.
    all: BTreeMap<String, (usize, Vec<u8>)>,
    slowest: Duration,
    growth: u64,
}

fn fuzz(
    client: &mut Client,
    admin: &mut Client,
    target: &Target,
    seed: u64,
    cases: usize,
) -> Result<Outcomes, String> {
    let mut random = Random::new(seed);
    let fail = |error: postgres::Error| format!("{}: {error:?}", target.name);
    client.batch_execute(&probe(target)).map_err(fail)?;
    let call = client
        .prepare("SELECT outcome, count(*), (array_agg(example))[1] FROM pg_temp.probe($1) GROUP BY outcome")
        .map_err(fail)?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).map_err(fail)?.get(0);
    let mut outcomes = Outcomes { all: BTreeMap::new(), slowest: Duration::ZERO, growth: 0 };
    let at_once = if SLOWER.contains(&target.name) { BATCH / 4 } else { BATCH };
    let (mut done, mut first) = (0, None);
    while done < cases {
        let input = |_| match target.input {
            Input::Text => inputs::text(&mut random),
            Input::Host => inputs::host(&mut random),
            Input::Json => inputs::json(&mut random),
        };
        let batch: Vec<Vec<u8>> = (0..at_once.min(cases - done)).map(input).collect();
        let begun = Instant::now();
        for row in client.query(&call, &[&batch]).map_err(fail)? {
            let count: i64 = row.get(1);
            outcomes.all.entry(row.get(0)).or_insert_with(|| (0, row.get(2))).0 += count as usize;
        }
        outcomes.slowest = outcomes.slowest.max(begun.elapsed());
        done += batch.len();
        // What was rolled back is looked through by what comes after it.
        if done / 20_000 > (done - batch.len()) / 20_000 {
            admin.batch_execute("VACUUM").map_err(fail)?;
        }
        if done * 10 >= cases {
            let now = memory(pid).unwrap_or(0);
            outcomes.growth = now.saturating_sub(*first.get_or_insert(now));
        }
    }
    Ok(outcomes)
}

/// What the catalogue has, as the probe writes it.
fn catalogue(client: &mut Client) -> BTreeSet<String> {
    let rows = client
        .query("SELECT sqlstate || ' ' || code FROM tenancy.error_codes()", &[])
        .expect("the catalogue");
    rows.iter().map(|row| row.get(0)).chain(["ok".to_owned(), "not read".to_owned()]).collect()
}

/// What is good, bent by an input and a number: as it is, the input instead, both, what is left of it, its keys, one of its values replaced.
const BENT: &str = "CREATE FUNCTION bent(good jsonb, j jsonb, n integer) RETURNS jsonb LANGUAGE sql AS $$
     SELECT CASE n % 9 WHEN 0 THEN good WHEN 1 THEN j WHEN 2 THEN good || j WHEN 3 THEN good - f.key WHEN 4 THEN (SELECT jsonb_agg(k) FROM jsonb_object_keys(good) k)
            ELSE good || jsonb_build_object(f.key, f.value) END
     FROM (SELECT (SELECT k FROM jsonb_object_keys(good) k OFFSET n / 9 % (SELECT count(*) FROM jsonb_object_keys(good)) LIMIT 1) AS key,
                  coalesce((SELECT v FROM jsonb_path_query(j, '$.*') v LIMIT 1), j) AS value) f $$";

fn run(database: &Database, seed: u64, cases: usize) -> Vec<String> {
    let mut admin = database.admin();
    database.change_privileges(&format!("GRANT SET ON PARAMETER tenancy.user_id TO {}", database.role()));
    admin
        .batch_execute(&format!(
            "SELECT tenancy.create_tenant('acme', subdomain => 'acme'), tenancy.create_tenant('7'),
                    tenancy.set_default_quota('calls', 1000000000),
                    tenancy.set_signing_key('here', jsonb_build_object('kty', 'oct', 'k', repeat('A', 43)));
             SELECT tenancy.grant_cross_tenant('{role}', '{{*}}', 'infinity');
             CREATE TABLE watched (id int, tenant_id text);
             SELECT tenancy.protect('watched'), tenancy.cache_watch('watched', 'acme');
             CREATE TABLE owned (id int, tenant_id text);
             CREATE TABLE fresh (id int, tenant_id text);
             GRANT CREATE ON SCHEMA public TO {role};
             ALTER TABLE owned OWNER TO {role};
             ALTER TABLE fresh OWNER TO {role};
             SELECT tenancy.protect('owned');
             CREATE TABLE page AS SELECT _tenancy.report_data(10, 2) AS page;
             {BENT}",
            role = database.role()
        ))
        .expect("set up");
    let known = catalogue(&mut admin);
    let mut faults = Vec::new();
    let wanted = std::env::var("TENANCY_TARGET").unwrap_or_default();
    for target in TARGETS.iter().filter(|target| target.name.contains(&wanted)) {
        let mut client = if target.by_admin { database.admin() } else { database.app() };
        client
            .batch_execute("SET statement_timeout = '120s'; SET client_min_messages = error")
            .expect("settings");
        if target.name.starts_with("track_usage") || target.name == "check_quota" {
            client.batch_execute("SET tenancy.tenant_id = 'acme'").expect("a tenant");
        }
        let cases = if SLOWER.contains(&target.name) { cases.min(ENOUGH.max(cases / 20)) } else { cases };
        let begun = Instant::now();
        match fuzz(&mut client, &mut admin, target, seed, cases) {
            Err(fault) => faults.push(fault),
            Ok(outcomes) => {
                let counts: Vec<_> =
                    outcomes.all.iter().map(|(outcome, (count, _))| format!("{outcome}: {count}")).collect();
                println!(
                    "{} ({:.1} s, slowest batch {:.2} s, growth {} kB): {}",
                    target.name,
                    begun.elapsed().as_secs_f32(),
                    outcomes.slowest.as_secs_f32(),
                    outcomes.growth / 1024,
                    counts.join(", ").chars().take(900).collect::<String>()
                );
                for (outcome, (count, example)) in &outcomes.all {
                    let is_of_postgresql = OF_POSTGRESQL
                        .iter()
                        .any(|(name, start)| *name == target.name && outcome.starts_with(start));
                    if !(known.contains(outcome) || is_of_postgresql)
                        || outcome.ends_with(" INTERNAL_ERROR") && !MAY_BE_INTERNAL.contains(&target.name)
                    {
                        let shown: String = String::from_utf8_lossy(example).chars().take(300).collect();
                        faults.push(format!(
                            "{}: {outcome} ({count} times), for example {shown:?}",
                            target.name
                        ));
                    }
                }
                if outcomes.slowest > SLOW {
                    faults.push(format!("{}: {:?} for a batch of inputs", target.name, outcomes.slowest));
                }
                if outcomes.growth > GROWTH {
                    faults.push(format!(
                        "{}: the backend grew by {} kB",
                        target.name,
                        outcomes.growth / 1024
                    ));
                }
                // Where nothing or everything is accepted, hardly anything was tried.
                let is_any =
                    |good: bool| outcomes.all.keys().any(|its| its != "not read" && (its == "ok") == good);
                if !is_any(true) && !NEVER_GOOD.contains(&target.name)
                    || !is_any(false) && !NEVER_BAD.contains(&target.name)
                {
                    faults.push(format!("{}: all or nothing is good: {counts:?}", target.name));
                }
            }
        }
    }
    faults
}

fn only_catalogued_errors(label: &str, encoding: &str) {
    let seed = seed();
    let cases = number("TENANCY_CASES").map_or(CASES, |cases| cases as usize);
    let database = Database::create_encoded(label, encoding);
    let faults = run(&database, seed, cases);
    assert!(faults.is_empty(), "{encoding}, seed {seed}:\n{}", faults.join("\n"));
}

#[test]
fn only_catalogued_errors_in_utf8() {
    only_catalogued_errors("fuzz", "UTF8");
}

/// Where a text may be any bytes.
#[test]
fn only_catalogued_errors_in_sql_ascii() {
    only_catalogued_errors("fuzzascii", "SQL_ASCII");
}

#[test]
fn only_catalogued_errors_in_latin1() {
    only_catalogued_errors("fuzzlatin", "LATIN1");
}

#[test]
fn every_jsonb_argument_is_tried() {
    let database = Database::create("fuzzlist");
    let rows = database
        .admin()
        .query(
            "SELECT DISTINCT p.proname::text FROM pg_proc p
             WHERE p.pronamespace::regnamespace::text IN ('tenancy', '_tenancy') AND 'jsonb'::regtype = ANY (p.proargtypes)
               AND (p.pronamespace = 'tenancy'::regnamespace OR has_function_privilege('public', p.oid, 'EXECUTE'))",
            &[],
        )
        .expect("the functions");
    for row in rows {
        let name: String = row.get(0);
        let calls = [format!(" tenancy.{name}("), format!(" _tenancy.{name}(")];
        let tried = TARGETS
            .iter()
            .any(|target| target.input == Input::Json && calls.iter().any(|call| target.call.contains(call)));
        assert!(tried, "{name} has an argument of type jsonb, and nothing tries it");
    }
}
