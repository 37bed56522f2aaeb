-- name: register
-- $1 executor, $2 host, $3 pid, $4 release, $5 slots, $6 lease in seconds
SELECT app.register_executor($1, $2, $3, $4, $5, $6);

-- name: register_anew
-- $1 executor, $2 host, $3 pid, $4 release, $5 slots, $6 lease in seconds, $7 the id under which it lost its lease
SELECT app.register_executor($1, $2, $3, $4, $5, $6, $7);

-- name: heartbeat
-- $1 executor, $2 lease in seconds, $3 ids and $4 fences of its runs, $5 slots taken, $6 of them leaked, $7 how late its event loop was, in ms
SELECT alive, draining, lost FROM app.heartbeat($1, $2, $3, $4, $5, $6, $7);

-- name: deregister
-- $1 executor
SELECT app.deregister_executor($1);

-- name: prove_write
-- $1 executor
SELECT app.prove_write($1);

-- name: ready_queues
-- the floors of its latest claims: $1 queues, $2 priorities, $3 due times, $4 ids
SELECT app.ready_queues($1, $2, $3, $4);

-- name: claim
-- $1 executor, $2 queue, $3 how many, the floor of the latest claim or NULL: $4 priority, $5 due time, $6 id
SELECT outcome, id, tenant_id, type, type_version, fence, attempt, max_attempts, priority, run_at, seconds_left, created_by, request_id, payload,
       snoozes, deadline_is_total, waited_seconds
FROM app.claim($1, $2, $3, $4, $5, $6);

-- name: finish
-- $1 ids, $2 fences, $3 states, $4 results as texts of JSON, $5 errors. Only what was not simply done is sent back.
SELECT id, outcome FROM app.finish($1, $2, $3, $4, $5) WHERE outcome <> 'done';

-- name: give_back
-- $1 executor, $2 ids, $3 fences
SELECT given, busy FROM app.give_back_free($1, $2, $3);

-- name: report_lost
-- $1 executor whose lease ended although its process lives, $2 ids and $3 fences of its runs, $4 whether their attempts are given back
SELECT app.report_lost_lease($1, $2, $3, $4);

-- name: give_back_unknown
-- $1 executor, $2 ids of its runs, $3 seconds after which a claim without an answer is taken for lost
SELECT app.give_back_unknown($1, $2, $3);

-- name: rescue
-- $1 how many at most, $2 seconds a run may be past its deadline
SELECT id, queue, type, outcome FROM app.rescue($1, $2);

-- name: promote
-- $1 how many at most
SELECT queues, promoted, next_due_seconds FROM app.promote($1);

-- name: time_out
-- $1 how many at most
SELECT timed_out, remaining FROM app.time_out($1);

-- name: wake_keys
-- $1 how many keys at most, the last key looked at or NULL: $2 tenant, $3 queue, $4 key
SELECT woken, tenant_id, queue, key FROM app.wake_keys($1, $2, $3, $4);

-- name: clear_expired
-- $1 how many of a kind at most
SELECT app.clear_expired($1);

-- name: sweep_leftovers
-- $1 how many at most
SELECT app.sweep_leftovers($1);

-- name: ensure_partitions
SELECT app.ensure_partitions();

-- name: notify
-- $1 channel, $2 payload
SELECT pg_notify($1, $2);

-- name: fold_statistics
-- $1 days to keep
SELECT app.fold_statistics($1);

-- name: list
-- $1 whether with the hosts, loads and tasks of the whole installation
SELECT id, host, pid, release, slots, busy, leaked, lag_ms, started_at, seen_at, seconds_left, draining_at, draining_by, running
FROM app.list_executors($1);

-- name: list_running
-- $1 tenant, $2 how many at most: what its tasks are doing right now, longest first
SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
       created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
       request_id, payload, NULL::timestamptz AS finished_at, NULL::text AS ended_by, NULL::text AS reason, NULL::jsonb AS result,
       deadline_at, waiting_for, wait_until, on_crash
FROM tasks
WHERE tenant_id = $1 AND state = 'running'
ORDER BY started_at
LIMIT $2;

-- name: drain
-- $1 executor, $2 whether it is to claim nothing more, $3 actor
SELECT app.drain_executor($1, $2, $3);
