//! One file of the journal: a header, and frames one after the other. The place for them is made ahead, so that writing
//! one costs little, and a full disk is met before there is something to write.
//!
//! ```text
//! header  magic, format, numbers of this segment and of the one before, boot of the machine that wrote it
//! frame   magic, length, checksum of length and payload; payload
//! ...     zeros, up to the end
//! ```

use std::{
    fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;

/// Of the files; a later one is not read.
pub(super) const FORMAT: u32 = 1;
/// What a segment has room for, where a single frame does not need more.
pub(super) const CAPACITY: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"journal\n";
const HEADER: usize = 8 + 4 + 8 + 8 + 16;
const FRAME_MAGIC: [u8; 4] = *b"\nrec";
const FRAME_HEADER: usize = 12;

/// A boot of a machine: what was written before the present one may have holes, since it was the machine that ended.
pub(super) type Boot = [u8; 16];

/// A segment that is written to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: fs::File,
    position: u64,
    capacity: u64,
}

impl Segment {
    /// Makes a file with room for `payload` bytes in one frame at least.
    pub(super) fn create(
        directory: &Path,
        number: u64,
        previous: u64,
        boot: &Boot,
        payload: usize,
    ) -> io::Result<Self> {
        let capacity = CAPACITY.max((HEADER + FRAME_HEADER + payload) as u64);
        let path = path(directory, number);
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        let made = reserve(&file, capacity).and_then(|()| file.write_all_at(&header(number, previous, boot), 0));
        if let Err(error) = made {
            // It is empty: nothing is lost with it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { number, file, position: HEADER as u64, capacity })
    }

    pub(super) fn has_room(&self, payload: usize) -> bool {
        self.position + (FRAME_HEADER + payload) as u64 <= self.capacity
    }

    /// What the file takes of the disk, in bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Writes a frame that [`frame`] has made. There must be room.
    pub(super) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frame, self.position)?;
        self.position += frame.len() as u64;
        Ok(())
    }
}

/// The room is the file's from then on. Where the file system cannot promise that, zeros are written.
fn reserve(file: &fs::File, capacity: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, capacity) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < capacity {
                let length = (capacity - at).min(zeros.len() as u64);
                file.write_all_at(&zeros[..length as usize], at)?;
                at += length;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// A frame around what `fill` adds to the buffer.
pub(super) fn frame(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    buffer.clear();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    fill(buffer);
    let payload = &buffer[FRAME_HEADER..];
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = checksum(length, payload).to_le_bytes();
    let header = [FRAME_MAGIC, length, checksum].concat();
    buffer[..FRAME_HEADER].copy_from_slice(&header);
}

/// Of the length, too: what is not written yet is zeros, and must not pass for a frame that is empty.
fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// The payload of a frame that [`frame`] has made, in bytes.
pub(super) fn payload_length(frame: &[u8]) -> usize {
    frame.len() - FRAME_HEADER
}

fn header(number: u64, previous: u64, boot: &Boot) -> Vec<u8> {
    [&MAGIC[..], &FORMAT.to_le_bytes(), &number.to_le_bytes(), &previous.to_le_bytes(), boot].concat()
}

pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016}.segment"))
}

/// The segments in a directory, the oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a segment's file holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// The number of the segment before.
    pub(super) previous: u64,
    pub(super) boot: Boot,
    /// Where each payload is in the file.
    pub(super) payloads: Vec<std::ops::Range<usize>>,
    pub(super) end: End,
}

/// How the frames of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With nothing after them.
    Clean,
    /// With part of a frame, at this place: its writer was ended.
    Torn(usize),
    /// With something at this place that is no frame, and whole frames after it.
    Damaged(usize),
}

/// Why a file is no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotASegment {
    /// Its writer was ended before it was one: nothing is lost with it.
    Unfinished,
    Newer(u32),
    Foreign,
}

pub(super) fn read(number: u64, bytes: &[u8]) -> Result<Contents, NotASegment> {
    let Some((header, _)) = bytes.split_at_checked(HEADER) else { return Err(NotASegment::Unfinished) };
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(NotASegment::Unfinished);
    }
    let format = u32::from_le_bytes(header[8..12].try_into().unwrap_or_default());
    if header[..8] != MAGIC {
        return Err(NotASegment::Foreign);
    }
    if format > FORMAT {
        return Err(NotASegment::Newer(format));
    }
    if header[12..20] != number.to_le_bytes() {
        return Err(NotASegment::Foreign);
    }
    let mut boot = Boot::default();
    boot.copy_from_slice(&header[28..HEADER]);
    let previous = u64::from_le_bytes(header[20..28].try_into().unwrap_or_default());
    let mut payloads = Vec::new();
    let mut at = HEADER;
    let end = loop {
        match frame_at(bytes, at) {
            Some(payload) => {
                at = payload.end;
                payloads.push(payload);
            }
            None => break end_at(bytes, at),
        }
    };
    Ok(Contents { previous, boot, payloads, end })
}

/// The payload of the frame at this place, if there is a whole one.
fn frame_at(bytes: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let header = bytes.get(at..at + FRAME_HEADER)?;
    if header[..4] != FRAME_MAGIC {
        return None;
    }
    let written: [u8; 4] = header[4..8].try_into().ok()?;
    let start = at + FRAME_HEADER;
    let end = start.checked_add(u32::from_le_bytes(written) as usize)?;
    let payload = bytes.get(start..end)?;
    (checksum(written, payload).to_le_bytes() == header[8..12]).then_some(start..end)
}

fn end_at(bytes: &[u8], at: usize) -> End {
    let rest = &bytes[at..];
    if rest.iter().all(|byte| *byte == 0) {
        return End::Clean;
    }
    let starts = rest.windows(4).enumerate().skip(1).filter(|(_, window)| *window == FRAME_MAGIC);
    match starts.into_iter().any(|(offset, _)| frame_at(bytes, at + offset).is_some()) {
        true => End::Damaged(at),
        false => End::Torn(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = [7; 16];

    fn written(payloads: &[&[u8]]) -> Vec<u8> {
        let home = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(home.path(), 3, 2, &BOOT, 0).unwrap();
        let mut buffer = Vec::new();
        for payload in payloads {
            frame(&mut buffer, |buffer| buffer.extend_from_slice(payload));
            assert!(segment.has_room(payload_length(&buffer)));
            segment.write(&buffer).unwrap();
        }
        let mut bytes = fs::read(path(home.path(), 3)).unwrap();
        assert_eq!(bytes.len() as u64, CAPACITY);
        bytes.truncate(HEADER + 10_000);
        bytes
    }

    fn found(bytes: &[u8]) -> (Vec<Vec<u8>>, End) {
        let contents = read(3, bytes).unwrap();
        assert_eq!((contents.boot, contents.previous), (BOOT, 2));
        (contents.payloads.into_iter().map(|range| bytes[range].to_vec()).collect(), contents.end)
    }

    #[test]
    fn what_is_written_is_read() {
        let payloads: [&[u8]; 3] = [b"one", b"", &[9; 5000]];
        let bytes = written(&payloads);
        assert_eq!(found(&bytes), (payloads.map(<[u8]>::to_vec).to_vec(), End::Clean));
    }

    #[test]
    fn a_writer_that_is_ended_anywhere_leaves_whole_frames_and_a_torn_one_at_most() {
        let payloads: [&[u8]; 3] = [b"one", b"two", b"three"];
        let whole = written(&payloads);
        let ends = [HEADER, HEADER + 15, HEADER + 30, HEADER + 47];
        for cut in HEADER..ends[3] {
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            let (found, end) = found(&bytes);
            let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(found, payloads[..complete].iter().map(|payload| payload.to_vec()).collect::<Vec<_>>());
            assert!(end == End::Clean || end == End::Torn(ends[complete]), "{end:?} at {cut}");
        }
    }

    #[test]
    fn damage_is_told_from_a_torn_end_and_never_read() {
        let whole = written(&[b"one", b"two"]);
        for at in HEADER..HEADER + 30 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let (found, end) = found(&bytes);
            if at < HEADER + 15 {
                assert_eq!((found.len(), end), (0, End::Damaged(HEADER)), "at {at}");
            } else {
                assert_eq!((found.len(), end), (1, End::Torn(HEADER + 15)), "at {at}");
            }
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let mut bytes = written(&[]);
        assert_eq!(read(4, &bytes).err(), Some(NotASegment::Foreign));
        bytes[8] = 9;
        assert_eq!(read(3, &bytes).err(), Some(NotASegment::Newer(9)));
        assert_eq!(read(3, b"text of somebody else, longer than a header is").err(), Some(NotASegment::Foreign));
        assert_eq!(read(3, &[0; 100]).err(), Some(NotASegment::Unfinished));
        assert_eq!(read(3, b"").err(), Some(NotASegment::Unfinished));
    }
}
