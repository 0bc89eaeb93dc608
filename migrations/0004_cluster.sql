-- What workers must know of each other to share the work: where the others take
-- forwarded requests, how much each takes on, and which session is theirs, so
-- that one whose session is gone counts as gone at once.

ALTER TABLE workers
    ADD COLUMN internal_url  text,
    ADD COLUMN capacity      integer NOT NULL DEFAULT 1,
    ADD COLUMN sequencer     boolean NOT NULL DEFAULT true,
    ADD COLUMN projector     boolean NOT NULL DEFAULT true,
    ADD COLUMN backend_pid   integer,
    ADD COLUMN backend_start timestamptz;

-- What workers prove to each other that they serve the same database. Random,
-- made here; PostgreSQL draws a version 4 UUID from a strong source.
ALTER TABLE database_settings
    ADD COLUMN cluster_secret text NOT NULL DEFAULT (gen_random_uuid()::text || gen_random_uuid()::text);

-- The default has done its work: no other row will ever be.
ALTER TABLE database_settings ALTER COLUMN cluster_secret DROP DEFAULT;
