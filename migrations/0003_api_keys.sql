-- API keys: who may use the HTTP API, and as what. A key itself is shown once
-- and kept nowhere; of its 256 random bits nothing but their SHA-256 is here,
-- and nobody finds those bits from that.
--
-- No part of the log and none of the projections: on Citus it is a small table
-- that every node has, as `workers` is.

CREATE TABLE api_keys (
    key_id       uuid PRIMARY KEY,
    name         text NOT NULL CONSTRAINT api_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 128),
    key_hash     bytea NOT NULL CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32),
    role         text NOT NULL CONSTRAINT api_keys_role_check CHECK (role IN ('read', 'submit', 'admin')),
    -- The name of the one ledger that it is good for, which no ledger ever changes; all when null.
    ledger       text COLLATE "C",
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz CONSTRAINT api_keys_expires_at_check CHECK (expires_at > created_at),
    revoked_at   timestamptz,
    -- To about a minute.
    last_used_at timestamptz,
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash)
) WITH (fillfactor = 50);

-- Workers read keys and note their use. They make none, and they give none a
-- longer life or a higher role: that takes the owner. Analysts see nothing.
GRANT SELECT ON api_keys TO steelyard_serving;
GRANT UPDATE (last_used_at) ON api_keys TO steelyard_serving;
