//! Starting, asking and stopping a worker from other threads.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::egress::Egress;
use super::lane::Lanes;
use super::mail::Mail;
use super::patience::{Linger, Patience};
use super::ring::Bell;
use super::stopwatch::{Pace, PaceStats, Stopwatch};
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
    bell: Arc<Bell>,
    thread: Option<JoinHandle<D>>,
    ports: Vec<(PortInfo, PortCounters)>,
    pace: Pace,
}

/// Asks a running worker, from any task; does not keep it running.
pub struct Asker<D> {
    commands: mpsc::Sender<Message<D>>,
    bell: Arc<Bell>,
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
        self.bell.ring();
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
    let queues = ports.into_iter().map(|port| vec![port]).collect();
    let mut handles = start_all(&[name.to_owned()], vec![(director, queues)], &Linger::default())?;
    handles.pop().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A director of one of several workers, with its queues of each port.
pub type Post<D> = (D, Vec<Vec<Box<dyn Port>>>);

/// Starts several workers that hand packets over to one another, one for each post and name, all of which look
/// for packets as long as `linger` says; as [`start`].
///
/// # Errors
/// Too many queues (`InvalidInput`), or no thread or descriptor to be had: none is running then.
pub fn start_all<D: Director + Send + 'static>(
    names: &[String],
    posts: Vec<Post<D>>,
    linger: &Linger,
) -> io::Result<Vec<Handle<D>>> {
    let many = |queues: &Vec<Vec<Box<dyn Port>>>| queues.iter().map(Vec::len).sum::<usize>() > MAX_PORTS;
    if posts.iter().any(|(_, queues)| many(queues) || queues.iter().any(Vec::is_empty)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {MAX_PORTS} ports")));
    }
    let mut bells = Vec::new();
    let mut ends = Vec::new();
    for _ in &posts {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        bells.push(Arc::new(Bell::new(near)));
        ends.push(far);
    }
    let mut handles = Vec::new();
    let mails = Mail::between(&bells);
    for ((((director, queues), mut mail), (bell, far)), name) in
        posts.into_iter().zip(mails).zip(bells.into_iter().zip(ends)).zip(names)
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let info = |queues: &Vec<Box<dyn Port>>| {
            queues.first().map(|port| (port.info().clone(), PortCounters::default()))
        };
        let ports: Vec<_> = queues.iter().filter_map(info).collect();
        let counted = queues.into_iter().zip(ports.iter().map(|(_, c)| c.clone())).collect();
        let pace = Pace::default();
        mail.pace(pace.clone());
        let worker = Worker {
            director,
            lanes: Lanes::new(counted, clock::now()),
            mail,
            slots: Slots::for_burst(),
            out: Out::new(),
            egress: Egress::default(),
            stopwatch: Stopwatch::new(pace.clone()),
            patience: Patience::new(linger.clone()),
            commands: receiver,
            bell: far,
            ringer: bell.clone(),
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || worker.run())?;
        handles.push(Handle { commands: sender, bell, thread: Some(thread), ports, pace });
    }
    Ok(handles)
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
    /// How long packets were in the core.
    pub fn pace(&self) -> PaceStats {
        self.pace.read()
    }
    /// True when the worker thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn ring(&self) {
        self.bell.ring();
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
