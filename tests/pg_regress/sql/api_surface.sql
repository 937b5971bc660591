-- Everything that the extension installs: a difference here is a change of the API, and wants a review.
-- One line for each, so that a difference is one line.
\pset format unaligned
\pset fieldsep ' | '
SELECT n.nspname || '.' || p.proname || '(' || pg_get_function_arguments(p.oid) || ')' AS function,
       pg_get_function_result(p.oid) AS result, l.lanname AS language,
       p.provolatile AS vol, p.proparallel AS par, p.prosecdef AS definer, p.proleakproof AS leakproof,
       coalesce(array_to_string(p.proconfig, ', '), '') AS config,
       CASE WHEN has_function_privilege('regress_outsider', p.oid, 'EXECUTE') THEN 'public' ELSE '' END AS acl
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname IN ('tenancy', '_tenancy') ORDER BY 1;
SELECT c.oid::regclass AS relation, c.relkind,
       replace(c.relacl::text, 'Dxtm', 'Dxt') AS acl              -- MAINTAIN is new in PostgreSQL 17
FROM pg_class c WHERE c.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND c.relkind IN ('r', 'p', 'v') ORDER BY 1;
SELECT name, context, vartype, boot_val, enumvals, short_desc FROM pg_settings WHERE name LIKE 'tenancy.%' ORDER BY name;
-- Nothing without a comment; every SECURITY DEFINER with a pinned search_path.
SELECT p.oid::regprocedure AS no_comment FROM pg_proc p
WHERE p.pronamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS no_comment FROM pg_class c
WHERE c.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND c.relkind IN ('r', 'p', 'v') AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT p.oid::regprocedure AS unpinned FROM pg_proc p
WHERE p.pronamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND p.prosecdef
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false);
