//! Large allocations in huge pages.
//!
//! A connection table is read at random places all over, so with pages of 4 KiB nearly every packet also
//! waits for the page tables. The kernel gives huge pages (2 MiB) to those who ask, which is its default
//! (`/sys/kernel/mm/transparent_hugepage/enabled`: `madvise`). The core has no way to ask: it takes its
//! memory from the allocator, so the allocator asks for it. Everything that is not large goes to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

/// From this size on memory is asked for in huge pages: the index of the default million connections.
/// Smaller memory would gain little, and would be backed whole where a few places of it are used.
const LARGE: usize = 32 << 20;
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// The allocator of the `softlvs` program: the system's, but for large memory.
#[derive(Debug)]
pub struct HugePages;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= HUGE_PAGE
}

/// Zeroed memory that begins at a huge page, or null.
fn map(size: usize) -> *mut u8 {
    let Some(all) = size.checked_next_multiple_of(PAGE).and_then(|s| s.checked_add(HUGE_PAGE)) else {
        return null_mut();
    };
    let size = all - HUGE_PAGE;
    // SAFETY: a new private mapping; no memory in use is touched.
    let start = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(null_mut(), all, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return null_mut();
    }
    let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
    let after = HUGE_PAGE - before;
    // SAFETY: `before` is at most HUGE_PAGE, so all offsets lie in the mapping of `all` bytes; the two ends
    // that are given back are whole pages in front of and behind the part that is kept.
    unsafe {
        let kept = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        if after > 0 {
            libc::munmap(kept.byte_add(size), after);
        }
        // refused where the kernel has no huge pages: the memory is as good without
        libc::madvise(kept, size, libc::MADV_HUGEPAGE);
        kept.cast()
    }
}

// SAFETY: large layouts get memory of their own mapping, whose size is the layout's rounded up to pages and
// whose alignment is at least the layout's; `dealloc` tells by the same layout which way memory came.
unsafe impl GlobalAlloc for HugePages {
    // SAFETY: as the caller promises for `System`.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the same contract, passed on.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the caller promises for `System`.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the same contract, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    // SAFETY: as the caller promises for `System`.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: memory of a large layout came from `map`, which kept exactly this many bytes.
            unsafe { libc::munmap(ptr.cast(), layout.size().next_multiple_of(PAGE)) };
            return;
        }
        // SAFETY: the same contract, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
    // SAFETY: as the caller promises for `System`.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // the caller promises that the new size, rounded up to the alignment, is a valid one
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        if !is_large(layout) && !is_large(new) {
            // SAFETY: the same contract, passed on.
            return unsafe { System.realloc(ptr, layout, new_size) };
        }
        // SAFETY: `new` has a size above zero; both blocks are live, do not overlap, and are at least as
        // long as what is copied; the old one came from this allocator with `layout`.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(ptr, moved, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_is_zeroed_aligned_and_keeps_its_bytes_when_it_moves() {
        let layout = Layout::from_size_align(LARGE + 100, 64).unwrap();
        // SAFETY: each block is used within its size and freed with the layout it has then.
        unsafe {
            let p = HugePages.alloc_zeroed(layout);
            assert!(!p.is_null() && p.addr().is_multiple_of(HUGE_PAGE));
            assert_eq!((*p, *p.add(LARGE + 99)), (0, 0));
            p.write(7);
            p.add(LARGE - 1).write(8);
            let p = HugePages.realloc(p, layout, 2 * LARGE);
            assert_eq!((*p, *p.add(LARGE - 1)), (7, 8));
            let larger = Layout::from_size_align(2 * LARGE, 64).unwrap();
            let p = HugePages.realloc(p, larger, 1000);
            assert_eq!(*p, 7);
            let p = HugePages.realloc(p, Layout::from_size_align(1000, 64).unwrap(), 2000);
            assert_eq!(*p, 7);
            HugePages.dealloc(p, Layout::from_size_align(2000, 64).unwrap());
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        assert!(map(1 << 62).is_null());
        assert!(map(usize::MAX).is_null());
    }
}
