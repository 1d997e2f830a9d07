//! An image made on the spot: one layer with a static busybox. It serves as the pause image too.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{ctr, output};

/// Name under which it is imported.
pub(super) const NAME: &str = "localhost/jitterscope/busybox:test";

/// Makes the image below a directory, in the form that `docker save` writes, and gives it to containerd.
pub(super) fn import(directory: &Path, socket: &Path) -> Result<()> {
    let image = directory.join("image");
    fs::create_dir_all(image.join("layer/bin"))?;
    fs::copy("/usr/bin/busybox", image.join("layer/bin/busybox"))
        .context("busybox-static is not installed")?;
    for link in ["sh", "sleep", "nc", "wget", "ip"] {
        std::os::unix::fs::symlink("busybox", image.join("layer/bin").join(link))?;
    }
    output(Command::new("tar").args(["-cf", "layer.tar", "-C", "layer", "."]).current_dir(&image))?;
    let sums = output(Command::new("sha256sum").arg("layer.tar").current_dir(&image))?;
    let layer = sums.split_whitespace().next().context("no checksum")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/busybox", "sleep", "86400"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    fs::write(image.join("config.json"), config.to_string())?;
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    let parts = ["manifest.json", "config.json", "layer.tar"];
    output(Command::new("tar").args(["-cf", "image.tar"]).args(parts).current_dir(&image))?;
    let archive = image.join("image.tar");
    output(ctr(socket).args(["images", "import", "--snapshotter", "native"]).arg(archive))?;
    Ok(())
}
