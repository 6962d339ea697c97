//! Calls over a WebSocket, and notifications.
//!
//! A socket gets no notification before one of its calls had a valid token, is closed after [`MAX_REJECTED`] calls without
//! one, and when no call had one for [`LOGIN_TIMEOUT`]. It ends when the tokens are replaced.

use std::time::Duration;

use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
};

use super::{
    Aria2,
    call::Caller,
    notify::{Ending, notifications},
};
use crate::{
    daemon::problem::Problem,
    error::{Error, Kind},
    events::{DownloadChanged, Event, Lagged, LoggedEvent},
    queue::{DownloadId, Seeding},
};

/// Longest message: a torrent of 3 MiB in base64. Larger ones go over HTTP.
const MAX_MESSAGE: usize = 4 << 20;
const MAX_REJECTED: usize = 5;
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn upgrade(aria2: &Aria2, upgrade: WebSocketUpgrade, caller: Caller) -> Response {
    let Ok(slot) = std::sync::Arc::clone(&aria2.0.sockets).try_acquire_owned() else {
        let error = Error::new(Kind::Unavailable, "too many sockets are open");
        return Problem::with_status(StatusCode::SERVICE_UNAVAILABLE, error).into_response();
    };
    let aria2 = aria2.clone();
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    upgrade.on_upgrade(async move |socket| {
        aria2.serve(socket, caller).await;
        drop(slot);
    })
}

impl Aria2 {
    async fn serve(&self, mut socket: WebSocket, mut caller: Caller) {
        let state = self.state();
        let mut events = state.engine().events().subscribe();
        let (mut rotations, stop) = (state.access().sessions().rotations(), state.stopping());
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.tick().await;
        let login_timeout = tokio::time::sleep(LOGIN_TIMEOUT);
        let mut login_timeout = std::pin::pin!(login_timeout);
        loop {
            let is_accepted = caller.accepted > 0;
            if !is_accepted {
                events = state.engine().events().subscribe();
            }
            let sent = tokio::select! {
                received = socket.recv() => match received {
                    Some(Ok(Message::Text(text))) => {
                        self.answer_message(&mut socket, &mut caller, text.as_bytes()).await
                    }
                    Some(Ok(Message::Binary(text))) => {
                        self.answer_message(&mut socket, &mut caller, &text).await
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                },
                next = events.next(), if is_accepted => self.notify(&mut socket, next).await,
                () = &mut login_timeout, if !is_accepted => break,
                _ = ping.tick() => socket.send(Message::Ping(Default::default())).await,
                _ = rotations.changed() => break,
                () = stop.cancelled() => break,
            };
            if sent.is_err() || caller.rejected >= MAX_REJECTED {
                break;
            }
        }
        let _ = socket.send(Message::Close(None)).await;
    }

    async fn answer_message(
        &self,
        socket: &mut WebSocket,
        caller: &mut Caller,
        text: &[u8],
    ) -> Result<(), axum::Error> {
        caller.next_request();
        let (_, answer) = self.answer_text(caller, text).await;
        socket.send(Message::text(answer.to_string())).await
    }

    async fn notify(
        &self,
        socket: &mut WebSocket,
        next: Result<LoggedEvent, Lagged>,
    ) -> Result<(), axum::Error> {
        // A client that lags misses notifications, as with aria2 itself; the lists have the truth.
        let Ok(logged) = next else { return Ok(()) };
        let Event::Download(changed) = &*logged.event else { return Ok(()) };
        for notification in notifications(changed, self.ending_of(changed)) {
            socket.send(Message::text(notification.to_string())).await?;
        }
        Ok(())
    }

    fn ending_of(&self, changed: &DownloadChanged) -> Ending {
        let id = changed.download.parse::<DownloadId>().ok();
        match id.and_then(|id| self.state().queue().get(&id).ok()) {
            Some(download) => Ending {
                is_torrent: download.is_torrent(),
                is_seeded: matches!(download.seeding, Seeding::Active | Seeding::Waiting),
            },
            None => Ending::default(),
        }
    }
}
