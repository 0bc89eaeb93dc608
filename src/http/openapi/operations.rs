//! Every route: what it takes, what it answers, and what can go wrong.

use serde_json::{Value, json};

use super::super::filters::METADATA_PAIRS_MAX;
use super::super::params::{PAGE_DEFAULT, PAGE_MAX};
use super::super::problem::Code::{self, *};
use super::super::search::EXAMINED_MAX;
use super::super::story::TRANSACTION_STATUSES;
use super::money::TRANSACT;
use crate::ledger::Kind;
use crate::metadata::SEARCHABLE_BYTES_MAX;

pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub parameters: &'static [Parameter],
    /// Schema of the JSON body.
    pub body: Option<&'static str>,
    pub answers: &'static [Answer],
    /// Sets of codes, which overlap.
    pub problems: &'static [&'static [Code]],
}

pub enum Parameter {
    /// One of [`parameters`].
    Shared(&'static str),
    /// The cursor of a list, with what it is.
    After(&'static str),
}

pub struct Answer {
    pub status: u16,
    pub description: &'static str,
    pub schema: &'static str,
    pub content_type: &'static str,
    /// Besides `X-Request-Id`.
    pub headers: &'static [&'static str],
}

pub const TAGS: &[(&str, &str)] = &[
    ("Payments", "Moving money, exactly once."),
    ("Accounts", "Accounts, their balances and their statements."),
    ("Transactions", "Several legs at once, what is taken back, and what was recorded, found by what is known of it."),
    ("Rules", "What accounts begin with, how fast money may move, and which periods are closed."),
    ("Ledgers", "Books with a log of their own, and their assets. The ledger `main` always exists."),
    ("Bulk", "Files of many lines, in and out."),
    ("Events", "The log itself."),
    ("Operations", "What operators and load balancers ask."),
    ("Description", "This description."),
];

/// Any route that asks for an API key.
pub const GUARDED: &[Code] = &[Unauthenticated, Forbidden, Unavailable];

/// What the descriptions below say.
const _: () = assert!(EXAMINED_MAX == 20_000);

/// Any route: a defect of ours.
pub(super) const ANY: &[Code] = &[InternalError];
/// A parameter in the path, which may not be UTF-8.
const PATH: &[Code] = &[MalformedRequest];
/// A ledger in the path.
pub(super) const LEDGER: &[Code] = &[MalformedRequest, LedgerNotFound, ValidationFailed, Unavailable];
pub(super) const BODY: &[Code] =
    &[MalformedJson, MalformedRequest, RequestTimeout, BodyTooLarge, UnsupportedMediaType, ValidationFailed];
/// What goes through the ledger's sequencer, to be recorded.
pub(super) const WRITE: &[Code] = &[Overloaded, Unavailable, OutcomeUnknown];
/// What asks the ledger's sequencer.
pub(super) const SEQUENCED: &[Code] = &[Overloaded, Unavailable, ProjectionBehind];
/// What reads the database.
pub(super) const READ: &[Code] = &[ValidationFailed, Unavailable];
/// What waits for a position.
pub(super) const POSITION: &[Code] = &[ProjectionBehind];
pub(super) const LEDGER_IN_PATH: Parameter = Parameter::Shared("ledger");
pub(super) const LIMIT: Parameter = Parameter::Shared("limit");
const AS_OF: Parameter = Parameter::Shared("as_of");
const AS_OF_POSITION: Parameter = Parameter::Shared("as_of_position");
pub(super) const CONSISTENCY: Parameter = Parameter::Shared("consistency");
pub(super) const MIN_POSITION: Parameter = Parameter::Shared("min_position");
pub(super) const CURSOR: Parameter = Parameter::After("`next` of the page before: opaque, and of this list only.");

pub(super) const AT_POSITION: &[&str] = &["Ledger-Position"];
pub(super) const REPLAYABLE: &[&str] = &["Ledger-Position", "Idempotent-Replayed"];

pub(super) const fn json_answer(
    status: u16,
    description: &'static str,
    schema: &'static str,
    headers: &'static [&'static str],
) -> Answer {
    Answer { status, description, schema, content_type: "application/json", headers }
}

const EXPORTED: [Answer; 3] =
    [file_answer("text/csv"), file_answer("application/x-ndjson"), file_answer("application/vnd.apache.parquet")];

const fn file_answer(content_type: &'static str) -> Answer {
    let description = "The file, as of one position. What goes wrong on the way breaks the connection off.";
    Answer { status: 200, description, schema: "Text", content_type, headers: AT_POSITION }
}

const fn text_answer(description: &'static str, content_type: &'static str) -> Answer {
    Answer { status: 200, description, schema: "Text", content_type, headers: &[] }
}

pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/payments",
        id: "pay",
        tag: "Payments",
        summary: "Pay",
        description: "Debits `from` and credits `to`, or records why not. With `\"capture\": \"manual\"` it only \
                      reserves the funds; with an `effective_at` in the future it is scheduled, and decided then. When \
                      several reasons apply, the first in this order is given: `validation_failed`, `same_account`, \
                      `account_not_found`, `asset_mismatch`, `period_closed`, `account_closed`, `account_frozen`, \
                      `velocity_limit_exceeded`, `insufficient_funds`, `balance_limit_exceeded`; the last six are \
                      recorded, with `transaction_id` and `position`.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("Idempotency-Key")],
        body: Some("PaymentRequest"),
        answers: &[json_answer(
            201,
            "It is posted, authorised or scheduled, and durable.",
            "PaymentAnswer",
            REPLAYABLE,
        )],
        problems: &[ANY, LEDGER, BODY, WRITE, TRANSACT],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/payments/batch",
        id: "payInBatch",
        tag: "Payments",
        summary: "Pay 1 to 10,000 times",
        description: "Each for itself, with an `idempotency_key` in each item: 200 with a result per item, in order; \
                      later items see the effects of earlier ones, and what is wrong with one is its own result, also a missing \
                      `idempotency_key` (400 `idempotency_key_missing`). With `\"atomic\": true` all or none, with one \
                      `Idempotency-Key` header and no keys in the items: 201, or a problem with the first failing item \
                      in `errors`. Of an item, only what cannot be a payment at all (another missing field, an unknown \
                      one, a wrong JSON type) refuses the whole batch.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("Idempotency-Key-of-batch")],
        body: Some("PaymentBatchRequest"),
        answers: &[
            json_answer(
                200,
                "A result per item, in order; `Idempotent-Replayed` when every item that got to the ledger was a replay.",
                "PaymentBatch",
                REPLAYABLE,
            ),
            json_answer(201, "All are recorded (`atomic`).", "RecordedPaymentBatch", REPLAYABLE),
        ],
        problems: &[ANY, LEDGER, BODY, WRITE, TRANSACT],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/accounts",
        id: "listAccounts",
        tag: "Accounts",
        summary: "List accounts by code",
        description: "In the order of their codes' bytes; the filters hold together. One request looks at 20,000 \
                      accounts at most: a page may have fewer items than `limit`, or none, and a `next`, with which \
                      the search goes on. It has come to its end when `next` is null.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("prefix"),
            Parameter::Shared("asset"),
            Parameter::Shared("normal"),
            Parameter::Shared("account-status"),
            Parameter::Shared("account-metadata"),
            Parameter::Shared("opened_from"),
            Parameter::Shared("opened_to"),
            Parameter::Shared("min_posted"),
            Parameter::Shared("max_posted"),
            CURSOR,
            LIMIT,
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "A page of accounts.", "AccountPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts",
        id: "openAccount",
        tag: "Accounts",
        summary: "Open an account",
        description: "The code is the natural key: the same again is 200 with the account as it is, other attributes \
                      are `account_already_exists`. `normal`, `min_balance` and `max_balance` that are left out are \
                      as the account's type has them, the account type with the longest prefix that the code begins \
                      with.",
        parameters: &[LEDGER_IN_PATH],
        body: Some("AccountRequest"),
        answers: &[
            json_answer(200, "The account was there before.", "Account", AT_POSITION),
            json_answer(201, "The account is open.", "Account", AT_POSITION),
        ],
        problems: &[ANY, LEDGER, BODY, WRITE, &[AssetNotFound, AccountAlreadyExists]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts/batch",
        id: "openAccountsInBatch",
        tag: "Accounts",
        summary: "Open 1 to 10,000 accounts",
        description: "Each for itself: a result per item, in order.",
        parameters: &[LEDGER_IN_PATH],
        body: Some("AccountBatchRequest"),
        answers: &[json_answer(200, "A result per item, in order.", "AccountBatch", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/accounts/batch",
        id: "getAccountNamedBatch",
        tag: "Accounts",
        summary: "The account with the code `batch`",
        description: "As with any other code; it is here because its path is one of POST too.",
        parameters: &[LEDGER_IN_PATH, AS_OF, AS_OF_POSITION, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "The account.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/accounts/{code}",
        id: "getAccount",
        tag: "Accounts",
        summary: "One account with its balance",
        description: "Answered from the sequencer's own state, exact at the head of the log, however far the \
                      projections lag; with `consistency=eventual` from the projections. With `as_of` or \
                      `as_of_position` its balance is as of then, from the projections, and all else as it is now. \
                      What was reserved counts from when it was recorded, whatever is effective when; `version` and \
                      `position` are those of the last event about the account that was recorded by then.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("account-code"),
            AS_OF,
            AS_OF_POSITION,
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "The account.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/accounts/{code}/entries",
        id: "listEntries",
        tag: "Accounts",
        summary: "The statement of an account",
        description: "One item per leg, in the order of the account's versions.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("account-code"),
            CURSOR,
            LIMIT,
            Parameter::Shared("order"),
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "A page of the statement.", "EntryPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/accounts/{code}/statement",
        id: "getStatement",
        tag: "Accounts",
        summary: "A statement over a period, for programs, spreadsheets and people",
        description: "Opening balance, lines and closing balance by effective time: what is back-dated stands where it \
                      counts, with the balance after each line. Opening balance and lines always amount to the closing \
                      balance. As JSON in pages, of which the first fixes what is known and where the period ends; the \
                      cursor carries both. As CSV (RFC 4180) or as a page to print all lines in one answer, with \
                      amounts in the asset's main unit; a text that a spreadsheet would take for a formula has an \
                      apostrophe before it. An answer that could not be finished breaks off.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("account-code"),
            Parameter::Shared("statement-from"),
            Parameter::Shared("statement-to"),
            Parameter::Shared("statement-format"),
            CURSOR,
            LIMIT,
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[
            json_answer(200, "The statement.", "Statement", AT_POSITION),
            Answer { headers: AT_POSITION, ..text_answer("The statement.", "text/csv") },
            Answer { headers: AT_POSITION, ..text_answer("The statement.", "text/html") },
        ],
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/balances",
        id: "listBalances",
        tag: "Accounts",
        summary: "Balances summed along the chart of accounts",
        description: "Codes are paths whose segments end at `:`. A sum per asset over the account `prefix` and all below \
                      it (`assets:bank` counts `assets:bank:eur`, and not `assets:bankrupt`), or over all accounts; \
                      with `depth` one for each path of so many segments, which draws the chart as a tree. All sums \
                      are as of one moment, which the first page fixes and the cursor carries with the depth; the \
                      filters are to be said again. As of the past, balances are known, and not the totals by side \
                      that they are made of: those are null.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("chart-prefix"),
            Parameter::Shared("asset"),
            Parameter::Shared("depth"),
            AS_OF,
            AS_OF_POSITION,
            CURSOR,
            LIMIT,
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "A page of sums, by path and asset.", "SumPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/trial-balance",
        id: "getTrialBalance",
        tag: "Accounts",
        summary: "The trial balance",
        description: "Every account's balance as a debit or a credit, by code, and per asset the totals over all \
                      accounts, whose difference is zero. All pages are as of one moment, which the first fixes and \
                      the cursor carries; the totals come with the first and are null on the others.",
        parameters: &[LEDGER_IN_PATH, AS_OF, AS_OF_POSITION, CURSOR, LIMIT, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "A page of the trial balance.", "TrialBalance", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/transactions",
        id: "listTransactions",
        tag: "Transactions",
        summary: "Find transactions",
        description: "In the order of the log; the filters hold together. `idempotency_key` finds what a key did: \
                      of a void or a cancellation, the transaction that it ended. \
                      `reference`, `metadata`, `account`, `idempotency_key` and the times are found by an index, \
                      whatever the length of the log; type, status and amounts are looked at in what those give, or \
                      in the log itself. One request looks at 20,000 transactions, or positions of the log, at most: \
                      a page may have fewer items than `limit`, or none, and a `next`, with which the search goes on. \
                      It has come to its end when `next` is null. Cursors stay valid while the log grows: in the \
                      order of the log what is new comes last, and with `order=desc` it is not in later pages.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("account"),
            Parameter::Shared("reference"),
            Parameter::Shared("transaction-metadata"),
            Parameter::Shared("idempotency_key"),
            Parameter::Shared("type"),
            Parameter::Shared("transaction-status"),
            Parameter::Shared("min_amount"),
            Parameter::Shared("max_amount"),
            Parameter::Shared("from"),
            Parameter::Shared("to"),
            CURSOR,
            LIMIT,
            Parameter::Shared("order"),
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "A page of transactions.", "TransactionPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/transactions/{id}",
        id: "getTransaction",
        tag: "Transactions",
        summary: "One transaction with its legs, and what became of it",
        description: "Answered from the log, so an acknowledged transaction is there, as its last event left it: a \
                      payment that was authorised with its captures, a posted transaction with its reversals, and each \
                      of those with what it is of.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("transaction-id"), CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "The transaction.", "Transaction", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION, &[TransactionNotFound]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/import",
        id: "import",
        tag: "Bulk",
        summary: "Import a file",
        description: "Accounts, payments, transactions and opening balances, a line each (ImportLine), decided in the \
                      order of the file, of any length. Whatever moves money has an idempotency key, of its own or \
                      made of the import's `id` and the line's number, so the same file may be sent again after any \
                      failure: nothing is recorded twice. The answer (an ImportRecord on each line) is written while \
                      the body is read, so read it while you send: progress, the lines that were refused, and as the \
                      last record the summary with `done`. Without a summary, or with `\"done\": false`, send the \
                      file again, or what is behind the last acknowledged line with `first_line`. An import waits \
                      while others need the ledger; 1,000 malformed lines in a row end it.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("import-id"),
            Parameter::Shared("equity"),
            Parameter::Shared("first_line"),
        ],
        body: Some("ImportFile"),
        answers: &[Answer {
            status: 200,
            description: "Records, as NDJSON.",
            schema: "Text",
            content_type: "application/x-ndjson",
            headers: &[],
        }],
        problems: &[ANY, LEDGER, &[MalformedRequest, RequestTimeout, UnsupportedMediaType, ValidationFailed]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/export/journal",
        id: "exportJournal",
        tag: "Bulk",
        summary: "The journal as a file",
        description: "Every leg of every posted transaction, in the order of the log, with the balance that it left \
                      behind. In CSV, a text that a spreadsheet would run as a formula has an apostrophe before it. \
                      In Parquet, amounts are DECIMAL(38,0) and times microseconds in UTC.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("export-format"),
            Parameter::Shared("from_position"),
            Parameter::Shared("to_position"),
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &EXPORTED,
        problems: &[ANY, LEDGER, READ, SEQUENCED],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/export/statement",
        id: "exportStatement",
        tag: "Bulk",
        summary: "The statement of an account as a file",
        description: "Every entry of the account, with the balance after it, in the formats of the journal.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::Shared("statement-account"),
            Parameter::Shared("export-format"),
            Parameter::Shared("from_position"),
            Parameter::Shared("to_position"),
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &EXPORTED,
        problems: &[ANY, LEDGER, READ, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/export/trial-balance",
        id: "exportTrialBalance",
        tag: "Bulk",
        summary: "The trial balance as a file",
        description: "The totals of every account by code, all at the position that each line names: debits and \
                      credits of an asset are equal.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("export-format"), CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &EXPORTED,
        problems: &[ANY, LEDGER, READ, SEQUENCED],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers",
        id: "listLedgers",
        tag: "Ledgers",
        summary: "List ledgers by name",
        description: "In the order of their names' bytes.",
        parameters: &[CURSOR, LIMIT],
        body: None,
        answers: &[json_answer(200, "A page of ledgers.", "LedgerPage", &[])],
        problems: &[ANY, READ],
    },
    Operation {
        method: "put",
        path: "/v1/ledgers/{ledger}",
        id: "createLedger",
        tag: "Ledgers",
        summary: "Create a ledger",
        description: "Again is 200. A ledger has a log and accounts of its own, which meet no other ledger's.",
        parameters: &[LEDGER_IN_PATH],
        body: Some("LedgerRequest"),
        answers: &[
            json_answer(200, "The ledger was there before.", "Ledger", &[]),
            json_answer(201, "The ledger is there.", "Ledger", &[]),
        ],
        problems: &[ANY, PATH, BODY, READ],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/assets",
        id: "listAssets",
        tag: "Ledgers",
        summary: "List assets by code",
        description: "Those of ISO 4217, and those that were defined, in the order of their codes' bytes.",
        parameters: &[LEDGER_IN_PATH, CURSOR, LIMIT, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "A page of assets.", "AssetPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION],
    },
    Operation {
        method: "put",
        path: "/v1/ledgers/{ledger}/assets/{code}",
        id: "defineAsset",
        tag: "Ledgers",
        summary: "Define an asset",
        description: "The same again is 200, another scale is `asset_already_exists`.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("asset-code")],
        body: Some("AssetRequest"),
        answers: &[
            json_answer(200, "The asset was defined so before.", "Asset", AT_POSITION),
            json_answer(201, "The asset is defined.", "Asset", AT_POSITION),
        ],
        problems: &[ANY, LEDGER, BODY, WRITE, &[AssetAlreadyExists]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/events",
        id: "listEvents",
        tag: "Events",
        summary: "The log, in order",
        description: "Positions are 1, 2, 3, … without a gap.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::After("The position after which to begin; `next` of the page before."),
            LIMIT,
            CONSISTENCY,
            MIN_POSITION,
        ],
        body: None,
        answers: &[json_answer(200, "A page of events.", "EventPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/events/stream",
        id: "streamEvents",
        tag: "Events",
        summary: "The log, as it grows",
        description: "Server-sent events: `id` is the position, `event` the type, `data` an Event as JSON. The stream \
                      ends when the worker stops; a client that connects again with `Last-Event-ID`, as browsers do \
                      by themselves, misses nothing.",
        parameters: &[
            LEDGER_IN_PATH,
            Parameter::After("The position after which to begin."),
            Parameter::Shared("Last-Event-ID"),
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            description: "Events without end.",
            schema: "Text",
            content_type: "text/event-stream",
            headers: AT_POSITION,
        }],
        problems: &[ANY, LEDGER, READ],
    },
    Operation {
        method: "get",
        path: "/livez",
        id: "getLiveness",
        tag: "Operations",
        summary: "Whether the process runs",
        description: "200 as long as it answers at all.",
        parameters: &[],
        body: None,
        answers: &[json_answer(200, "It runs.", "Liveness", &[])],
        problems: &[ANY],
    },
    Operation {
        method: "get",
        path: "/readyz",
        id: "getReadiness",
        tag: "Operations",
        summary: "Whether the worker can serve",
        description: "For load balancers: 503 with the reason while it starts, stands by, stops or has no database.",
        parameters: &[],
        body: None,
        answers: &[json_answer(200, "It can.", "Readiness", &[])],
        problems: &[ANY, &[Unavailable]],
    },
    Operation {
        method: "get",
        path: "/metrics",
        id: "getMetrics",
        tag: "Operations",
        summary: "Metrics for Prometheus",
        description: "In its text format; 404 when the process collects none, or serves them on an address of their own.",
        parameters: &[],
        body: None,
        answers: &[text_answer("The metrics.", "text/plain")],
        problems: &[ANY, &[NotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/cluster",
        id: "getCluster",
        tag: "Operations",
        summary: "Workers, claims and lags",
        description: "Who sequences which ledger and projects which shard since which epoch, and how far; of each \
                      worker its shards as ranges, and what it was refused; what is on its way to another worker, and \
                      what nobody holds.",
        parameters: &[],
        body: None,
        answers: &[json_answer(200, "The cluster.", "Cluster", &[])],
        problems: &[ANY, &[Unavailable]],
    },
    Operation {
        method: "get",
        path: "/problems/{code}",
        id: "getProblem",
        tag: "Description",
        summary: "What a problem means",
        description: "The page that a problem's `type` leads to.",
        parameters: &[Parameter::Shared("problem-code")],
        body: None,
        answers: &[text_answer("The page.", "text/html")],
        problems: &[ANY, PATH, &[NotFound]],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        id: "getDescription",
        tag: "Description",
        summary: "This description",
        description: "OpenAPI 3.1.",
        parameters: &[],
        body: None,
        answers: &[json_answer(200, "The document.", "Document", &[])],
        problems: &[ANY],
    },
    Operation {
        method: "get",
        path: "/docs",
        id: "getDocs",
        tag: "Description",
        summary: "This description, for people",
        description: "Loads nothing from elsewhere.",
        parameters: &[],
        body: None,
        answers: &[text_answer("The page.", "text/html")],
        problems: &[ANY],
    },
    Operation {
        method: "get",
        path: "/docs/rapidoc.js",
        id: "getDocsScript",
        tag: "Description",
        summary: "The script of `/docs`",
        description: "RapiDoc.",
        parameters: &[],
        body: None,
        answers: &[text_answer("The script.", "text/javascript")],
        problems: &[ANY],
    },
];

/// Parameters that several routes take, by the name they are referred to.
pub fn parameters() -> Value {
    let in_path = |name: &str, schema: Value, description: &str| json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema});
    let in_query = |name: &str, schema: Value, description: &str| json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema});
    let in_header = |name: &str, required: bool, schema: Value, description: &str| json!({"name": name, "in": "header", "required": required, "description": description, "schema": schema});
    let in_metadata = |description: &str| {
        json!({
            "name": "metadata", "in": "query", "required": false, "style": "deepObject", "explode": true,
            "description": description,
            "schema": {
                "type": "object", "maxProperties": METADATA_PAIRS_MAX,
                "additionalProperties": {"type": "string", "maxLength": SEARCHABLE_BYTES_MAX},
            },
        })
    };
    let amount = json!({"type": "string", "pattern": "^-?[0-9]{1,38}$"});
    let time = json!({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]});
    let key = json!({"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"});
    let short_name = json!({"$ref": "#/components/schemas/ShortName"});
    let account_code = json!({"$ref": "#/components/schemas/AccountCode"});
    json!({
        "ledger": in_path("ledger", short_name.clone(), "The ledger's name, percent-encoded."),
        "account-code": in_path("code", account_code.clone(), "The account's code, percent-encoded: `a/b` is `a%2Fb`."),
        "asset-code": in_path("code", short_name.clone(), "The asset's code, percent-encoded."),
        "transaction-id": in_path("id", json!({"type": "string", "format": "uuid"}), "The transaction's id."),
        "payment-id": in_path("id", json!({"type": "string", "format": "uuid"}), "The id of a payment that was authorised."),
        "problem-code": in_path("code", json!({"type": "string", "enum": Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>()}), "The problem's code."),
        "limit": in_query(
            "limit",
            json!({"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT}),
            "Items of the page, at most.",
        ),
        "consistency": in_query(
            "consistency",
            json!({"type": "string", "enum": ["strong", "eventual"], "default": "strong"}),
            "`strong` waits for the head of the log, whatever `min_position` says; `eventual` answers from the projections at once, as fresh as they are.",
        ),
        "min_position": in_query(
            "min_position",
            json!({"type": "integer", "minimum": 0}),
            "Waits up to a second for this position: in place of the head of the log, or with `consistency=strong` for the larger of both.",
        ),
        "as_of": in_query(
            "as_of",
            time.clone(),
            "As of this effective time: everything that counts by then, back-dated or not, as it is known now or, with `as_of_position`, was known then. RFC 3339, or a date, which is its first moment in UTC; what lies in the future is refused, a minute aside, by which clocks may differ.",
        ),
        "as_of_position": in_query(
            "as_of_position",
            json!({"type": "integer", "minimum": 0}),
            "As of this position of the log, which is waited for as `min_position` is.",
        ),
        "chart-prefix": in_query("prefix", account_code.clone(), "Only this account and those below it: a path, which ends at a `:`."),
        "depth": in_query(
            "depth",
            json!({"type": "integer", "minimum": 1, "maximum": 128}),
            "Segments of a code that make a group; without it all accounts are one.",
        ),
        "statement-from": in_query(
            "from",
            time.clone(),
            "The beginning of the period: RFC 3339, or a date, which is its first moment in UTC; by default, that of the month in which it ends.",
        ),
        "statement-to": in_query(
            "to",
            time.clone(),
            "The end of the period, not in it, in the same form: a month ends with the first of the next. By default now.",
        ),
        "statement-format": in_query(
            "format",
            json!({"type": "string", "enum": ["json", "csv", "html"], "default": "json"}),
            "`csv` and `html` have all lines in one answer, and take neither `limit` nor `after`.",
        ),
        "prefix": in_query("prefix", account_code.clone(), "Only codes that begin so."),
        "asset": in_query("asset", short_name, "Only accounts of this asset."),
        "account": in_query("account", account_code, "Only transactions that touch this account, or would have."),
        "reference": in_query("reference", json!({"type": "string"}), "Only transactions with exactly this reference."),
        "idempotency_key": in_query("idempotency_key", key.clone(), "Only what this key did: the transactions that it made, or the one that it voided or cancelled."),
        "transaction-metadata": in_metadata("Only transactions whose metadata has this member at the top with this value: `metadata[order]=4711`. A string is given without quotes, a number or boolean as answers show it; several must all be there. Found are names and values of at most 255 bytes, and of one transaction the first 32 that are strings, numbers or booleans, in the order of the names' bytes."),
        "account-metadata": in_metadata("Only accounts whose metadata has this member at the top with this value: `metadata[customer]=17`. A string is given without quotes, a number or boolean as answers show it; several must all be there."),
        "type": in_query("type", json!({"type": "string", "enum": Kind::ALL.map(Kind::as_str)}), "Only transactions of this type."),
        "transaction-status": in_query("status", json!({"type": "string", "enum": TRANSACTION_STATUSES}), "Only transactions of which this became."),
        "account-status": in_query("status", json!({"type": "string", "enum": ["open", "frozen", "closed"]}), "Only accounts in this state."),
        "normal": in_query("normal", json!({"type": "string", "enum": ["credit", "debit"]}), "Only accounts whose balance is raised by this side."),
        "min_amount": in_query("min_amount", amount.clone(), "Only transactions with a leg of at least this amount, in its asset's smallest unit; with `account`, a leg of that account."),
        "max_amount": in_query("max_amount", amount.clone(), "Only transactions with a leg of at most this amount; with `min_amount`, one leg that is within both."),
        "from": in_query("from", time.clone(), "Only what was recorded at this time or later: RFC 3339, or a date, which begins at midnight in UTC. By `recorded_at`, not by `effective_at`."),
        "to": in_query("to", time.clone(), "Only what was recorded before this time."),
        "min_posted": in_query("min_posted", amount.clone(), "Only accounts whose posted balance is at least this, in the asset's smallest unit."),
        "max_posted": in_query("max_posted", amount, "Only accounts whose posted balance is at most this."),
        "opened_from": in_query("opened_from", time.clone(), "Only accounts that were opened at this time or later: RFC 3339, or a date, which begins at midnight in UTC."),
        "opened_to": in_query("opened_to", time, "Only accounts that were opened before this time."),
        "import-id": in_query(
            "id", json!({"type": "string", "pattern": "^[\\x21-\\x7e]{1,200}$"}),
            "What the keys of lines without one begin with: `<id>:<line number>`. The same for the same file.",
        ),
        "equity": in_query("equity", json!({"$ref": "#/components/schemas/AccountCode"}), "The account on the other side of opening balances that name none."),
        "first_line": in_query(
            "first_line", json!({"type": "integer", "minimum": 1}),
            "Number of the first line of the body, behind the header of CSV, where the body is the rest of a file: one more than the last `line` that was acknowledged.",
        ),
        "export-format": in_query("format", json!({"type": "string", "enum": ["csv", "ndjson", "parquet"], "default": "csv"}), "What the file is."),
        "from_position": in_query("from_position", json!({"type": "integer", "minimum": 0}), "Nothing before this position of the log."),
        "to_position": in_query("to_position", json!({"type": "integer", "minimum": 0}), "Nothing after this position; by default the head of the log."),
        "statement-account": json!({
            "name": "account", "in": "query", "required": true, "schema": {"$ref": "#/components/schemas/AccountCode"},
            "description": "Whose statement it is.",
        }),
        "order": in_query(
            "order",
            json!({"type": "string", "enum": ["asc", "desc"], "default": "asc"}),
            "`desc` begins with the newest; a cursor goes on in the order it is used with.",
        ),
        "Idempotency-Key": in_header(
            "Idempotency-Key", true, key.clone(),
            "A new one, a UUID for example, for every request; the same one to try the same request again.",
        ),
        "Idempotency-Key-of-batch": in_header(
            "Idempotency-Key", false, key,
            "Required when the batch is atomic; otherwise the items have their own.",
        ),
        "Last-Event-ID": in_header(
            "Last-Event-ID", false, json!({"type": "integer", "minimum": 0}),
            "The position after which to go on; counts before `after`.",
        ),
        "X-Request-Id": in_header(
            "X-Request-Id", false, json!({"type": "string"}),
            "An id of the client's own for the request, which the answer repeats.",
        ),
    })
}
