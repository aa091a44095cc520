//! What would be decided, and by whose numbers, given their names.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use tokio::{sync::oneshot, time::timeout};

use super::{COUNTERS_TIMEOUT, Refused, Request, Source, advice, busy, tracing::BackendNames};
use crate::{
    api::{
        explain::{
            CallExplanation, CallQuery, ExplainQuery, Explained, Explanation, Question,
            are_of_one_family,
        },
        types::View,
    },
    model::Protocol,
};

pub(super) async fn packet(
    State(source): State<Source>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explanation>, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !are_of_one_family(&query) {
        let message = "client and VIP are of different address families".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, message));
    }
    let (answer, explained) = oneshot::channel();
    let ask = async {
        source.kernel.send(Request::Explain(query.clone(), answer)).await.map_err(|_| busy())?;
        explained.await.map_err(|_| busy())
    };
    let explained = timeout(COUNTERS_TIMEOUT, ask).await.map_err(|_| busy())??;
    let mut explanation =
        explained.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error))?;
    let mut names = BackendNames::new(source.view.clone());
    for backend in explanation.backends_mut() {
        *backend = names.get(backend.number);
    }
    let asker = Asker { at: query.vip, protocol: query.protocol, from: None };
    complete(&mut explanation, &source.view.borrow(), &asker);
    Ok(Json(explanation))
}

pub(super) async fn call(
    State(source): State<Source>,
    query: Result<Query<CallQuery>, QueryRejection>,
) -> Result<Json<CallExplanation>, Refused> {
    let Query(query) =
        query.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let (answer, explained) = oneshot::channel();
    let ask = async {
        source
            .kernel
            .send(Request::ExplainCall(query.clone(), answer))
            .await
            .map_err(|_| busy())?;
        explained.await.map_err(|_| busy())
    };
    let explained = timeout(COUNTERS_TIMEOUT, ask).await.map_err(|_| busy())??;
    let mut explanation = explained.map_err(|error| Refused(StatusCode::CONFLICT, error))?;
    let mut names = BackendNames::new(source.view.clone());
    for backend in explanation.backends_mut() {
        *backend = names.get(backend.number);
    }
    let from = Some(query.from.as_str());
    let asker = Asker { at: query.vip, protocol: query.protocol, from };
    complete(&mut explanation, &source.view.borrow(), &asker);
    Ok(Json(explanation))
}

/// What was asked about, and by whom if it is a call.
struct Asker<'a> {
    at: SocketAddr,
    protocol: Protocol,
    from: Option<&'a str>,
}

/// Adds what only the view knows: what the service is called, and what to do.
fn complete<Q: Question>(explained: &mut Explained<Q>, view: &View, asker: &Asker<'_>) {
    let service = service_at(view, asker.at, asker.protocol);
    if let Some(service) = &service {
        explained.name_service(service);
    }
    let about = (asker.at, asker.protocol);
    let found = (explained.steps.as_slice(), &explained.outcome);
    let notes = advice::notes(view, about, service.as_deref(), asker.from, found);
    explained.notes.extend(notes);
}

/// The service that has the frontend, the narrowest if there are several.
fn service_at(view: &View, at: SocketAddr, protocol: Protocol) -> Option<String> {
    let vips = view.vips.iter().filter(|vip| vip.vip == at.ip());
    let port = at.port();
    let covering = vips.flat_map(|vip| &vip.frontends).filter(|frontend| {
        let ports = frontend.ports.first()..=frontend.ports.last();
        frontend.protocol == protocol && ports.contains(&port)
    });
    let narrowest = covering
        .min_by_key(|frontend| frontend.ports.last().wrapping_sub(frontend.ports.first()))?;
    Some(narrowest.service.0.to_string())
}
