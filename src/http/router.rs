//! Which route is whose: one table, which the router is built from and the
//! description is checked against.

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderValue, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{self, MethodRouter};

use super::problem::{Code, Problem};
use super::routes::{
    account_changes, accounts, balances, events, ledgers, operations, payments, periods, rules, statements,
    transactions,
};
use super::{SharedApp, access, export, import, observe, openapi};

/// What operators may have on a listener of its own, beyond the reach of clients.
const OPERATIONS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Everything that is served; without the metrics when they have a listener of their own.
pub fn router(app: SharedApp) -> Router {
    let apart = app.operations_apart;
    of(app, |path| !(apart && path == "/metrics"))
}

/// What the listener for operations serves.
pub fn operations(app: SharedApp) -> Router {
    of(app, |path| OPERATIONS.contains(&path))
}

fn of(app: SharedApp, wanted: impl Fn(&str) -> bool) -> Router {
    routes()
        .into_iter()
        .filter(|route| wanted(route.path))
        .fold(Router::new(), |router, route| {
            router.route(route.path, access::guard(&app, route.method, route.path, route.serve))
        })
        .fallback(async || Problem::new(Code::NotFound, "there is no such route; see /docs"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "this route does not take the method; see the Allow header")
        })
        .layer(middleware::from_fn(observe::request))
        .with_state(app)
}

/// One method of one path.
pub struct Route {
    /// In lower case, as in the description.
    pub method: &'static str,
    pub path: &'static str,
    serve: MethodRouter<SharedApp>,
}

/// The table.
pub fn routes() -> Vec<Route> {
    vec![
        get("/v1/ledgers", ledgers::list),
        put("/v1/ledgers/{ledger}", ledgers::create),
        get("/v1/ledgers/{ledger}/assets", ledgers::list_assets),
        put("/v1/ledgers/{ledger}/assets/{code}", ledgers::define_asset),
        get("/v1/ledgers/{ledger}/accounts", accounts::list),
        post("/v1/ledgers/{ledger}/accounts", accounts::open),
        post("/v1/ledgers/{ledger}/accounts/batch", accounts::open_batch),
        get("/v1/ledgers/{ledger}/accounts/batch", accounts::show_batch),
        patch("/v1/ledgers/{ledger}/accounts/batch", account_changes::update_batch),
        get("/v1/ledgers/{ledger}/accounts/{code}", accounts::show),
        patch("/v1/ledgers/{ledger}/accounts/{code}", account_changes::update),
        post("/v1/ledgers/{ledger}/accounts/{code}/freeze", account_changes::freeze),
        post("/v1/ledgers/{ledger}/accounts/{code}/unfreeze", account_changes::unfreeze),
        post("/v1/ledgers/{ledger}/accounts/{code}/close", account_changes::close),
        post("/v1/ledgers/{ledger}/accounts/{code}/reopen", account_changes::reopen),
        get("/v1/ledgers/{ledger}/accounts/{code}/entries", accounts::entries),
        get("/v1/ledgers/{ledger}/accounts/{code}/statement", statements::show),
        get("/v1/ledgers/{ledger}/account-types", rules::list_account_types),
        put("/v1/ledgers/{ledger}/account-types/{prefix}", rules::set_account_type),
        delete("/v1/ledgers/{ledger}/account-types/{prefix}", rules::remove_account_type),
        get("/v1/ledgers/{ledger}/velocity-limits", rules::list_velocity_limits),
        put("/v1/ledgers/{ledger}/velocity-limits/{name}", rules::set_velocity_limit),
        delete("/v1/ledgers/{ledger}/velocity-limits/{name}", rules::remove_velocity_limit),
        get("/v1/ledgers/{ledger}/periods", periods::show),
        post("/v1/ledgers/{ledger}/periods/close", periods::close),
        get("/v1/ledgers/{ledger}/balances", balances::list),
        get("/v1/ledgers/{ledger}/trial-balance", balances::trial),
        post("/v1/ledgers/{ledger}/payments", payments::pay),
        post("/v1/ledgers/{ledger}/payments/batch", payments::pay_batch),
        post("/v1/ledgers/{ledger}/payments/{id}/capture", payments::capture),
        post("/v1/ledgers/{ledger}/payments/{id}/void", payments::void),
        post("/v1/ledgers/{ledger}/import", import::import),
        get("/v1/ledgers/{ledger}/export/journal", export::journal),
        get("/v1/ledgers/{ledger}/export/statement", export::statement),
        get("/v1/ledgers/{ledger}/export/trial-balance", export::trial_balance),
        get("/v1/ledgers/{ledger}/transactions", transactions::list),
        post("/v1/ledgers/{ledger}/transactions", transactions::transact),
        post("/v1/ledgers/{ledger}/transactions/batch", transactions::transact_batch),
        get("/v1/ledgers/{ledger}/transactions/{id}", transactions::show),
        post("/v1/ledgers/{ledger}/transactions/{id}/reverse", transactions::reverse),
        post("/v1/ledgers/{ledger}/transactions/{id}/cancel", transactions::cancel),
        get("/v1/ledgers/{ledger}/events", events::list),
        get("/v1/ledgers/{ledger}/events/stream", events::stream),
        get("/v1/cluster", operations::cluster),
        get("/livez", operations::livez),
        get("/readyz", operations::readyz),
        get("/metrics", operations::metrics),
        get("/problems/{code}", operations::problem),
        get("/openapi.json", openapi::document),
        get("/docs", openapi::page),
        get("/docs/rapidoc.js", openapi::script),
    ]
}

fn get<H: Handler<T, SharedApp>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: "get", path, serve: routing::get(handler) }
}

fn post<H: Handler<T, SharedApp>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: "post", path, serve: routing::post(handler) }
}

fn put<H: Handler<T, SharedApp>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: "put", path, serve: routing::put(handler) }
}

fn patch<H: Handler<T, SharedApp>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: "patch", path, serve: routing::patch(handler) }
}

fn delete<H: Handler<T, SharedApp>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route { method: "delete", path, serve: routing::delete(handler) }
}

/// Answers with a file that is part of the program.
pub fn asset(content_type: &'static str, bytes: &'static [u8]) -> impl IntoResponse {
    let cached = HeaderValue::from_static("public, max-age=3600");
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::CACHE_CONTROL, cached)], bytes)
}
