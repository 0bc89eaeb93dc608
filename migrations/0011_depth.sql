-- Holds, scheduled transactions, accounts that change, and what velocity limits have
-- counted: projections, keyed by shard like the others.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '30min';

-- A frozen account has both; a closed one keeps them, since reopening does not
-- lift a freeze.
ALTER TABLE accounts ADD COLUMN freeze_scope text;
ALTER TABLE accounts ADD COLUMN freeze_reason text;

-- Reserved funds, one row per hold, in the shard of the account that is debited.
CREATE TABLE holds (
    shard            smallint NOT NULL,
    ledger_id        integer NOT NULL,
    -- The account that is debited.
    account_id       bigint NOT NULL,
    -- Of the event that authorised it.
    position         bigint NOT NULL,
    transaction_id   uuid NOT NULL,
    from_account     text COLLATE "C" NOT NULL,
    to_account       text COLLATE "C" NOT NULL,
    to_account_id    bigint NOT NULL,
    asset            text COLLATE "C" NOT NULL,
    amount           numeric(38, 0) NOT NULL,
    remaining        numeric(38, 0) NOT NULL,
    captured         numeric(38, 0) NOT NULL,
    state            text NOT NULL
        CONSTRAINT holds_state_check CHECK (state IN ('authorised', 'captured', 'voided', 'expired')),
    expires_at       timestamptz,
    reference        text,
    authorised_at    timestamptz NOT NULL,
    -- Of the last event about it.
    changed_position bigint NOT NULL,
    changed_at       timestamptz NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, position)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);
-- Those that wait, and searches by state, in the order of the log.
CREATE INDEX holds_state ON holds (ledger_id, state, position);
CREATE INDEX holds_reference ON holds (ledger_id, reference, position) WHERE reference IS NOT NULL;

-- Transactions that were scheduled, in the shard of their first leg's account.
CREATE TABLE scheduled_transactions (
    shard            smallint NOT NULL,
    ledger_id        integer NOT NULL,
    -- The account of the first leg.
    account_id       bigint NOT NULL,
    -- Of the event that scheduled it.
    position         bigint NOT NULL,
    transaction_id   uuid NOT NULL,
    state            text NOT NULL CONSTRAINT scheduled_transactions_state_check
        CHECK (state IN ('scheduled', 'posted', 'rejected', 'cancelled')),
    effective_at     timestamptz NOT NULL,
    reference        text,
    recorded_at      timestamptz NOT NULL,
    -- Of the last event about it.
    changed_position bigint NOT NULL,
    changed_at       timestamptz NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, position)
) WITH (fillfactor = 70);
CREATE INDEX scheduled_transactions_state ON scheduled_transactions (ledger_id, state, position);
CREATE INDEX scheduled_transactions_reference ON scheduled_transactions (ledger_id, reference, position)
    WHERE reference IS NOT NULL;

-- The accounts of transactions that were authorised or scheduled, one row each,
-- written once: by them a search by account finds what has no entries, or has
-- them at another position.
CREATE TABLE transaction_accounts (
    shard      smallint NOT NULL,
    ledger_id  integer NOT NULL,
    account_id bigint NOT NULL,
    -- Of the event that authorised or scheduled it.
    position   bigint NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, position)
);

-- What velocity limits have counted, one row per account, limit and bucket of time.
-- A row goes when the limit counts on the account and the bucket is out of its window.
CREATE TABLE velocity_usage (
    shard          smallint NOT NULL,
    ledger_id      integer NOT NULL,
    account_id     bigint NOT NULL,
    -- Of the event that set the limit.
    limit_position bigint NOT NULL,
    -- The bucket's beginning, in seconds since 1970, UTC.
    bucket         bigint NOT NULL,
    count          integer NOT NULL,
    amount         numeric(38, 0) NOT NULL,
    PRIMARY KEY (shard, ledger_id, account_id, limit_position, bucket)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);

GRANT SELECT, INSERT, UPDATE, DELETE ON holds, scheduled_transactions, transaction_accounts, velocity_usage
    TO steelyard_serving;
