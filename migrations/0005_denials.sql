-- What a worker was refused, so that every worker can tell: units that it should
-- hold and could not get, at its last heartbeat, and writes that a newer epoch
-- refused, since it started.

ALTER TABLE workers
    ADD COLUMN ledgers_denied integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN shards_denied  smallint[] NOT NULL DEFAULT '{}',
    ADD COLUMN writes_fenced  bigint NOT NULL DEFAULT 0;
