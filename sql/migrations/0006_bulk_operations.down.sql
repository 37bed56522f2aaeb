-- Takes bulk operations and their history away; what they did stays done.
DROP FUNCTION IF EXISTS app.bulk_matches(uuid, text, text, jsonb, uuid, timestamptz, uuid, int);
DROP FUNCTION IF EXISTS app.find_bulk_operations();
DROP FUNCTION IF EXISTS app.dead_letter_fits(dead_letters, text, jsonb);
SET ROLE galley_owner;
DROP INDEX dead_letters_handled;
DROP TABLE bulk_operations;
RESET ROLE;
