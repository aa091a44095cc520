//! The tables as they are, for whoever asks what would be decided by them.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use lb_common::{
    abi::{NetAddr6, NetU32},
    engine,
};

use super::{
    Datapath,
    live::{LiveFamily, LiveTables},
    now_tick,
};
use crate::{
    api::explain::{CallExplanation, CallQuery, ExplainQuery, Explanation},
    explain::{Caller, explain, explain_call},
};

impl Datapath {
    /// What the programs would decide on a packet of a client now.
    pub fn explain(&self, query: &ExplainQuery) -> anyhow::Result<Explanation> {
        let context = self.context();
        match (query.client.ip(), query.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                self.explain_of::<NetU32>(query, client.into(), vip.into(), &context)
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                self.explain_of::<NetAddr6>(query, client.into(), vip.into(), &context)
            }
            _ => bail!("client and VIP are of different address families"),
        }
    }

    fn explain_of<A: LiveFamily + Into<IpAddr>>(
        &self,
        query: &ExplainQuery,
        client: A,
        vip: A,
        context: &engine::Context,
    ) -> anyhow::Result<Explanation> {
        let tables = self.live_tables::<A>()?;
        let mut context = *context;
        if query.is_reply {
            let backend = tables.backend_at(vip, query.vip.port()).with_context(|| {
                format!("no backend has the address {}: see `lbctl backend list`", query.vip)
            })?;
            context.ingress_ifindex = backend.ifindex;
        }
        let explanation = explain(query, client, vip, &tables, &context);
        tables.check()?;
        Ok(explanation)
    }

    /// What the programs would decide on a socket call now.
    pub fn explain_call(
        &self,
        query: &CallQuery,
        caller: &Caller,
    ) -> anyhow::Result<CallExplanation> {
        let context = self.context();
        match query.vip.ip().to_canonical() {
            IpAddr::V4(vip) => {
                let tables = self.live_tables::<NetU32>()?;
                let explanation = explain_call(query, caller, vip.into(), &tables, &context);
                tables.check().map(|()| explanation)
            }
            IpAddr::V6(vip) => {
                let tables = self.live_tables::<NetAddr6>()?;
                let explanation = explain_call(query, caller, vip.into(), &tables, &context);
                tables.check().map(|()| explanation)
            }
        }
    }

    fn live_tables<A: LiveFamily>(&self) -> anyhow::Result<LiveTables<'_, A>> {
        LiveTables::open(&self.tables, self.scopes.held(), &self.maps_path)
    }

    fn context(&self) -> engine::Context {
        let meta = self.tables.meta();
        let ingress_ifindex = self.front_statuses.iter().find_map(|front| front.ifindex);
        let ingress_ifindex = ingress_ifindex.unwrap_or(0);
        engine::Context {
            now_tick: now_tick(),
            now_moment: 0,
            ingress_ifindex,
            reply_ifindex: ingress_ifindex,
            hash_seed: meta.hash_seed,
            meta_flags: meta.flags,
        }
    }
}
