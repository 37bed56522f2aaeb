-- name: insert
-- $1 tenant, $2 collection, $3 title, $4 mime, $5 language, $6 source, $7 sha256, $8 metadata, $9 actor.
-- No row: the collection has this very text already.
INSERT INTO documents (tenant_id, collection_id, title, mime, language, source, sha256, metadata, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (tenant_id, collection_id, sha256) DO NOTHING
RETURNING id;

-- name: lock_same
-- $1 tenant, $2 collection, $3 sha256
SELECT id, title, mime, language, metadata
FROM documents
WHERE tenant_id = $1 AND collection_id = $2 AND sha256 = $3
FOR UPDATE;

-- name: get
-- $1 tenant, $2 document. One whose task ended without indexing it has failed, whatever ended the task.
SELECT d.id, d.collection_id, c.name AS collection, d.title, d.mime, d.language, d.metadata, d.task_id, d.chunk_count, length(d.source) AS characters,
       CASE WHEN t.id IS NULL THEN d.state ELSE 'failed' END AS state,
       CASE WHEN t.id IS NULL THEN d.error ELSE coalesce(t.error ->> 'message', 'its task was ' || t.state) END AS error,
       d.created_by, d.created_at, d.updated_at, d.indexed_at
FROM documents d
JOIN collections c ON c.tenant_id = $1 AND c.id = d.collection_id
LEFT JOIN task_history t ON d.state = 'pending' AND t.tenant_id = $1 AND t.id = d.task_id AND t.state <> 'succeeded'
WHERE d.tenant_id = $1 AND d.id = $2;

-- name: list
-- $1 tenant, $2 older than this document, $3 how many, $4 collection name or NULL, $5 state or NULL, $6 part of the title or NULL.
-- Newest first. `state` is compared with what is shown, so a document whose task failed is found under failed.
SELECT f.*
FROM (
  SELECT d.id, d.collection_id, c.name AS collection, d.title, d.mime, d.language, d.metadata, d.task_id, d.chunk_count, length(d.source) AS characters,
         CASE WHEN t.id IS NULL THEN d.state ELSE 'failed' END AS state,
         CASE WHEN t.id IS NULL THEN d.error ELSE coalesce(t.error ->> 'message', 'its task was ' || t.state) END AS error,
         d.created_by, d.created_at, d.updated_at, d.indexed_at
  FROM documents d
  JOIN collections c ON c.tenant_id = $1 AND c.id = d.collection_id
  LEFT JOIN task_history t ON d.state = 'pending' AND t.tenant_id = $1 AND t.id = d.task_id AND t.state <> 'succeeded'
  WHERE d.tenant_id = $1
    AND ($2::uuid IS NULL OR d.id < $2)
    AND ($4::text IS NULL OR c.name = $4)
    AND ($6::text IS NULL OR strpos(lower(d.title), lower($6)) > 0)
) f
WHERE $5::text IS NULL OR f.state = $5
ORDER BY f.id DESC
LIMIT $3;

-- name: find_titles
-- $1 tenant, $2 ids: what has been deleted since is left out
SELECT id, title FROM documents WHERE tenant_id = $1 AND id = ANY ($2);

-- name: get_source
-- $1 tenant, $2 document. What an ingest reads.
SELECT collection_id, title, mime, language, source
FROM documents
WHERE tenant_id = $1 AND id = $2;

-- name: list_chunks
-- $1 tenant, $2 document, $3 after this ordinal, $4 how many
SELECT id, document_id, ordinal, start_offset, end_offset, headings, text, pieces
FROM chunks
WHERE tenant_id = $1 AND document_id = $2 AND ordinal > $3
ORDER BY ordinal
LIMIT $4;

-- name: revise
-- $1 tenant, $2 document, $3 title, $4 mime, $5 language, $6 metadata
UPDATE documents
SET title = $3, mime = $4, language = $5, metadata = $6, updated_at = app.now()
WHERE tenant_id = $1 AND id = $2;

-- name: set_pending
-- $1 tenant, $2 document, $3 task. Its chunks of before stay searchable until the new ones replace them.
UPDATE documents
SET state = 'pending', error = NULL, task_id = $3, updated_at = app.now()
WHERE tenant_id = $1 AND id = $2;

-- name: set_indexed
-- $1 tenant, $2 document, $3 how many chunks
UPDATE documents
SET state = 'indexed', error = NULL, chunk_count = $3, updated_at = app.now(), indexed_at = app.now()
WHERE tenant_id = $1 AND id = $2;

-- name: set_failed
-- $1 tenant, $2 document, $3 error
UPDATE documents
SET state = 'failed', error = $3, updated_at = app.now()
WHERE tenant_id = $1 AND id = $2;

-- name: insert_chunks
-- $1 tenant, $2 document, $3 chunks, $4 model. Chunks, their terms and their vectors; returns how many and how many have a vector.
WITH source AS (
  SELECT d.collection_id, d.language, s.id AS set_id
  FROM documents d
  JOIN collections c ON c.tenant_id = $1 AND c.id = d.collection_id
  JOIN embedding_sets s ON s.id = c.embedding_set_id AND s.model = $4
  WHERE d.tenant_id = $1 AND d.id = $2
), incoming AS MATERIALIZED (
  SELECT app.uuid7() AS id, c.ordinal, c.start_offset, c.end_offset, c.headings, c.text, c.terms_text, decode(c.text_sha256, 'hex') AS text_sha256, c.pieces
  FROM jsonb_to_recordset($3) AS c (ordinal int, start_offset int, end_offset int, headings text[], text text, terms_text text, text_sha256 text, pieces smallint)
), stored AS (
  INSERT INTO chunks (id, tenant_id, document_id, ordinal, start_offset, end_offset, headings, text, text_sha256, pieces)
  SELECT i.id, $1, $2, i.ordinal, i.start_offset, i.end_offset, i.headings, i.text, i.text_sha256, i.pieces
  FROM incoming i
  RETURNING id
), found_by_words AS (
  INSERT INTO chunk_terms (tenant_id, chunk_id, collection_id, document_id, language, length, keys, weights)
  SELECT $1, i.id, s.collection_id, $2, s.language, t.length, t.keys, t.weights
  FROM incoming i
  CROSS JOIN source s
  CROSS JOIN LATERAL app.index_terms(s.collection_id, s.language, i.terms_text) t
), found_by_meaning AS (
  INSERT INTO chunk_embeddings (tenant_id, chunk_id, set_id, collection_id, document_id, embedding)
  SELECT $1, i.id, s.set_id, s.collection_id, $2, e.embedding
  FROM incoming i
  CROSS JOIN source s
  JOIN embedding_cache e ON e.tenant_id = $1 AND e.model = $4 AND e.text_sha256 = i.text_sha256
  RETURNING chunk_id
)
SELECT (SELECT count(*) FROM stored) AS chunks, (SELECT count(*) FROM found_by_meaning) AS embedded;

-- name: missing_embeddings
-- $1 tenant, $2 model, $3 hashes
SELECT h.text_sha256
FROM unnest($3::bytea[]) AS h (text_sha256)
WHERE NOT EXISTS (SELECT FROM embedding_cache e WHERE e.tenant_id = $1 AND e.model = $2 AND e.text_sha256 = h.text_sha256);

-- name: insert_embeddings
-- $1 tenant, $2 model, $3 dimensions, $4 hashes, $5 the vectors, one after the other
INSERT INTO embedding_cache (tenant_id, model, text_sha256, embedding)
SELECT $1, $2, h.text_sha256, ($5::real[])[(h.place::int - 1) * $3::int + 1 : h.place::int * $3::int]::vector
FROM unnest($4::bytea[]) WITH ORDINALITY AS h (text_sha256, place)
ORDER BY h.text_sha256
ON CONFLICT (tenant_id, model, text_sha256) DO NOTHING;

-- name: delete_embeddings
-- $1 tenant, $2 document, $3 hashes to keep. Cached vectors of this document's chunks that no other document shares.
DELETE FROM embedding_cache e
USING chunks c
WHERE c.tenant_id = $1 AND c.document_id = $2 AND e.tenant_id = $1 AND e.text_sha256 = c.text_sha256 AND e.text_sha256 <> ALL ($3::bytea[])
  AND NOT EXISTS (SELECT FROM chunks o WHERE o.tenant_id = $1 AND o.text_sha256 = c.text_sha256 AND o.document_id <> $2);

-- name: delete_terms
-- $1 tenant, $2 document. Before its chunks, so that the statistics are corrected once and not once per chunk.
DELETE FROM chunk_terms WHERE tenant_id = $1 AND document_id = $2;

-- name: delete_chunks
-- $1 tenant, $2 document. Their vectors go with them.
DELETE FROM chunks WHERE tenant_id = $1 AND document_id = $2;

-- name: delete
-- $1 tenant, $2 document
DELETE FROM documents WHERE tenant_id = $1 AND id = $2 RETURNING id;
