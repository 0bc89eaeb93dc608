//! Which route is whose.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};

use super::problem::{Code, Problem};
use super::routes::{accounts, events, ledgers, operations, payments, transactions};
use super::{SharedApp, observe, openapi};

/// Everything that is served.
pub fn router(app: SharedApp) -> Router {
    let ledger = Router::new()
        .route("/assets", get(ledgers::list_assets))
        .route("/assets/{code}", put(ledgers::define_asset))
        .route("/accounts", get(accounts::list).post(accounts::open))
        .route("/accounts/batch", post(accounts::open_batch))
        .route("/accounts/{code}", get(accounts::show))
        .route("/accounts/{code}/entries", get(accounts::entries))
        .route("/payments", post(payments::pay))
        .route("/payments/batch", post(payments::pay_batch))
        .route("/transactions", get(transactions::list))
        .route("/transactions/{id}", get(transactions::show))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::stream));
    Router::new()
        .route("/v1/ledgers", get(ledgers::list))
        .route("/v1/ledgers/{ledger}", put(ledgers::create))
        .nest("/v1/ledgers/{ledger}", ledger)
        .route("/v1/cluster", get(operations::cluster))
        .route("/livez", get(operations::livez))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .route("/problems/{code}", get(operations::problem))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .route("/docs/rapidoc.js", get(openapi::script))
        .fallback(async || Problem::new(Code::NotFound, "there is no such route; see /docs"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "this route does not take the method; see the Allow header")
        })
        .layer(middleware::from_fn(observe::request))
        .with_state(app)
}

/// Answers with a file that is part of the program.
pub fn asset(content_type: &'static str, bytes: &'static [u8]) -> impl IntoResponse {
    let cached = HeaderValue::from_static("public, max-age=3600");
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::CACHE_CONTROL, cached)], bytes)
}
