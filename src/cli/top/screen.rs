//! The terminal: taken at the start, given back at the end, whatever the end is. Keys, looks and signals
//! come from threads of their own, so a director that hangs does not hold up a key.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};

use super::draw::draw;
use super::model::{Action, Look, Model, Order, View};
use crate::cli::client;
use crate::cli::control::look;
use crate::cli::error::Failure;
use crate::worker::clock;

/// Rows of a page.
const PAGE: isize = 10;
/// How long nothing has to come before a frame is drawn, and so a flood of keys makes one.
const SETTLED: Duration = Duration::from_millis(10);

/// What comes from the threads.
enum News {
    Key(KeyEvent),
    Resized,
    Look(Result<Box<Look>, Failure>),
    /// A signal to end.
    End,
    /// Keys cannot be read any more.
    NoKeys(io::Error),
}

/// The terminal while it is ours.
struct Taken(ratatui::DefaultTerminal);

impl Taken {
    fn take() -> io::Result<Taken> {
        // what was done until it failed is taken back
        ratatui::try_init().map(Taken).inspect_err(|_| drop(ratatui::try_restore()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // a terminal that is gone needs nothing
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// Shows the director until a key, a signal or `count` looks end it.
///
/// # Errors
/// There is no director at the start, or the terminal fails.
pub fn run(control: Option<String>, every: Duration, count: Option<u64>) -> Result<(), Failure> {
    let first = fetch(control.as_deref())?;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut model = Model { colour, ..Model::default() };
    model.take(first);
    let failed =
        |e: io::Error| Failure::run("cannot use the terminal", e.to_string(), "try `softlvs top | cat`");
    let (sender, news) = channel();
    // before the terminal is taken, so that a signal in between gives it back
    signals(sender.clone()).map_err(failed)?;
    let mut terminal = Taken::take().map_err(failed)?;
    std::thread::spawn({
        let sender = sender.clone();
        move || keys(&sender)
    });
    std::thread::spawn(move || looks(control.as_deref(), every, &sender));
    let mut left = count.map(|n| n.saturating_sub(1));
    let mut drawn = false;
    loop {
        if left == Some(0) && drawn {
            return Ok(());
        }
        let next = match drawn {
            true => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => news.recv_timeout(SETTLED),
        };
        match next {
            Err(RecvTimeoutError::Timeout) => {
                terminal.0.draw(|frame| draw(frame, &model)).map_err(failed)?;
                drawn = true;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) | Ok(News::End) => return Ok(()),
            Ok(News::Key(key)) => match meant(key) {
                Meant::End => return Ok(()),
                Meant::Act(action) => model.act(action),
                Meant::Nothing => continue,
            },
            Ok(News::Resized) => {}
            Ok(News::Look(Ok(look))) => {
                left = left.map(|n| n.saturating_sub(1));
                model.take(*look);
            }
            Ok(News::Look(Err(failure))) => {
                let said = failure.messages().join("; ").replace("\nhelp: ", "; ");
                model.trouble = Some(said.trim_start_matches("error: ").to_owned());
            }
            Ok(News::NoKeys(e)) => return Err(failed(e)),
        }
        drawn = false;
    }
}

fn fetch(control: Option<&str>) -> Result<Look, Failure> {
    let mut director = client::connect(control)?;
    let all = look(&mut director)?;
    let counters = director.get("/v1/counters")?;
    Ok(Look::read(clock::now(), &all, &counters))
}

fn looks(control: Option<&str>, every: Duration, to: &Sender<News>) {
    loop {
        std::thread::sleep(every);
        if to.send(News::Look(fetch(control).map(Box::new))).is_err() {
            return;
        }
    }
}

fn keys(to: &Sender<News>) {
    loop {
        let news = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(e) => News::NoKeys(e),
        };
        let last = matches!(news, News::NoKeys(_));
        if to.send(news).is_err() || last {
            return;
        }
    }
}

/// Signals that end programs come as news from now on.
fn signals(to: Sender<News>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    drop(inside);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
                _ = quit.recv() => {}
            }
        });
        // who listened has ended by itself: fine
        let _ = to.send(News::End);
    });
    Ok(())
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    End,
    Act(Action),
    Nothing,
}

/// The keys, once.
pub(super) fn meant(key: KeyEvent) -> Meant {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if matches!(key.code, KeyCode::Char('c' | 'd')) { Meant::End } else { Meant::Nothing };
    }
    Meant::Act(match key.code {
        KeyCode::Char('q' | 'Q') => return Meant::End,
        KeyCode::Char('1') => Action::Show(View::Services),
        KeyCode::Char('2') => Action::Show(View::Reals),
        KeyCode::Char('3') => Action::Show(View::Rates),
        KeyCode::Tab => Action::Next,
        KeyCode::Char('o') => Action::Order(Order::Listed),
        KeyCode::Char('n') => Action::Order(Order::Name),
        KeyCode::Char('w') => Action::Order(Order::Weight),
        KeyCode::Char('a') => Action::Order(Order::Active),
        KeyCode::Char('i') => Action::Order(Order::Inactive),
        KeyCode::Char('c') => Action::Order(Order::Traffic(0)),
        KeyCode::Char('p') => Action::Order(Order::Traffic(1)),
        KeyCode::Char('b') => Action::Order(Order::Traffic(3)),
        KeyCode::Char('P') => Action::Order(Order::Traffic(2)),
        KeyCode::Char('B') => Action::Order(Order::Traffic(4)),
        KeyCode::Char('t') => Action::Sums,
        KeyCode::Char(' ') => Action::Pause,
        KeyCode::Enter => Action::Enter,
        KeyCode::Esc | KeyCode::Backspace => Action::Back,
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::PageDown => Action::Move(PAGE),
        KeyCode::PageUp => Action::Move(-PAGE),
        KeyCode::Home => Action::Move(isize::MIN),
        KeyCode::End => Action::Move(isize::MAX),
        _ => return Meant::Nothing,
    })
}
