//! Writes the one archive format the kernel unpacks at boot: cpio "newc".
//!
//! See `Documentation/driver-api/early-userspace/buffer-format.rst` in the kernel tree.

/// An initramfs in the making.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory. Parents come before children.
    pub(crate) fn dir(&mut self, path: &str) -> &mut Self {
        self.entry(path, 0o040_755, (0, 0), &[])
    }

    /// Adds an executable file.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(path, 0o100_755, (0, 0), content)
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(path, 0o020_600, (major, minor), &[])
    }

    /// The finished archive.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        std::mem::take(&mut self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Self {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("an initramfs file is below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        let (uid, gid, links, mtime, check) = (0, 0, 1, 0, 0);
        let fields = [
            self.inode, mode, uid, gid, links, mtime, size, 0, 0, device.0, device.1, name_size,
            check,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn every_header_and_file_starts_on_four_bytes() {
        let mut archive = Archive::default();
        let bytes = archive
            .dir("dev")
            .device("dev/console", 5, 1)
            .program("init", b"#!x")
            .finish();
        let at = |needle: &[u8]| {
            bytes
                .windows(needle.len())
                .position(|found| found == needle)
                .expect("is there")
        };
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(at(b"#!x") % 4, 0);
        assert_eq!(bytes.len() % 4, 0);
        let headers = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, word)| word == b"070701");
        let offsets: Vec<usize> = headers.map(|(offset, _)| offset).collect();
        assert_eq!(offsets.len(), 4);
        assert!(offsets.iter().all(|offset| offset % 4 == 0));
    }
}
