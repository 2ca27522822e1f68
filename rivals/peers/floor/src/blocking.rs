//! Sockets of std, TCP and Unix. Nothing is done per message: what is measured is the kernel.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use harness::{Arguments, Received, Recorder, Result, Role};

const BUFFER: usize = 256 * 1024;

pub(crate) fn run(role: Role, spin: bool) -> Result<()> {
    match role {
        Role::Server(arguments) => listen(&arguments, spin, |mut stream, spin| {
            let mut buffer = vec![0; BUFFER];
            loop {
                let length = read(&mut stream, &mut buffer, spin)?;
                write(&mut stream, &buffer[..length], spin)?;
            }
        }),
        Role::Client(arguments) => arguments.call_blocking(|recorder| {
            // Each connection is a thread with its share of the calls in flight.
            let share = arguments.in_flight.div_ceil(arguments.connections);
            let threads = (0..arguments.connections).map(|_| {
                let (recorder, arguments) = (Arc::clone(&recorder), arguments.clone());
                thread::spawn(move || load(&arguments, share, spin, &recorder))
            });
            for thread in threads.collect::<Vec<_>>() {
                thread.join().map_err(|_| "a caller has panicked")??;
            }
            Ok(())
        }),
        Role::Receiver(arguments) => {
            let size = arguments.size;
            arguments.receive_blocking(|received| {
                listen(&arguments, spin, move |stream, _| {
                    count(stream, size, &received)
                })
            })
        }
        Role::Sender(arguments) => {
            let mut stream = dial(&arguments.at, spin)?;
            let block = vec![b'x'; (64 * 1024 / arguments.size).max(1) * arguments.size];
            loop {
                stream.write_all(&block)?;
            }
        }
    }
}

/// A TCP or Unix socket.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

fn prepare(stream: TcpStream, spin: bool) -> io::Result<Box<dyn Stream>> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(spin)?;
    Ok(Box::new(stream))
}

fn dial(at: &str, spin: bool) -> io::Result<Box<dyn Stream>> {
    if at.starts_with('/') {
        return Ok(Box::new(UnixStream::connect(at)?));
    }
    prepare(TcpStream::connect(at)?, spin)
}

/// Serves each connection on a thread of its own.
fn listen(
    arguments: &Arguments,
    spin: bool,
    serve: impl Fn(Box<dyn Stream>, bool) -> io::Result<()> + Clone + Send + 'static,
) -> Result<()> {
    let mut accept: Box<dyn FnMut() -> io::Result<Box<dyn Stream>>> =
        if arguments.at.starts_with('/') {
            let listener = UnixListener::bind(&arguments.at)?;
            Box::new(move || Ok(Box::new(listener.accept()?.0)))
        } else {
            let listener = TcpListener::bind(&arguments.at)?;
            Box::new(move || prepare(listener.accept()?.0, spin))
        };
    loop {
        let (stream, serve) = (accept()?, serve.clone());
        // A connection ends when its client does.
        thread::spawn(move || serve(stream, spin));
    }
}

/// Keeps `window` messages on the way: what was answered is sent again, in one write.
fn load(arguments: &Arguments, window: usize, spin: bool, recorder: &Arc<Recorder>) -> Result<()> {
    let size = arguments.size;
    let mut stream = dial(&arguments.at, spin)?;
    let mut lap = recorder.lap();
    let block = vec![b'x'; window * size];
    let mut buffer = vec![0; BUFFER];
    let mut sent = VecDeque::from([(Instant::now(), window)]);
    write(&mut stream, &block, spin)?;
    let mut bytes = 0;
    loop {
        bytes += read(&mut stream, &mut buffer, spin)?;
        let mut answered = bytes / size;
        bytes %= size;
        let now = Instant::now();
        let again = answered;
        while answered > 0 {
            let (since, count) = sent.front_mut().ok_or("an answer to nothing")?;
            let taken = answered.min(*count);
            if !lap.answered(*since, now, taken) {
                return Ok(());
            }
            answered -= taken;
            *count -= taken;
            if *count == 0 {
                sent.pop_front();
            }
        }
        if again > 0 {
            sent.push_back((now, again));
            write(&mut stream, &block[..again * size], spin)?;
        }
    }
}

fn count(mut stream: Box<dyn Stream>, size: usize, received: &Received) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        bytes += read(&mut stream, &mut buffer, false)?;
        received.add((bytes / size) as u64);
        bytes %= size;
    }
}

/// Reads something; with `spin` the socket does not block, and the processor is not given away.
fn read(stream: &mut impl Read, buffer: &mut [u8], spin: bool) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if spin && error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            result => return result,
        }
    }
}

fn write(stream: &mut impl Write, mut bytes: &[u8], spin: bool) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if spin && error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
