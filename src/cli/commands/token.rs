//! `token`: shows and replaces the tokens of the daemon's API.

use crate::{
    cli::{args::token::TokenCommand, context::Context, output::Failure},
    daemon::access::Tokens,
    engine::Access,
};

pub(in crate::cli) async fn token(context: Context, command: TokenCommand) -> Result<(), Failure> {
    let data_dir = &context.config.data_dir;
    match command {
        TokenCommand::Show(args) => context.out.line(Tokens::stored(data_dir, args.read_only)?),
        TokenCommand::New => {
            match &context.host {
                Some(host) => host.api.access().rotate()?,
                // The lock keeps a daemon from starting in between with the old ones.
                None => {
                    let replace = async |_: &crate::engine::Engine| {
                        Ok(Tokens::replace(&context.config.data_dir)?)
                    };
                    context.with_engine(Access::Write, replace).await?;
                }
            }
            context.out.line(Tokens::stored(data_dir, false)?)
        }
    }
}
