//! `glioseg view`: a folder of reports and volumes for the browser on this machine.
//!
//! A page opened from the disk may not read the files next to it, so a small server stands in. It serves what reports
//! consist of and nothing else: no hidden file, nothing outside the folder, no other kind of file, and only to who asks
//! for it by the address it listens on (a foreign page cannot reach it under a name of its own).

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hyper::{Method, Request};

use super::{Outcome, print};
use crate::problem::Problem;
use crate::ui::Ui;
use crate::web::{self, Content, Reply};

/// Kinds of files that are served, with their media types.
const KINDS: [(&str, &str); 9] = [
    (".html", "text/html; charset=utf-8"),
    (".nii.gz", "application/gzip"),
    (".nii", "application/octet-stream"),
    (".json", "application/json"),
    (".csv", "text/csv; charset=utf-8"),
    (".txt", "text/plain; charset=utf-8"),
    (".png", "image/png"),
    (".svg", "image/svg+xml"),
    (".pdf", "application/pdf"),
];
/// Entries of a folder's page at most.
const LISTED: usize = 2000;

/// Serves a folder of reports and volumes to a browser on this machine, until Ctrl+C.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg view glioseg-demo\n\n\
    Only this machine can ask (127.0.0.1); --address opens it to a network, without any password. Served are reports \
    (.html),\nvolumes (.nii, .nii.gz), tables and pictures inside the folder, no hidden files.")]
pub(crate) struct View {
    /// Folder that holds reports and the volumes they show, or a report in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub(crate) path: PathBuf,
    /// Port; 0 takes any free one
    #[arg(short, long, default_value_t = 8421)]
    pub(crate) port: u16,
    /// Address to listen on; anything but 127.0.0.1 lets other machines read the folder
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) address: IpAddr,
}

pub(crate) fn run(options: &View, ui: &Ui) -> anyhow::Result<Outcome> {
    let path = options.path.canonicalize().map_err(|e| {
        Problem::new(format!("cannot open {}: {e}", options.path.display()), "give a folder, or a report")
    })?;
    let (folder, page) = if path.is_file() {
        let parent = path.parent().unwrap_or(&path).to_owned();
        (parent, path.file_name().map(|n| n.to_string_lossy().into_owned()))
    } else {
        (path.clone(), None)
    };
    let listener = listen(options)?;
    let address = listener.local_addr().context("the server has no address")?;
    if !options.address.is_loopback() {
        ui.warn("other machines can read this folder now: there is no password");
    }
    let page = page.or_else(|| only_report(&folder)).map(|p| encode(&p)).unwrap_or_default();
    print(&format!("http://{address}/{page}"))?;
    ui.say(&format!("serving {} until Ctrl+C; open the address above in a browser", folder.display()));
    match web::serve(listener, move |request| answer(request, &folder, address)) {
        Err(error) => Err(error).context("the server has ended"),
        Ok(never) => match never {},
    }
}

fn listen(options: &View) -> anyhow::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(options.address, options.port)).map_err(|e| {
        Problem::new(
            format!("cannot listen on {}:{}: {e}", options.address, options.port),
            "another program may use the port: choose another with --port, or any free one with --port 0",
        )
    })
}

/// The report of a folder that has one.
fn only_report(folder: &Path) -> Option<String> {
    let names =
        std::fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut reports = names.filter(|n| is_page(n));
    reports.next().filter(|_| reports.next().is_none())
}

fn answer(request: &Request<()>, folder: &Path, address: SocketAddr) -> Reply {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(405, "only reading is possible");
    }
    if !header("Host").is_some_and(|host| host_is_ours(host, address)) {
        return refuse(421, "asked for under another name");
    }
    let path = request.uri().path();
    let Some(file) = resolve(folder, path) else { return refuse(404, "there is no such file here") };
    if file.is_dir() {
        if !path.ends_with('/') {
            // Links of the page are relative to the folder.
            let mut reply = Reply::plain(308, "");
            reply.headers.push(("Location", format!("{path}/")));
            return reply;
        }
        return secure(Reply::plain(200, &listing(folder, &file)), KINDS[0].1);
    }
    let Some(kind) = kind(&file) else { return refuse(404, "there is no such file here") };
    serve(&file, kind, header("Range")).unwrap_or_else(|_| refuse(404, "the file cannot be read"))
}

/// Whether a request names this server: its address, or this machine's own name for itself.
fn host_is_ours(host: &str, address: SocketAddr) -> bool {
    let own = [address.to_string(), format!("localhost:{}", address.port())];
    // A server for a network is asked for by names that it does not know.
    !address.ip().is_loopback() || own.iter().any(|o| o.eq_ignore_ascii_case(host))
}

fn is_page(name: &str) -> bool {
    kind(Path::new(name)) == Some(KINDS[0].1)
}

fn kind(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?.to_ascii_lowercase();
    KINDS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind)
}

/// The file or folder of a path of a request; `None` where it is not there, hidden, or outside `folder` (by `..` or by a link).
fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let decoded = decode(path)?;
    let relative = Path::new(decoded.trim_start_matches('/'));
    let plain = relative.components().all(|c| match c {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    });
    if !plain || decoded.contains(['\\', '\0']) {
        return None;
    }
    let file = folder.join(relative).canonicalize().ok()?;
    file.starts_with(folder).then_some(file)
}

/// `%20` and the like become bytes; `None` if that is not text.
fn decode(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let digits = std::str::from_utf8(bytes.get(i + 1..i + 3)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// A name as it stands in an address.
fn encode(name: &str) -> String {
    let byte = |b: u8| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    name.bytes().map(byte).collect()
}

fn serve(path: &Path, kind: &str, range: Option<&str>) -> std::io::Result<Reply> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let (start, end, status) = match range.map(|r| parse_range(r, size)) {
        None | Some(Range::Whole) => (0, size, 200),
        Some(Range::Part(start, end)) => (start, end, 206),
        Some(Range::Outside) => {
            let mut reply = Reply::plain(416, "");
            reply.headers.push(("Content-Range", format!("bytes */{size}")));
            return Ok(reply);
        }
    };
    file.seek(SeekFrom::Start(start))?;
    let content = Content::File { file, length: end - start };
    let mut reply = secure(Reply { status, headers: Vec::new(), content }, kind);
    reply.headers.push(("Accept-Ranges", "bytes".to_owned()));
    if status == 206 {
        reply.headers.push(("Content-Range", format!("bytes {start}-{}/{size}", end - 1)));
    }
    Ok(reply)
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// None that is understood: the whole file.
    Whole,
    /// From, and one past the last byte.
    Part(u64, u64),
    /// Nothing of it is in the file.
    Outside,
}

/// `bytes=0-99`, `bytes=100-`, `bytes=-100`; of several ranges none.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((from, to)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Range::Whole;
    };
    let (from, to) = (from.trim(), to.trim());
    let part = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => (from, to.saturating_add(1).min(size)),
        (Ok(from), Err(_)) if to.is_empty() => (from, size),
        (Err(_), Ok(last)) if from.is_empty() => (size.saturating_sub(last), size),
        _ => return Range::Whole,
    };
    if part.0 < part.1 { Range::Part(part.0, part.1) } else { Range::Outside }
}

fn refuse(status: u16, why: &str) -> Reply {
    secure(Reply::plain(status, why), "text/plain; charset=utf-8")
}

fn secure(mut reply: Reply, kind: &str) -> Reply {
    // No other site may read or frame what is served; files change, so they are asked for again.
    for (name, value) in [
        ("Content-Type", kind),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ] {
        reply.headers.push((name, value.to_owned()));
    }
    reply
}

/// A page that lists the reports and folders of a folder.
fn listing(root: &Path, folder: &Path) -> String {
    let mut names: Vec<(bool, String)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| (e.path().is_dir(), e.file_name().to_string_lossy().into_owned()))
        .filter(|(is_folder, name)| !name.starts_with('.') && (*is_folder || kind(Path::new(name)).is_some()))
        .collect();
    // Reports first, then folders, then the rest.
    names.sort_by_key(|(is_folder, name)| (!is_page(name), !*is_folder, name.clone()));
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let row = |(is_folder, name): &(bool, String)| {
        let slash = if *is_folder { "/" } else { "" };
        format!("<li><a href=\"{}{slash}\">{}{slash}</a></li>\n", encode(name), escape(name))
    };
    let more = if names.len() > LISTED {
        format!("<p>and {} more</p>", names.len() - LISTED)
    } else {
        String::new()
    };
    let rows: String = names.iter().take(LISTED).map(row).collect();
    let up = if folder == root { "" } else { "<p><a href=\"../\">the folder above</a></p>\n" };
    let name = folder.file_name().map_or_else(|| "/".into(), |n| n.to_string_lossy());
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title><link rel=\"icon\" href=\"data:,\">\
         <style>body{{font:16px/1.6 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}ul{{padding-left:1.2rem}}</style>\
         </head><body><h1>{0}</h1>\n{up}<ul>\n{rows}</ul>{more}<p>Research use only: not a medical device.</p></body></html>",
        escape(&name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("absolute").join("served");
        for file in
            ["served/a b.html", "served/.hidden/x.nii", "served/sub/v.nii.gz", "secret.txt", "served/key.pem"]
        {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "x").expect("written");
        }
        assert_eq!(resolve(&root, "/a%20b.html"), Some(root.join("a b.html")));
        assert_eq!(resolve(&root, "/sub/v.nii.gz"), Some(root.join("sub/v.nii.gz")));
        assert_eq!(resolve(&root, "/"), Some(root.clone()));
        for outside in [
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/sub/..%2f..%2fsecret.txt",
            "/sub/../../secret.txt",
            "//etc/passwd",
            "/.hidden/x.nii",
            "/sub\\..\\..\\secret.txt",
            "/%",
            "/%ff",
            "/none.html",
        ] {
            assert_eq!(resolve(&root, outside), None, "{outside}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("secret.txt"), root.join("link.txt")).expect("a link");
            assert_eq!(resolve(&root, "/link.txt"), None);
        }
        assert_eq!(kind(&root.join("key.pem")), None);
        assert_eq!(kind(&root.join("sub/V.NII.GZ")), Some("application/gzip"));
    }

    #[test]
    fn ranges_are_those_of_http() {
        let of = |text| parse_range(text, 100);
        assert_eq!(of("bytes=0-9"), Range::Part(0, 10));
        assert_eq!(of("bytes=90-"), Range::Part(90, 100));
        assert_eq!(of("bytes=90-500"), Range::Part(90, 100));
        assert_eq!(of("bytes=-5"), Range::Part(95, 100));
        assert_eq!(of("bytes=100-"), Range::Outside);
        assert_eq!(of("bytes=-0"), Range::Outside);
        for whole in ["bytes=5-2", "bytes=0-1,5-6", "lines=1-2", "bytes=x-"] {
            assert_eq!(of(whole), Range::Whole, "{whole}");
        }
    }

    #[test]
    fn only_its_own_names_reach_a_loopback_server() {
        let address: SocketAddr = "127.0.0.1:8421".parse().expect("an address");
        assert!(host_is_ours("127.0.0.1:8421", address) && host_is_ours("LOCALHOST:8421", address));
        assert!(!host_is_ours("evil.example:8421", address) && !host_is_ours("127.0.0.1", address));
    }
}
