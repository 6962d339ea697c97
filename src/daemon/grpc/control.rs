//! A control stream: commands with their answers, and progress between them.
//!
//! Commands are done one after the other. The next one is read when the answer to the last one is sent, so that a client
//! that reads no answers sends no further commands. The stream ends with the commands.

use tonic::{Status, Streaming};

use super::{
    access::check_writes,
    convert::invalid,
    ends::Ends,
    follow::Follow,
    pb::{self, control_request::Command, control_response::Answer},
    service::Service,
    status::status,
};
use crate::{daemon::access::Role, error::Result};

/// An open control stream.
pub(super) struct Control {
    service: Service,
    role: Role,
    commands: Streaming<pb::ControlRequest>,
    /// Downloads that are followed, and the id of the command.
    followed: Option<(u64, Follow)>,
    ends: Ends,
}

impl Control {
    pub(super) fn new(
        service: Service,
        role: Role,
        commands: Streaming<pb::ControlRequest>,
        ends: Ends,
    ) -> Self {
        Self { service, role, commands, followed: None, ends }
    }

    /// The next message to the client; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<pb::ControlResponse, Status>> {
        loop {
            let followed = &mut self.followed;
            let progress = async {
                match followed {
                    Some((id, follow)) => (*id, follow.next().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = self.ends.wait() => return Some(Err(status)),
                command = self.commands.message() => return match command {
                    Ok(Some(command)) => Some(Ok(self.answer(command).await)),
                    Ok(None) => None,
                    Err(status) => Some(Err(status)),
                },
                (request_id, update) = progress => match update {
                    Some(update) => {
                        let answer = Some(Answer::Progress(update));
                        return Some(Ok(pb::ControlResponse { request_id, answer }));
                    }
                    // All that it followed is finished.
                    None => self.followed = None,
                },
            }
        }
    }

    async fn answer(&mut self, request: pb::ControlRequest) -> pb::ControlResponse {
        let request_id = request.request_id;
        let answer = match request.command {
            _ if request_id == 0 => Err(invalid("a command has a request id of 1 or more")),
            None => Err(invalid("the request has no command that this version knows")),
            Some(command) => self.run(request_id, command).await,
        };
        let answer = answer.unwrap_or_else(|error| {
            // For the log.
            let _ = status(&error);
            Answer::Error((&error).into())
        });
        pb::ControlResponse { request_id, answer: Some(answer) }
    }

    async fn run(&mut self, request_id: u64, command: Command) -> Result<Answer> {
        let service = &self.service;
        let only_reads = matches!(
            command,
            Command::Get(_) | Command::List(_) | Command::Follow(_) | Command::Unfollow(_)
        );
        if !only_reads {
            check_writes(self.role)?;
        }
        Ok(match command {
            Command::Start(request) => Answer::Start(service.start(request).await?),
            Command::Pause(request) => Answer::Pause(service.pause(request).await?),
            Command::Resume(request) => Answer::Resume(service.resume(request).await?),
            Command::Retry(request) => Answer::Retry(service.retry(request).await?),
            Command::Cancel(request) => Answer::Cancel(service.cancel(request).await?),
            Command::Get(request) => Answer::Get(service.get(&request)?),
            Command::List(request) => Answer::List(service.list(request)?),
            Command::Follow(request) => {
                let follow = Follow::new(service.queue(), service.run(), &request)?;
                self.followed = Some((request_id, follow));
                Answer::Follow(pb::FollowResponse {})
            }
            Command::Unfollow(_) => {
                self.followed = None;
                Answer::Unfollow(pb::UnfollowResponse {})
            }
        })
    }
}
