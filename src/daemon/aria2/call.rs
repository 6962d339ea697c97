//! One call: its token, its number in the request, and the method.

use serde_json::{Value, json};

use super::{
    Aria2, MAX_CALLS,
    envelope::{RpcError, RpcResult},
    params::Params,
};
use crate::daemon::access::{Peer, Role, bearer};
use axum::http::HeaderMap;

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Reader,
    Admin,
}

/// All methods but `system.multicall`.
const METHODS: &[(&str, Needs)] = &[
    ("aria2.addUri", Needs::Admin),
    ("aria2.addTorrent", Needs::Admin),
    ("aria2.getPeers", Needs::Reader),
    ("aria2.remove", Needs::Admin),
    ("aria2.pause", Needs::Admin),
    ("aria2.forcePause", Needs::Admin),
    ("aria2.pauseAll", Needs::Admin),
    ("aria2.forcePauseAll", Needs::Admin),
    ("aria2.unpause", Needs::Admin),
    ("aria2.unpauseAll", Needs::Admin),
    ("aria2.forceRemove", Needs::Admin),
    ("aria2.changePosition", Needs::Admin),
    ("aria2.tellStatus", Needs::Reader),
    ("aria2.getUris", Needs::Reader),
    ("aria2.getFiles", Needs::Reader),
    ("aria2.getServers", Needs::Reader),
    ("aria2.tellActive", Needs::Reader),
    ("aria2.tellWaiting", Needs::Reader),
    ("aria2.tellStopped", Needs::Reader),
    ("aria2.getOption", Needs::Reader),
    ("aria2.changeOption", Needs::Admin),
    ("aria2.getGlobalOption", Needs::Reader),
    ("aria2.changeGlobalOption", Needs::Admin),
    ("aria2.purgeDownloadResult", Needs::Admin),
    ("aria2.removeDownloadResult", Needs::Admin),
    ("aria2.getVersion", Needs::Reader),
    ("aria2.getSessionInfo", Needs::Reader),
    ("aria2.getGlobalStat", Needs::Reader),
    ("aria2.saveSession", Needs::Reader),
    ("system.listMethods", Needs::Nothing),
    ("system.listNotifications", Needs::Nothing),
];
const MULTICALL: &str = "system.multicall";
/// Methods of aria2 that are known and not offered.
const NOT_OFFERED: &[&str] =
    &["aria2.addMetalink", "aria2.changeUri", "aria2.shutdown", "aria2.forceShutdown"];

/// The client of a request, or of a socket.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    peer: Peer,
    headers: HeaderMap,
    /// Whether calls may change something.
    writes: bool,
    /// Calls that the request may still make.
    calls_left: usize,
    /// Calls with a valid token, and those without one.
    pub(super) accepted: usize,
    pub(super) rejected: usize,
}

impl Caller {
    pub(super) fn new(peer: Peer, headers: HeaderMap, writes: bool) -> Self {
        Self { peer, headers, writes, calls_left: MAX_CALLS, accepted: 0, rejected: 0 }
    }

    /// Another request on the same socket.
    pub(super) fn next_request(&mut self) {
        self.calls_left = MAX_CALLS;
    }

    fn count_call(&mut self) -> RpcResult<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or_else(too_many_calls)?;
        Ok(())
    }
}

fn too_many_calls() -> RpcError {
    RpcError::new(format!("A request has at most {MAX_CALLS} calls."))
}

impl Aria2 {
    /// Answers a call.
    pub(super) async fn call(
        &self,
        caller: &mut Caller,
        method: &str,
        params: Vec<Value>,
    ) -> RpcResult {
        if method == MULTICALL {
            return self.multicall(caller, params).await;
        }
        self.call_one(caller, method, params).await
    }

    /// `system.multicall`: an array with an array or an error for each call.
    async fn multicall(&self, caller: &mut Caller, params: Vec<Value>) -> RpcResult {
        caller.count_call()?;
        let (_, params) = Params::split_token(params);
        let calls = params.calls(0)?;
        if calls.len() > caller.calls_left {
            return Err(too_many_calls());
        }
        let mut results = Vec::with_capacity(calls.len());
        for call in calls {
            let result = match call {
                Ok((method, _)) if method == MULTICALL => {
                    Err(RpcError::new("Recursive system.multicall forbidden."))
                }
                Ok((method, params)) => self.call_one(caller, &method, params).await,
                Err(e) => Err(e),
            };
            results.push(match result {
                Ok(value) => json!([value]),
                Err(e) => e.to_value(),
            });
        }
        Ok(Value::Array(results))
    }

    async fn call_one(&self, caller: &mut Caller, method: &str, params: Vec<Value>) -> RpcResult {
        caller.count_call()?;
        let needs = METHODS.iter().find(|(name, _)| *name == method).map(|(_, needs)| *needs);
        let (token, params) = Params::split_token(params);
        let needed = match needs {
            Some(Needs::Nothing) => None,
            Some(Needs::Reader) => Some(Role::Reader),
            Some(Needs::Admin) => Some(Role::Admin),
            // Which methods exist is no secret, but a wrong token is the first thing to mend.
            None => Some(Role::Reader),
        };
        if let Some(needed) = needed {
            let role = self.role(caller, token.as_deref())?;
            if needs.is_some() && role < needed {
                return Err(RpcError::new("the token may only read"));
            }
            if needed == Role::Admin && !caller.writes {
                return Err(RpcError::new("a GET request may only read"));
            }
        }
        match needs {
            Some(_) => self.dispatch(method, &params).await,
            None if NOT_OFFERED.contains(&method) => {
                Err(RpcError::new(format!("{method} is not supported")))
            }
            None => Err(RpcError::new(format!("No such method: {method}"))),
        }
    }

    /// The role of the caller.
    fn role(&self, caller: &mut Caller, token: Option<&str>) -> RpcResult<Role> {
        let access = self.state().access();
        let role = match token {
            _ if caller.peer.is_unix_socket() => Ok(Some(Role::Admin)),
            Some(token) => access.login(&caller.peer, &caller.headers, "", token),
            None if bearer(&caller.headers).is_some() => {
                access.role_of(&caller.peer, &caller.headers, None)
            }
            None => Ok(None),
        };
        match role {
            Ok(Some(role)) => {
                caller.accepted += 1;
                Ok(role)
            }
            Ok(None) => {
                caller.rejected += 1;
                Err(RpcError::unauthorized())
            }
            Err(e) => {
                caller.rejected += 1;
                Err(e.into())
            }
        }
    }

    async fn dispatch(&self, method: &str, params: &Params) -> RpcResult {
        match method {
            "aria2.addUri" => self.add_uri(params).await,
            "aria2.addTorrent" => self.add_torrent(params).await,
            "aria2.remove" | "aria2.forceRemove" => self.remove(params).await,
            "aria2.pause" | "aria2.forcePause" => self.pause(params).await,
            "aria2.pauseAll" | "aria2.forcePauseAll" => self.pause_all().await,
            "aria2.unpause" => self.unpause(params).await,
            "aria2.unpauseAll" => self.unpause_all().await,
            "aria2.changePosition" => self.change_position(params).await,
            "aria2.changeOption" => self.change_option(params).await,
            "aria2.removeDownloadResult" => self.remove_result(params).await,
            "aria2.purgeDownloadResult" => self.purge_results().await,
            "aria2.tellStatus" => self.tell_status(params).await,
            "aria2.tellActive" => self.tell_active(params).await,
            "aria2.tellWaiting" => self.tell_waiting(params).await,
            "aria2.tellStopped" => self.tell_stopped(params).await,
            "aria2.getUris" => self.uris(params),
            "aria2.getFiles" => self.files(params).await,
            "aria2.getPeers" => self.peers(params),
            "aria2.getServers" => self.servers(params),
            "aria2.getOption" => self.options(params),
            "aria2.getGlobalOption" => Ok(self.global_options()),
            "aria2.changeGlobalOption" => self.change_global_options(params).await,
            "aria2.getGlobalStat" => Ok(self.global_stat()),
            "aria2.getVersion" => Ok(self.version()),
            "aria2.getSessionInfo" => Ok(json!({ "sessionId": self.0.session_id })),
            // The queue is saved with each change.
            "aria2.saveSession" => Ok("OK".into()),
            "system.listMethods" => {
                let names = METHODS.iter().map(|(name, _)| *name);
                Ok(names.chain([MULTICALL]).collect::<Vec<_>>().into())
            }
            "system.listNotifications" => Ok(super::notify::NAMES.into()),
            _ => Err(RpcError::new(format!("No such method: {method}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_request_are_counted() {
        let mut caller = Caller::new(Peer::Unknown, HeaderMap::new(), true);
        for _ in 0..MAX_CALLS {
            caller.count_call().unwrap();
        }
        assert!(caller.count_call().is_err());
        caller.next_request();
        caller.count_call().unwrap();
    }

    #[test]
    fn no_method_that_changes_something_is_open_to_readers() {
        for (name, needs) in METHODS {
            let reads = ["tell", "get", "list", "saveSession"];
            let only_reads = reads.iter().any(|start| {
                name.split_once('.').is_some_and(|(_, method)| method.starts_with(start))
            });
            assert_eq!(*needs != Needs::Admin, only_reads, "{name}");
            assert_eq!(*needs == Needs::Nothing, name.starts_with("system."), "{name}");
        }
    }
}
