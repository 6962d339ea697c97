//! Opens sessions: connection, greeting, TLS, user and password.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    address::{FtpAddress, Security},
    control::Control,
    errors::{Refusal, connection_lost, reply_failure, tls_error},
    reply::Reply,
    session::SessionConfig,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::dial::dial,
};

/// A control connection that is logged in.
pub(super) struct LoggedIn {
    pub(super) control: Control,
    /// The TLS configuration of data connections.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// Connects and logs in. `is_known` means that this login has succeeded before.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn log_in(
    config: &SessionConfig,
    address: &FtpAddress,
    is_known: bool,
) -> Result<LoggedIn> {
    let password = password(config, address).await?;
    let context = || format!("connect to {address}");
    let work = async {
        let mut login = PendingLogin { control: connect(config, address).await?, address };
        let tls = match address.security {
            Security::Plain => None,
            _ => Some(config.tls().await?),
        };
        if let (Some(tls), Security::Implicit) = (&tls, address.security) {
            login = login.with_tls(tls).await?;
        }
        login.read_greeting(is_known).await?;
        if let (Some(tls), Security::Explicit) = (&tls, address.security) {
            login = login.start_explicit_tls(tls).await?;
        }
        if tls.is_some() {
            login.protect_data().await?;
        }
        login.send_login(&password, is_known).await?;
        let binary = login.command("TYPE", b"TYPE I").await?;
        if !binary.is_success() {
            return Err(login.refusal("TYPE", binary).into());
        }
        Ok(LoggedIn { control: login.control, tls })
    };
    config.timeouts.run_connect(context, work).await
}

/// The password, from a prompt if necessary. Called before connecting: the server would not wait for the user.
async fn password(config: &SessionConfig, address: &FtpAddress) -> Result<String> {
    if let Some(password) = &address.password {
        return Ok(password.clone());
    }
    let password = config.options.passwords.password_for(&address.user, &address.host).await?;
    address.reject_control_chars(&password)?;
    Ok(password)
}

async fn connect(config: &SessionConfig, address: &FtpAddress) -> Result<Control> {
    let action = || format!("connect to {address}");
    let proxy = config.options.proxy.as_ref();
    if proxy.is_some() && address.security == Security::Implicit {
        return Err(Error::new(Kind::Unsupported, "ftps:// does not work through a proxy")
            .hint("use ftpes:// if the server supports it"));
    }
    let stream = dial(&address.host, address.port, proxy, &config.options.outgoing)
        .await
        .map_err(|e| e.with_context(action()))?;
    Control::new(stream).map_err(|e| connection_lost(action(), e))
}

/// A control connection that is not logged in yet.
struct PendingLogin<'a> {
    control: Control,
    address: &'a FtpAddress,
}

impl PendingLogin<'_> {
    fn action(&self) -> String {
        format!("log in to {}", self.address)
    }

    fn refusal(&self, command: &str, reply: Reply) -> Refusal {
        Refusal::new(self.action(), command, reply)
    }

    async fn command(&mut self, name: &str, command: &[u8]) -> Result<Reply> {
        let action = self.action();
        self.control.send(command).await.map_err(|e| connection_lost(&action, e))?;
        let reply = self.control.reply().await.map_err(|e| reply_failure(&action, e))?;
        tracing::debug!("{}: {name}: {}", self.address, reply.code);
        if reply.code == 421 { Err(self.refusal(name, reply).into()) } else { Ok(reply) }
    }

    /// Reads the greeting. `120` announces a delay, and the greeting follows it.
    async fn read_greeting(&mut self, is_known: bool) -> Result<()> {
        loop {
            let action = format!("connect to {}", self.address);
            let reply = self.control.reply().await.map_err(|e| reply_failure(&action, e))?;
            let refusal = Refusal::new(action, "the greeting", reply.clone());
            match reply.code {
                120 => {}
                200..=299 => return Ok(()),
                421 => return Err(refusal.into()),
                _ if is_known => return Err(refusal.into_too_many_sessions()),
                // No login was sent yet, so the refusal is not about the login.
                _ => return Err(refusal.into_unavailable()),
            }
        }
    }

    async fn with_tls(self, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let action = format!("start TLS with {}", self.address);
        let control = self.control.with_tls(tls, &self.address.host).await;
        Ok(Self { control: control.map_err(|e| tls_error(action, e))?, address: self.address })
    }

    async fn start_explicit_tls(mut self, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let reply = self.command("AUTH TLS", b"AUTH TLS").await?;
        if !matches!(reply.code, 234 | 334) {
            let action = format!("start TLS with {}", self.address);
            let refusal = Refusal::new(action, "AUTH TLS", reply);
            return Err(refusal
                .into_kind(Kind::Unsupported)
                .hint("ftp:// works without TLS, but sends the password unencrypted"));
        }
        self.with_tls(tls).await
    }

    /// Turns on TLS for data connections. With implicit TLS the server may not know these commands.
    async fn protect_data(&mut self) -> Result<()> {
        for command in ["PBSZ 0", "PROT P"] {
            let reply = self.command(command, command.as_bytes()).await?;
            let refusal = self.refusal(command, reply.clone());
            let implicit = self.address.security == Security::Implicit;
            let is_accepted = reply.is_success() || implicit && refusal.is_unsupported_command();
            if !is_accepted {
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    async fn send_login(&mut self, password: &str, is_known: bool) -> Result<()> {
        let user = format!("USER {}", self.address.user);
        let mut last = ("USER", self.command("USER", user.as_bytes()).await?);
        if last.1.is_success() {
            return Ok(());
        }
        if last.1.code == 331 {
            let password = format!("PASS {password}");
            last = ("PASS", self.command("PASS", password.as_bytes()).await?);
            // `202` means that no password was needed.
            if last.1.is_success() {
                return Ok(());
            }
        }
        let (command, reply) = last;
        let refusal = self.refusal(command, reply);
        // The password was accepted before, so the refusal is about the number of sessions.
        Err(if is_known { refusal.into_too_many_sessions() } else { refusal.into() })
    }
}

/// Opens a data connection to the host of the control connection, at the port of `to`.
pub(super) async fn connect_data(
    config: &SessionConfig,
    address: &FtpAddress,
    to: SocketAddr,
) -> Result<TcpStream> {
    let action = || format!("data connection to {address}, port {}", to.port());
    let connecting = async {
        let (proxy, outgoing) = (config.options.proxy.as_ref(), &config.options.outgoing);
        if proxy.is_some() || outgoing.interface.is_some() {
            let dialed = dial(&address.host, to.port(), proxy, outgoing).await;
            return dialed.map_err(|e| e.with_context(action()));
        }
        TcpStream::connect(to).await.map_err(|e| connection_lost(action(), e))
    };
    config.timeouts.run_connect(action, connecting).await
}
