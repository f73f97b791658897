//! The rings that AF_XDP shares with the kernel, and the memory they and the frames lie in.
//!
//! A ring is an array of descriptors with two running indices. One side writes descriptors and then moves the
//! producer index (release), the other reads the index (acquire), then the descriptors, and moves the
//! consumer index. The same code runs over memory of the kernel and, in tests, over memory whose other side
//! is played.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Memory that is shared with the kernel: mapped, zeroed, never moved.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to nobody's thread. All access is through atomics or raw copies.
unsafe impl Send for Region {}
// SAFETY: as above; no reference into the memory is ever given out but to the atomic indices.
unsafe impl Sync for Region {}

impl Region {
    /// `len` bytes of memory of our own, whole pages.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn anonymous(len: usize) -> io::Result<Region> {
        map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }
    /// `len` bytes of what the kernel has at `offset` of a descriptor.
    ///
    /// # Errors
    /// What mmap said.
    pub(super) fn of(fd: libc::c_int, offset: i64, len: usize) -> io::Result<Region> {
        map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset)
    }
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True when there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Where it starts, as a number for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
    /// Copies from the memory; false when the piece does not lie in it.
    #[inline]
    #[must_use]
    pub fn copy_out(&self, at: u64, to: &mut [u8]) -> bool {
        let Some(from) = self.piece(at, to.len()) else { return false };
        // SAFETY: `piece` proved that so many bytes lie in the mapping; `to` is memory of its own. The kernel may
        // write at the same time only to frames it owns, whose contents nobody relies on.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }
    /// Copies into the memory; false when the piece does not lie in it.
    #[inline]
    #[must_use]
    pub fn copy_in(&self, at: u64, from: &[u8]) -> bool {
        let Some(to) = self.piece(at, from.len()) else { return false };
        // SAFETY: as in `copy_out`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        true
    }
    #[inline]
    fn piece(&self, at: u64, len: usize) -> Option<NonNull<u8>> {
        let at = usize::try_from(at).ok()?;
        if at.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `at` is at most `len` bytes into the mapping.
        Some(unsafe { self.start.add(at) })
    }
    /// An index of a ring; `None` when it does not lie in the memory or not aligned.
    fn index(&self, at: u64) -> Option<&AtomicU32> {
        let p = self.piece(at, 4)?;
        if !(p.as_ptr() as usize).is_multiple_of(4) {
            return None;
        }
        // SAFETY: in the mapping, aligned, and only ever accessed as an atomic while the region lives.
        Some(unsafe { p.cast::<AtomicU32>().as_ref() })
    }
}

fn map(len: usize, flags: libc::c_int, fd: libc::c_int, offset: i64) -> io::Result<Region> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the address; nothing of ours is replaced.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset as libc::off_t) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    Ok(Region { start, len })
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and whoever borrows from it keeps it alive.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A frame or a piece of one (`struct xdp_desc`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Where it is in the frame memory.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Flags: [`Desc::MORE`].
    pub options: u32,
}

impl Desc {
    /// The packet goes on in the next descriptor (`XDP_PKT_CONTD`).
    pub const MORE: u32 = 1;
}

/// What may stand in a ring: plain integers without padding.
pub trait Item: Copy + Default + Send + private::Plain {}
impl Item for u64 {}
impl Item for Desc {}

mod private {
    /// Any bytes are a value.
    pub trait Plain {}
    impl Plain for u64 {}
    impl Plain for super::Desc {}
}

/// Where the parts of a ring are in its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Producer index.
    pub producer: u64,
    /// Consumer index.
    pub consumer: u64,
    /// Flags.
    pub flags: u64,
    /// First descriptor.
    pub items: u64,
}

#[derive(Debug)]
struct Ring<T> {
    memory: Arc<Region>,
    at: Layout,
    size: u32,
    kind: std::marker::PhantomData<T>,
}

impl<T: Item> Ring<T> {
    /// A ring of `size` (a power of two) descriptors.
    fn new(memory: Arc<Region>, at: Layout, size: u32) -> io::Result<Ring<T>> {
        let bytes = u64::from(size) * size_of::<T>() as u64;
        let inside = memory.index(at.producer).is_some()
            && memory.index(at.consumer).is_some()
            && memory.index(at.flags).is_some()
            && memory.piece(at.items, bytes as usize).is_some();
        if !inside || !size.is_power_of_two() {
            return Err(io::Error::other("the kernel describes a ring outside of its memory"));
        }
        Ok(Ring { memory, at, size, kind: std::marker::PhantomData })
    }
    #[inline]
    fn load(&self, at: u64, order: Ordering) -> u32 {
        // `new` looked at every offset
        self.memory.index(at).map_or(0, |i| i.load(order))
    }
    #[inline]
    fn store(&self, at: u64, value: u32) {
        if let Some(i) = self.memory.index(at) {
            i.store(value, Ordering::Release);
        }
    }
    #[inline]
    fn place(&self, i: u32) -> u64 {
        self.at.items + u64::from(i & (self.size - 1)) * size_of::<T>() as u64
    }
    #[inline]
    fn read(&self, i: u32) -> T {
        let mut item = T::default();
        // SAFETY: `T` is plain integers without padding (`Plain`), so its bytes may be written one by one.
        let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut item).cast::<u8>(), size_of::<T>()) };
        let _ = self.memory.copy_out(self.place(i), bytes);
        item
    }
    #[inline]
    fn write(&self, i: u32, item: T) {
        // SAFETY: as above, read this time.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const item).cast::<u8>(), size_of::<T>()) };
        let _ = self.memory.copy_in(self.place(i), bytes);
    }
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Ring<T>,
    /// Next to write; published up to `published`.
    next: u32,
    published: u32,
    /// Consumer index as last seen.
    seen: u32,
}

impl<T: Item> Producer<T> {
    /// The writing end of a ring of `size` descriptors.
    ///
    /// # Errors
    /// The layout does not fit the memory.
    pub fn new(memory: Arc<Region>, at: Layout, size: u32) -> io::Result<Producer<T>> {
        let ring = Ring::new(memory, at, size)?;
        let next = ring.load(at.producer, Ordering::Relaxed);
        let seen = ring.load(at.consumer, Ordering::Acquire);
        Ok(Producer { ring, next, published: next, seen })
    }
    /// Writes a descriptor; false when the ring is full. The other side sees it after [`Producer::publish`].
    #[inline]
    #[must_use]
    pub fn push(&mut self, item: T) -> bool {
        if self.next.wrapping_sub(self.seen) >= self.ring.size {
            self.seen = self.ring.load(self.ring.at.consumer, Ordering::Acquire);
            if self.next.wrapping_sub(self.seen) >= self.ring.size {
                return false;
            }
        }
        self.ring.write(self.next, item);
        self.next = self.next.wrapping_add(1);
        true
    }
    /// Shows the other side what was written.
    #[inline]
    pub fn publish(&mut self) {
        if self.next != self.published {
            self.ring.store(self.ring.at.producer, self.next);
            self.published = self.next;
        }
    }
    /// Descriptors that may be pushed now.
    pub fn room(&mut self) -> u32 {
        self.seen = self.ring.load(self.ring.at.consumer, Ordering::Acquire);
        self.ring.size.saturating_sub(self.next.wrapping_sub(self.seen))
    }
    /// Descriptors published that the other side has not taken yet.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.published
            .wrapping_sub(self.ring.load(self.ring.at.consumer, Ordering::Acquire))
            .min(self.ring.size)
    }
    /// The kernel asks to be called (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub fn wants_call(&self) -> bool {
        self.ring.load(self.ring.at.flags, Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The reading end of a ring.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
    released: u32,
    /// Producer index as last seen.
    seen: u32,
}

impl<T: Item> Consumer<T> {
    /// The reading end of a ring of `size` descriptors.
    ///
    /// # Errors
    /// The layout does not fit the memory.
    pub fn new(memory: Arc<Region>, at: Layout, size: u32) -> io::Result<Consumer<T>> {
        let ring = Ring::new(memory, at, size)?;
        let next = ring.load(at.consumer, Ordering::Relaxed);
        Ok(Consumer { ring, next, released: next, seen: next })
    }
    /// The oldest descriptor. Its place is free for the other side after [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.seen {
            self.seen = self.ring.load(self.ring.at.producer, Ordering::Acquire);
            if self.next == self.seen {
                return None;
            }
        }
        let item = self.ring.read(self.next);
        self.next = self.next.wrapping_add(1);
        Some(item)
    }
    /// Gives the places of what was read back.
    #[inline]
    pub fn release(&mut self) {
        if self.next != self.released {
            self.ring.store(self.ring.at.consumer, self.next);
            self.released = self.next;
        }
    }
    /// Descriptors that wait to be read.
    pub fn waiting(&self) -> u32 {
        self.ring.load(self.ring.at.producer, Ordering::Acquire).wrapping_sub(self.next).min(self.ring.size)
    }
}

/// Both ends of a ring in memory of its own: the other end is for whoever plays the kernel.
///
/// # Errors
/// No memory, or `size` is no power of two.
pub fn loose<T: Item>(size: u32) -> io::Result<(Producer<T>, Consumer<T>)> {
    let memory = Arc::new(Region::anonymous(192 + size as usize * size_of::<T>())?);
    let at = Layout { producer: 0, consumer: 64, flags: 128, items: 192 };
    Ok((Producer::new(memory.clone(), at, size)?, Consumer::new(memory, at, size)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_seen_before_it_is_published_nor_overwritten_before_it_is_released() {
        let (mut p, mut c) = loose::<u64>(4).unwrap();
        for i in 0..4 {
            assert!(p.push(i));
        }
        assert!(!p.push(9), "full");
        assert_eq!(c.pop(), None);
        p.publish();
        assert_eq!((p.pending(), c.waiting(), p.room()), (4, 4, 0));
        assert_eq!((c.pop(), c.pop()), (Some(0), Some(1)));
        assert!(!p.push(9), "read but not released");
        c.release();
        assert!(p.push(4) && p.push(5) && !p.push(6));
        p.publish();
        assert_eq!(std::iter::from_fn(|| c.pop()).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn indices_run_over_the_end_of_their_numbers() {
        let memory = Arc::new(Region::anonymous(4096).unwrap());
        let at = Layout { producer: 0, consumer: 64, flags: 128, items: 192 };
        let near_end = (u32::MAX - 2).to_ne_bytes();
        assert!(memory.copy_in(0, &near_end) && memory.copy_in(64, &near_end));
        let mut p = Producer::<Desc>::new(memory.clone(), at, 8).unwrap();
        let mut c = Consumer::<Desc>::new(memory, at, 8).unwrap();
        for round in 0..100u64 {
            let item = Desc { addr: round, len: 64, options: 0 };
            assert!(p.push(item));
            p.publish();
            assert_eq!((p.pending(), c.pop()), (1, Some(item)));
            c.release();
            assert_eq!(p.pending(), 0);
        }
    }

    #[test]
    fn two_threads_pass_on_every_item_in_order() {
        let (mut p, mut c) = loose::<Desc>(16).unwrap();
        const N: u64 = 20_000;
        let writer = std::thread::spawn(move || {
            let mut i = 0;
            while i < N {
                while i < N && p.push(Desc { addr: i, len: i as u32, options: !(i as u32) }) {
                    i += 1;
                }
                p.publish();
                std::thread::yield_now();
            }
        });
        let mut next = 0;
        while next < N {
            while let Some(d) = c.pop() {
                assert_eq!(d, Desc { addr: next, len: next as u32, options: !(next as u32) });
                next += 1;
            }
            c.release();
            std::thread::yield_now();
        }
        writer.join().unwrap();
    }

    #[test]
    fn what_does_not_lie_in_the_memory_is_refused() {
        let r = Arc::new(Region::anonymous(4096).unwrap());
        let mut buf = [0; 16];
        assert!(!r.copy_out(4090, &mut buf) && !r.copy_in(u64::MAX, &buf) && r.copy_out(4080, &mut buf));
        let at = Layout { producer: 0, consumer: 64, flags: 128, items: 192 };
        assert!(Producer::<u64>::new(r.clone(), at, 1024).is_err());
        assert!(Producer::<u64>::new(r.clone(), Layout { flags: 5000, ..at }, 8).is_err());
        assert!(Producer::<u64>::new(r.clone(), Layout { flags: 129, ..at }, 8).is_err());
        assert!(Consumer::<u64>::new(r, at, 12).is_err());
    }
}
