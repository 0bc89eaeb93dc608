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
CREATE TABLE cluster_secret (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT cluster_secret_only_row CHECK (only_row),
    secret   text NOT NULL
);
INSERT INTO cluster_secret (secret) VALUES (gen_random_uuid()::text || gen_random_uuid()::text);
GRANT SELECT ON cluster_secret TO steelyard_serving;
