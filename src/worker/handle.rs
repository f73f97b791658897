//! Starting, asking and stopping a worker from other threads.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::egress::Egress;
use super::lane::Lane;
use super::{Director, MAX_PORTS, PortCounters, Worker, clock};
use crate::buf::Out;
use crate::io::{Port, PortInfo, Slots};
use crate::time::Mono;

/// Commands that may wait for a worker.
const QUEUE: usize = 64;

pub(super) type Command<D> = Box<dyn FnOnce(&mut D, Mono, &mut Out) + Send>;

pub(super) enum Message<D> {
    Run(Command<D>),
    Stop,
}

/// The worker is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker has stopped")
    }
}

impl std::error::Error for Stopped {}

/// A running worker. Dropping the handle stops it.
pub struct Handle<D> {
    commands: mpsc::Sender<Message<D>>,
    bell: Arc<UnixStream>,
    thread: Option<JoinHandle<D>>,
    ports: Vec<(PortInfo, PortCounters)>,
}

/// Asks a running worker, from any task; does not keep it running.
pub struct Asker<D> {
    commands: mpsc::Sender<Message<D>>,
    bell: Arc<UnixStream>,
}

impl<D> Clone for Asker<D> {
    fn clone(&self) -> Asker<D> {
        Asker { commands: self.commands.clone(), bell: self.bell.clone() }
    }
}

impl<D: Director + Send + 'static> Asker<D> {
    /// Runs `f` in the worker between two turns and gives its result.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn ask<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut D, Mono, &mut Out) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (message, answer) = question(f);
        self.commands.send(message).await.map_err(|_| Stopped)?;
        ring(&self.bell);
        answer.await.map_err(|_| Stopped)
    }
}

/// Starts a worker thread `name` that drives `director` over `ports`; their order is that of
/// [`crate::engine::PortId`]. The thread stays in the caller's network namespace.
///
/// # Errors
/// Too many ports (`InvalidInput`), or no thread or descriptor to be had.
pub fn start<D: Director + Send + 'static>(
    name: &str,
    director: D,
    ports: Vec<Box<dyn Port>>,
) -> io::Result<Handle<D>> {
    if ports.len() > MAX_PORTS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {MAX_PORTS} ports")));
    }
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let now = clock::now();
    let counters: Vec<_> = ports.iter().map(|p| (p.info().clone(), PortCounters::default())).collect();
    let lanes =
        ports.into_iter().zip(&counters).map(|(port, (_, c))| Lane::new(port, c.clone(), now)).collect();
    let worker = Worker {
        director,
        lanes,
        slots: Slots::for_burst(),
        out: Out::new(),
        egress: Egress::default(),
        commands: receiver,
        bell: far,
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
    Ok(Handle { commands: sender, bell: Arc::new(near), thread: Some(thread), ports: counters })
}

impl<D: Director + Send + 'static> Handle<D> {
    /// Runs `f` in the worker between two turns and gives its result. Blocks the calling thread; in
    /// asynchronous code use [`Handle::ask`].
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut D, Mono, &mut Out) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (message, answer) = question(f);
        self.commands.blocking_send(message).map_err(|_| Stopped)?;
        self.ring();
        answer.blocking_recv().map_err(|_| Stopped)
    }

    /// For other tasks to ask this worker.
    pub fn asker(&self) -> Asker<D> {
        Asker { commands: self.commands.clone(), bell: self.bell.clone() }
    }

    /// Runs `f` in the worker between two turns and gives its result.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn ask<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut D, Mono, &mut Out) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        self.asker().ask(f).await
    }

    /// Stops the worker after its current turn and gives the director back.
    ///
    /// # Errors
    /// [`Stopped`] when the worker had ended by itself, which it does only by a panic.
    pub fn stop(mut self) -> Result<D, Stopped> {
        self.halt().ok_or(Stopped)?.map_err(|_| Stopped)
    }
}

impl<D> Handle<D> {
    /// The ports with their counters, in the order of their numbers.
    pub fn ports(&self) -> &[(PortInfo, PortCounters)] {
        &self.ports
    }
    /// True when the worker thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn ring(&self) {
        ring(&self.bell);
    }

    fn halt(&mut self) -> Option<std::thread::Result<D>> {
        let thread = self.thread.take()?;
        let mut message = Message::Stop;
        // the queue is emptied every turn; this may run where blocking sends are not allowed
        while let Err(mpsc::error::TrySendError::Full(back)) = self.commands.try_send(message) {
            message = back;
            self.ring();
            std::thread::yield_now();
        }
        self.ring();
        Some(thread.join())
    }
}

fn ring(mut bell: &UnixStream) {
    // a full pipe has rung already
    let _ = bell.write(&[1]);
}

fn question<D, R: Send + 'static>(
    f: impl FnOnce(&mut D, Mono, &mut Out) -> R + Send + 'static,
) -> (Message<D>, oneshot::Receiver<R>) {
    let (tell, answer) = oneshot::channel();
    let command: Command<D> = Box::new(move |director, now, out| {
        // nobody waits any more: fine
        let _ = tell.send(f(director, now, out));
    });
    (Message::Run(command), answer)
}

impl<D> Drop for Handle<D> {
    fn drop(&mut self) {
        self.halt();
    }
}
