//! Imports a torrent, a magnet link or a URL into an S3 bucket.
//!
//! ```sh
//! export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…
//! cargo run --release --example import_to_s3 -- ubuntu.torrent my-bucket [ENDPOINT]
//! ```

#![allow(clippy::print_stdout, reason = "the output of an example")]

use bae::{Bae, Profile, ProfileKind, S3Profile};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, bucket, rest @ ..] = args.as_slice() else {
        return Err("usage: import_to_s3 SOURCE BUCKET [ENDPOINT]".into());
    };
    let s3 = S3Profile {
        bucket: bucket.clone(),
        endpoint: rest.first().map(|url| url.parse()).transpose()?,
        ..S3Profile::default()
    };
    let storage = Profile::new("bucket", ProfileKind::S3(Box::new(s3)));
    let bae = Bae::builder("bae-data").storage(storage).open().await?;

    let import = bae.import(source).storage("bucket").start().await?;
    let mut progress = import.progress();
    let report = async {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update();
            println!("{} of {} bytes are in the bucket", now.stored, now.bytes);
        }
    };
    let imported = tokio::select! {
        imported = import.wait() => imported?,
        () = report => import.wait().await?,
    };
    println!("{} ({}): {} bytes", imported.name, imported.id, imported.bytes);
    bae.close().await?;
    Ok(())
}
