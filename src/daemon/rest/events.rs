//! `/events`: the event log from a sequence number on, as server-sent events or over a WebSocket.
//!
//! Each event has its number. A client that was away asks for the next one (`?since=41`, or `Last-Event-ID` of SSE), and
//! misses nothing that the log still has; otherwise it gets a `lagged` event. A client that is slow holds up nothing: it
//! reads the log at its own pace.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{
        FromRequestParts as _, Query, Request, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::HeaderMap,
    response::{
        IntoResponse as _, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    daemon::{
        openapi::{Routes, get},
        problem::Problem,
        state::ApiState,
    },
    error::{Error, Kind},
    events::{Event, EventReader, Lagged, LoggedEvent},
};

pub(super) fn routes() -> Routes {
    let events = get(events, "Events as server-sent events, or over a WebSocket")
        .query::<EventsQuery>()
        .header("Last-Event-ID", "As `since`")
        .gives_nothing(101)
        .gives_type(200, "text/event-stream");
    Routes::default().at("/events", [events])
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct EventsQuery {
    /// The number of the last event that the client has. Without it, events begin now.
    since: Option<u64>,
}

/// One event of the stream.
#[derive(Debug, Serialize)]
struct EventLine<'a> {
    seq: u64,
    /// Seconds since 1970.
    time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<u64>,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Debug, Serialize)]
struct LaggedLine {
    event: &'static str,
    /// Numbers that the log does not have any more.
    missed: u64,
    next: u64,
}

async fn events(
    State(state): State<ApiState>,
    Query(query): Query<EventsQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let since = query.since.or_else(|| last_event_id(request.headers()));
    let log = state.engine().events();
    let reader = match since {
        Some(since) => log.replay_from(since.saturating_add(1)),
        None => log.subscribe(),
    };
    let ends = Ends { rotations: state.access().sessions().rotations(), stop: state.stopping() };
    let is_upgrade = request.headers().contains_key("upgrade");
    if !is_upgrade {
        // nginx would hold events back in its buffer.
        let no_buffer = [("x-accel-buffering", "no")];
        return Ok((no_buffer, server_sent(reader, ends)).into_response());
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &state).await;
    let upgrade = upgrade.map_err(|e| Error::new(Kind::InvalidInput, e.body_text()))?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| serve_socket(socket, reader, ends)))
}

/// Clients have nothing to say.
const MAX_MESSAGE: usize = 4 << 10;
/// Time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);

fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// What ends a stream besides its client.
struct Ends {
    rotations: watch::Receiver<u64>,
    stop: tokio_util::sync::CancellationToken,
}

impl Ends {
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.rotations.changed() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The next event, or `None` at the end.
    async fn next(&mut self, reader: &mut EventReader) -> Option<Result<LoggedEvent, Lagged>> {
        tokio::select! {
            next = reader.next() => Some(next),
            () = self.wait() => None,
        }
    }
}

fn server_sent(
    reader: EventReader,
    ends: Ends,
) -> Sse<impl futures_core::Stream<Item = Result<sse::Event, Infallible>>> {
    let events = stream::unfold((reader, ends), |(mut reader, mut ends)| async move {
        let next = ends.next(&mut reader).await?;
        let (seq, text) = line(&next);
        let event = sse::Event::default().data(text);
        let event = match seq {
            Some(seq) => event.id(seq.to_string()),
            None => event,
        };
        Some((Ok(event), (reader, ends)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(PING_INTERVAL))
}

async fn serve_socket(mut socket: WebSocket, mut reader: EventReader, mut ends: Ends) {
    let mut ping = tokio::time::interval(PING_INTERVAL);
    ping.tick().await;
    loop {
        let message = tokio::select! {
            next = ends.next(&mut reader) => match next {
                Some(next) => Message::text(line(&next).1),
                None => break,
            },
            received = socket.recv() => match received {
                // What a client says has no meaning; its pings are answered by the library.
                Some(Ok(message)) if !matches!(message, Message::Close(_)) => continue,
                _ => return,
            },
            _ = ping.tick() => Message::Ping(Default::default()),
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
    let _ = socket.send(Message::Close(None)).await;
}

fn line(next: &Result<LoggedEvent, Lagged>) -> (Option<u64>, String) {
    match next {
        Ok(logged) => {
            let since = logged.time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let (seq, handle) = (logged.seq, logged.handle);
            let line = EventLine { seq, time: since.as_secs_f64(), handle, event: &logged.event };
            (Some(seq), serde_json::to_string(&line).unwrap_or_default())
        }
        Err(Lagged { missed, next }) => {
            let line = LaggedLine { event: "lagged", missed: *missed, next: *next };
            (None, serde_json::to_string(&line).unwrap_or_default())
        }
    }
}
