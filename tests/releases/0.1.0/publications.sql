-- name: publish
-- $1 tenant, $2 version, $3 the decision that approved it, $4 its text without marks, $5 actor. The item is locked.
INSERT INTO publications (tenant_id, content_id, version_id, decision_id, slug, title, summary, tags, language, body_text, search, published_by)
SELECT v.tenant_id, v.content_id, v.id, $3, v.slug, v.title, v.summary, v.tags, v.language, $4,
       app.publication_vector(v.language, v.title, v.tags, v.summary, $4), $5
FROM content_versions v
WHERE v.tenant_id = $1 AND v.id = $2
ON CONFLICT (tenant_id, content_id)
DO UPDATE SET version_id = excluded.version_id, decision_id = excluded.decision_id, slug = excluded.slug, title = excluded.title,
              summary = excluded.summary, tags = excluded.tags, language = excluded.language, body_text = excluded.body_text,
              search = excluded.search, published_at = app.now(), published_by = excluded.published_by,
              withdrawn_at = NULL, withdrawn_by = NULL
RETURNING content_id, slug;

-- name: delete_tags
-- $1 tenant, $2 item
DELETE FROM publication_tags WHERE tenant_id = $1 AND content_id = $2;

-- name: insert_tags
-- $1 tenant, $2 item
INSERT INTO publication_tags (tenant_id, tag, first_published_at, content_id)
SELECT p.tenant_id, tag, p.first_published_at, p.content_id
FROM publications p
CROSS JOIN LATERAL unnest(p.tags) AS tag
WHERE p.tenant_id = $1 AND p.content_id = $2;

-- name: find_approval
-- $1 tenant, $2 version. The decision that allows to publish exactly this version.
SELECT id
FROM review_decisions
WHERE tenant_id = $1 AND version_id = $2 AND decision = 'approve'
ORDER BY id DESC
LIMIT 1;

-- name: withdraw
-- $1 tenant, $2 item, $3 actor
UPDATE publications
SET withdrawn_at = app.now(), withdrawn_by = $3
WHERE tenant_id = $1 AND content_id = $2 AND withdrawn_at IS NULL
RETURNING content_id;

-- name: find
-- $1 tenant, $2 item. What is live of it.
SELECT content_id, version_id, slug, title, summary, tags, language, first_published_at, published_at
FROM publications
WHERE tenant_id = $1 AND content_id = $2 AND withdrawn_at IS NULL;

-- name: find_by_slug
-- $1 tenant, $2 slug: the one it has, or one it had
SELECT p.content_id, p.version_id, p.slug, p.title, p.summary, p.tags, p.language, p.first_published_at, p.published_at,
       v.body_md, v.content_hash
FROM content_slugs s
JOIN publications p ON p.tenant_id = s.tenant_id AND p.content_id = s.content_id AND p.withdrawn_at IS NULL
JOIN content_versions v ON v.tenant_id = p.tenant_id AND v.id = p.version_id
WHERE s.tenant_id = $1 AND s.slug = $2;

-- name: list
-- $1 tenant, $2 and $3 time and item of the last one shown or NULL, $4 how many; newest first
SELECT content_id, version_id, slug, title, summary, tags, language, first_published_at, published_at
FROM publications
WHERE tenant_id = $1 AND withdrawn_at IS NULL
  AND ($2::timestamptz IS NULL OR (first_published_at, content_id) < ($2, $3::uuid))
ORDER BY first_published_at DESC, content_id DESC
LIMIT $4;

-- name: list_by_tag
-- $1 tenant, $2 tag, $3 and $4 time and item of the last one shown or NULL, $5 how many; newest first
SELECT p.content_id, p.version_id, p.slug, p.title, p.summary, p.tags, p.language, p.first_published_at, p.published_at
FROM publication_tags t
JOIN publications p ON p.tenant_id = t.tenant_id AND p.content_id = t.content_id
WHERE t.tenant_id = $1 AND t.tag = $2 AND p.withdrawn_at IS NULL
  AND ($3::timestamptz IS NULL OR (t.first_published_at, t.content_id) < ($3, $4::uuid))
ORDER BY t.first_published_at DESC, t.content_id DESC
LIMIT $5;

-- name: list_tags
-- $1 tenant, $2 how many; the most used first
SELECT t.tag, count(*) AS posts
FROM publication_tags t
JOIN publications p ON p.tenant_id = t.tenant_id AND p.content_id = t.content_id
WHERE t.tenant_id = $1 AND p.withdrawn_at IS NULL
GROUP BY t.tag
ORDER BY count(*) DESC, t.tag
LIMIT $2;

-- name: search
-- $1 query, $2 how many compete, $3 how many, $4 how many to leave out
SELECT content_id, slug, title, summary, tags, language, first_published_at, published_at, score, snippet, total
FROM app.search_publications($1, $2, $3, $4);
