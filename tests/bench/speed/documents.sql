-- :rows documents of 1,000 tenants, the first of which owns a fifth of them, the last some hundreds in a million. Words are
-- drawn from 20,000 of six letters and digits, the first ones more often, as in a language.
SELECT setseed(0.5);
CREATE TEMPORARY TABLE words AS
    SELECT n, lower(substr(translate(encode(sha256(n::text::bytea), 'base64'), '+/', 'xy'), 1, 6)) AS word FROM generate_series(0, 19999) AS n;
-- An element of an array of type name is found at once, unlike one of type text.
CREATE FUNCTION pg_temp.any_of(words name[]) RETURNS text LANGUAGE sql VOLATILE
    RETURN words[1 + floor(20000 * power(random(), 1.5))::integer];
CREATE TABLE documents (
    id bigint NOT NULL, tenant_id bigint NOT NULL, created_at timestamptz NOT NULL, title text NOT NULL, email text NOT NULL,
    body text NOT NULL, attributes jsonb NOT NULL, labels text[] NOT NULL,
    search tsvector GENERATED ALWAYS AS (to_tsvector('simple', title || ' ' || body)) STORED);
INSERT INTO documents (id, tenant_id, created_at, title, email, body, attributes, labels)
    SELECT n, CASE WHEN random() < 0.2 THEN 1 ELSE 2 + floor(999 * power(random(), 3)) END,
           '2020-01-01 00:00+00'::timestamptz + n * interval '1 minute',
           concat_ws(' ', pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w)),
           initcap(pg_temp.any_of(w)) || n || '@example.com',
           concat_ws(' ', pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w),
                          pg_temp.any_of(w), pg_temp.any_of(w)),
           jsonb_build_object('customer', floor(random() * :rows / 10)::integer, 'pages', floor(random() * 40)::integer,
                              'draft', random() < 0.3),
           ARRAY[pg_temp.any_of(w), pg_temp.any_of(w), pg_temp.any_of(w)]
    FROM generate_series(1, :rows) AS n, (SELECT array_agg(word::name ORDER BY n) FROM words) AS words(w);

-- GIN indexes as people have them: on what is searched, without the tenant.
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX ON documents (tenant_id, created_at DESC);
CREATE INDEX ON documents (tenant_id, lower(email));
CREATE INDEX ON documents USING gin (search);
CREATE INDEX ON documents USING gin (attributes jsonb_path_ops);
CREATE INDEX ON documents USING gin (labels);
