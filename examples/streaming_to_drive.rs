//! Streams a torrent to Google Drive: no byte of it touches the local disk.
//!
//! ```sh
//! export BAE_DRIVE_TOKEN=…       # an access token with the scope drive.file
//! cargo run --release --example streaming_to_drive -- 'magnet:?xt=urn:btih:…' FOLDER_ID
//! ```

#![allow(clippy::print_stdout, reason = "the output of an example")]

use bae::{Bae, DriveProfile, Profile, ProfileKind, Secret};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, folder] = args.as_slice() else {
        return Err("usage: streaming_to_drive SOURCE FOLDER_ID".into());
    };
    let drive = DriveProfile {
        folder: Some(folder.clone()),
        token: Some(Secret::Env("BAE_DRIVE_TOKEN".into())),
        ..DriveProfile::default()
    };
    let drive = Profile::new("drive", ProfileKind::Drive(Box::new(drive)));
    let bae = Bae::builder("bae-data").memory(128 << 20).storage(drive).open().await?;

    let import = bae.import(source).storage("drive").files().start().await?;
    let mut progress = import.progress();
    let report = async {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update();
            println!("{} of {} bytes are in Drive, {} in memory", now.stored, now.bytes, now.held);
        }
    };
    let imported = tokio::select! {
        imported = import.wait() => imported?,
        () = report => import.wait().await?,
    };
    println!("{} files are in Drive", imported.files);
    bae.close().await?;
    Ok(())
}
