//! One file of the journal: a header, and frames one after the other. The place for them is made ahead, so that writing
//! one costs little, and a full disk is met before there is something to write.
//!
//! ```text
//! header  magic, format, number of this segment, number of the one before and where its last frame ends, boot of the
//!         machine that wrote it, number of the oldest segment that there is, checksum; zeros until it is begun
//! frame   magic, length, checksum of length and payload; payload
//! ...     zeros, up to the end
//! ```

use std::{
    fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FallocateFlags;

/// Of the files; a later one is not read.
pub(super) const FORMAT: u32 = 1;
/// What a segment has room for, where a single frame does not need more.
pub(super) const CAPACITY: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"journal\n";
const HEADER: usize = 8 + 4 + 8 + 8 + 8 + 16 + 8 + 4;
const FRAME_MAGIC: [u8; 4] = *b"\nrec";
const FRAME_HEADER: usize = 12;
/// So many are written, or looked at, at a time.
const ZEROS: usize = 64 << 10;

/// A boot of a machine: what was written before the present one may have holes, since it was the machine that ended.
pub(super) type Boot = [u8; 16];

/// The end of what has been written: where the next frame goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tip {
    /// Of the segment; 0 before the first.
    pub(super) segment: u64,
    /// In bytes from its beginning.
    pub(super) at: u64,
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// What it goes on from.
    pub(super) previous: Tip,
    pub(super) boot: Boot,
    /// The number of the oldest segment that there is.
    pub(super) oldest: u64,
}

/// A segment that is written to, or the spare one.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<fs::File>,
    /// None of a spare.
    header: Option<Header>,
    position: u64,
    capacity: u64,
}

impl Segment {
    /// Makes a spare file with room for `payload` bytes in one frame at least.
    pub(super) fn create(directory: &Path, number: u64, payload: usize) -> io::Result<Self> {
        let path = path(directory, number);
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        let capacity = CAPACITY.max((HEADER + FRAME_HEADER + payload) as u64);
        Self::reserved(file, number, capacity).inspect_err(|_| {
            // It is empty: nothing is lost with it.
            let _ = fs::remove_file(&path);
        })
    }

    /// Takes a spare file that is there already.
    pub(super) fn reuse(directory: &Path, number: u64) -> io::Result<Self> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path(directory, number))?;
        // Part of a header is all that it can have.
        file.write_all_at(&[0; HEADER], 0)?;
        Self::reserved(file, number, CAPACITY)
    }

    fn reserved(file: fs::File, number: u64, capacity: u64) -> io::Result<Self> {
        reserve(&file, capacity)?;
        Ok(Self { number, file: file.into(), header: None, position: HEADER as u64, capacity })
    }

    /// Goes on where the last frame of a segment ends that has been read; what follows there is part of a frame at most.
    pub(super) fn resume(directory: &Path, header: Header, position: u64) -> io::Result<Self> {
        let path = path(directory, header.number);
        let bytes = fs::read(&path)?;
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        if !is_zero(&bytes[position as usize..]) {
            write_zeros(&file, position, bytes.len() as u64)?;
        }
        file.write_all_at(&header.bytes(), 0)?;
        let (number, capacity) = (header.number, bytes.len() as u64);
        Ok(Self { number, file: file.into(), header: Some(header), position, capacity })
    }

    /// A spare becomes the one that is written to.
    pub(super) fn begin(&mut self, previous: Tip, boot: Boot, oldest: u64) -> io::Result<()> {
        self.write_header(Header { number: self.number, previous, boot, oldest })
    }

    /// Says that no older segment is missed. To be called before it goes.
    pub(super) fn set_oldest(&mut self, oldest: u64) -> io::Result<()> {
        match self.header {
            Some(header) => self.write_header(Header { oldest, ..header }),
            None => Ok(()),
        }
    }

    fn write_header(&mut self, header: Header) -> io::Result<()> {
        self.file.write_all_at(&header.bytes(), 0)?;
        self.header = Some(header);
        Ok(())
    }

    /// A spare gets another number, so that one can be made that comes before it.
    pub(super) fn renumber(&mut self, directory: &Path, number: u64) -> io::Result<()> {
        fs::rename(path(directory, self.number), path(directory, number))?;
        self.number = number;
        Ok(())
    }

    pub(super) fn tip(&self) -> Tip {
        Tip { segment: self.number, at: self.position }
    }

    pub(super) fn has_room(&self, payload: usize) -> bool {
        self.position + (FRAME_HEADER + payload) as u64 <= self.capacity
    }

    /// What is left of it, in bytes.
    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.position)
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

    /// Writes once more what was written last, since nobody knows whether it is on the disk.
    pub(super) fn rewrite(&self, last: &[u8]) -> io::Result<()> {
        self.file.write_all_at(last, self.position - last.len() as u64)
    }
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [
            &MAGIC[..],
            &FORMAT.to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.previous.segment.to_le_bytes(),
            &self.previous.at.to_le_bytes(),
            &self.boot,
            &self.oldest.to_le_bytes(),
        ]
        .concat();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn read(number: u64, bytes: &[u8]) -> Result<Self, NotASegment> {
        let (magic, rest) = bytes.split_at(8);
        let (format, rest) = rest.split_at(4);
        if magic != MAGIC {
            return Err(NotASegment::Foreign);
        }
        // Whatever else a later format has changed.
        let format = u32::from_le_bytes(format.try_into().unwrap_or_default());
        if format > FORMAT {
            return Err(NotASegment::Newer(format));
        }
        let word = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap_or_default());
        let mut boot = Boot::default();
        boot.copy_from_slice(&rest[24..40]);
        let previous = Tip { segment: word(8), at: word(16) };
        let header = Self { number: word(0), previous, boot, oldest: word(40) };
        if header.number != number || header.bytes() != bytes {
            return Err(NotASegment::Foreign);
        }
        Ok(header)
    }
}

/// The room is the file's from then on. Where the file system cannot promise that, zeros are written.
fn reserve(file: &fs::File, capacity: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, capacity) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, 0, capacity),
        other => Ok(other?),
    }
}

fn write_zeros(file: &fs::File, mut at: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    while at < end {
        let length = zeros.len().min((end - at) as usize);
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

/// By the block, since most of a segment is.
fn is_zero(bytes: &[u8]) -> bool {
    let zeros = vec![0; ZEROS];
    bytes.chunks(ZEROS).all(|block| *block == zeros[..block.len()])
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

pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016}.segment"))
}

/// The segments in a directory, the oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a segment's file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    /// Where each payload is in the file.
    pub(super) payloads: Vec<std::ops::Range<usize>>,
    /// Where the last one ends.
    pub(super) at: usize,
    pub(super) end: End,
}

/// How the frames of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With nothing after them.
    Clean,
    /// With part of a frame: its writer was ended.
    Torn,
    /// With something that is no frame, and whole frames after it.
    Damaged,
}

/// Why a file is no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotASegment {
    /// It has not been begun, as a spare.
    Spare,
    Newer(u32),
    Foreign,
}

pub(super) fn read(number: u64, bytes: &[u8]) -> Result<Contents, NotASegment> {
    let header = match bytes.get(..HEADER) {
        Some(header) if header.iter().any(|byte| *byte != 0) => Header::read(number, header)?,
        _ if !is_zero(bytes) && frames_after(bytes, 0) => return Err(NotASegment::Foreign),
        _ => return Err(NotASegment::Spare),
    };
    let mut payloads = Vec::new();
    let mut at = HEADER;
    while let Some(payload) = frame_at(bytes, at) {
        at = payload.end;
        payloads.push(payload);
    }
    let end = match is_zero(&bytes[at..]) {
        true => End::Clean,
        false if frames_after(bytes, at + 1) => End::Damaged,
        false => End::Torn,
    };
    Ok(Contents { header, payloads, at, end })
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

/// Whether there is a whole frame at this place or later.
fn frames_after(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at..).unwrap_or_default();
    let starts = rest.windows(4).enumerate().filter(|(_, window)| *window == FRAME_MAGIC);
    starts.into_iter().any(|(offset, _)| frame_at(bytes, at + offset).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = [7; 16];
    const BEFORE: Tip = Tip { segment: 2, at: 99 };

    fn written(payloads: &[&[u8]]) -> Vec<u8> {
        let home = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(home.path(), 3, 0).unwrap();
        segment.begin(BEFORE, BOOT, 1).unwrap();
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

    fn found(bytes: &[u8]) -> (Vec<Vec<u8>>, usize, End) {
        let Contents { header, payloads, at, end } = read(3, bytes).unwrap();
        assert_eq!(header, Header { number: 3, previous: BEFORE, boot: BOOT, oldest: 1 });
        (payloads.into_iter().map(|range| bytes[range].to_vec()).collect(), at, end)
    }

    #[test]
    fn what_is_written_is_read() {
        let payloads: [&[u8]; 3] = [b"one", b"", &[9; 5000]];
        let bytes = written(&payloads);
        assert_eq!(found(&bytes), (payloads.map(<[u8]>::to_vec).to_vec(), HEADER + 3 * 12 + 5003, End::Clean));
    }

    #[test]
    fn a_writer_that_is_ended_anywhere_leaves_whole_frames_and_a_torn_one_at_most() {
        let payloads: [&[u8]; 3] = [b"one", b"two", b"three"];
        let whole = written(&payloads);
        let ends = [HEADER, HEADER + 15, HEADER + 30, HEADER + 47];
        for cut in HEADER..ends[3] {
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            for bytes in [&zeroed[..], &whole[..cut]] {
                let (found, at, end) = found(bytes);
                let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
                assert_eq!(found, payloads[..complete].iter().map(|payload| payload.to_vec()).collect::<Vec<_>>());
                assert!(at == ends[complete] && end != End::Damaged, "{end:?} at {cut}");
            }
        }
        for cut in 0..HEADER {
            assert_eq!(read(3, &whole[..cut]).err(), Some(NotASegment::Spare));
        }
    }

    #[test]
    fn damage_is_told_from_a_torn_end_and_never_read() {
        let whole = written(&[b"one", b"two"]);
        for at in 0..HEADER + 30 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            if at < HEADER {
                let error = read(3, &bytes).err();
                assert!(matches!(error, Some(NotASegment::Foreign | NotASegment::Newer(_))), "{error:?} at {at}");
            } else if at < HEADER + 15 {
                assert_eq!(found(&bytes), (vec![], HEADER, End::Damaged), "at {at}");
            } else {
                assert_eq!(found(&bytes), (vec![b"one".to_vec()], HEADER + 15, End::Torn), "at {at}");
            }
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let mut bytes = written(&[]);
        assert_eq!(read(4, &bytes).err(), Some(NotASegment::Foreign));
        bytes[8] = 9;
        assert_eq!(read(3, &bytes).err(), Some(NotASegment::Newer(9)));
        let text = b"text of somebody else, longer than a header is, which has sixty-four";
        assert_eq!(read(3, text).err(), Some(NotASegment::Foreign));
        assert_eq!(read(3, &[0; 100]).err(), Some(NotASegment::Spare));
        assert_eq!(read(3, b"").err(), Some(NotASegment::Spare));
        let mut beheaded = written(&[b"one"]);
        beheaded[..HEADER].fill(0);
        assert_eq!(read(3, &beheaded).err(), Some(NotASegment::Foreign));
    }

    #[test]
    fn what_goes_on_overwrites_what_was_torn() {
        let home = tempfile::tempdir().unwrap();
        let mut bytes = written(&[b"one"]);
        bytes[HEADER + 15..HEADER + 100].fill(0xee);
        fs::write(path(home.path(), 3), bytes).unwrap();
        let header = Header { number: 3, previous: BEFORE, boot: BOOT, oldest: 1 };
        let mut segment = Segment::resume(home.path(), header, HEADER as u64 + 15).unwrap();
        let mut buffer = Vec::new();
        frame(&mut buffer, |buffer| buffer.push(b'2'));
        segment.write(&buffer).unwrap();
        let bytes = fs::read(path(home.path(), 3)).unwrap();
        assert_eq!(found(&bytes), (vec![b"one".to_vec(), b"2".to_vec()], HEADER + 28, End::Clean));
    }
}
