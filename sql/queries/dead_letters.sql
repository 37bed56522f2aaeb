-- name: list_open
-- $1 tenant, $2 before id (NULL: newest), $3 limit, $4 filter (app.dead_letter_fits)
SELECT d.task_id, d.queue, d.type, d.state, d.error_class, d.requeues, d.failed_at, d.note, d.noted_at, d.noted_by,
       d.handled_at, d.handled_as, d.handled_by, d.handled_reason, d.successor_id, h.error
FROM dead_letters d JOIN task_history h ON h.tenant_id = d.tenant_id AND h.id = d.task_id
WHERE d.tenant_id = $1 AND d.handled_at IS NULL AND ($2::uuid IS NULL OR d.task_id < $2)
  AND app.dead_letter_fits(d, h.error ->> 'message', $4::jsonb)
ORDER BY d.task_id DESC
LIMIT $3;

-- name: list_handled
-- $1 tenant, $2 before id (NULL: newest), $3 limit, $4 filter (app.dead_letter_fits)
SELECT d.task_id, d.queue, d.type, d.state, d.error_class, d.requeues, d.failed_at, d.note, d.noted_at, d.noted_by,
       d.handled_at, d.handled_as, d.handled_by, d.handled_reason, d.successor_id, h.error
FROM dead_letters d JOIN task_history h ON h.tenant_id = d.tenant_id AND h.id = d.task_id
WHERE d.tenant_id = $1 AND d.handled_at IS NOT NULL AND ($2::uuid IS NULL OR d.task_id < $2)
  AND app.dead_letter_fits(d, h.error ->> 'message', $4::jsonb)
ORDER BY d.task_id DESC
LIMIT $3;

-- name: get
-- $1 tenant, $2 task
SELECT d.task_id, d.queue, d.type, d.state, d.error_class, d.requeues, d.failed_at, d.note, d.noted_at, d.noted_by,
       d.handled_at, d.handled_as, d.handled_by, d.handled_reason, d.successor_id, h.error
FROM dead_letters d JOIN task_history h ON h.tenant_id = d.tenant_id AND h.id = d.task_id
WHERE d.tenant_id = $1 AND d.task_id = $2;

-- name: count_groups
-- $1 tenant, $2 filter (app.dead_letter_fits), $3 how many of the newest are counted at most, $4 groups at most: open ones, the largest group first
-- The message of each is in its history: looked up only where a text is searched for, ten thousand times.
SELECT x.type, x.error_class, count(*)::int AS letters, min(x.failed_at) AS oldest_at, max(x.failed_at) AS newest_at,
       (sum(count(*)) OVER ())::int AS counted
FROM (SELECT d.type, d.error_class, d.failed_at
      FROM dead_letters d
      WHERE d.tenant_id = $1 AND d.handled_at IS NULL
        AND app.dead_letter_fits(
          d, (SELECT h.error ->> 'message' FROM task_history h WHERE h.tenant_id = $1 AND h.id = d.task_id AND $2::jsonb ? 'q'), $2::jsonb)
      ORDER BY d.task_id DESC
      LIMIT $3) AS x
GROUP BY x.type, x.error_class
ORDER BY letters DESC, x.type, x.error_class
LIMIT $4;

-- name: list_chain
-- $1 tenant, $2 task, $3 at most: the tasks it was made from and those made from it, oldest first
WITH RECURSIVE before AS (
  SELECT t.id, t.retry_of, 0 AS depth FROM all_tasks t WHERE t.tenant_id = $1 AND t.id = $2
  UNION ALL
  SELECT t.id, t.retry_of, b.depth + 1 FROM before b JOIN all_tasks t ON t.tenant_id = $1 AND t.id = b.retry_of WHERE b.depth < $3
), after AS (
  SELECT t.id, 0 AS depth FROM all_tasks t WHERE t.tenant_id = $1 AND t.retry_of = $2
  UNION ALL
  SELECT t.id, a.depth + 1 FROM after a JOIN all_tasks t ON t.tenant_id = $1 AND t.retry_of = a.id WHERE a.depth < $3
)
SELECT t.id, t.state, t.created_at, t.created_by, t.run_at, t.finished_at, t.error ->> 'message' AS message
FROM all_tasks t
WHERE t.tenant_id = $1 AND t.id = ANY (ARRAY(SELECT id FROM before UNION SELECT id FROM after))
ORDER BY t.id
LIMIT $3;

-- name: lock
-- $1 tenant, $2 task: for whoever handles it; the second waits and then reads who was first
SELECT task_id, requeues, handled_at, handled_as, handled_by, successor_id, app.now() AS moment
FROM dead_letters
WHERE tenant_id = $1 AND task_id = $2
FOR NO KEY UPDATE;

-- name: lock_free
-- $1 tenant, $2 tasks: the open ones among them that nobody else is handling right now
SELECT task_id, requeues, app.now() AS moment
FROM dead_letters
WHERE tenant_id = $1 AND task_id = ANY ($2) AND handled_at IS NULL
ORDER BY task_id
FOR NO KEY UPDATE SKIP LOCKED;

-- name: list_known
-- $1 tenant, $2 tasks: those of them that are or were dead letters
SELECT task_id FROM dead_letters WHERE tenant_id = $1 AND task_id = ANY ($2);

-- name: mark_requeued
-- $1 tenant, $2 tasks, $3 their successors, $4 actor, $5 reason: whatever a task is requeued by handles its dead letter, the first time only
UPDATE dead_letters d
SET handled_at = app.now(), handled_as = 'requeued', handled_by = $4, handled_reason = $5, successor_id = s.successor_id
FROM unnest($2::uuid[], $3::uuid[]) AS s (task_id, successor_id)
WHERE d.tenant_id = $1 AND d.task_id = s.task_id AND d.handled_at IS NULL;

-- name: discard
-- $1 tenant, $2 tasks, $3 actor, $4 reason
UPDATE dead_letters
SET handled_at = app.now(), handled_as = 'discarded', handled_by = $3, handled_reason = $4
WHERE tenant_id = $1 AND task_id = ANY ($2) AND handled_at IS NULL;

-- name: note
-- $1 tenant, $2 task, $3 note, $4 actor
UPDATE dead_letters SET note = $3, noted_at = app.now(), noted_by = $4 WHERE tenant_id = $1 AND task_id = $2 RETURNING task_id;
