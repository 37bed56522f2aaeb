-- name: insert
-- $1 tenant, $2 actor, $3 name, $4 cron, $5 time zone, $6 interval_seconds, $7 anchor_at, $8 missed, $9 overlap, $10 type, $11 payload,
-- $12 queue, $13 priority, $14 timeout_seconds, $15 total_timeout_seconds, $16 max_attempts, $17 concurrency_key, $18 concurrency_limit,
-- $19 next_tick_at. No row when the name is taken.
INSERT INTO schedules (tenant_id, created_by, updated_by, name, cron, time_zone, interval_seconds, anchor_at, missed, overlap, type, payload,
  queue, priority, timeout_seconds, total_timeout_seconds, max_attempts, concurrency_key, concurrency_limit, next_tick_at)
VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING
RETURNING id;

-- name: now
-- the clock that schedules go by
SELECT app.now() AS now;

-- name: get
-- $1 tenant, $2 id; deleted ones too
SELECT s.*, s.paused_at IS NOT NULL AND (s.resume_at IS NULL OR s.resume_at > app.now()) AS paused,
       t.tick_at, t.until_at, t.manual, t.outcome, t.task_id, t.reason, t.actor, t.decided_at, k.state AS task_state
FROM schedules s
LEFT JOIN LATERAL (
  SELECT * FROM schedule_ticks t WHERE t.tenant_id = $1 AND t.schedule_id = s.id ORDER BY t.tick_at DESC, t.manual DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (SELECT a.state FROM all_tasks a WHERE a.tenant_id = $1 AND a.id = t.task_id) k ON true
WHERE s.tenant_id = $1 AND s.id = $2;

-- name: list
-- $1 tenant, $2 names after this one or NULL, $3 how many, $4 type or NULL
SELECT s.*, s.paused_at IS NOT NULL AND (s.resume_at IS NULL OR s.resume_at > app.now()) AS paused,
       t.tick_at, t.until_at, t.manual, t.outcome, t.task_id, t.reason, t.actor, t.decided_at, k.state AS task_state
FROM schedules s
LEFT JOIN LATERAL (
  SELECT * FROM schedule_ticks t WHERE t.tenant_id = $1 AND t.schedule_id = s.id ORDER BY t.tick_at DESC, t.manual DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (SELECT a.state FROM all_tasks a WHERE a.tenant_id = $1 AND a.id = t.task_id) k ON true
WHERE s.tenant_id = $1 AND s.deleted_at IS NULL AND ($2::text IS NULL OR s.name > $2) AND ($4::text IS NULL OR s.type = $4)
ORDER BY s.name
LIMIT $3;

-- name: find
-- $1 tenant, $2 name, or an id as text; a name that looks like the id of another goes first
SELECT s.id FROM schedules s
WHERE s.tenant_id = $1 AND s.deleted_at IS NULL AND (s.name = $2 OR s.id::text = lower($2))
ORDER BY s.name = $2 DESC
LIMIT 1;

-- name: list_ticks
-- $1 tenant, $2 schedule, $3 and $4 time and manual of the last one shown or NULL, $5 how many; newest first
SELECT t.tick_at, t.until_at, t.manual, t.outcome, t.task_id, t.reason, t.actor, t.decided_at, k.state AS task_state
FROM schedule_ticks t
LEFT JOIN LATERAL (SELECT a.state FROM all_tasks a WHERE a.tenant_id = $1 AND a.id = t.task_id) k ON true
WHERE t.tenant_id = $1 AND t.schedule_id = $2 AND ($3::timestamptz IS NULL OR (t.tick_at, t.manual) < ($3, $4::boolean))
ORDER BY t.tick_at DESC, t.manual DESC
LIMIT $5;

-- name: lock
-- $1 tenant, $2 id: for whoever changes it; with the time and the latest tick that was decided
SELECT s.*, app.now() AS now, s.paused_at IS NOT NULL AND (s.resume_at IS NULL OR s.resume_at > app.now()) AS paused,
       (SELECT coalesce(t.until_at, t.tick_at) FROM schedule_ticks t
        WHERE t.tenant_id = $1 AND t.schedule_id = s.id AND NOT t.manual ORDER BY t.tick_at DESC LIMIT 1) AS decided_until
FROM schedules s
WHERE s.tenant_id = $1 AND s.id = $2
FOR NO KEY UPDATE OF s;

-- name: lock_due
-- $1 tenant, $2 id: if its tick has come and no other replica is at it
SELECT s.*, app.now() AS now, EXISTS (SELECT FROM tasks k WHERE k.tenant_id = $1 AND k.id = s.last_task_id) AS last_is_live
FROM schedules s
WHERE s.tenant_id = $1 AND s.id = $2 AND s.next_tick_at <= app.now()
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: insert_ticks
-- $1 tenant, $2 schedule, $3 actor, then arrays of one length: $4 tick_at, $5 until_at, $6 outcome, $7 task, $8 reason
INSERT INTO schedule_ticks (tenant_id, schedule_id, actor, tick_at, until_at, outcome, task_id, reason)
SELECT $1, $2, $3, n.tick_at, n.until_at, n.outcome, n.task_id, n.reason
FROM unnest($4::timestamptz[], $5::timestamptz[], $6::text[], $7::uuid[], $8::text[]) AS n (tick_at, until_at, outcome, task_id, reason);

-- name: insert_run
-- $1 tenant, $2 schedule, $3 actor, $4 task: ran now, by hand. Two within one microsecond come one after the other.
INSERT INTO schedule_ticks (tenant_id, schedule_id, actor, manual, tick_at, outcome, task_id)
SELECT $1, $2, $3, true, greatest(app.now(), max(t.tick_at) + interval '1 microsecond'), 'enqueued', $4
FROM schedule_ticks t
WHERE t.tenant_id = $1 AND t.schedule_id = $2 AND t.manual AND t.tick_at >= app.now();

-- name: insert_failure
-- $1 tenant, $2 schedule, $3 actor, $4 tick, $5 reason
INSERT INTO schedule_ticks (tenant_id, schedule_id, actor, tick_at, outcome, reason)
VALUES ($1, $2, $3, $4, 'failed', $5)
ON CONFLICT DO NOTHING;

-- name: move_on
-- $1 tenant, $2 id, $3 next tick or NULL, $4 task of the latest tick or NULL for none. A pause that had an end is over.
UPDATE schedules
SET next_tick_at = $3, last_task_id = coalesce($4, last_task_id), paused_at = NULL, paused_by = NULL, resume_at = NULL
WHERE tenant_id = $1 AND id = $2;

-- name: change
-- $1 tenant, $2 id, $3 actor, $4 name, $5 cron, $6 time zone, $7 interval_seconds, $8 anchor_at, $9 missed, $10 overlap, $11 type, $12 payload,
-- $13 queue, $14 priority, $15 timeout_seconds, $16 total_timeout_seconds, $17 max_attempts, $18 concurrency_key, $19 concurrency_limit,
-- $20 next_tick_at. The row is locked.
UPDATE schedules
SET name = $4, cron = $5, time_zone = $6, interval_seconds = $7, anchor_at = $8, missed = $9, overlap = $10, type = $11, payload = $12, queue = $13,
    priority = $14, timeout_seconds = $15, total_timeout_seconds = $16, max_attempts = $17, concurrency_key = $18, concurrency_limit = $19,
    next_tick_at = $20, version = version + 1, updated_at = app.now(), updated_by = $3
WHERE tenant_id = $1 AND id = $2;

-- name: pause
-- $1 tenant, $2 id, $3 actor, $4 resume_at or NULL, $5 the first tick after that or NULL. The row is locked.
UPDATE schedules
SET paused_at = app.now(), paused_by = $3, resume_at = $4, next_tick_at = $5
WHERE tenant_id = $1 AND id = $2;

-- name: resume
-- $1 tenant, $2 id, $3 next tick. The row is locked.
UPDATE schedules
SET paused_at = NULL, paused_by = NULL, resume_at = NULL, next_tick_at = $3
WHERE tenant_id = $1 AND id = $2;

-- name: delete
-- $1 tenant, $2 id, $3 actor
UPDATE schedules
SET deleted_at = app.now(), deleted_by = $3, next_tick_at = NULL
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id;

-- name: list_due
-- $1 how many; the row without ids says in how many seconds the next one after them is due
SELECT tenant_id, schedule_id, next_due_seconds FROM app.due_schedules($1);

-- name: sweep_ticks
-- $1 days, $2 how many
SELECT app.sweep_schedule_ticks($1, $2);
