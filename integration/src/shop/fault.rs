//! What goes wrong with requests of the shop, and the rules for packets that make it so.

use anyhow::Result;
use jitterscope_semconv::event;

use crate::netns::run;
use crate::network::Network;

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

/// Longer than any packet without data, the head of Ethernet included.
const DATA: u32 = 120;

/// What finds the packets of a fault, each a part of a rule: a text at an offset in their data, or their connection's mark,
/// which is in the field for differentiated services and from 1 on in the order of all.
fn of(fault: Fault, text: &str, offset: usize) -> [String; 3] {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("@ih,{},{} 0x{digits}", offset * 8, text.len() * 8);
    let mark = 1 + Fault::ALL.iter().take_while(|other| **other != fault).count();
    let marked = |family: &str| format!("{family} dscp {mark} meta length > {DATA}");
    [text, marked("ip"), marked("ip6")]
}

/// Lets the faults happen: rules that find requests of HTTP/1.1 by their path, behind the four bytes of the method, and answers
/// by their status, behind the nine bytes of the version; and both of gRPC by a mark.
///
/// # Errors
/// No `nft`, or a kernel without its hook for what leaves a device.
pub fn inject(network: &Network) -> Result<()> {
    // As much of a path as a rule compares at once.
    let asks = |fault: Fault| of(fault, &fault.path()[..fault.path().len().min(12)], 4);
    let answers = |fault: Fault, status: &str| of(fault, status, 9);
    let each = |found: [String; 3], verdict: &str| found.map(|one| format!("{one} {verdict}; ")).concat();
    let on_the_way = format!(
        "table inet faults {{ {SEEN}; chain forward {{ type filter hook forward priority 0; {PASS}; {}{}{}}}; }}",
        each(asks(Fault::RequestLost), DROP_ONCE),
        each(answers(Fault::AnswerLost, "221"), DROP_ONCE),
        each(asks(Fault::Reset), "counter reject with tcp reset")
    );
    let at_home = |found: [String; 3]| {
        format!(
            "table netdev faults {{ {SEEN}; chain out {{ type filter hook egress device eth0 priority 0; {PASS}; {}}}; }}",
            each(found, DROP_ONCE)
        )
    };
    let rules = [
        (&network.router, on_the_way),
        (&network.a, at_home(asks(Fault::RequestKept))),
        (&network.b, at_home(answers(Fault::AnswerKept, "222"))),
    ];
    rules.iter().try_for_each(|(netns, rules)| run(netns.command("nft").arg(rules)).map(drop))
}
