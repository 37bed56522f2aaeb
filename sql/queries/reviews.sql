-- name: insert
-- $1 tenant, $2 item (locked), $3 version, $4 task or NULL, $5 signal or NULL, $6 due, or $8 how long from now (NULL: never),
-- $7 actor. A round is a text that was decided about.
INSERT INTO reviews (tenant_id, content_id, version_id, content_hash, task_id, signal, round, due_at, opened_by)
SELECT v.tenant_id, v.content_id, v.id, v.content_hash, $4, $5,
       1 + (SELECT count(*) FROM reviews r
            WHERE r.tenant_id = $1 AND r.content_id = $2 AND r.state IN ('approved', 'changes_requested', 'rejected')),
       coalesce($6, app.now() + $8::interval), $7
FROM content_versions v
WHERE v.tenant_id = $1 AND v.content_id = $2 AND v.id = $3
RETURNING id;

-- name: supersede
-- $1 tenant, $2 item (locked), $3 its new version, $4 actor, $5 why. The open review ends, one like it asks about the new version and
-- tells the same task.
WITH closed AS (
  UPDATE reviews
  SET state = 'closed', ended_at = app.now(), closed_reason = $5
  WHERE tenant_id = $1 AND content_id = $2 AND state = 'pending'
  RETURNING task_id, signal, round, due_at
)
INSERT INTO reviews (tenant_id, content_id, version_id, content_hash, task_id, signal, round, due_at, opened_by)
SELECT v.tenant_id, v.content_id, v.id, v.content_hash, closed.task_id, closed.signal, closed.round, closed.due_at, $4
FROM closed
JOIN content_versions v ON v.tenant_id = $1 AND v.content_id = $2 AND v.id = $3
RETURNING id;

-- name: get
-- $1 tenant, $2 review
SELECT r.id, r.task_id, r.content_id, r.version_id, v.number AS version, r.content_hash, v.title, r.state, r.round, r.due_at, r.signal,
       r.opened_by, r.created_at, r.ended_at, r.closed_reason
FROM reviews r
JOIN content_versions v ON v.tenant_id = r.tenant_id AND v.id = r.version_id
WHERE r.tenant_id = $1 AND r.id = $2;

-- name: lock
-- $1 tenant, $2 review; its task and its item are locked before. With what the decision depends on.
SELECT r.state, v.author, coalesce(t.settings -> 'four_eyes' = 'true', false) AS four_eyes
FROM reviews r
JOIN content_versions v ON v.tenant_id = r.tenant_id AND v.id = r.version_id
JOIN tenants t ON t.id = r.tenant_id
WHERE r.tenant_id = $1 AND r.id = $2
FOR NO KEY UPDATE OF r;

-- name: list
-- $1 tenant, $2 state or NULL, $3 item or NULL, $4 ids before this one or NULL, $5 how many; newest first
SELECT r.id, r.task_id, r.content_id, r.version_id, v.number AS version, r.content_hash, v.title, r.state, r.round, r.due_at, r.signal,
       r.opened_by, r.created_at, r.ended_at, r.closed_reason
FROM reviews r
JOIN content_versions v ON v.tenant_id = r.tenant_id AND v.id = r.version_id
WHERE r.tenant_id = $1
  AND ($2::text IS NULL OR r.state = $2)
  AND ($3::uuid IS NULL OR r.content_id = $3)
  AND ($4::uuid IS NULL OR r.id < $4)
ORDER BY r.id DESC
LIMIT $5;

-- name: count_pending
-- $1 tenant
SELECT count(*) FROM reviews WHERE tenant_id = $1 AND state = 'pending';

-- name: decide
-- $1 tenant, $2 review (locked, pending), $3 its next state, $4 decision, $5 reason, $6 actor, $7 actor's id, $8 role, $9 address, $10 via
WITH ended AS (
  UPDATE reviews
  SET state = $3, ended_at = app.now()
  WHERE tenant_id = $1 AND id = $2 AND state = 'pending'
  RETURNING id, content_id, version_id, content_hash
)
INSERT INTO review_decisions (tenant_id, review_id, content_id, version_id, content_hash, decision, reason, actor, actor_id, role, address, via)
SELECT $1, ended.id, ended.content_id, ended.version_id, ended.content_hash, $4, $5, $6, $7, $8, $9, $10
FROM ended
RETURNING id;

-- name: close
-- $1 tenant, $2 review (its item locked), $3 why
UPDATE reviews
SET state = 'closed', ended_at = app.now(), closed_reason = $3
WHERE tenant_id = $1 AND id = $2 AND state = 'pending'
RETURNING id;

-- name: list_decisions
-- $1 tenant, $2 item; newest first
SELECT d.id, d.review_id, d.version_id, v.number AS version, d.content_hash, d.decision, d.reason, d.actor, d.role, d.address, d.via, d.at
FROM reviews r
JOIN review_decisions d ON d.tenant_id = r.tenant_id AND d.review_id = r.id
JOIN content_versions v ON v.tenant_id = d.tenant_id AND v.id = d.version_id
WHERE r.tenant_id = $1 AND r.content_id = $2
ORDER BY r.id DESC;

-- name: find_decision
-- $1 tenant, $2 review
SELECT d.id, d.review_id, d.version_id, v.number AS version, d.content_hash, d.decision, d.reason, d.actor, d.role, d.address, d.via, d.at
FROM review_decisions d
JOIN content_versions v ON v.tenant_id = d.tenant_id AND v.id = d.version_id
WHERE d.tenant_id = $1 AND d.review_id = $2;

-- name: insert_feedback
-- $1 tenant, $2 item, $3 review, $4 texts, $5 actor
INSERT INTO feedback_items (tenant_id, content_id, review_id, position, text, created_by)
SELECT $1, $2, $3, f.position, f.text, $5
FROM unnest($4::text[]) WITH ORDINALITY AS f (text, position);

-- name: list_feedback
-- $1 tenant, $2 item, $3 state or NULL; in the order in which it was given
SELECT f.id, f.review_id, v.number AS version, f.text, f.state, f.addressed_in_version, f.addressed_by, f.created_by, f.created_at
FROM feedback_items f
JOIN reviews r ON r.tenant_id = f.tenant_id AND r.id = f.review_id
JOIN content_versions v ON v.tenant_id = r.tenant_id AND v.id = r.version_id
WHERE f.tenant_id = $1 AND f.content_id = $2 AND ($3::text IS NULL OR f.state = $3)
ORDER BY r.id, f.position;

-- name: address_feedback
-- $1 tenant, $2 item, $3 feedback, $4 version number, $5 actor
UPDATE feedback_items
SET state = 'addressed', addressed_in_version = $4, addressed_by = $5
WHERE tenant_id = $1 AND content_id = $2 AND id = ANY ($3::uuid[]) AND state = 'open'
RETURNING id;
