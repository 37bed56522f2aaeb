-- Takes the limits, the executors' reports, the dead letters and the numbers per minute away. Tasks and their history stay.
DROP FUNCTION IF EXISTS app.claim(uuid, text, int, smallint, timestamptz, uuid);
DROP FUNCTION IF EXISTS app.heartbeat(uuid, double precision, uuid[], int[], int, int, real);
DROP FUNCTION IF EXISTS app.ready_queues(text[], smallint[], timestamptz[], uuid[]);
DROP FUNCTION IF EXISTS app.note_ends(uuid[], text);
DROP FUNCTION IF EXISTS app.fold_statistics(int);
DROP FUNCTION IF EXISTS app.operates();
SET ROLE galley_owner;
DROP TABLE task_statistics, dead_letters, queue_tenant_limits;
ALTER TABLE executors DROP COLUMN seen_at, DROP COLUMN busy, DROP COLUMN leaked, DROP COLUMN lag_ms, DROP COLUMN draining_by;
CREATE INDEX task_history_tenant ON task_history (tenant_id, id);
ALTER TABLE task_history DROP CONSTRAINT task_history_pkey, ADD PRIMARY KEY (id);
DROP INDEX tasks_fair, tasks_retry_of, tasks_asleep;
ALTER TABLE queues DROP COLUMN max_running_per_tenant, DROP COLUMN rate_per_second, DROP COLUMN burst, DROP COLUMN tokens, DROP COLUMN tokens_at,
  DROP COLUMN fair, DROP COLUMN last_tenant, DROP COLUMN pause_reason, DROP COLUMN updated_at, DROP COLUMN updated_by;
ALTER TABLE tenants DROP COLUMN operates;
RESET ROLE;
