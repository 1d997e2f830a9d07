//! A line as bad as lines can be: a proxy that cuts, delays, swallows, cuts short and swaps what it passes on, by chance
//! that a seed repeats.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::random::Random;

/// What becomes of a piece that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes late.
    Delayed,
    /// The connection is closed in its place.
    Cut,
    /// Half of it comes, and the connection is closed.
    CutShort,
    /// Neither it nor anything after it comes, and the connection stays.
    Swallowed,
    /// Its halves come in the wrong order.
    Swapped,
}

impl Fate {
    /// All, each in this many of a hundred pieces of an answer.
    const CHANCES: [(Self, u64); 5] =
        [(Self::Delayed, 12), (Self::Cut, 4), (Self::CutShort, 4), (Self::Swallowed, 2), (Self::Swapped, 4)];

    fn draw(random: &mut Random) -> Option<Self> {
        let mut at = random.within(0..100);
        for (fate, chance) in Self::CHANCES {
            if at < chance {
                return Some(fate);
            }
            at -= chance;
        }
        None
    }
}

#[derive(Debug, Default)]
struct State {
    calm: AtomicBool,
    fates: [AtomicUsize; Fate::CHANCES.len()],
}

/// A proxy on loopback. Ends when it is dropped, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one that passes on to `to`.
    ///
    /// # Panics
    /// It cannot listen.
    pub async fn start(to: String, random: Random) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn(listen(listener, to, random, Arc::clone(&state)));
        Self { address, state, task }
    }

    /// From now on it does no harm.
    pub fn calm(&self) {
        self.state.calm.store(true, Relaxed);
    }

    /// How often each was done.
    #[must_use]
    pub fn fates(&self) -> Vec<(Fate, usize)> {
        let counts = self.state.fates.iter().map(|count| count.load(Relaxed));
        Fate::CHANCES.iter().map(|(fate, _)| *fate).zip(counts).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, to: String, random: Random, state: Arc<State>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((near, _)) = listener.accept().await {
        number += 1;
        let (to, state, random) = (to.clone(), Arc::clone(&state), random.part(number));
        connections.spawn(async move {
            // A server that is away refuses, and so does its proxy.
            let Ok(far) = TcpStream::connect(to).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            // A request whose bytes are changed is another one, which is rightly refused.
            let harmless = |fate: &Fate, random: &mut Random| *fate != Fate::Swapped && random.percent(20);
            let requests = pass(near_read, far_write, random.part(1), harmless, &state);
            let answers = pass(far_read, near_write, random.part(2), |_, _| true, &state);
            // Whichever end closes, the other is closed too.
            tokio::select! {
                () = requests => {}
                () = answers => {}
            }
        });
    }
}

/// Passes on piece by piece, each with what chance and `allowed` want for it.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut random: Random,
    allowed: impl Fn(&Fate, &mut Random) -> bool,
    state: &State,
) {
    let mut piece = vec![0; 64 << 10];
    let mut swallowed = false;
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        let fate = Fate::draw(&mut random).filter(|fate| allowed(fate, &mut random));
        let fate = fate.filter(|_| !state.calm.load(Relaxed));
        if swallowed {
            continue;
        }
        let mut content = &piece[..length];
        let swapped;
        if let Some(fate) = fate {
            state.fates[fate as usize].fetch_add(1, Relaxed);
            match fate {
                Fate::Delayed => tokio::time::sleep(Duration::from_millis(random.within(1..400))).await,
                Fate::Cut => return,
                Fate::CutShort => content = &content[..length / 2],
                Fate::Swallowed => {
                    swallowed = true;
                    continue;
                }
                Fate::Swapped => {
                    let (first, second) = content.split_at(length / 2);
                    swapped = [second, first].concat();
                    content = &swapped;
                }
            }
        }
        if to.write_all(content).await.is_err() || fate == Some(Fate::CutShort) {
            return;
        }
    }
}
