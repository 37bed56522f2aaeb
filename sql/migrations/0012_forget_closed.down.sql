-- Takes the permission away.
SET ROLE galley_owner;
REVOKE DELETE ON bulk_operations FROM galley_engine;
RESET ROLE;
