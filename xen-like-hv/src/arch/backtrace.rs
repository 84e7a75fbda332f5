//! Walks frame pointers and names addresses.
#![expect(unsafe_code, reason = "reads stacks and the symbol section")]

use super::mm::layout::{self, PAGE, stack_pages};
use super::mm::paging::image_symbols;
use core::ptr::with_exposed_provenance;
use hv_core::symbols;

/// Room for the symbol table that is written into the image after linking.
const SYMBOL_ROOM: usize = 320 << 10;

#[repr(C, align(16))]
struct SymbolRoom([u8; SYMBOL_ROOM]);

#[used]
#[unsafe(link_section = ".symbols")]
static SYMBOLS: SymbolRoom = SymbolRoom([0; SYMBOL_ROOM]);

/// The name of the function an address lies in, and the offset there.
pub(crate) fn symbol(address: u64) -> Option<(&'static str, u64)> {
    let text = image_symbols().text;
    if !(text.0..text.1).contains(&address) {
        return None;
    }
    // The bytes in the image are not those the compiler saw.
    let table: &'static [u8] = core::hint::black_box(&SYMBOLS.0);
    symbols::lookup(table, address)
}

/// Whether 16 bytes at an address lie in some stack: a primary one, an interrupt stack, or that of the boot code.
fn is_in_stack(address: u64) -> bool {
    if !address.is_multiple_of(8) {
        return false;
    }
    let image = image_symbols();
    if (image.data.0..image.data.1 - 16).contains(&address) {
        return true;
    }
    let end = layout::stack_block(crate::percpu::count());
    if !(layout::STACKS_BASE..end).contains(&address) {
        return false;
    }
    let page = (address & (layout::STACK_SIZE - 1)) / PAGE;
    let areas =
        [stack_pages::DOUBLE_FAULT, stack_pages::NMI, stack_pages::MACHINE_CHECK, stack_pages::PRIMARY];
    areas.iter().any(|area| area.contains(&page)) && address % PAGE <= PAGE - 16
}

/// The return addresses of a chain of frame pointers, innermost first.
pub(crate) fn return_addresses(mut frame: u64) -> impl Iterator<Item = u64> {
    core::iter::from_fn(move || {
        if !is_in_stack(frame) {
            return None;
        }
        let at = with_exposed_provenance::<[u64; 2]>(usize::try_from(frame).ok()?);
        // SAFETY: the address was checked to lie in a mapped stack; what lies there are integers.
        let [next, address] = unsafe { at.read_volatile() };
        // The chain leads up the stack; anything else is damage.
        frame = if next > frame { next } else { 0 };
        (address != 0).then_some(address)
    })
    .take(64)
}

/// The 64-bit words at the top of a stack, as far as they are in it.
pub(crate) fn stack_words(stack: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map_while(move |i| {
        let address = (stack & !7) + 8 * i;
        let at = with_exposed_provenance::<u64>(usize::try_from(address).ok()?);
        // SAFETY: checked to be in a mapped stack.
        is_in_stack(address).then(|| unsafe { at.read_volatile() })
    })
}

/// The caller's frame pointer.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
