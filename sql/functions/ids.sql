-- Ids ordered by time, on the database clock. PostgreSQL 18 has its own; before it, the microsecond stands where that one has its fraction of
-- the millisecond. Without it the tasks of one call would start in any order: they are due at the same moment, so their ids decide.
DO $$
BEGIN
  IF current_setting('server_version_num')::int < 180000 THEN
    EXECUTE $f$
      CREATE OR REPLACE FUNCTION app.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $b$
        SELECT (lpad(to_hex(t.us / 1000), 12, '0') || to_hex(28672 + (t.us % 1000) * 4096 / 1000) || substr(gen_random_uuid()::text, 20))::uuid
        FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS t
      $b$ $f$;
  END IF;
END $$;
