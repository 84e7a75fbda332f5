//! Where the image lies, from the linker script.

#[cfg(target_os = "none")]
// SAFETY: assembly or the linker script defines these symbols, with these types.
unsafe extern "C" {
    static __image_start: [u8; 0];
    static __text_end: [u8; 0];
    static __rodata_end: [u8; 0];
    static __image_end: [u8; 0];
}

/// Borders of the image; all page-aligned.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// First byte of the code.
    pub start: u64,
    /// End of the code, start of the constants.
    pub text_end: u64,
    /// End of the constants, start of the writable data.
    pub rodata_end: u64,
    /// End of the zeroed data.
    pub end: u64,
}

/// The image's borders. Only addresses of symbols are taken, nothing is read.
#[cfg(target_os = "none")]
#[must_use]
pub fn image() -> Image {
    Image {
        start: (&raw const __image_start).addr() as u64,
        text_end: (&raw const __text_end).addr() as u64,
        rodata_end: (&raw const __rodata_end).addr() as u64,
        end: (&raw const __image_end).addr() as u64,
    }
}

/// On the host there is no image.
#[cfg(not(target_os = "none"))]
#[must_use]
pub const fn image() -> Image {
    Image { start: 0, text_end: 0, rodata_end: 0, end: 0 }
}
