//! Who calls from this node, and the agent itself.

use axum::{Json, extract::State};

use super::{Refused, Source};
use crate::{
    api::types::{CallerList, StatusView},
    sockets::reach,
};

pub(super) async fn callers(State(source): State<Source>) -> Result<Json<CallerList>, Refused> {
    Ok(Json(reach::callers(&*source.fresh_view().await?)))
}

pub(super) async fn status(State(source): State<Source>) -> Result<Json<StatusView>, Refused> {
    let mut status = source.fresh_view().await?.status.clone();
    status.uptime_seconds = source.started.elapsed().as_secs();
    status.names = source.names.view();
    Ok(Json(status))
}
