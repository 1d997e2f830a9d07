//! An application that others instrumented (`integration/apps`): a server and its clients in two namespaces, a relay from
//! there to a Collector, and the faults of requests whose paths say which it is.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::spawn;

use anyhow::{Context, Result, ensure};
use jitterscope_semconv::event;
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{Netns, run};
use crate::network::{Family, Network};
use crate::{poll, tools};

/// Where the server listens, on every address of its namespace.
pub const PORT: u16 = 8080;

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
}

impl Language {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Go, Self::Python];

    /// Whether it is built; if not, a reason on standard error, and a failure in continuous integration.
    #[must_use]
    pub fn is_there(self) -> bool {
        match self {
            Self::Go => tools::path_or_skip("shop", "shop").is_some(),
            Self::Python => tools::path_or_skip("shop-python", "bin/python").is_some(),
        }
    }

    /// The command of a part, in a namespace.
    fn command(self, netns: &Netns, part: &str) -> Result<Command> {
        let mut command = match self {
            Self::Go => netns.command(text(&tools::path("shop", "shop")?)?),
            Self::Python => {
                let mut python = netns.command(text(&tools::path("shop-python", "bin/python")?)?);
                python.arg(tools::repository().join("integration/apps/python/shop.py"));
                python
            }
        };
        command
            .arg(part)
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
            Self::Go => command.arg(address.to_string()),
            Self::Python => command.args([address.ip().to_string(), address.port().to_string()]),
        };
        Ok(command)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The router drops the request, once.
    RequestLost,
    /// The router drops the answer, once.
    AnswerLost,
    /// The client's own device drops the request, once.
    RequestKept,
    /// The server's own device drops the answer, once.
    AnswerKept,
    /// The router resets the client's connection in place of the request's delivery.
    Reset,
    /// The server resets the connection in place of an answer.
    Abort,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::RequestLost, Self::AnswerLost, Self::RequestKept, Self::AnswerKept, Self::Reset, Self::Abort];

    /// The beginning of the path of a request that it hits.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::RequestLost => "/request-lost/",
            Self::AnswerLost => "/answer-lost/",
            Self::RequestKept => "/request-kept/",
            Self::AnswerKept => "/answer-kept/",
            Self::Reset => "/reset/",
            Self::Abort => "/abort/",
        }
    }

    /// The events by which it shows, each with the role of whose it is.
    #[must_use]
    pub fn shows(self) -> &'static [(&'static str, &'static str)] {
        const RETRANSMITTED: &str = event::TCP_RETRANSMITTED.name;
        const DROPPED: &str = event::PACKET_DROPPED.name;
        const RESET: &str = event::TCP_RESET.name;
        match self {
            Self::RequestLost => &[(RETRANSMITTED, "client")],
            Self::AnswerLost => &[(RETRANSMITTED, "server")],
            Self::RequestKept => &[(DROPPED, "client")],
            Self::AnswerKept => &[(DROPPED, "server")],
            Self::Reset => &[(RESET, "client")],
            Self::Abort => &[(RESET, "client"), (RESET, "server")],
        }
    }
}

/// What has been dropped once passes.
const SEEN: &str = "set seen { typeof tcp sport . tcp sequence; flags dynamic; size 65536; timeout 5m; }";
const PASS: &str = "tcp sport . tcp sequence @seen accept";
const DROP_ONCE: &str = "add @seen { tcp sport . tcp sequence } counter drop";

/// Lets the faults happen: rules that find requests by their path, behind the four bytes of the method, and answers by
/// their status, behind the nine bytes of the version.
///
/// # Errors
/// No `nft`, or a kernel without its hook for what leaves a device.
pub fn inject(network: &Network) -> Result<()> {
    let starts = |text: &str, offset: usize| {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("@ih,{},{} 0x{digits}", offset * 8, text.len() * 8)
    };
    // As much of a path as a rule compares at once.
    let asks = |fault: Fault| starts(&fault.path()[..fault.path().len().min(12)], 4);
    let on_the_way = format!(
        "table inet faults {{ {SEEN}; chain forward {{ type filter hook forward priority 0; {PASS}; \
         {} {DROP_ONCE}; {} {DROP_ONCE}; {} counter reject with tcp reset; }}; }}",
        asks(Fault::RequestLost),
        starts("221", 9),
        asks(Fault::Reset)
    );
    let at_home = |what: &str| {
        format!(
            "table netdev faults {{ {SEEN}; chain out {{ type filter hook egress device eth0 priority 0; {PASS}; \
             {what} {DROP_ONCE}; }}; }}"
        )
    };
    let rules = [
        (&network.router, on_the_way),
        (&network.a, at_home(&asks(Fault::RequestKept))),
        (&network.b, at_home(&starts("222", 9))),
    ];
    rules.iter().try_for_each(|(netns, rules)| run(netns.command("nft").arg(rules)).map(drop))
}

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many it has, each with one request at a time.
    pub connections: u32,
    /// Requests a second, over all of them.
    pub rate: u32,
    /// For how long, in seconds.
    pub seconds: u32,
    /// Of so many requests one is hit.
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
    let address = SocketAddr::from((family.address(2, 2), PORT));
    let numbers = [load.connections, load.rate, load.seconds, load.every].map(|number| number.to_string());
    let mut command = language.command(&network.a, "client")?;
    Ok(Part(command.arg(address.to_string()).args(numbers).stderr(Stdio::null()).spawn()?))
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
