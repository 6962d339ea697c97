//! `storage login`: signs in to a storage and saves the sign-in.

use serde::Serialize;

use crate::{
    cli::{args::storage::LoginArgs, context::Context, output::Failure},
    engine::{LoginFlow, LoginStep, login},
};

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Login { url: &'a str, code: Option<&'a str> },
    LoggedIn { storage: &'a str },
}

pub(in crate::cli) async fn run(context: Context, args: LoginArgs) -> Result<(), Failure> {
    let profile = context.config.storage(&args.name)?;
    let name = profile.canonical_name();
    let flow = if args.device { LoginFlow::Device } else { LoginFlow::Browser };
    let token =
        context.unless_cancelled(login(&profile, flow, |step| show_step(&context, step))).await?;
    let file = context.config.save_secret(&name, "refresh_token", &token)?;
    if context.out.is_json() {
        return context.out.json(&Line::LoggedIn { storage: &name });
    }
    context.out.result(format_args!(
        "signed in to {name}; the refresh token is saved in {}",
        file.display()
    ))
}

fn show_step(context: &Context, step: LoginStep<'_>) {
    let (url, code) = match step {
        LoginStep::Open { url } => (url, None),
        LoginStep::Enter { url, code } => (url, Some(code)),
    };
    if context.out.is_json() {
        // Ignored: if this line is not read, the sign-in fails later with an error of its own.
        let _ = context.out.json(&Line::Login { url, code });
    }
    match code {
        None => context
            .out
            .stderr()
            .line(format_args!("open this page in a browser on this machine:\n{url}")),
        Some(code) => {
            context.out.stderr().line(format_args!("open {url} on any device and enter {code}"))
        }
    }
}
