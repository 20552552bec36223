//! The tools that build for the BPF target: a Rust with the sources of `core`, and bpf-linker.
//!
//! Building `core` needs a nightly feature, which `RUSTC_BOOTSTRAP` unlocks on any release.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::host;

/// The linker's version and the LLVM it is built against. LLVM must be at least as new as rustc's.
const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";

/// What is asked for when no Rust on this machine has the sources of `core`.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// One Rust that can build `core`.
#[derive(Clone, Debug)]
pub(crate) struct Rust {
    /// What `--toolchain` calls it: `debian`, or the name of a rustup toolchain.
    pub(crate) name: String,
    /// Release and commit, as rustc prints them.
    pub(crate) version: String,
    bin: PathBuf,
    /// Where the sources of the library are, under each name they go by.
    pub(crate) library: Vec<PathBuf>,
}

impl Rust {
    /// Its cargo, cleaned of what the cargo that started us put in the environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(self.bin.join("cargo"));
        for variable in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTUP_TOOLCHAIN",
            "CARGO",
        ] {
            command.env_remove(variable);
        }
        command
            .env("RUSTC", self.bin.join("rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        // Both for cargo's own sub-commands and for a linker that was installed below target/.
        let path = env::var("PATH").unwrap_or_default();
        let tools = host::target_dir().join("tools/bin");
        command.env(
            "PATH",
            format!("{}:{}:{path}", self.bin.display(), tools.display()),
        );
        command
    }

    /// Whether clippy came with it.
    pub(crate) fn has_clippy(&self) -> bool {
        self.bin.join("clippy-driver").exists()
    }

    fn at(name: &str, bin: PathBuf) -> Option<Self> {
        let sysroot = bin.parent()?;
        let linked = sysroot.join("lib/rustlib/src/rust");
        if !linked.join("library/core/src").exists() || !bin.join("cargo").exists() {
            return None;
        }
        let version = host::read(Command::new(bin.join("rustc")).arg("--version")).ok()?;
        let real = fs::canonicalize(&linked).ok()?;
        let version = version.trim().trim_start_matches("rustc ").to_owned();
        Some(Self {
            name: name.to_owned(),
            version,
            bin,
            library: vec![linked, real],
        })
    }
}

/// Every Rust here that can build `core`: rustup's, then Debian's.
fn here() -> Vec<Rust> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    let toolchains = fs::read_dir(rustup.join("toolchains"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<Rust> = toolchains
        .filter_map(|entry| {
            Rust::at(
                &entry.file_name().to_string_lossy(),
                entry.path().join("bin"),
            )
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.extend(Rust::at("debian", PathBuf::from("/usr/bin")));
    found
}

/// The Rust to build with: the one that was asked for, else the recorded one, else Debian's, else
/// any. Installs Debian's when that may be the recorded one, or there is no other.
pub(crate) fn rust(asked: Option<&str>, recorded: Option<&str>) -> Result<Rust> {
    let mut all = here();
    if let Some(name) = asked {
        let names: Vec<_> = all.iter().map(|rust| rust.name.clone()).collect();
        let found = all.into_iter().find(|rust| rust.name.starts_with(name));
        return found.with_context(|| format!("no Rust {name} with rust-src, only {names:?}"));
    }
    let is_recorded = |rust: &&Rust| recorded.is_some_and(|version| version == rust.version);
    let is_debian = |rust: &&Rust| rust.name == "debian";
    if all.iter().find(is_recorded).is_none() && all.iter().find(is_debian).is_none() {
        let purpose = "a Rust with the sources of core, for the BPF target";
        match host::apt_install(DEBIAN_RUST, purpose) {
            Ok(()) => all = here(),
            Err(error) if all.is_empty() => {
                return Err(error).context("or: rustup component add rust-src");
            }
            Err(error) => println!("going on with {}: {error:#}", all[0].version),
        }
    }
    let best = all
        .iter()
        .find(is_recorded)
        .or_else(|| all.iter().find(is_debian))
        .or(all.first());
    best.cloned()
        .context("Debian's Rust came without the sources of core")
}

/// Makes sure of the pinned bpf-linker and its LLVM. Returns both versions.
pub(crate) fn linker() -> Result<(String, String)> {
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let config = format!("{prefix}/bin/llvm-config");
    if !Path::new(&config).exists() || !Path::new(&prefix).join("lib/libPolly.a").exists() {
        let packages = [format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev")];
        host::apt_install(
            &packages.each_ref().map(String::as_str),
            "bpf-linker is built on LLVM",
        )?;
    }
    let llvm = host::read(Command::new(&config).arg("--version"))?
        .trim()
        .to_owned();
    let tools = host::target_dir().join("tools");
    let installed = host::read(Command::new(tools.join("bin/bpf-linker")).arg("--version"));
    if !installed.is_ok_and(|version| version.trim().ends_with(BPF_LINKER)) {
        println!(
            "installing bpf-linker {BPF_LINKER} below {} (about a minute)",
            tools.display()
        );
        host::run(
            host::cargo()
                .args([
                    "install",
                    "--quiet",
                    "--locked",
                    "bpf-linker",
                    "--version",
                    BPF_LINKER,
                ])
                .args([
                    "--no-default-features",
                    "--features",
                    &format!("llvm-{LLVM}"),
                    "--root",
                ])
                .arg(&tools)
                .env("LLVM_PREFIX", &prefix)
                .env_remove("RUSTFLAGS"),
        )?;
    }
    Ok((BPF_LINKER.to_owned(), llvm))
}

/// Removes DWARF from the object; BTF and its line table stay, for the verifier's log.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<()> {
    let objcopy = format!("/usr/lib/llvm-{LLVM}/bin/llvm-objcopy");
    host::run(Command::new(objcopy).arg("--strip-debug").arg(from).arg(to))
}
