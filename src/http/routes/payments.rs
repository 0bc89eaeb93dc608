//! Payments: alone, in batches, and in two phases.

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;

use super::super::idempotency::{self, Route};
use super::super::problem::{Problem, Shape};
use super::super::requests::{self, CaptureInput, PaymentBatchInput, PaymentInput, VoidInput};
use super::super::{SharedApp, body, params::InPath};
use super::batch::{self, Batch, Sort};
use super::ledger;
use super::submission::{record, record_about};
use crate::ledger::{Command, Void};

/// `POST /payments`
pub async fn pay(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let key = key?;
    let input: PaymentInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let command = Command::Transact(requests::payment(input).map_err(Problem::validation)?);
    let key = idempotency::key(&key, Route::Payment, [&command]);
    record(&app.worker.database, &ledger, command, key, Shape::Payment).await
}

const PAYMENTS: Sort = Sort {
    list: "payments",
    member: batch::Member::Payment,
    shape: Shape::Payment,
    item: Route::PaymentBatchItem,
    atomic: Route::AtomicPaymentBatch,
};

/// `POST /payments/batch`
pub async fn pay_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let input: PaymentBatchInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let items = input.payments.into_iter().map(|item| {
        let (key, payment) = item.0.into_parts();
        (key, requests::payment(payment))
    });
    Batch { app: &app, ledger: &ledger, sort: &PAYMENTS }.answer(items, input.atomic, key).await
}

/// `POST /payments/{id}/capture`
pub async fn capture(
    State(app): State<SharedApp>,
    InPath(path): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    record_about(&app, path, request, Route::Capture, |id, bytes| {
        let input: CaptureInput<'_> = body::parse(bytes)?;
        requests::capture(id, input).map(Command::Capture).map_err(Problem::validation)
    })
    .await
}

/// `POST /payments/{id}/void`
pub async fn void(
    State(app): State<SharedApp>,
    InPath(path): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    record_about(&app, path, request, Route::Void, |payment, bytes| {
        let VoidInput {} = body::parse(bytes)?;
        Ok(Command::Void(Void { payment }))
    })
    .await
}
