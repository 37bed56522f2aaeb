-- name: list_ancestors
-- $1 tenant, $2 task it was made from: what led to a task by requeueing, oldest first
WITH RECURSIVE chain AS (
  SELECT a.id, a.state, a.retry_of, a.created_at, a.created_by, 1 AS place FROM all_tasks a WHERE a.tenant_id = $1 AND a.id = $2
  UNION ALL
  SELECT a.id, a.state, a.retry_of, a.created_at, a.created_by, c.place + 1
  FROM chain c JOIN all_tasks a ON a.tenant_id = $1 AND a.id = c.retry_of
  WHERE c.place < 50
)
SELECT id, state, created_at, created_by FROM chain ORDER BY place DESC;

-- name: list_descendants
-- $1 tenant, $2 task: what was made from it by requeueing, and from that, oldest first
WITH RECURSIVE chain AS (
  SELECT a.id, a.state, a.created_at, a.created_by, 1 AS place FROM all_tasks a WHERE a.tenant_id = $1 AND a.retry_of = $2
  UNION ALL
  SELECT a.id, a.state, a.created_at, a.created_by, c.place + 1
  FROM chain c JOIN all_tasks a ON a.tenant_id = $1 AND a.retry_of = c.id
  WHERE c.place < 50
)
SELECT id, state, created_at, created_by FROM chain ORDER BY id LIMIT 100;

-- name: now
-- the clock that the events were dated by
SELECT app.now() AS now;
