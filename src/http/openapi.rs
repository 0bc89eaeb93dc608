//! The description of the API, and a page that shows it offline.

use axum::response::IntoResponse;

use super::router::asset;

/// `GET /openapi.json`
pub async fn document() -> impl IntoResponse {
    asset("application/json", b"{}")
}

/// `GET /docs`
pub async fn page() -> impl IntoResponse {
    asset("text/html; charset=utf-8", b"")
}

/// `GET /docs/rapidoc.js`
pub async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", b"")
}
