-- The catalogue of errors, and that what is raised keeps to it: SQLSTATE, DETAIL one JSON object, HINT, no CONTEXT.
SELECT code, sqlstate, http_status FROM tenancy.error_codes();
CREATE FUNCTION pg_temp.catch(statement text) RETURNS TABLE (code text, catalogued boolean, has_hint boolean, message text)
LANGUAGE plpgsql AS $$
DECLARE
    state text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN QUERY SELECT NULL::text, false, false, 'NO ERROR: ' || statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN QUERY SELECT detail::jsonb ->> 'code',
        EXISTS (SELECT FROM tenancy.error_codes() e WHERE e.code = detail::jsonb ->> 'code' AND e.sqlstate = state
                AND detail LIKE '{"code":"' || e.code || '"%'), hint <> '', catch.message;
END $$;
CREATE TABLE thing (tenant_id text);
INSERT INTO thing VALUES ('acme');
GRANT SELECT, INSERT ON thing TO regress_app;
CREATE TABLE loose (tenant_id text, n numeric);
INSERT INTO loose VALUES ('who');
CREATE VIEW thing_view AS SELECT * FROM thing;
SET client_min_messages = warning;
SELECT tenancy.protect('thing');
RESET client_min_messages;
SELECT c.* FROM (VALUES
    ('SELECT tenancy.current_tenant()'),
    ('SELECT tenancy.set_tenant(''nobody'')'),
    ('SELECT tenancy.set_tenant(''gone'')'),
    ('SELECT tenancy.set_tenant(''!'')'),
    ('SET tenancy.tenant_id = ''!'''),
    ('SELECT tenancy.create_tenant(''acme'')'),
    ('SELECT tenancy.create_tenant(''new'', subdomain => ''acme'')'),
    ('SELECT tenancy.create_tenant(''new'', subdomain => ''www'')'),
    ('SELECT tenancy.create_tenant(''new'', settings => ''3'')'),
    ('SELECT tenancy.suspend_tenant(''nobody'')'),
    ('SELECT tenancy.protect(''thing_view'')'),
    ('SELECT tenancy.protect(''thing'', ''none'')'),
    ('SELECT tenancy.protect(''loose'')'),
    ('SELECT tenancy.protect(''loose'', tenant_column => ''m'')'),
    ('SELECT tenancy.protect(''loose'', tenant_column => ''n'')'),
    ('SELECT tenancy.unprotect(''loose'')'),
    ('SELECT tenancy.resolve_tenant(NULL)'),
    ('SET LOCAL ROLE regress_owner; SELECT tenancy.protect(''loose'')'),
    ('SET LOCAL tenancy.tenant_id = ''acme''; SELECT tenancy.protect(''loose'')'),
    ('SET LOCAL tenancy.tenant_id = ''acme''; SELECT tenancy.seal(); SET LOCAL tenancy.tenant_id = ''beta'''),
    ('SET LOCAL ROLE regress_app; SELECT * FROM thing'),
    ('SELECT _tenancy.raise(''NO_SUCH_CODE'', ''x'')'),
    -- Last: the tenant cannot change after it.
    ('SET LOCAL tenancy.tenant_id = ''acme''; SET LOCAL ROLE regress_app; INSERT INTO thing VALUES (''beta'')')
) AS s(statement), LATERAL pg_temp.catch(s.statement) c;
DROP VIEW thing_view; DROP TABLE thing, loose;
