-- works-with: 3
-- Why: before a month of history is dropped it is looked through for something that is needed still. A large one takes longer than a statement
-- may: so it is done in parts, and how far it got is kept.

SET ROLE galley_owner;

CREATE TABLE retention_looks (
  parent text NOT NULL,                  -- the table: task_history or task_events
  month timestamptz NOT NULL,
  cutoff timestamptz NOT NULL,           -- what ended before this was taken for not needed
  last_tenant uuid NOT NULL,
  last_task uuid NOT NULL,               -- in the order of tenant and task, nothing up to this one is needed
  complete boolean NOT NULL DEFAULT false,
  PRIMARY KEY (parent, month)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON retention_looks TO galley_engine;

RESET ROLE;
