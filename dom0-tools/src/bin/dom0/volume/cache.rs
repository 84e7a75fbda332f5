//! What an operation on the volume has read so far, and what it wants to write.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use pv_abi::frame::PAGE_SIZE;

use crate::pages::TransferPage;
use crate::virtio::blk::{Disk, DiskError, Op, SECTOR_BYTES, Segment};

/// Sectors of one cached piece (16 KiB).
const PIECE: u64 = 32;
const PIECE_BYTES: usize = 512 * 32;
/// Pieces of the largest read ahead (1 MiB); also what one request can carry.
const MAX_AHEAD: u64 = 64;
/// How many of the largest are kept: they are of a large file, which has been copied when the next are read.
const KEPT: usize = 4;
const SECTOR: usize = 512;
/// FAT code sees a partition table in front, which the volume itself does not have.
const FIRST_BLOCK: u64 = 1;
/// Partition type "FAT32 with LBA"; the kind of FAT is found out from the volume itself.
const PARTITION_TYPE: u8 = 0x0c;

/// The cache does not have what was asked for; [`Cache::fill`] gets it.
#[derive(Debug)]
pub(super) struct Miss;

impl core::fmt::Display for Miss {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not read yet")
    }
}

impl core::error::Error for Miss {}

/// What was read together, and where in it a piece begins.
type Piece = (Rc<Vec<u8>>, usize);

/// The cache of one operation.
pub(super) struct Cache {
    disk: Rc<Disk>,
    pieces: RefCell<BTreeMap<u64, Piece>>,
    writes: RefCell<BTreeMap<u64, [u8; SECTOR]>>,
    missing: Cell<u64>,
    next: Cell<u64>,
    ahead: Cell<u64>,
    /// Where the largest that are kept begin.
    large: RefCell<VecDeque<u64>>,
}

impl Cache {
    /// An empty cache.
    pub(super) fn new(disk: Rc<Disk>) -> Self {
        Self {
            disk,
            pieces: RefCell::default(),
            writes: RefCell::default(),
            missing: Cell::new(0),
            next: Cell::new(0),
            ahead: Cell::new(1),
            large: RefCell::default(),
        }
    }

    /// Drops what an attempt wrote.
    pub(super) fn forget_writes(&self) {
        self.writes.borrow_mut().clear();
    }

    /// Reads the piece that was missing, and more after it when the misses go forward.
    pub(super) async fn fill(&self) -> Result<(), DiskError> {
        let first = self.missing.get();
        let ahead = if first == self.next.get() { (self.ahead.get() * 2).min(MAX_AHEAD) } else { 1 };
        self.ahead.set(ahead);
        let start = first * PIECE;
        let sectors = (ahead * PIECE).min(self.disk.sectors().saturating_sub(start));
        if sectors == 0 {
            return Err(DiskError::Range);
        }
        let data = Rc::new(transfer(&self.disk, Op::Read, start, sectors, None).await?);
        let mut pieces = self.pieces.borrow_mut();
        for (index, at) in (first..).zip((0..data.len()).step_by(PIECE_BYTES)) {
            pieces.insert(index, (data.clone(), at));
        }
        self.next.set(first + ahead);
        let mut large = self.large.borrow_mut();
        if ahead == MAX_AHEAD {
            large.push_back(first);
        }
        if large.len() > KEPT {
            let oldest = large.pop_front().unwrap_or(first);
            pieces.retain(|piece, _| !(oldest..oldest + MAX_AHEAD).contains(piece));
        }
        Ok(())
    }

    /// Sends what the operation wrote to the disk.
    pub(super) async fn write_back(&self) -> Result<(), DiskError> {
        let writes = core::mem::take(&mut *self.writes.borrow_mut());
        if writes.is_empty() {
            return Ok(());
        }
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        for (sector, content) in writes {
            let length = to_sectors(run.len());
            if run.is_empty() || sector != start + length || length == MAX_AHEAD * PIECE {
                self.write_run(start, &run).await?;
                run.clear();
                start = sector;
            }
            run.extend_from_slice(&content);
        }
        self.write_run(start, &run).await?;
        self.disk.request(Op::Flush, 0, &[], Box::new(())).await
    }

    async fn write_run(&self, start: u64, run: &[u8]) -> Result<(), DiskError> {
        if run.is_empty() {
            return Ok(());
        }
        transfer(&self.disk, Op::Write, start, to_sectors(run.len()), Some(run)).await.map(|_| ())
    }

    /// The sector of the disk behind a block of the FAT code; `None` for the made-up partition table.
    fn sector(index: BlockIdx) -> Option<u64> {
        u64::from(index.0).checked_sub(FIRST_BLOCK)
    }

    fn read_one(&self, block: &mut Block, index: BlockIdx) -> Result<(), Miss> {
        let Some(sector) = Self::sector(index) else {
            *block = self.partition_table();
            return Ok(());
        };
        if let Some(content) = self.writes.borrow().get(&sector) {
            block.contents = *content;
            return Ok(());
        }
        let pieces = self.pieces.borrow();
        let offset = usize::try_from(sector % PIECE).unwrap_or(0) * SECTOR;
        let piece = pieces.get(&(sector / PIECE));
        let content = piece.and_then(|(data, at)| data.get(at + offset..at + offset + SECTOR));
        let Some(content) = content else {
            self.missing.set(sector / PIECE);
            return Err(Miss);
        };
        block.contents.copy_from_slice(content);
        Ok(())
    }

    fn blocks(&self) -> u32 {
        u32::try_from(self.disk.sectors()).unwrap_or(u32::MAX - 1)
    }

    fn partition_table(&self) -> Block {
        let mut block = Block::new();
        let contents = &mut block.contents;
        contents[450] = PARTITION_TYPE;
        contents[454..458].copy_from_slice(&1_u32.to_le_bytes());
        contents[458..462].copy_from_slice(&self.blocks().to_le_bytes());
        contents[510] = 0x55;
        contents[511] = 0xaa;
        block
    }
}

fn to_sectors(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(0) / SECTOR_BYTES
}

impl BlockDevice for &Cache {
    type Error = Miss;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Miss> {
        for (block, index) in blocks.iter_mut().zip(start.0..) {
            self.read_one(block, BlockIdx(index))?;
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), Miss> {
        for (block, index) in blocks.iter().zip(start.0..) {
            if let Some(sector) = Cache::sector(BlockIdx(index)) {
                self.writes.borrow_mut().insert(sector, block.contents);
            }
        }
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, Miss> {
        Ok(BlockCount(self.blocks().saturating_add(1)))
    }
}

/// One transfer between the disk and memory of ours, through pages made for it.
async fn transfer(
    disk: &Disk,
    op: Op,
    start: u64,
    sectors: u64,
    content: Option<&[u8]>,
) -> Result<Vec<u8>, DiskError> {
    let bytes = usize::try_from(sectors * SECTOR_BYTES).map_err(|_| DiskError::Range)?;
    let count = bytes.div_ceil(PAGE_SIZE);
    let pages = Rc::new(TransferPage::take_many(count).ok_or(DiskError::NoMemory)?);
    for (page, part) in pages.iter().zip(content.unwrap_or_default().chunks(PAGE_SIZE)) {
        page.write_bytes(0, part);
    }
    let mut done = 0;
    while done < count {
        let batch = disk.max_segments().min(count - done);
        let segments: Vec<Segment> = (done..done + batch)
            .filter_map(|i| pages.get(i).map(|page| (i, page)))
            .map(|(i, page)| (page, (bytes - i * PAGE_SIZE).min(PAGE_SIZE)))
            .map(|(page, len)| Segment { addr: page.maddr(), len: u32::try_from(len).unwrap_or(0) })
            .collect();
        let at = start + to_sectors(done * PAGE_SIZE);
        disk.request(op, at, &segments, Box::new(pages.clone())).await?;
        done += batch;
    }
    let mut data = Vec::new();
    if op == Op::Read {
        // A file may be larger than what is left.
        data.try_reserve_exact(bytes).map_err(|_| DiskError::NoMemory)?;
        data.resize(bytes, 0);
    }
    for (page, part) in pages.iter().zip(data.chunks_mut(PAGE_SIZE)) {
        page.read_bytes(0, part);
    }
    Ok(data)
}
