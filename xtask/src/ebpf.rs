//! Builds the BPF object that is committed, so that a plain `cargo build` needs stable Rust only,
//! and proves that the committed one is what the sources build.
//!
//! Beside the object lies a note of what it was built from and with. The build depends on nothing
//! else: paths are mapped away, so any checkout gives the same bytes with the same tools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    host,
    toolchain::{self, Rust},
};

const OBJECT: &str = "oomtrace/src/source/live/oomtrace.bpf.o";
const NOTE: &str = "oomtrace/src/source/live/oomtrace.bpf.toml";
const TARGET: &str = "bpfel-unknown-none";
const BUILD: &[&str] = &[
    "build",
    "--release",
    "--locked",
    "--package",
    "oomtrace-ebpf",
    "--bin",
    "oomtrace-ebpf",
    "--features",
    "programs",
    "-Zbuild-std=core",
    "--target",
    TARGET,
];

/// What `--check` found; anything worse is an error.
pub(crate) enum Check {
    /// The committed object, to the byte.
    Identical,
    /// Same sources, other tools: here is what they build. Tests should run with it too.
    OtherTools(PathBuf),
}

pub(crate) fn main(args: &[String]) -> Result<()> {
    let mut asked = None;
    let mut checking = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--check" => checking = true,
            "--toolchain" => {
                asked = Some(args.next().context("--toolchain needs a name")?.as_str())
            }
            other => bail!("unexpected argument: {other}"),
        }
    }
    if checking {
        return check(asked).map(drop);
    }
    let note = Note::read().ok();
    let rust = toolchain::rust(asked, note.as_ref().map(|note| note.rustc.as_str()))?;
    let (object, note) = build(&rust)?;
    fs::create_dir_all(host::root().join(OBJECT).parent().context("a parent")?)?;
    fs::copy(object, host::root().join(OBJECT))?;
    fs::write(host::root().join(NOTE), note.to_toml())?;
    println!("{OBJECT}: sha256 {}, with Rust {}", note.object, note.rustc);
    Ok(())
}

/// Proves that the committed object is what the sources build, as far as the tools here allow.
pub(crate) fn check(asked: Option<&str>) -> Result<Check> {
    let committed = Note::read()?;
    let object = fs::read(host::root().join(OBJECT)).with_context(|| OBJECT.to_owned())?;
    let again = "run `cargo xtask build-ebpf` and commit both files";
    ensure!(
        host::sha256(&object)? == committed.object,
        "{OBJECT} is not the one {NOTE} describes; {again}"
    );
    ensure!(
        source_hash()? == committed.source,
        "the sources changed after {OBJECT} was built; {again}"
    );
    let rust = toolchain::rust(asked, Some(&committed.rustc))?;
    let (fresh, note) = build(&rust)?;
    if note.tools() == committed.tools() {
        ensure!(
            note.object == committed.object,
            "the sources build another object than {OBJECT} with the same tools; the fresh one is {}; {again}",
            fresh.display(),
        );
        println!("{OBJECT}: rebuilt byte for byte with {}", note.tools());
        return Ok(Check::Identical);
    }
    println!(
        "{OBJECT}: built from these sources with {}, not here; here {} builds {}",
        committed.tools(),
        note.tools(),
        if note.object == committed.object {
            "the same bytes"
        } else {
            "other bytes"
        },
    );
    Ok(if note.object == committed.object {
        Check::Identical
    } else {
        Check::OtherTools(fresh)
    })
}

/// Lints the kernel side for its own target, with warnings denied.
pub(crate) fn clippy() -> Result<()> {
    let rust = toolchain::rust(
        None,
        Note::read().ok().as_ref().map(|note| note.rustc.as_str()),
    )?;
    let lint = if rust.has_clippy() { "clippy" } else { "check" };
    println!(
        "BPF target: cargo {lint} with Rust {} ({})",
        rust.version, rust.name
    );
    let mut args = BUILD.to_vec();
    args[0] = lint;
    let mut command = rust.cargo();
    command.args(args).arg("--quiet").current_dir(host::root());
    command
        .arg("--target-dir")
        .arg(host::target_dir().join("bpf"));
    command.env(
        "CARGO_ENCODED_RUSTFLAGS",
        "--cfg=bpf_target_arch=\"x86_64\"\x1f-Dwarnings",
    );
    host::run(&mut command)
}

/// Puts an object where the crate includes it from, in a copy of the tree. For tests with other tools.
pub(crate) fn place(object: &Path, tree: &Path) -> Result<()> {
    fs::copy(object, tree.join(OBJECT))
        .map(drop)
        .with_context(|| OBJECT.to_owned())
}

fn build(rust: &Rust) -> Result<(PathBuf, Note)> {
    let (linker, llvm) = toolchain::linker()?;
    let target = host::target_dir().join("bpf");
    let root = host::root();
    // The registry's directories must exist to be mapped away, so fetch first.
    host::run(
        rust.cargo()
            .args(["fetch", "--quiet", "--locked"])
            .current_dir(&root),
    )?;
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    flags.push("--cfg=bpf_target_arch=\"x86_64\"".to_owned());
    let sources = registries().into_iter().map(|dir| (dir, "/registry"));
    let library = rust.library.iter().map(|dir| (dir.clone(), "/rust"));
    for (from, to) in sources.chain(library).chain([(root.clone(), "/oomtrace")]) {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let mut command = rust.cargo();
    command
        .args(BUILD)
        .arg("--quiet")
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&root);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // The workspace's release profile is for the host; the linker optimises the whole at once.
    command
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_INCREMENTAL", "0");
    host::run(&mut command).context("the BPF object")?;
    let object = target.join("oomtrace.bpf.o");
    toolchain::strip(&target.join(TARGET).join("release/oomtrace-ebpf"), &object)?;
    let note = Note {
        source: source_hash()?,
        object: host::sha256(&fs::read(&object)?)?,
        rustc: rust.version.clone(),
        llvm,
        linker,
    };
    Ok((object, note))
}

/// Where cargo unpacked what it downloaded.
fn registries() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let sources = fs::read_dir(cargo.join("registry/src"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = sources.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// One hash over everything of ours that the object is made of, and the versions of the rest.
fn source_hash() -> Result<String> {
    let root = host::root();
    let mut files = vec![PathBuf::from("oomtrace-ebpf/Cargo.toml")];
    let mut dirs = vec![PathBuf::from("oomtrace-ebpf/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let list = if entry.file_type()?.is_dir() {
                &mut dirs
            } else {
                &mut files
            };
            list.push(dir.join(entry.file_name()));
        }
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let content = fs::read(root.join(&file))?;
        all.extend(format!("{}\n{}\n", file.display(), content.len()).into_bytes());
        all.extend(content);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    for package in [
        "aya-ebpf",
        "aya-ebpf-bindings",
        "aya-ebpf-macros",
        "zerocopy",
        "zerocopy-derive",
    ] {
        let entry = lock
            .split("[[package]]")
            .find(|entry| entry.contains(&format!("name = \"{package}\"\n")));
        all.extend(
            entry
                .with_context(|| format!("{package} is not in Cargo.lock"))?
                .bytes(),
        );
    }
    host::sha256(&all)
}

/// What the object was built from and with.
struct Note {
    source: String,
    object: String,
    rustc: String,
    llvm: String,
    linker: String,
}

impl Note {
    fn read() -> Result<Self> {
        let text = fs::read_to_string(host::root().join(NOTE))
            .with_context(|| format!("{NOTE}; `cargo xtask build-ebpf` makes it"))?;
        let field = |name: &str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} = \"")));
            let value = value.and_then(|value| value.strip_suffix('"'));
            value
                .map(str::to_owned)
                .with_context(|| format!("{NOTE} has no {name}"))
        };
        Ok(Self {
            source: field("source_sha256")?,
            object: field("object_sha256")?,
            rustc: field("rustc")?,
            llvm: field("llvm")?,
            linker: field("bpf_linker")?,
        })
    }

    fn to_toml(&self) -> String {
        let Self {
            source,
            object,
            rustc,
            llvm,
            linker,
        } = self;
        format!(
            "# Written by `cargo xtask build-ebpf`; `cargo xtask build-ebpf --check` compares.\n\
             source_sha256 = \"{source}\"\n\
             object_sha256 = \"{object}\"\n\
             rustc = \"{rustc}\"\n\
             llvm = \"{llvm}\"\n\
             bpf_linker = \"{linker}\"\n\
             command = \"cargo {}\"\n",
            BUILD.join(" "),
        )
    }

    fn tools(&self) -> String {
        format!(
            "rustc {}, LLVM {}, bpf-linker {}",
            self.rustc, self.llvm, self.linker
        )
    }
}
