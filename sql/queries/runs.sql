-- name: lock
-- $1 task, $2 fence: the first statement of every write of a run. Without the row lock a version was committed after an
-- acknowledged cancel; a weaker lock lets the rescuer through (RULINGS 6).
SELECT tenant_id, queue, type, attempt, waiting_for, wait_until, wait_until <= app.now() AS wait_is_over, concurrency_key
FROM tasks
WHERE id = $1 AND fence = $2
FOR NO KEY UPDATE;

-- name: list_checkpoints
-- $1 tenant, $2 task
SELECT name, kind, input_hash, output FROM task_steps WHERE tenant_id = $1 AND task_id = $2;

-- name: save_checkpoint
-- $1 tenant, $2 task, $3 name, $4 kind, $5 fence, $6 input hash, $7 output, $8 seconds it took
INSERT INTO task_steps (tenant_id, task_id, name, kind, fence, input_hash, output, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, app.now() - make_interval(secs => $8));

-- name: find_signal
-- $1 tenant, $2 task, $3 name
SELECT data, actor FROM task_signals WHERE tenant_id = $1 AND task_id = $2 AND name = $3;

-- name: wait
-- $1 tenant, $2 task, $3 fence, $4 signal name, $5 seconds until it gives up (NULL: never); the attempt is given back, the key is freed
WITH moment AS MATERIALIZED (
  SELECT app.now() AS at
), parked AS (
  UPDATE tasks t
  SET state = 'waiting', waiting_for = $4, waiting_since = moment.at, wait_until = moment.at + make_interval(secs => $5), attempt = t.attempt - 1,
      fence = t.fence + 1, executor_id = NULL, deadline_at = NULL
  FROM moment
  WHERE t.tenant_id = $1 AND t.id = $2 AND t.fence = $3
  RETURNING t.*, moment.at
), told AS (
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, detail)
  SELECT p.tenant_id, p.id, p.at, 'waiting', p.fence - 1, p.attempt, 'executor', jsonb_build_object('signal', $4::text, 'until', p.wait_until, 'started_at', p.started_at)
  FROM parked p
)
SELECT tenant_id, queue, concurrency_key FROM parked;

-- name: release_key
-- $1 tenant, $2 queue, $3 concurrency key
SELECT app.release_keys(ARRAY[$1::uuid], ARRAY[$2::text], ARRAY[$3::text]);

-- name: set_progress
-- $1 tenant, $2 task, $3 fence, $4 progress
UPDATE tasks SET progress = $4 WHERE tenant_id = $1 AND id = $2 AND fence = $3 RETURNING true;

-- name: append_output
-- $1 tenant, $2 task, $3 fence, $4 seq, $5 text
INSERT INTO task_output (tenant_id, task_id, fence, seq, text) VALUES ($1, $2, $3, $4, $5);

-- name: retry
-- $1 task, $2 fence, $3 event, $4 error, $5 delay in seconds, $6 whether the attempt counts
SELECT app.retry($1, $2, $3, $4, $5, $6);
