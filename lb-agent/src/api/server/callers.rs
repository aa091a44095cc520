//! Who calls from this node, and the agent itself.

use axum::{Json, extract::State};

use super::{Refused, Source};
use crate::{
    api::types::{CallerList, ProgramList, ProgramView, StatusView},
    datapath::attached_programs,
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

/// Asks the kernel, which takes a moment where there are many interfaces.
pub(super) async fn programs() -> Json<ProgramList> {
    let listed = tokio::task::spawn_blocking(attached_programs).await;
    let listed = listed.map_err(anyhow::Error::from).and_then(|result| result);
    Json(match listed {
        Err(error) => {
            let trouble = format!("the programs on interfaces cannot be listed: {error:#}");
            ProgramList { programs: Vec::new(), trouble: Some(trouble) }
        }
        Ok(listed) => ProgramList {
            programs: listed
                .into_iter()
                .map(|it| ProgramView {
                    interface: it.interface,
                    hook: it.hook.to_owned(),
                    name: it.name,
                    id: it.id,
                    is_ours: it.is_ours,
                })
                .collect(),
            trouble: None,
        },
    })
}
