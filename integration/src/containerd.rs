//! A containerd of the test's own, with real pods: own directories and socket, an image made on the spot, everything removed
//! afterwards, also after a failure. Needs root, and Debian's containerd, runc, containernetworking-plugins and
//! busybox-static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::clean_up::{cgroups, remember_cgroup, remove_cgroups};

mod clean_up;
mod client;
mod image;
mod messages;

use client::Client;
use jitterscope::pods::{ContainerMetadata, PodSandboxMetadata};
use messages::{ContainerConfig, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig};

/// A label that each pod has.
pub const LABEL: &str = "example.com/part-of";

/// How long containerd may take to open its socket, and to make or remove a pod.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running containerd. Dropping it kills it and all that it started, and removes what they made.
pub struct Containerd {
    directory: TempDir,
    bridge: String,
    process: Child,
    client: Client,
}

/// A pod that runs in it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Id of its sandbox, the "pause" container.
    pub sandbox: String,
    /// Kubernetes' uid.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Process of the sandbox, in the host's pid namespace.
    pub pid: u32,
    config: PodSandboxConfig,
}

/// A container that runs in a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Id.
    pub id: String,
    /// First process, in the host's pid namespace.
    pub pid: u32,
}

impl Pod {
    /// The pod's cgroup, within each hierarchy.
    pub fn cgroup(&self) -> &str {
        self.config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent)
    }
}

impl Containerd {
    /// Starts containerd and gives it an image with busybox.
    ///
    /// Errors: something that it needs is not installed, or it does not open its socket in time.
    pub async fn start() -> Result<Self> {
        let directory = TempDir::new().context("cannot make a directory")?;
        let (bridge, network) = unique(directory.path());
        write_configuration(directory.path(), &bridge, network)?;
        let log = fs::File::create(directory.path().join("log"))?;
        let process = Command::new("containerd")
            .arg("--config")
            .arg(directory.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start containerd")?;
        let client = Client::new(&directory.path().join("c.sock"))?;
        let mut containerd = Self { directory, bridge, process, client };
        containerd.wait_until_ready().await?;
        image::import(containerd.directory.path(), &containerd.socket())?;
        Ok(containerd)
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("c.sock")
    }

    /// Runs a pod with nothing but its sandbox, in the cgroup that kubelet would give it.
    /// Labelled with its name (`app`) and its namespace ([`LABEL`]).
    pub async fn run_pod(&mut self, namespace: &str, name: &str) -> Result<Pod> {
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: namespace.to_owned(),
            }),
            log_directory: self.directory.path().join("logs").display().to_string(),
            labels: [("app", name), (LABEL, namespace)].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: format!("/kubepods/besteffort/pod{uid}") }),
            ..PodSandboxConfig::default()
        };
        let pod =
            Pod { uid, name: name.to_owned(), namespace: namespace.to_owned(), config, ..Pod::default() };
        remember_cgroup(self.directory.path(), pod.cgroup())?;
        let sandbox = self.client.run_pod_sandbox(pod.config.clone()).await?;
        Ok(Pod { pid: self.first_process(&sandbox)?, sandbox, ..pod })
    }

    /// Runs busybox with these arguments in a pod, for example `["sleep", "600"]`.
    pub async fn start_container(&mut self, pod: &Pod, name: &str, arguments: &[&str]) -> Result<Container> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: image::NAME.to_owned() }),
            command: vec!["/bin/busybox".to_owned()],
            args: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            log_path: format!("{name}.log"),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = self.client.create_container(request).await?;
        self.client.start_container(&id).await?;
        let pid = self.first_process(&id)?;
        Ok(Container { id, pid })
    }

    /// Runs busybox outside of any pod, in a namespace of its own and in the cgroup that Docker would give it.
    pub fn run_plain(&self, arguments: &[&str]) -> Result<Container> {
        let uuid = || -> Result<String> {
            Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', ""))
        };
        let id = uuid()? + &uuid()?;
        let cgroup = format!("/docker/{id}");
        remember_cgroup(self.directory.path(), &cgroup)?;
        let mut run = ctr(&self.socket());
        run.args(["run", "--detach", "--snapshotter", "native", "--cgroup", &cgroup, "--runc-root"])
            .arg(self.directory.path().join("runc"))
            .arg("--fifo-dir")
            .arg(self.directory.path().join("fifo"))
            .args([image::NAME, &id, "/bin/busybox"])
            .args(arguments)
            .stdin(Stdio::null());
        output(&mut run)?;
        Ok(Container { pid: self.first_process(&id)?, id })
    }

    /// Stops and removes a pod with its containers, as kubelet does.
    pub async fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        self.client.remove_pod_sandbox(&pod.sandbox).await?;
        let name = format!("pod{}", pod.uid);
        let directories = cgroups(self.directory.path()).into_iter().filter(|path| path.ends_with(&name));
        // As kubelet does it, once it is empty.
        remove_cgroups(&directories.collect::<Vec<_>>());
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Err(error) = self.client.version().await else { return Ok(()) };
            let ended = self.process.try_wait()?;
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            ensure!(ended.is_none(), "containerd ended: {}", log());
            ensure!(tokio::time::Instant::now() < deadline, "containerd is not ready: {error:#}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first process of a container, as `ctr task list` tells: id, pid, status.
    fn first_process(&self, id: &str) -> Result<u32> {
        let listed = output(ctr(&self.socket()).args(["task", "list"]))?;
        let line = listed.lines().find(|line| line.starts_with(id)).context("no such task")?;
        Ok(line.split_whitespace().nth(1).context("no pid")?.parse()?)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        clean_up::all(&mut self.process, self.directory.path(), &self.bridge);
    }
}

/// `ctr` for the images and tasks of Kubernetes at this socket.
fn ctr(socket: &Path) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]);
    command
}

/// Runs a command and gives its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A name for the bridge and a number for its network, from the directory's random name: tests run side by side.
pub(crate) fn unique(directory: &Path) -> (String, u8) {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let random: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let number = random.bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte));
    (format!("js{random}"), number)
}

/// containerd's own configuration, and that of the pods' network: a bridge in the host's namespace, with addresses that
/// are set aside for tests (RFC 2544) and unique local ones.
fn write_configuration(directory: &Path, bridge: &str, network: u8) -> Result<()> {
    let fill = |text: &str| {
        let directory = directory.display().to_string();
        text.replace("{dir}", &directory)
            .replace("{bridge}", bridge)
            .replace("{network}", &network.to_string())
            .replace("{image}", image::NAME)
    };
    fs::create_dir_all(directory.join("net.d"))?;
    fs::write(directory.join("config.toml"), fill(include_str!("containerd/config.toml")))?;
    fs::write(directory.join("net.d/10-bridge.conflist"), fill(include_str!("containerd/bridge.conflist")))?;
    Ok(())
}
