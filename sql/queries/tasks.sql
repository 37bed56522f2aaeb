-- name: enqueue
-- $1 tenant, $2 actor, then arrays of one length, or NULL for one that holds only NULLs: $3 request id, $4 retry_of, $5 type, $6 type_version,
-- $7 payload, $8 queue, $9 priority, $10 run_at (NULL: now), $11 timeout_seconds, $12 max_attempts, $13 on_crash, $14 concurrency_key,
-- $15 concurrency_limit, $16 start_before, $17 total_timeout_seconds
SELECT id, state, run_at, created_at FROM app.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17);

-- name: enqueue_bulk
-- $1 to $17 as enqueue; ids only
SELECT id FROM app.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17);

-- name: get
-- $1 tenant, $2 id
SELECT * FROM all_tasks WHERE tenant_id = $1 AND id = $2;

-- name: list_chosen
-- $1 tenant, $2 ids
SELECT * FROM all_tasks WHERE tenant_id = $1 AND id = ANY ($2) ORDER BY id;

-- name: list
-- $1 tenant, $2 before id (NULL: newest), $3 limit, $4 state, $5 type, $6 queue,
-- $7 lower and $8 upper bound of an id (uuid text read as a prefix); each NULL: any
SELECT * FROM (
  (SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
          created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
          request_id, payload, NULL::timestamptz AS finished_at, NULL::text AS ended_by, NULL::text AS reason, NULL::jsonb AS result,
          deadline_at, waiting_for, wait_until, on_crash
   FROM tasks
   WHERE tenant_id = $1 AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AND ($4::text IS NULL OR state = $4) AND ($5::text IS NULL OR type = $5)
     AND ($6::text IS NULL OR queue = $6)
     AND ($7::uuid IS NULL OR id BETWEEN $7 AND $8 OR retry_of BETWEEN $7 AND $8)
   ORDER BY id DESC LIMIT $3)
  UNION ALL
  (SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
          created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
          request_id, payload, finished_at, ended_by, reason, result, NULL, NULL, NULL, NULL
   FROM task_history
   WHERE tenant_id = $1 AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AND ($4::text IS NULL OR state = $4) AND ($5::text IS NULL OR type = $5)
     AND ($6::text IS NULL OR queue = $6)
     AND ($7::uuid IS NULL OR id BETWEEN $7 AND $8 OR retry_of BETWEEN $7 AND $8)
   ORDER BY id DESC LIMIT $3)
) AS both_tables
ORDER BY id DESC
LIMIT $3;

-- name: list_filtered
-- $1 tenant, $2 before id (NULL: newest), $3 limit, $4 state, $5 type, $6 queue, $7 text: prefix of a type, or a concurrency key; each NULL: any.
-- Each kind of ended tasks that fits (type, queue, state: found by hopping from one to the next over task_history_kind) gives its newest,
-- so what does not fit is never read, however much of it is newer.
WITH RECURSIVE kinds (type, queue, state) AS (
  (SELECT type, queue, state FROM task_history WHERE tenant_id = $1 ORDER BY type, queue, state LIMIT 1)
  UNION ALL
  SELECT next.type, next.queue, next.state FROM kinds k CROSS JOIN LATERAL (
    SELECT h.type, h.queue, h.state FROM task_history h
    WHERE h.tenant_id = $1 AND (h.type, h.queue, h.state) > (k.type, k.queue, k.state)
    ORDER BY h.type, h.queue, h.state LIMIT 1) next
), ended AS MATERIALIZED (
  SELECT newest.id
  FROM kinds k CROSS JOIN LATERAL (
    SELECT h.id FROM task_history h
    WHERE h.tenant_id = $1 AND h.type = k.type AND h.queue = k.queue AND h.state = k.state
      AND h.id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY h.id DESC LIMIT $3) newest
  WHERE ($4::text IS NULL OR k.state = $4) AND ($5::text IS NULL OR k.type = $5) AND ($6::text IS NULL OR k.queue = $6)
    AND ($7::text IS NULL OR starts_with(k.type, $7))
  UNION
  (SELECT h.id FROM task_history h
   WHERE h.tenant_id = $1 AND h.concurrency_key = $7 AND h.id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
     AND ($4::text IS NULL OR h.state = $4) AND ($5::text IS NULL OR h.type = $5) AND ($6::text IS NULL OR h.queue = $6)
   ORDER BY h.id DESC LIMIT $3)
  ORDER BY id DESC
  LIMIT $3
)
SELECT * FROM (
  (SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
          created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
          request_id, payload, NULL::timestamptz AS finished_at, NULL::text AS ended_by, NULL::text AS reason, NULL::jsonb AS result,
          deadline_at, waiting_for, wait_until, on_crash
   FROM tasks
   WHERE tenant_id = $1 AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AND ($4::text IS NULL OR state = $4) AND ($5::text IS NULL OR type = $5)
     AND ($6::text IS NULL OR queue = $6) AND ($7::text IS NULL OR starts_with(type, $7) OR concurrency_key = $7)
     AND coalesce($4::text, '') NOT IN ('succeeded', 'failed', 'timed_out', 'cancelled')   -- no live task is in a final state: not looked at
   ORDER BY id DESC LIMIT $3)
  UNION ALL
  SELECT h.id, h.tenant_id, h.queue, h.type, h.type_version, h.state, h.priority, h.attempt, h.max_attempts, h.crashes, h.snoozes, h.fence,
         h.executor_id, h.run_at, h.created_at, h.created_by, h.started_at, h.timeout_seconds, h.start_before, h.retry_of, h.concurrency_key,
         h.concurrency_limit, h.progress, h.error, h.request_id, h.payload, h.finished_at, h.ended_by, h.reason, h.result, NULL, NULL, NULL, NULL
  FROM ended e JOIN task_history h ON h.tenant_id = $1 AND h.id = e.id
) AS both_tables
ORDER BY id DESC
LIMIT $3;

-- name: list_events
-- $1 tenant, $2 task
SELECT seq, at, event, fence, attempt, actor, executor_id, detail
FROM task_events
WHERE tenant_id = $1 AND task_id = $2
ORDER BY at, seq;

-- name: list_steps
-- $1 tenant, $2 task
SELECT name, kind, fence, output, started_at, finished_at
FROM task_steps
WHERE tenant_id = $1 AND task_id = $2
ORDER BY finished_at, name;

-- name: pulse
-- $1 tenant, $2 id: what changes whenever the task's page does
SELECT t.state, t.fence, t.attempt, t.progress::text, t.run_at, t.error::text, t.finished_at,
       (SELECT count(*) FROM task_events e WHERE e.tenant_id = $1 AND e.task_id = $2) AS events,
       (SELECT count(*) FROM task_steps s WHERE s.tenant_id = $1 AND s.task_id = $2) AS steps,
       (SELECT max(o.seq) FROM task_output o WHERE o.tenant_id = $1 AND o.task_id = $2 AND o.fence = t.fence) AS pieces,
       (SELECT jsonb_object_agg(c.state, c.calls)::text
        FROM (SELECT state, count(*) AS calls FROM llm_calls WHERE tenant_id = $1 AND task_id = $2 GROUP BY state) c) AS calls,
       (SELECT count(*) FROM reviews r WHERE r.tenant_id = $1 AND r.task_id = $2 AND r.state = 'pending') AS reviews
FROM all_tasks t
WHERE t.tenant_id = $1 AND t.id = $2;

-- name: list_output
-- $1 tenant, $2 task, $3 fence, $4 after seq
SELECT seq, text FROM task_output WHERE tenant_id = $1 AND task_id = $2 AND fence = $3 AND seq > $4 ORDER BY seq;

-- name: cancel
-- $1 tenant, $2 ids, $3 actor, $4 reason
SELECT id, executor_id, fence FROM app.cancel($1, $2, $3, $4);

-- name: limit_lock_wait
-- a cancel answers within its tries rather than queue behind a long transaction (RULINGS 8)
SET LOCAL lock_timeout = '250ms';

-- name: lock
-- $1 tenant, $2 id
SELECT id, type, queue, state, waiting_for, fence, attempt FROM tasks WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: insert_signal
-- $1 tenant, $2 task, $3 name, $4 data, $5 actor; the first one wins
INSERT INTO task_signals (tenant_id, task_id, name, data, actor)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (task_id, name) DO NOTHING
RETURNING true;

-- name: resume
-- $1 tenant, $2 task, $3 signal name, $4 actor: queue the task if that is what it waits for
WITH moment AS MATERIALIZED (
  SELECT app.now() AS at
), resumed AS (
  UPDATE tasks t
  SET state = 'queued', run_at = moment.at, total_deadline_at = t.total_deadline_at + (moment.at - t.waiting_since), waiting_for = NULL,
      wait_until = NULL, waiting_since = NULL
  FROM moment
  WHERE t.tenant_id = $1 AND t.id = $2 AND t.state = 'waiting' AND t.waiting_for = $3
  RETURNING t.id, t.tenant_id, t.queue, t.fence, t.attempt, moment.at
), told AS (
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, detail)
  SELECT r.tenant_id, r.id, r.at, 'signalled', r.fence, r.attempt, $4, jsonb_build_object('signal', $3::text) FROM resumed r
)
SELECT queue FROM resumed;

-- name: lock_requeue
-- $1 task: for whoever requeues it
SELECT pg_advisory_xact_lock(app.requeue_lock($1));

-- name: hurry
-- $1 tenant, $2 task, $3 actor: queue it before it is due, if it is scheduled
WITH moment AS MATERIALIZED (
  SELECT app.now() AS at
), hurried AS (
  UPDATE tasks t
  SET state = 'queued', run_at = moment.at
  FROM moment
  WHERE t.tenant_id = $1 AND t.id = $2 AND t.state = 'scheduled'
  RETURNING t.id, t.tenant_id, t.queue, t.fence, t.attempt, moment.at
), told AS (
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor)
  SELECT h.tenant_id, h.id, h.at, 'hurried', h.fence, h.attempt, $3 FROM hurried h
)
SELECT queue FROM hurried;

-- name: copy_steps
-- $1 tenant, $2 from tasks, $3 to tasks, one for one: paid work only; writes and waits belong to the task that made them
INSERT INTO task_steps (tenant_id, task_id, name, kind, fence, input_hash, output, started_at, finished_at)
SELECT s.tenant_id, pair.new_id, s.name, s.kind, 0, s.input_hash, s.output, s.started_at, s.finished_at
FROM unnest($2::uuid[], $3::uuid[]) AS pair (old_id, new_id)
JOIN task_steps s ON s.tenant_id = $1 AND s.task_id = pair.old_id AND s.kind = 'step';

-- name: list_queues
SELECT name, paused_at, paused_by, resume_at, max_running FROM queues ORDER BY name;

-- name: depths
SELECT queue, state, tasks FROM app.queue_depths();
