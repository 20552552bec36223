//! Finds the command of `run` as the kernel would, so that a wrong name fails before anything is
//! traced or made.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use rustix::{fs::Access, io::Errno};

use crate::output;

/// What shells answer when there is no such command.
pub(crate) const NOT_FOUND: u8 = 127;
/// What shells answer when the command cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;

/// Looks `command` up. When it cannot be run, says so and yields the exit status for that.
pub(crate) fn check(command: &OsStr) -> Result<(), u8> {
    let found = if command.as_bytes().contains(&b'/') {
        executable(Path::new(command))
    } else {
        search(command)
    };
    found.map_err(|errno| complain(command, errno))
}

/// Becomes `command`; returns only if that fails, with the exit status for the failure.
pub(crate) fn exec(command: &OsStr, args: impl Iterator<Item = impl AsRef<OsStr>>) -> u8 {
    let error = Command::new(command).args(args).exec();
    complain(command, Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// The first match in `PATH` that can be executed; failing that, why the best match cannot.
fn search(command: &OsStr) -> Result<(), Errno> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut reason = Errno::NOENT;
    if command.is_empty() {
        return Err(reason);
    }
    for directory in env::split_paths(&path) {
        match executable(&directory.join(command)) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => reason = errno,
        }
    }
    Err(reason)
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = path
        .metadata()
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if metadata.is_dir() {
        return Err(Errno::ISDIR);
    }
    rustix::fs::access(path, Access::EXEC_OK)
}

fn complain(command: &OsStr, errno: Errno) -> u8 {
    let name = Path::new(command).display();
    match errno {
        Errno::NOENT | Errno::NOTDIR => {
            // After a successful look-up it is the script's interpreter that is missing.
            let what = match executable(Path::new(command)) {
                Ok(()) => "its interpreter was not found",
                Err(_errno) => "not found",
            };
            output::say(format_args!("{name}: {what}"));
            NOT_FOUND
        }
        Errno::ISDIR => {
            output::say(format_args!("{name}: is a directory"));
            NOT_EXECUTABLE
        }
        errno => {
            let why = io::Error::from(errno);
            output::say(format_args!("{name}: not executable: {why}"));
            NOT_EXECUTABLE
        }
    }
}
