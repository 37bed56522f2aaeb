-- name: create_item
-- $1 tenant, $2 title, $3 language, $4 task or NULL, $5 actor
INSERT INTO content_items (tenant_id, title, language, task_id, created_by)
VALUES ($1, $2, $3, $4, $5)
RETURNING id;

-- name: reserve_slug
-- $1 tenant, $2 slug, $3 item. Returns the item that owns the slug: this one, or the one that was first.
WITH taken AS (
  INSERT INTO content_slugs (tenant_id, slug, content_id)
  VALUES ($1, $2, $3)
  ON CONFLICT (tenant_id, slug) DO NOTHING
  RETURNING content_id
)
SELECT content_id FROM taken
UNION ALL
SELECT content_id FROM content_slugs WHERE tenant_id = $1 AND slug = $2
LIMIT 1;

-- name: insert_version
-- $1 tenant, $2 item (locked), $3 its next state, $4 kind, $5 parent number or NULL, $6 title, $7 slug, $8 summary, $9 body, $10 tags,
-- $11 language, $12 note, $13 prompt version, $14 model, $15 retrieval, $16 scores, $17 checks, $18 task, $19 actor.
-- A generated text is answered for by whoever created its task.
WITH counted AS (
  UPDATE content_items
  SET latest_number = latest_number + 1, title = $6, language = $11, state = $3, updated_at = app.now()
  WHERE tenant_id = $1 AND id = $2
  RETURNING latest_number
), run AS (
  SELECT t.fence, t.created_by FROM all_tasks t WHERE t.tenant_id = $1 AND t.id = $18
)
INSERT INTO content_versions (tenant_id, content_id, number, kind, parent_number, title, slug, summary, body_md, tags, language, note,
  prompt_version_id, model, retrieval, scores, checks, task_id, fence, author, created_by)
SELECT $1, $2, counted.latest_number, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, run.fence,
       coalesce(run.created_by, $19), $19
FROM counted
LEFT JOIN run ON true
RETURNING id, number;

-- name: insert_citations
-- $1 tenant, $2 version, then arrays of one length: $3 markers, $4 chunks, $5 documents, $6 titles, $7 quotes
INSERT INTO citations (tenant_id, version_id, marker, chunk_id, document_id, document_title, quote)
SELECT $1, $2, c.marker, c.chunk_id, c.document_id, c.document_title, c.quote
FROM unnest($3::smallint[], $4::uuid[], $5::uuid[], $6::text[], $7::text[]) AS c (marker, chunk_id, document_id, document_title, quote);

-- name: get
-- $1 tenant, $2 item
SELECT i.id, i.title, i.language, i.state, i.latest_number, i.task_id, i.created_by, i.created_at, i.updated_at,
       v.number AS live_number, p.slug AS live_slug
FROM content_items i
LEFT JOIN publications p ON p.tenant_id = i.tenant_id AND p.content_id = i.id AND p.withdrawn_at IS NULL
LEFT JOIN content_versions v ON v.tenant_id = p.tenant_id AND v.id = p.version_id
WHERE i.tenant_id = $1 AND i.id = $2;

-- name: lock
-- $1 tenant, $2 item. Versions of one item are written one after the other; locked after its task and before its review.
SELECT i.id, i.title, i.language, i.state, i.latest_number, i.task_id, i.created_by, i.created_at, i.updated_at,
       NULL::int AS live_number, NULL::text AS live_slug
FROM content_items i
WHERE i.tenant_id = $1 AND i.id = $2
FOR NO KEY UPDATE;

-- name: find_writer
-- $1 tenant, $2 task or NULL. A task that does not wait may add a version at any moment, over what a person wrote.
SELECT id FROM tasks WHERE tenant_id = $1 AND id = $2 AND state <> 'waiting';

-- name: list
-- $1 tenant, $2 state or NULL, $3 part of the title or NULL, $4 task or NULL, $5 ids before this one or NULL, $6 how many; newest first
SELECT i.id, i.title, i.language, i.state, i.latest_number, i.task_id, i.created_by, i.created_at, i.updated_at,
       v.number AS live_number, p.slug AS live_slug
FROM content_items i
LEFT JOIN publications p ON p.tenant_id = i.tenant_id AND p.content_id = i.id AND p.withdrawn_at IS NULL
LEFT JOIN content_versions v ON v.tenant_id = p.tenant_id AND v.id = p.version_id
WHERE i.tenant_id = $1
  AND ($2::text IS NULL OR i.state = $2)
  AND ($3::text IS NULL OR position(lower($3) IN lower(i.title)) > 0)
  AND ($4::uuid IS NULL OR i.task_id = $4)
  AND ($5::uuid IS NULL OR i.id < $5)
ORDER BY i.id DESC
LIMIT $6;

-- name: count_states
-- $1 tenant
SELECT state, count(*) AS items FROM content_items WHERE tenant_id = $1 GROUP BY state;

-- name: get_version
-- $1 tenant, $2 item, $3 number
SELECT id, content_id, number, kind, parent_number, title, slug, summary, body_md, tags, language, note, content_hash, prompt_version_id,
       model, retrieval, scores, checks, task_id, fence, author, created_by, created_at
FROM content_versions
WHERE tenant_id = $1 AND content_id = $2 AND number = $3;

-- name: get_version_by_id
-- $1 tenant, $2 version
SELECT id, content_id, number, kind, parent_number, title, slug, summary, body_md, tags, language, note, content_hash, prompt_version_id,
       model, retrieval, scores, checks, task_id, fence, author, created_by, created_at
FROM content_versions
WHERE tenant_id = $1 AND id = $2;

-- name: list_versions
-- $1 tenant, $2 item, $3 numbers below this one or NULL, $4 how many; newest first, without the texts
SELECT v.id, v.number, v.kind, v.parent_number, v.title, v.note, v.content_hash, v.model, v.scores, v.checks, v.author, v.created_by,
       v.created_at, r.state AS review_state, p.version_id IS NOT NULL AS live
FROM content_versions v
LEFT JOIN LATERAL (
  SELECT r.state FROM reviews r
  WHERE r.tenant_id = v.tenant_id AND r.content_id = v.content_id AND r.version_id = v.id
  ORDER BY r.id DESC LIMIT 1
) r ON true
LEFT JOIN publications p ON p.tenant_id = v.tenant_id AND p.content_id = v.content_id AND p.version_id = v.id AND p.withdrawn_at IS NULL
WHERE v.tenant_id = $1 AND v.content_id = $2 AND ($3::int IS NULL OR v.number < $3)
ORDER BY v.number DESC
LIMIT $4;

-- name: list_citations
-- $1 tenant, $2 version
SELECT marker, chunk_id, document_id, document_title, quote
FROM citations
WHERE tenant_id = $1 AND version_id = $2
ORDER BY marker;

-- name: list_sources
-- $1 tenant, $2 chunks. What is left of the passages that a text cites.
SELECT id, text FROM chunks WHERE tenant_id = $1 AND id = ANY ($2::uuid[]);

-- name: list_citing
-- $1 tenant, $2 document, $3 how many. The items whose latest or live version quotes the document.
SELECT DISTINCT i.id, i.title, i.state
FROM citations c
JOIN content_versions v ON v.tenant_id = c.tenant_id AND v.id = c.version_id
JOIN content_items i ON i.tenant_id = v.tenant_id AND i.id = v.content_id
LEFT JOIN publications p ON p.tenant_id = i.tenant_id AND p.content_id = i.id AND p.version_id = v.id AND p.withdrawn_at IS NULL
WHERE c.tenant_id = $1 AND c.document_id = $2 AND (v.number = i.latest_number OR p.version_id IS NOT NULL)
ORDER BY i.id DESC
LIMIT $3;

-- name: move
-- $1 tenant, $2 item, $3 states it may be in, $4 the state it takes
UPDATE content_items
SET state = $4, updated_at = app.now()
WHERE tenant_id = $1 AND id = $2 AND state = ANY ($3)
RETURNING state;
