-- The tables of Steelyard. Two groups belong together: those keyed by
-- ledger_id (the log) and those keyed by shard (the projections). Every primary
-- key contains its group's column, so that the same schema distributes on
-- Citus; nothing here may break that.

-- Roles. They are shared by every database of a cluster, hence the tolerance.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'steelyard_serving') THEN
        CREATE ROLE steelyard_serving NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'steelyard_analyst') THEN
        CREATE ROLE steelyard_analyst NOLOGIN;
    END IF;
EXCEPTION
    -- Another database of the same cluster is being migrated at this moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

DO $$
BEGIN
    EXECUTE format('GRANT steelyard_serving, steelyard_analyst TO %I', current_user);
EXCEPTION
    -- A superuser needs no membership, and concurrent grants may collide.
    WHEN OTHERS THEN NULL;
END
$$;

CREATE TABLE database_settings (
    only_row    boolean PRIMARY KEY DEFAULT true CONSTRAINT database_settings_only_row CHECK (only_row),
    shard_count smallint NOT NULL CONSTRAINT database_settings_shard_count CHECK (shard_count BETWEEN 1 AND 1024)
);
INSERT INTO database_settings (shard_count) VALUES (64);

-- The log's group, by ledger_id.

CREATE TABLE ledgers (
    ledger_id  integer PRIMARY KEY,
    name       text COLLATE "C" NOT NULL CONSTRAINT ledgers_name_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE assets (
    ledger_id integer NOT NULL,
    code      text COLLATE "C" NOT NULL,
    scale     smallint NOT NULL CONSTRAINT assets_scale_check CHECK (scale BETWEEN 0 AND 37),
    PRIMARY KEY (ledger_id, code)
);

CREATE TABLE events (
    ledger_id       integer NOT NULL,
    position        bigint NOT NULL CONSTRAINT events_position_check CHECK (position > 0),
    type            text NOT NULL,
    schema_version  smallint NOT NULL CONSTRAINT events_schema_version_check CHECK (schema_version > 0),
    transaction_id  uuid,
    idempotency_key text,
    payload         jsonb NOT NULL,
    recorded_at     timestamptz NOT NULL,
    effective_at    timestamptz NOT NULL,
    epoch           bigint NOT NULL,
    PRIMARY KEY (ledger_id, position)
);
CREATE INDEX events_transaction_id ON events (transaction_id);
-- Nothing is ever searched in the payload: sampling it would only cost.
ALTER TABLE events ALTER COLUMN payload SET STATISTICS 0;

CREATE TABLE idempotency_keys (
    ledger_id   integer NOT NULL,
    -- The first 16 bytes of SHA-256 of the key, and of what the request means.
    key_hash    bytea NOT NULL,
    fingerprint bytea NOT NULL,
    -- The first event that the key recorded, and how many.
    position    bigint NOT NULL,
    event_count integer NOT NULL CONSTRAINT idempotency_keys_event_count_check CHECK (event_count > 0),
    PRIMARY KEY (ledger_id, key_hash)
);

CREATE TABLE sequencer_claims (
    ledger_id     integer PRIMARY KEY,
    worker_id     uuid,
    epoch         bigint NOT NULL DEFAULT 0,
    backend_pid   integer,
    backend_start timestamptz,
    claimed_at    timestamptz
) WITH (fillfactor = 50);

-- The log is append-only. Privileges are the first guard; this is the second,
-- and it holds for the owner too.
CREATE FUNCTION refuse_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER events_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();
CREATE TRIGGER idempotency_keys_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON idempotency_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();

-- Members.

CREATE TABLE workers (
    worker_id          uuid PRIMARY KEY,
    advertised_address text NOT NULL,
    version            text NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT now(),
    heartbeat_at       timestamptz NOT NULL DEFAULT now(),
    draining           boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- The projections' group, by shard.

CREATE TABLE shard_claims (
    shard         smallint PRIMARY KEY,
    worker_id     uuid,
    epoch         bigint NOT NULL DEFAULT 0,
    backend_pid   integer,
    backend_start timestamptz,
    claimed_at    timestamptz
) WITH (fillfactor = 50);
INSERT INTO shard_claims (shard) SELECT generate_series(0, 63);

CREATE TABLE accounts (
    shard       smallint NOT NULL,
    ledger_id   integer NOT NULL,
    account_id  bigint NOT NULL,
    code        text COLLATE "C" NOT NULL,
    asset       text COLLATE "C" NOT NULL,
    normal_side text NOT NULL CONSTRAINT accounts_normal_side_check CHECK (normal_side IN ('debit', 'credit')),
    min_balance numeric(38, 0),
    max_balance numeric(38, 0),
    status      text NOT NULL CONSTRAINT accounts_status_check CHECK (status IN ('open', 'frozen', 'closed')),
    metadata    jsonb,
    opened_at   timestamptz NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id),
    CONSTRAINT accounts_code_key UNIQUE (shard, ledger_id, code)
);
CREATE INDEX accounts_code ON accounts (ledger_id, code);

CREATE TABLE balances (
    shard            smallint NOT NULL,
    ledger_id        integer NOT NULL,
    account_id       bigint NOT NULL,
    debits_posted    numeric(38, 0) NOT NULL CONSTRAINT balances_debits_posted_check CHECK (debits_posted >= 0),
    credits_posted   numeric(38, 0) NOT NULL CONSTRAINT balances_credits_posted_check CHECK (credits_posted >= 0),
    debits_pending   numeric(38, 0) NOT NULL CONSTRAINT balances_debits_pending_check CHECK (debits_pending >= 0),
    credits_pending  numeric(38, 0) NOT NULL CONSTRAINT balances_credits_pending_check CHECK (credits_pending >= 0),
    version          bigint NOT NULL,
    -- The version before the flush that wrote the row: the next flush must
    -- follow on it, or the account's projection stops.
    previous_version bigint NOT NULL,
    position         bigint NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.1);

CREATE TABLE entries (
    shard          smallint NOT NULL,
    ledger_id      integer NOT NULL,
    account_id     bigint NOT NULL,
    version        bigint NOT NULL,
    position       bigint NOT NULL,
    leg            smallint NOT NULL,
    transaction_id uuid NOT NULL,
    side           text NOT NULL,
    amount         numeric(38, 0) NOT NULL,
    balance_after  numeric(38, 0) NOT NULL,
    reference      text,
    effective_at   timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, version)
);
CREATE INDEX entries_reference ON entries (ledger_id, reference, position) WHERE leg = 0 AND reference IS NOT NULL;

-- Transactions that were declined, one row per account that they would have touched.
CREATE TABLE rejections (
    shard          smallint NOT NULL,
    ledger_id      integer NOT NULL,
    account_id     bigint NOT NULL,
    position       bigint NOT NULL,
    leg            smallint NOT NULL,
    transaction_id uuid NOT NULL,
    reason         text NOT NULL,
    reference      text,
    effective_at   timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, position, leg)
);
CREATE INDEX rejections_reference ON rejections (ledger_id, reference, position) WHERE leg = 0 AND reference IS NOT NULL;

CREATE TABLE checkpoints (
    projection text NOT NULL,
    shard      smallint NOT NULL,
    ledger_id  integer NOT NULL,
    position   bigint NOT NULL DEFAULT 0,
    epoch      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (projection, shard, ledger_id)
) WITH (fillfactor = 30);

-- Accounts whose projection stopped because an event does not follow on what
-- was projected before. The others go on; `steelyard rebuild` replays in order.
CREATE TABLE projection_faults (
    shard        smallint NOT NULL,
    ledger_id    integer NOT NULL,
    account_id   bigint NOT NULL,
    expected     bigint NOT NULL,
    position     bigint NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, ledger_id, account_id)
);

GRANT USAGE ON SCHEMA public TO steelyard_serving;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO steelyard_serving;
GRANT INSERT ON ledgers, assets, events, idempotency_keys, sequencer_claims, workers TO steelyard_serving;
GRANT UPDATE, DELETE ON workers TO steelyard_serving;
GRANT UPDATE ON sequencer_claims, shard_claims TO steelyard_serving;
GRANT INSERT, UPDATE, DELETE ON accounts, balances, entries, rejections, checkpoints, projection_faults TO steelyard_serving;
