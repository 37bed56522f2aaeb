-- Takes the index away.
SET ROLE galley_owner;
DROP INDEX tasks_ready_keys;
RESET ROLE;
