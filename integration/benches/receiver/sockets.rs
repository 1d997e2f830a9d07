//! One pass over all sockets by the number of sockets, against reading `/proc/<pid>/net/tcp{,6}` and against dumps over
//! netlink of each namespace, in the same run.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use jitterscope_ebpf::{
    Kernel,
    sockets::{Options, Sockets},
};
use jitterscope_integration::netns::Netns;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::{median, process::cpu};

/// Set for a process that holds so many connections.
const HOLD: &str = "JITTERSCOPE_BENCH_CONNECTIONS";

/// Namespaces that the sockets are spread over, like pods.
const NAMESPACES: usize = 10;

/// Connections of one process, two descriptors each, within a limit of 20,000.
const CONNECTIONS: usize = 9000;

/// How often each is measured; the median counts.
const TIMES: usize = 5;

/// Holds connections if this process was started for that; true if so.
pub(crate) fn held() -> Result<bool> {
    let Ok(wanted) = env::var(HOLD) else { return Ok(false) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let connect = || Ok((TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0));
    let connections = (0..wanted.parse()?).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    println!("{}", connections.len());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(true)
}

/// Prints a row for each number of sockets.
pub(crate) fn run() -> Result<()> {
    let mut pass = Sockets::open(&Kernel::read(None)?, &Options::default())?;
    for sockets in [0, 1000, 20_000, 200_000] {
        row(&mut pass, sockets)?;
    }
    Ok(())
}

fn row(pass: &mut Sockets, sockets: usize) -> Result<()> {
    let namespaces = (0..NAMESPACES).map(|_| Netns::new("bench")).collect::<Result<Vec<_>>>()?;
    let mut holders = Vec::new();
    for namespace in &namespaces {
        holders.push(Holder::new(namespace, 0)?);
        let mut left = sockets / 2 / NAMESPACES;
        while left > 0 {
            let some = left.min(CONNECTIONS);
            holders.push(Holder::new(namespace, some)?);
            left -= some;
        }
    }
    let counted = pass.pass()?.sockets;
    ensure!(counted >= sockets as u64, "{counted} of {sockets}");
    let walked = measure(|| pass.pass().map(drop).map_err(Into::into))?;
    let files = measure(|| holders.iter().step_by(holders.len() / NAMESPACES).try_for_each(read_tables))?;
    let dumps = measure(|| namespaces.iter().try_for_each(|one| one.inside(dump)))?;
    println!(
        "{sockets:>6} sockets in {NAMESPACES} namespaces: one pass {walked:.2} ms; /proc/<pid>/net/tcp{{,6}} of each {files:.2} ms, \
         {:.1} times that; sock_diag in each {dumps:.2} ms, {:.1} times",
        files / walked,
        dumps / walked
    );
    Ok(())
}

/// Processor time in milliseconds, the median of some runs.
fn measure(mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut figures = Vec::new();
    for _ in 0..TIMES {
        let before = cpu("self")?;
        let mut runs = 0;
        // The clock of processor time may tick in hundredths of a second.
        while runs == 0 || cpu("self")? - before < std::time::Duration::from_millis(200) {
            once()?;
            runs += 1;
        }
        figures.push((cpu("self")? - before).as_secs_f64() * 1e3 / f64::from(runs));
    }
    Ok(median(figures))
}

fn read_tables(holder: &Holder) -> Result<()> {
    for table in ["tcp", "tcp6"] {
        let mut file = File::open(format!("/proc/{}/net/{table}", holder.0.id()))?;
        std::io::copy(&mut file, &mut std::io::sink())?;
    }
    Ok(())
}

/// All TCP sockets of this thread's namespace with what `ss --info` would ask for.
fn dump() -> Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    let mut buffer = vec![0; 32 * 1024];
    for family in [2, 10] {
        // struct nlmsghdr and struct inet_diag_req_v2: all states, with struct tcp_info.
        let mut request = [0; 72];
        (request[0], request[4], request[6], request[7]) = (72, 20, 1, 3);
        (request[16], request[17], request[18]) = (family, 6, 2);
        request[20..24].fill(0xff);
        send(&socket, &request, SendFlags::empty())?;
        while {
            let length = recv(&socket, &mut buffer[..], RecvFlags::empty())?.0;
            !is_last(&buffer[..length])
        } {}
    }
    Ok(())
}

/// Whether an answer ends a dump, with `NLMSG_DONE`.
fn is_last(mut answer: &[u8]) -> bool {
    while let [a, b, c, d, kind, ..] = *answer {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if kind == 3 || length < 16 {
            return true;
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// A process that holds connections in a namespace; ends with the value.
struct Holder(Child);

impl Holder {
    fn new(namespace: &Netns, connections: usize) -> Result<Self> {
        let program = env::current_exe()?;
        let mut command = namespace.command(&program.to_string_lossy());
        command.env(HOLD, connections.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == connections.to_string(), "a holder of {connections} said {line}");
        ensure!(fs::exists(format!("/proc/{}/net/tcp", child.id()))?, "the holder ended");
        Ok(Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It has ended already when this fails.
        let _ = self.0.wait();
    }
}
