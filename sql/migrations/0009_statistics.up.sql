-- works-with: 3
-- Why: percentiles need to know how many runs took how long, lists by type or queue an index in which a rare one is found at once, and
-- pages over a day or a week rows per hour.
-- Holds back tasks that end while the indexes over the history are built: some two seconds for each million rows.

SET ROLE galley_owner;

-- How long runs waited and took, as entries of app.spread: how many in which range of lengths. Empty where nothing was timed, and before 0009.
ALTER TABLE task_statistics
  ADD COLUMN waited_spread bigint[] NOT NULL DEFAULT '{}',
  ADD COLUMN ran_spread bigint[] NOT NULL DEFAULT '{}';

-- The same per hour, made anew by app.fold_statistics whenever it has folded a minute of the hour. Minutes that are not folded yet are not in it.
CREATE TABLE task_statistics_hours (
  tenant_id uuid NOT NULL,
  hour timestamptz NOT NULL,
  queue text NOT NULL,
  type text NOT NULL,
  outcome text NOT NULL,
  tasks bigint NOT NULL,
  waited_ms bigint NOT NULL,
  waited_max_ms bigint NOT NULL,
  ran_ms bigint NOT NULL,
  ran_max_ms bigint NOT NULL,
  waited_spread bigint[] NOT NULL DEFAULT '{}',
  ran_spread bigint[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (tenant_id, hour, queue, type, outcome)
);
SELECT app.protect('task_statistics_hours', 'SELECT');
GRANT INSERT, DELETE ON task_statistics_hours TO galley_engine;
CREATE INDEX task_statistics_own_loose ON task_statistics (tenant_id) WHERE NOT folded;                 -- pages, beside the hours

SET ROLE galley_engine;
INSERT INTO task_statistics_hours (tenant_id, hour, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)
SELECT s.tenant_id, date_trunc('hour', s.minute, 'UTC'), s.queue, s.type, s.outcome, sum(s.tasks), sum(s.waited_ms), max(s.waited_max_ms), sum(s.ran_ms),
       max(s.ran_max_ms)
FROM task_statistics s
WHERE s.folded
GROUP BY 1, 2, 3, 4, 5;
SET ROLE galley_owner;

CREATE INDEX task_history_kind ON task_history (tenant_id, type, queue, state, id);                     -- tasks.list_filtered
CREATE INDEX task_history_key ON task_history (tenant_id, concurrency_key, id) WHERE concurrency_key IS NOT NULL;   -- tasks.list_filtered

RESET ROLE;
