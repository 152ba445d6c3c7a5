//! A guest's first file system: a cpio archive as Linux unpacks it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive being written.
#[derive(Default)]
pub(super) struct Archive(Vec<u8>);

/// Type and permission bits of a mode.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) {
        self.entry(path, PROGRAM, bytes);
    }

    /// The whole, with the entry that ends it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.0
    }

    /// A header of thirteen numbers in hexadecimal, the name with a zero behind it, the bytes: the last two end at
    /// multiples of four.
    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let (len, name_len) = (bytes.len(), path.len() + 1);
        let inode = self.0.len();
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{len:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_len:08x}{0:08x}",
            0
        );
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(path.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
