-- works-with: 3
-- Why: bulk operations that are over go when the tasks go that they were about.

SET ROLE galley_owner;
GRANT DELETE ON bulk_operations TO galley_engine;
RESET ROLE;
