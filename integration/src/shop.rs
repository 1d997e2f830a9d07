//! An application that others instrumented (`integration/apps`), over HTTP/1.1 and gRPC: a server and its clients in two namespaces, a relay from
//! there to a Collector, and the faults of requests whose paths say which it is.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::spawn;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;
use crate::network::{Family, Network};
use crate::{poll, tools};

mod fault;
mod measured;

pub use fault::{Fault, inject};
pub use measured::{Measured, measure};

/// Where the server listens, on every address of its namespace.
pub const PORT: u16 = 8080;

/// For a receiver that tells all linked anomalies: no event is held back, no span either.
pub const ALL_TOLD: [&str; 10] = [
    "--set",
    "interval=200ms",
    "--set",
    "spans.anomaly_spans={enabled: true, rate: 100000}",
    "--set",
    "probes.packetloss.events={rate: 100000, burst: 100000}",
    "--set",
    "probes.tcpretrans.events={rate: 100000, burst: 100000}",
    "--set",
    "probes.tcpreset.events={rate: 100000, burst: 100000}",
];

/// Where each namespace's relay to the Collector listens, on the loopback: the default port of OTLP over HTTP.
const RELAY: u16 = 4318;

/// What the clients put into headers that nobody is to see.
pub const SECRET: &str = "s3cr3t-of-the-shop";

/// Who instrumented it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// OpenTelemetry's `otelhttp`.
    Go,
    /// OpenTelemetry's packages for Flask and requests.
    Python,
    /// OpenTelemetry's `otelgrpc` for Go: gRPC in place of HTTP/1.1.
    Grpc,
}

impl Language {
    /// Those of HTTP/1.1.
    pub const HTTP: [Self; 2] = [Self::Go, Self::Python];

    /// Whether it is built; if not, a reason on standard error, and a failure in continuous integration.
    #[must_use]
    pub fn is_there(self) -> bool {
        match self {
            Self::Go | Self::Grpc => tools::path_or_skip("shop", "shop").is_some(),
            Self::Python => tools::path_or_skip("shop-python", "bin/python").is_some(),
        }
    }

    /// The command of a part, in a namespace.
    fn command(self, netns: &Netns, part: &str) -> Result<Command> {
        let mut command = match self {
            Self::Go | Self::Grpc => netns.command(text(&tools::path("shop", "shop")?)?),
            Self::Python => {
                let mut python = netns.command(text(&tools::path("shop-python", "bin/python")?)?);
                python.arg(tools::repository().join("integration/apps/python/shop.py"));
                python
            }
        };
        let protocol = if self == Self::Grpc { "grpc-" } else { "" };
        command
            .arg(format!("{protocol}{part}"))
            .env("SHOP_SECRET", SECRET)
            .env("OTEL_SERVICE_NAME", format!("shop-{part}"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{RELAY}"))
            // Every span is to come: the default queue holds what a few seconds make.
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "100000")
            .env("OTEL_BSP_SCHEDULE_DELAY", "200")
            .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
            .stdin(Stdio::null());
        Ok(command)
    }

    fn server(self, netns: &Netns, address: SocketAddr) -> Result<Command> {
        let mut command = self.command(netns, "server")?;
        match self {
            Self::Go | Self::Grpc => command.arg(address.to_string()),
            Self::Python => command.args([address.ip().to_string(), address.port().to_string()]),
        };
        Ok(command)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many it has.
    pub connections: u32,
    /// Requests that a connection has at a time, at most; more than one is for gRPC.
    pub streams: u32,
    /// Requests a second, over all of them, as far as they are answered in time.
    pub rate: u32,
    /// For how long, in seconds.
    pub seconds: u32,
    /// Of so many requests one is hit; 0: none.
    pub every: u32,
}

/// A running part of the shop. Dropping it kills it.
#[derive(Debug)]
pub struct Part(Child);

impl Part {
    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It fails.
    pub fn wait(&mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Ends it; what it has to tell it tells before.
    ///
    /// # Errors
    /// It does not end in time, or fails.
    pub fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = poll::until("a part of the shop ends", || self.0.try_wait().transpose())??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It can only fail when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server in the network's `b` and waits until it listens.
///
/// # Errors
/// It is not built, or ends at once.
pub fn serve(language: Language, network: &Network, family: Family) -> Result<Part> {
    let address = SocketAddr::from((family.address(2, 2), PORT));
    let child = language.server(&network.b, address)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let part = Part(child);
    poll::until("the server listens", || network.b.inside(|| Ok(TcpStream::connect(address)?)).ok())?;
    Ok(part)
}

/// Starts a client in the network's `a`, of the server in `b`.
///
/// # Errors
/// It is not built.
pub fn ask(language: Language, network: &Network, family: Family, load: Load) -> Result<Part> {
    Ok(Part(asking(language, network, family, load)?.spawn()?))
}

fn asking(language: Language, network: &Network, family: Family, load: Load) -> Result<Command> {
    let address = SocketAddr::from((family.address(2, 2), PORT));
    let numbers = [load.connections, load.rate, load.seconds, load.every].map(|number| number.to_string());
    let mut command = language.command(&network.a, "client")?;
    command.arg(address.to_string()).args(numbers).stderr(Stdio::null());
    if language == Language::Grpc {
        command.arg(load.streams.to_string());
    }
    Ok(command)
}

/// Lets both namespaces reach a server of this one, at the address that the shop tells its spans to, until the process ends.
///
/// # Errors
/// The address is taken.
pub fn relay(network: &Network, to: &str) -> Result<()> {
    for netns in [&network.a, &network.b] {
        let listener = netns.inside(|| Ok(TcpListener::bind(("127.0.0.1", RELAY))?))?;
        let to = to.to_owned();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that cannot be reached is seen by the shop, as a connection that ends.
                if let Ok(server) = TcpStream::connect(&to) {
                    join(&stream, &server);
                }
            }
        });
    }
    Ok(())
}

/// Passes on what comes, both ways, until both are done.
fn join(one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
            spawn(move || {
                let _ = copy(&mut &from, &mut &to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}
