//! Opens sessions: connection, greeting, TLS, user and password.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    address::{Address, Security},
    control::Control,
    errors::{Refusal, broken, lost, no_tls},
    reply::Reply,
    session::Setup,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::dial::dial,
};

/// A control connection that is logged in.
pub(super) struct SignedIn {
    pub(super) control: Control,
    /// The TLS configuration of data connections.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// Connects and logs in. `is_known` means that this login has succeeded before.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn sign_in(setup: &Setup, address: &Address, is_known: bool) -> Result<SignedIn> {
    let password = password(setup, address).await?;
    let connecting = || format!("connect to {address}");
    let work = async {
        let mut login = Login { control: connect(setup, address).await?, address };
        let tls = match address.security {
            Security::Plain => None,
            _ => Some(setup.tls().await?),
        };
        if let (Some(tls), Security::Implicit) = (&tls, address.security) {
            login = login.secured(tls).await?;
        }
        login.greeting(is_known).await?;
        if let (Some(tls), Security::Explicit) = (&tls, address.security) {
            login = login.explicit(tls).await?;
        }
        if tls.is_some() {
            login.protect_data().await?;
        }
        login.user(&password, is_known).await?;
        let binary = login.ask("TYPE", b"TYPE I").await?;
        if !binary.is_done() {
            return Err(login.refused("TYPE", binary).into());
        }
        Ok(SignedIn { control: login.control, tls })
    };
    setup.patience.connecting(connecting, work).await
}

/// The password, from a prompt if necessary. Called before connecting: the server would not wait for the user.
async fn password(setup: &Setup, address: &Address) -> Result<String> {
    if let Some(password) = &address.password {
        return Ok(password.clone());
    }
    let password = setup.options.passwords.of(&address.user, &address.host).await?;
    address.check(&password)?;
    Ok(password)
}

async fn connect(setup: &Setup, address: &Address) -> Result<Control> {
    let doing = || format!("connect to {address}");
    let proxy = setup.options.proxy.as_ref();
    if proxy.is_some() && address.security == Security::Implicit {
        return Err(Error::new(Kind::Unsupported, "ftps:// does not go through a proxy")
            .hint("ftpes:// does, where the server knows it"));
    }
    let stream = dial(&address.host, address.port, proxy, &setup.options.outgoing)
        .await
        .map_err(|e| e.within(doing()))?;
    Control::plain(stream).map_err(|e| lost(doing(), e))
}

/// A control connection that is not logged in yet.
struct Login<'a> {
    control: Control,
    address: &'a Address,
}

impl Login<'_> {
    fn doing(&self) -> String {
        format!("sign in to {}", self.address)
    }

    fn refused(&self, command: &str, reply: Reply) -> Refusal {
        Refusal::new(self.doing(), command, reply)
    }

    async fn ask(&mut self, name: &str, command: &[u8]) -> Result<Reply> {
        let doing = self.doing();
        self.control.send(command).await.map_err(|e| lost(&doing, e))?;
        let reply = self.control.reply().await.map_err(|e| broken(&doing, e))?;
        tracing::debug!("{}: {name}: {}", self.address, reply.code);
        if reply.code == 421 { Err(self.refused(name, reply).into()) } else { Ok(reply) }
    }

    /// Reads the greeting. `120` announces a delay, and the greeting follows it.
    async fn greeting(&mut self, is_known: bool) -> Result<()> {
        loop {
            let doing = format!("connect to {}", self.address);
            let reply = self.control.reply().await.map_err(|e| broken(&doing, e))?;
            let refusal = Refusal::new(doing, "the greeting", reply.clone());
            match reply.code {
                120 => {}
                200..=299 => return Ok(()),
                421 => return Err(refusal.into()),
                _ if is_known => return Err(refusal.one_too_many()),
                // No login was sent yet, so the refusal is not about the login.
                _ => return Err(refusal.not_now()),
            }
        }
    }

    async fn secured(self, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let doing = format!("begin TLS with {}", self.address);
        let control = self.control.secured(tls, &self.address.host).await;
        Ok(Self { control: control.map_err(|e| no_tls(doing, e))?, address: self.address })
    }

    async fn explicit(mut self, tls: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let reply = self.ask("AUTH TLS", b"AUTH TLS").await?;
        if !matches!(reply.code, 234 | 334) {
            let doing = format!("begin TLS with {}", self.address);
            let refusal = Refusal::new(doing, "AUTH TLS", reply);
            return Err(refusal
                .of_kind(Kind::Unsupported)
                .hint("ftp:// goes without, and shows the password to everybody on the way"));
        }
        self.secured(tls).await
    }

    /// Turns on TLS for data connections. With implicit TLS the server may not know these commands.
    async fn protect_data(&mut self) -> Result<()> {
        for command in ["PBSZ 0", "PROT P"] {
            let reply = self.ask(command, command.as_bytes()).await?;
            let refusal = self.refused(command, reply.clone());
            let implicit = self.address.security == Security::Implicit;
            let may_be = reply.is_done() || implicit && refusal.is_unknown_command();
            if !may_be {
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    async fn user(&mut self, password: &str, is_known: bool) -> Result<()> {
        let user = format!("USER {}", self.address.user);
        let mut refused = ("USER", self.ask("USER", user.as_bytes()).await?);
        if refused.1.is_done() {
            return Ok(());
        }
        if refused.1.code == 331 {
            let password = format!("PASS {password}");
            refused = ("PASS", self.ask("PASS", password.as_bytes()).await?);
            // `202` means that no password was needed.
            if refused.1.is_done() {
                return Ok(());
            }
        }
        let (command, reply) = refused;
        let refusal = self.refused(command, reply);
        // The password was accepted before, so the refusal is about the number of sessions.
        Err(if is_known { refusal.one_too_many() } else { refusal.into() })
    }
}

/// Opens a data connection to the host of the control connection, at the port of `to`.
pub(super) async fn dial_data(
    setup: &Setup,
    address: &Address,
    to: SocketAddr,
) -> Result<TcpStream> {
    let doing = || format!("data connection to {address}, port {}", to.port());
    let connecting = async {
        let (proxy, outgoing) = (setup.options.proxy.as_ref(), &setup.options.outgoing);
        if proxy.is_some() || outgoing.interface.is_some() {
            let dialed = dial(&address.host, to.port(), proxy, outgoing).await;
            return dialed.map_err(|e| e.within(doing()));
        }
        TcpStream::connect(to).await.map_err(|e| lost(doing(), e))
    };
    setup.patience.connecting(doing, connecting).await
}
