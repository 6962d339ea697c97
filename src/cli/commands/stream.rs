//! `stream` and `import --stream`: serve the files of imports to players by HTTP until stopped.

use std::net::SocketAddr;

use serde::Serialize;

use crate::{
    api::{StreamServer, Token},
    cli::{
        args::StreamArgs,
        context::Context,
        output::{Failure, sanitize},
    },
    config::Secret,
    engine::{Access, StreamedFile, StreamedImport, Streams},
    error::{Error, Kind, Result},
};

/// Environment variable of a fixed token. Not a flag, since every user of the machine can read flags.
const TOKEN: &str = "BAE_STREAM_TOKEN";

#[derive(Serialize)]
struct StreamingLine<'a> {
    event: &'static str,
    import: &'a str,
    name: &'a str,
    /// The page that lists all files.
    url: String,
    playlist: String,
    files: Vec<FileLine<'a>>,
}

#[derive(Serialize)]
struct FileLine<'a> {
    path: &'a str,
    bytes: u64,
    url: String,
}

/// Runs until stopped, then returns `Ok`.
pub(in crate::cli) async fn stream(context: Context, args: StreamArgs) -> Result<(), Failure> {
    let StreamArgs { import, path, listen } = args;
    context
        .with_engine(Access::Read, async |engine| {
            let streams = Streams::default();
            let import = context.unless_cancelled(engine.stream(&import, &streams)).await?;
            let only = path.as_deref().map(|path| find(&import, path)).transpose()?;
            let server = bind(listen, &streams).await?;
            print_urls(&context, &server, &import, only)?;
            tokio::select! {
                never = server.run() => match never {},
                () = context.cancel.cancelled() => Ok(()),
            }
        })
        .await
}

/// Binds the listen address, with the user's token or a new random one.
pub(in crate::cli) async fn bind(listen: SocketAddr, streams: &Streams) -> Result<StreamServer> {
    let token = match std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty()) {
        true => Token::from_user(Secret::Env(TOKEN.into()).reveal()?)?,
        false => Token::random()?,
    };
    StreamServer::bind(listen, streams.clone(), token).await
}

/// Serves players, and prints the URLs of each import that is opened. Returns only when printing fails.
pub(in crate::cli) async fn serve(
    context: &Context,
    server: &StreamServer,
    streams: &Streams,
) -> Failure {
    let print_each = async {
        for index in 0.. {
            let import = streams.wait_opened(index).await;
            if let Err(failure) = print_urls(context, server, &import, None) {
                return failure;
            }
        }
        unreachable!("there is always a next number")
    };
    tokio::select! {
        never = server.run() => match never {},
        failure = print_each => failure,
    }
}

/// Finds a file by its whole path, or by its path without the torrent's name.
fn find<'a>(import: &'a StreamedImport, path: &str) -> Result<&'a StreamedFile> {
    let files = import.files();
    let without_name =
        |f: &&StreamedFile| f.path.split_once('/').is_some_and(|(_, rest)| rest == path);
    let named = files.iter().find(|file| file.path == path);
    named.or_else(|| files.iter().find(without_name)).ok_or_else(|| {
        let text = format!("import {} has no file {path:?}", import.id());
        Error::new(Kind::NotFound, text).hint(format!("`bae info {}` lists them", import.id()))
    })
}

/// Prints the URLs of an import: of `only` this file, or of all files.
fn print_urls(
    context: &Context,
    server: &StreamServer,
    import: &StreamedImport,
    only: Option<&StreamedFile>,
) -> Result<(), Failure> {
    let all = import.files().iter();
    let files = all.filter(|file| only.is_none_or(|only| only.path == file.path));
    // A progress bar may occupy the last lines of the terminal.
    context.out.stderr().bars().suspend(|| {
        if context.out.is_json() {
            let file = |file: &StreamedFile| server.file_url(import, file);
            return context.out.json(&StreamingLine {
                event: "streaming",
                import: import.id(),
                name: import.name(),
                url: server.import_url(import),
                playlist: server.playlist_url(import),
                files: files
                    .map(|f| FileLine { path: &f.path, bytes: f.bytes, url: file(f) })
                    .collect(),
            });
        }
        for file in files {
            context.out.line(server.file_url(import, file))?;
        }
        Ok(())
    })?;
    if !context.out.is_json() {
        let name = sanitize(import.name());
        context.out.note(format_args!("{name}: {}", server.import_url(import)));
        if !server.address().ip().is_loopback() {
            context.out.note("anyone with these URLs can read the files while this command runs");
        }
    }
    Ok(())
}
