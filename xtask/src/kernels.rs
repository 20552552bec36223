//! Which real kernels the tests run on, and how to get them: Debian's cloud images, the newest of
//! each series, from the mirror that apt is already configured with.
//!
//! apt itself does the work, on lists of its own below target/, so signatures and checksums are
//! verified as for any package and nothing of the machine's own apt changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::host;

/// The matrix: a series and the suites that have it. The last entry is whatever is newest.
const SERIES: &[(&str, &[&str])] = &[
    ("5.10", &["bullseye"]),
    ("6.1", &["bookworm"]),
    ("6.12", &["trixie"]),
    ("6.18", &["trixie-backports"]),
    ("7", &["trixie-backports", "sid"]),
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says in it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
}

pub(crate) fn main(args: &[String]) -> Result<()> {
    match args {
        [] => list(),
        [verb] if verb == "list" => list(),
        [verb] if verb == "fetch" => {
            let all: Vec<&str> = SERIES.iter().map(|(series, _)| *series).collect();
            fetch(&all)
                .into_iter()
                .for_each(|(series, kernel)| match kernel {
                    Ok(kernel) => println!("{series:<6} {}", kernel.release),
                    Err(error) => println!("{series:<6} not to be had: {error:#}"),
                });
            Ok(())
        }
        _ => bail!("cargo xtask kernels [list|fetch]"),
    }
}

/// The kernels asked for, each by series or as a file; all series when none is asked for.
pub(crate) fn wanted(asked: &[String]) -> Vec<(String, Result<Kernel>)> {
    let series: Vec<&str> = match asked {
        [] => SERIES.iter().map(|(series, _)| *series).collect(),
        asked => asked.iter().map(String::as_str).collect(),
    };
    let mut found: Vec<(String, Result<Kernel>)> = Vec::new();
    let mut missing = Vec::new();
    for name in &series {
        if Path::new(name).is_file() {
            found.push(((*name).to_owned(), open(Path::new(name))));
        } else if let Ok(kernel) = open(&cached(name)) {
            found.push(((*name).to_owned(), Ok(kernel)));
        } else {
            missing.push(*name);
        }
    }
    found.extend(fetch(&missing));
    found.sort_by_key(|(name, _)| series.iter().position(|asked| asked == name));
    found
}

fn list() -> Result<()> {
    for (series, suites) in SERIES {
        match open(&cached(series)) {
            Ok(kernel) => println!("{series:<6} {}  {}", kernel.release, kernel.image.display()),
            Err(_) => println!("{series:<6} not fetched yet; suite {}", suites.join(" or ")),
        }
    }
    Ok(())
}

fn cached(series: &str) -> PathBuf {
    host::target_dir()
        .join("kernels")
        .join(series)
        .join("vmlinuz")
}

/// Reads a kernel's release from its image: the boot protocol keeps a pointer to it at 0x20e.
fn open(image: &Path) -> Result<Kernel> {
    let bytes = fs::read(image).with_context(|| image.display().to_string())?;
    let release = (|| {
        (bytes.get(0x202..0x206)? == b"HdrS").then_some(())?;
        let at = usize::from(u16::from_le_bytes([*bytes.get(0x20e)?, *bytes.get(0x20f)?])) + 0x200;
        let text = bytes
            .get(at..)?
            .split(|&byte| byte == b' ' || byte == 0)
            .next()?;
        String::from_utf8(text.to_vec()).ok()
    })();
    let release =
        release.with_context(|| format!("{} is not an x86 kernel image", image.display()))?;
    Ok(Kernel {
        release,
        image: image.to_path_buf(),
    })
}

/// Gets the newest kernel of each series. Each comes back as a kernel or as the reason why not.
fn fetch(wanted: &[&str]) -> Vec<(String, Result<Kernel>)> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let apt = Apt::update(wanted);
    let get = |series: &&str| {
        let kernel = match &apt {
            Ok(apt) => apt
                .newest(series)
                .and_then(|package| apt.unpack(series, &package)),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        ((*series).to_owned(), kernel)
    };
    wanted.iter().map(get).collect()
}

/// apt with lists and a cache of its own.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn update(series: &[&str]) -> Result<Self> {
        let dir = host::target_dir().join("kernels/apt");
        let mirror = mirror()?;
        if !Path::new(KEYRING).exists() {
            host::apt_install(&["debian-archive-keyring"], "to verify Debian's kernels")?;
        }
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let suites = SERIES
            .iter()
            .filter(|(name, _)| series.contains(name))
            .flat_map(|(_, suites)| *suites);
        let mut sources: Vec<String> = suites
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        sources.sort();
        sources.dedup();
        fs::write(dir.join("sources.list"), sources.concat())?;
        let apt = Self { dir };
        println!(
            "kernels: reading the package lists of {} suites",
            sources.len()
        );
        // One suite that is gone fails the whole update; the others are there all the same, and a
        // series without a list is reported as such.
        let update = apt
            .command("apt-get")
            .args(["-qq", "update"])
            .output()
            .context("apt-get update")?;
        print!("{}", String::from_utf8_lossy(&update.stderr));
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        for option in [
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}"),
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::State::status=/dev/null".to_owned(),
            "Dir::State::extended_states=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Suites that are archived keep their last signature for ever.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The newest cloud kernel of a series: its package.
    fn newest(&self, series: &str) -> Result<String> {
        let names = host::read(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        let release = names
            .lines()
            .filter_map(|name| {
                name.strip_prefix("linux-image-")?
                    .strip_suffix("-cloud-amd64")
            })
            .filter(|release| {
                release
                    .strip_prefix(series)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
            .max_by_key(|release| numbers(release))
            .with_context(|| format!("no suite of the mirror has a {series} cloud kernel"))?;
        // From 7.x on the image proper is in a package of its own.
        let package = ["linux-binary", "linux-image"]
            .map(|kind| format!("{kind}-{release}-cloud-amd64"))
            .into_iter()
            .find(|package| names.lines().any(|name| name == package))
            .context("the package that was just found")?;
        Ok(package)
    }

    fn unpack(&self, series: &str, package: &str) -> Result<Kernel> {
        println!("kernels: downloading {package}");
        let image = cached(series);
        let work = self.dir.join(series);
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(work.join("unpacked"))?;
        host::read(
            self.command("apt-get")
                .args(["-qq", "download", package])
                .current_dir(&work),
        )?;
        let mut entries = fs::read_dir(&work)?.flatten().map(|entry| entry.path());
        let deb = entries
            .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
            .context("apt-get download left no package")?;
        host::run(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb)
                .arg(work.join("unpacked")),
        )?;
        // In /boot until 6.x, beside the modules from 7.x on.
        let release = package
            .splitn(3, '-')
            .nth(2)
            .context("linux-KIND-RELEASE")?;
        let vmlinuz = [
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ]
        .map(|path| work.join("unpacked").join(path))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{package} holds no vmlinuz"))?;
        fs::create_dir_all(image.parent().context("a parent")?)?;
        fs::copy(vmlinuz, &image)?;
        fs::remove_dir_all(work)?;
        open(&image)
    }
}

/// The Debian archive that apt is configured with.
fn mirror() -> Result<String> {
    let configured =
        host::read(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
    let archive = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    let found = configured.lines().find(archive);
    found
        .map(str::to_owned)
        .context("apt is not configured with a Debian archive; see --kernel FILE")
}

/// The numbers in a release, for comparison: `6.12.107+deb13.1` is after `6.12.95+deb12`.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn releases_compare_by_number() {
        assert!(numbers("6.12.107+deb13") > numbers("6.12.95+deb12"));
        assert!(numbers("5.10.0-32") > numbers("5.10.0-9"));
        assert!(numbers("7.3.4+deb13") > numbers("7.2.13+deb14"));
    }
}
