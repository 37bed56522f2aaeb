-- name: ensure
-- $1 tenant, $2 name, $3 actor. No row when it is there already.
INSERT INTO collections (tenant_id, name, created_by)
VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING id;

-- name: find_ids
-- $1 tenant, $2 names
SELECT id, name
FROM collections
WHERE tenant_id = $1 AND name = ANY ($2);

-- name: list
-- $1 tenant. By name, each with what it holds.
SELECT c.id, c.name, s.model, c.created_by, c.created_at,
       (SELECT count(*) FROM documents d WHERE d.tenant_id = $1 AND d.collection_id = c.id) AS documents,
       (SELECT coalesce(sum(k.chunks), 0) FROM collection_statistics k WHERE k.tenant_id = $1 AND k.collection_id = c.id) AS chunks
FROM collections c
JOIN embedding_sets s ON s.id = c.embedding_set_id
WHERE c.tenant_id = $1
ORDER BY c.name;
