//! A small DNS responder: the names of services, with their virtual addresses.
//!
//! Owns the sockets that it answers on, and knows what the view knows, as it is at that moment. It
//! answers for names of services and for nothing else: whatever else is asked is refused, so that
//! whoever asks goes on to its next server, unless the configuration names servers to ask instead.

mod activity;
mod handler;
#[cfg(test)]
mod hostile_tests;
mod table;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfigGroup, ResolverConfig},
    name_server::TokioConnectionProvider,
};
use hickory_server::ServerFuture;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::handler::Handler;
pub use self::{
    activity::Activity,
    table::{Answer, Names, Question},
};
use crate::{api::types::View, config::NamesConfig};

/// Time that a client may be idle on a connection.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after an address could not be listened on: that of a bridge comes with Docker.
const RETRY: Duration = Duration::from_secs(2);

/// Answers on every address of the configuration until `stop`.
pub fn start(
    config: &NamesConfig,
    view: &watch::Receiver<Arc<View>>,
    activity: &Arc<Activity>,
    stop: &CancellationToken,
) {
    let forward = (!config.forward.is_empty()).then(|| Arc::new(resolver(&config.forward)));
    for &address in &config.listen {
        let handler = Handler {
            view: view.clone(),
            activity: Arc::clone(activity),
            ttl_seconds: config.ttl_seconds,
            has_compose_names: config.compose,
            forward: forward.clone(),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(address, handler)));
    }
}

/// Asks these servers and no others, and keeps nothing: whoever asks us does that.
fn resolver(servers: &[SocketAddr]) -> TokioResolver {
    let mut group = NameServerConfigGroup::new();
    for server in servers {
        group.merge(NameServerConfigGroup::from_ips_clear(&[server.ip()], server.port(), true));
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), group);
    let provider = TokioConnectionProvider::default();
    let mut builder = Resolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options.timeout = Duration::from_secs(2);
    options.attempts = 1;
    builder.build()
}

async fn serve(address: SocketAddr, handler: Handler) {
    let activity = Arc::clone(&handler.activity);
    let mut has_warned = false;
    activity.note_server(address, Some("not yet".to_owned()));
    let (datagrams, connections) = loop {
        match listen(address).await {
            Ok(sockets) => break sockets,
            Err(error) => {
                activity.note_server(address, Some(error.to_string()));
                if !has_warned {
                    has_warned = true;
                    tracing::warn!(
                        "names: cannot listen on {address}: {error}; it is tried again every \
                         {RETRY:?}; the key is `listen` in [names] of the config"
                    );
                }
            }
        }
        sleep(RETRY).await;
    };
    activity.note_server(address, None);
    tracing::info!("names of services are answered on {address}");
    let mut server = ServerFuture::new(handler);
    server.register_socket(datagrams);
    server.register_listener(connections, TCP_TIMEOUT);
    if let Err(error) = server.block_until_done().await {
        tracing::error!("names: {address}: {error}");
    }
}

async fn listen(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}
