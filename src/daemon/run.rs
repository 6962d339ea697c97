//! The life of the daemon: bind, serve until stopped, and say so to the service manager.

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use super::{ApiState, Server, router, socket, systemd, tls};
use crate::error::Result;

/// Serves the API until `stop`. `on_ready` is called once, with the addresses, when all sockets accept connections.
///
/// # Errors
/// When an address, or the unix socket in the data folder, cannot be bound.
pub async fn run(
    state: &ApiState,
    stop: CancellationToken,
    on_ready: impl FnOnce(&[SocketAddr]),
) -> Result<()> {
    let mut server = Server::default();
    server.set_tls(tls::acceptor(state.options())?);
    if systemd::take_sockets(&mut server)? == 0 {
        for address in &state.options().listen {
            server.bind(*address).await?;
        }
    }
    let socket = socket::bind(&state.engine().config().data_dir)?;
    server.add_unix(socket.listener);
    state.set_ready(true);
    systemd::notify("READY=1");
    on_ready(&server.addresses());
    server.run(router(state), stop).await;
    state.set_ready(false);
    systemd::notify("STOPPING=1");
    drop(socket.file);
    state.queue().close().await;
    Ok(())
}
