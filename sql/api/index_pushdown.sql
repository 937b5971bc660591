-- Which operators may be index conditions behind the policies of protected tables. Re-runnable.

COMMENT ON FUNCTION _tenancy.leakproof_functions() IS
'the functions that are trusted as the extension comes, by library (empty: the server) and symbol; condition: what is asked of their arguments';

CREATE TRIGGER tenancy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _tenancy.leakproof_operators
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change();
ALTER TABLE _tenancy.leakproof_operators ENABLE ALWAYS TRIGGER tenancy_changed;

CREATE TRIGGER tenancy_audit AFTER INSERT OR UPDATE OR DELETE ON _tenancy.leakproof_operators
    FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row('');
CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON _tenancy.leakproof_operators
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row('');
ALTER TABLE _tenancy.leakproof_operators ENABLE ALWAYS TRIGGER tenancy_audit, ENABLE ALWAYS TRIGGER tenancy_audit_truncate;

CREATE VIEW tenancy.trusted_operators AS
    SELECT o.oid::regoperator AS operator, coalesce(f.kind, 'added') AS kind, f.condition, e.extname AS extension, l.trusted_by, l.trusted_at
    FROM pg_catalog.pg_operator o
    JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
    LEFT JOIN _tenancy.leakproof_functions() f
        ON f.symbol = p.prosrc AND NOT p.proleakproof
           AND f.library = _tenancy.library_of(p)
    LEFT JOIN LATERAL (
        SELECT a.operator, a.trusted_by, a.trusted_at FROM _tenancy.leakproof_operators a
        WHERE a.symbol = p.prosrc AND a.library = _tenancy.library_of(p) ORDER BY a.trusted_at LIMIT 1) l ON true
    LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_operator'::regclass AND d.objid = o.oid AND d.deptype = 'e'
    LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    WHERE f.symbol IS NOT NULL OR l.operator IS NOT NULL;
COMMENT ON VIEW tenancy.trusted_operators IS
'The operators that tenancy.index_pushdown makes index conditions behind a policy, besides those that are LEAKPROOF: kind is the group whose
reasons docs/index_pushdown.md gives, or added; condition is what is asked of the arguments; trusted_by and trusted_at are of
tenancy.trust_operator(), of this operator or of another that has the same function. PUBLIC may read it.';

CREATE FUNCTION tenancy.trust_operator(operator regoperator) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_function record;
BEGIN
    PERFORM _tenancy.refuse_in_context('trust_operator');
    SELECT o.oprcode::regprocedure::text AS name, _tenancy.library_of(p) AS library, p.prosrc AS symbol INTO the_function
    FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid = trust_operator.operator;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'operator must be an operator that exists', '{"argument": "operator"}');
    -- The body of any other is its owner's to replace, and calls what it likes.
    ELSIF the_function.library IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('function %s of operator %s is not written in C', the_function.name, operator),
            '{"argument": "operator"}', 'Only such a function can be trusted, because only a superuser can replace it.');
    END IF;
    INSERT INTO _tenancy.leakproof_operators (operator, library, symbol) VALUES (trust_operator.operator::text, the_function.library, the_function.symbol)
        ON CONFLICT ON CONSTRAINT leakproof_operators_pkey DO NOTHING;
    RAISE WARNING 'operator % is trusted on rows of all tenants', operator
        USING DETAIL = format('Where function %s raises an error or a message for some values, a tenant can find out values of others.', the_function.name),
              HINT = format('To take it back: SELECT tenancy.distrust_operator(%L);', operator);
END
$$;
COMMENT ON FUNCTION tenancy.trust_operator(regoperator) IS
'Lets an operator be an index condition behind the policies of protected tables, as if its function were LEAKPROOF: it is evaluated on rows of
all tenants, before the policies. operator: one whose function is written in C, raises no error or message for some values and not for others,
and does nothing else. Warns, and is in the audit trail. Error: 22023 PARAMETER_INVALID. Volatile. For superusers, as the LEAKPROOF mark is;
refused in the context of a tenant.';

CREATE FUNCTION tenancy.distrust_operator(operator regoperator) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('distrust_operator');
    DELETE FROM _tenancy.leakproof_operators l
    WHERE EXISTS (SELECT FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
                  WHERE o.oid = distrust_operator.operator AND p.prosrc = l.symbol AND _tenancy.library_of(p) = l.library);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tenancy.distrust_operator(regoperator) IS
'Takes back tenancy.trust_operator(), for all operators that have the same function. Plans that were made with it are made anew. Returns false where it was not trusted. Volatile. For superusers;
refused in the context of a tenant.';
