//! The HTTP server of `glioseg view`: answers are made by a plain function, connections are bounded in number and time.
//!
//! Whoever sends or reads slowly holds a connection and nothing else: no thread waits for a client. A client that stops reading
//! is cut off after a minute, one that does not finish its head after ten seconds, and the body of a request is not read at all.

use std::convert::Infallible;
use std::fs::File;
use std::future::Future as _;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Sleep, sleep};

/// Connections at once; more wait until one ends.
const CONNECTIONS: usize = 512;
/// Time for the head of a request, and for an idle connection.
const HEAD: Duration = Duration::from_secs(10);
/// Time for a client to take the next bytes.
const WRITE: Duration = Duration::from_mins(1);
/// Bytes of a file that are in memory at a time.
const CHUNK: usize = 1 << 16;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content: Content,
}

/// What an answer holds.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    /// The next `length` bytes of a file.
    File {
        file: File,
        length: u64,
    },
}

/// Answers requests by `handler` until the process ends. It may read files; the body of a request it does not get.
pub(crate) fn serve(
    listener: TcpListener,
    handler: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static,
) -> io::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(accept(listener, Arc::new(handler)))
}

async fn accept<H>(listener: TcpListener, handler: Arc<H>) -> io::Result<Infallible>
where
    H: Fn(&Request<()>) -> Reply + Send + Sync + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, say: others end some time.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&handler), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .title_case_headers(true)
                .serve_connection(Patient::new(stream), service);
            // A client that went away is not an error.
            let _ = connection.await;
            drop(place);
        });
    }
}

async fn answer<H>(handler: Arc<H>, request: Request<Incoming>) -> Result<Response<Sent>, Infallible>
where
    H: Fn(&Request<()>) -> Reply + Send + Sync + 'static,
{
    let (head, _) = request.into_parts();
    let made = spawn_blocking(move || handler(&Request::from_parts(head, ()))).await;
    Ok(made.unwrap_or_else(|_| Reply::plain(500, "the request could not be answered")).into_response())
}

impl Reply {
    /// A line of text.
    pub(crate) fn plain(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), content: Content::Text(text.to_owned()) }
    }

    fn into_response(self) -> Response<Sent> {
        let body = match self.content {
            Content::Text(text) => Sent { left: text.len() as u64, source: SentFrom::Memory(text.into()) },
            Content::File { file, length } => Sent { left: length, source: SentFrom::File(file) },
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let length = response.body().left;
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, length.into());
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value)
                && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// The body of an answer.
struct Sent {
    /// Bytes still to be sent.
    left: u64,
    source: SentFrom,
}

enum SentFrom {
    Memory(Bytes),
    File(File),
    /// The next bytes are being read, on a thread that waits for the disk only.
    Reading(JoinHandle<io::Result<(File, Bytes)>>),
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        loop {
            match std::mem::replace(&mut self.source, SentFrom::Memory(Bytes::new())) {
                SentFrom::Memory(bytes) => {
                    self.left = 0;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                SentFrom::File(file) => {
                    let length = self.left.min(CHUNK as u64);
                    self.source = SentFrom::Reading(spawn_blocking(move || read(file, length)));
                }
                SentFrom::Reading(mut handle) => {
                    let Poll::Ready(done) = Pin::new(&mut handle).poll(context) else {
                        self.source = SentFrom::Reading(handle);
                        return Poll::Pending;
                    };
                    let (file, bytes) = match done.map_err(io::Error::other).flatten() {
                        Ok(read) => read,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    self.left -= bytes.len() as u64;
                    self.source = SentFrom::File(file);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn read(file: File, length: u64) -> io::Result<(File, Bytes)> {
    let mut bytes = Vec::with_capacity(length as usize);
    (&file).take(length).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok((file, bytes.into()))
}

/// A connection whose client has [`WRITE`] to take the next bytes.
struct Patient {
    stream: TokioIo<TcpStream>,
    /// Runs while bytes wait.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Self { stream: TokioIo::new(stream), limit: None }
    }

    /// Ends in an error once the limit is over.
    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.limit = None;
            return polled;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(sleep(WRITE)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
