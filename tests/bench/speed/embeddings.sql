-- An embedding for each of the first :rows documents. Like those of a model, its 32 dimensions have few degrees of freedom, so
-- that the index finds the nearest ones and not just near ones, and the rows of an exact plan are the same.
CREATE EXTENSION vector;
SELECT setseed(0.5);
CREATE TABLE embeddings AS
    SELECT id, tenant_id, ARRAY[a, b, c, d, e, f, a*b, a*c, a*d, a*e, a*f, b*c, b*d, b*e, b*f, c*d, c*e, c*f, d*e, d*f, e*f,
                                a*a, b*b, c*c, d*d, e*e, f*f, a*b*c, b*c*d, c*d*e, d*e*f, e*f*a]::vector(32) AS embedding
    FROM (SELECT id, tenant_id, random() AS a, random() AS b, random() AS c, random() AS d, random() AS e, random() AS f
          FROM documents WHERE id <= :rows ORDER BY id) AS t;
ALTER TABLE embeddings ADD PRIMARY KEY (id), ALTER tenant_id SET NOT NULL;
CREATE INDEX ON embeddings (tenant_id);
CREATE INDEX ON embeddings USING hnsw (embedding vector_l2_ops);
