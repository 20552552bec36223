//! Where reports go, and how they look there.
//!
//! Each incident is one write, so that readers of a pipe or a file never see half of one.

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use oomtrace::{
    incident::Incident,
    view::{brief, json, text},
};
use rustix::{fs::OFlags, io::Errno};

use crate::args::{Color, Format};

/// Writes one line about the work itself, as opposed to its result, to standard error.
pub(crate) fn say(message: fmt::Arguments<'_>) {
    // If standard error is gone there is nobody left to tell.
    let _ = io::stderr().write_all(format!("oomtrace: {message}\n").as_bytes());
}

/// Whether the reader of our output went away, which is no failure of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// How to print what is not a report.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    pub width: usize,
    colour: bool,
}

impl Paint {
    pub(crate) fn stdout(color: Color) -> Self {
        let stdout = io::stdout();
        Self {
            width: width(stdout.as_fd()),
            colour: colour(color, stdout.as_fd()),
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.sgr("1", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.sgr("33", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.sgr("31", text)
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A place for reports, with the form they take there.
pub(crate) struct Report {
    out: Out,
    form: Form,
    /// The file, if it was not there before and is to go again unless the trace starts.
    created: Option<PathBuf>,
}

enum Out {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(File),
}

enum Form {
    Text(text::Options),
    Json,
    Brief,
}

impl Report {
    pub(crate) fn stdout(format: Format, color: Color) -> Self {
        Self::to(Out::Stdout(io::stdout()), format, color)
    }

    pub(crate) fn stderr(format: Format, color: Color) -> Self {
        Self::to(Out::Stderr(io::stderr()), format, color)
    }

    /// Opens `path` now, so that a bad one fails before anything is traced.
    pub(crate) fn file(path: &Path, format: Format, color: Color) -> Result<Self> {
        let (file, created) = open(path)?;
        let mut report = Self::to(Out::File(file), format, color);
        report.created = created.then(|| path.to_owned());
        Ok(report)
    }

    /// The trace has started: from now on the file stays, and what it held before goes.
    pub(crate) fn keep(&mut self) {
        self.created = None;
        if let Out::File(file) = &self.out {
            // A device or a pipe has nothing to empty.
            let _ = file.set_len(0);
        }
    }

    pub(crate) fn write(&mut self, incident: &Incident) -> Result<()> {
        let mut buffer = Vec::new();
        match &self.form {
            Form::Text(options) => text::write(incident, options, &mut buffer),
            Form::Json => json::write(incident, &mut buffer),
            Form::Brief => brief::write(incident, &mut buffer),
        }
        .context("cannot lay out the report")?;
        match &mut self.out {
            Out::Stdout(stdout) => write_flushed(stdout, &buffer),
            Out::Stderr(stderr) => write_flushed(stderr, &buffer),
            Out::File(file) => write_flushed(file, &buffer),
        }
        .context("cannot write the report")
    }

    fn to(out: Out, format: Format, color: Color) -> Self {
        let form = match format {
            Format { json: true, .. } => Form::Json,
            Format { brief: true, .. } => Form::Brief,
            Format { .. } => Form::Text(text::Options {
                width: width(out.fd()),
                colour: colour(color, out.fd()),
            }),
        };
        Self {
            out,
            form,
            created: None,
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(path) = &self.created {
            // It holds nothing; a file that cannot be removed is not worth a second error.
            let _ = fs::remove_file(path);
        }
    }
}

impl Out {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::Stderr(stderr) => stderr.as_fd(),
            Self::File(file) => file.as_fd(),
        }
    }
}

fn write_flushed(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Opens for writing; the second value says whether it is new.
///
/// A symbolic link is refused: oomtrace runs as root, often in directories where others may write.
fn open(path: &Path) -> Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let opened = match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    };
    let error = match opened {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    let path = path.display();
    match Errno::from_io_error(&error) {
        Some(Errno::ISDIR) => bail!("-o {path}: is a directory; name a file"),
        Some(Errno::LOOP) => bail!("-o {path}: is a symbolic link; name the file itself"),
        _ => Err(error).with_context(|| format!("-o {path}")),
    }
}

/// `COLUMNS` wins, then the terminal's own width, then 80.
fn width(fd: BorrowedFd<'_>) -> usize {
    let columns = env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let terminal = || {
        rustix::termios::tcgetwinsize(fd)
            .ok()
            .map(|size| usize::from(size.ws_col))
    };
    columns
        .filter(|&columns| columns > 0)
        .or_else(terminal)
        .filter(|&columns| columns > 0)
        .unwrap_or(80)
}

fn colour(color: Color, fd: BorrowedFd<'_>) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: present and not empty.
        Color::Auto => fd.is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}
