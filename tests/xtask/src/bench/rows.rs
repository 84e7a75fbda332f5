//! What the rows of the tables are called, what they mean, and what is aimed at.

/// Aim for every row: the ratio to Xen.
pub(crate) const MOST_RATIO: f64 = 0.8;
/// Aim for all rows together: the geometric mean of the ratios.
pub(crate) const MEAN_RATIO: f64 = 0.33;

/// A row that is known beforehand.
pub(crate) struct Known {
    /// As the guest prints it.
    pub(crate) name: &'static str,
    /// What is done once.
    pub(crate) what: &'static str,
    /// The aim, in instructions; 0 for none of its own.
    pub(crate) aim: u64,
}

const fn row(name: &'static str, what: &'static str) -> Known {
    Known { name, what, aim: 0 }
}

const fn aimed(name: &'static str, aim: u64, what: &'static str) -> Known {
    Known { name, what, aim }
}

/// The rows in the order of the tables. A row that is not here comes last, without words.
pub(crate) const KNOWN: &[Known] = &[
    aimed("null_hypercall", 70, "`xen_version` 0"),
    row("multicall_of_1", "a batch of one null call"),
    row("multicall_of_8_per_call", "one of a batch of 8"),
    aimed("multicall_of_64_per_call", 30, "one of a batch of 64"),
    aimed("multicall_of_256_per_call", 30, "one of a batch of 256"),
    row("event_send_masked", "the bit is set, nobody is told"),
    row("event_send_pending", "the bit is set already"),
    row("event_unmask_pending", "unmask a port with its event waiting"),
    aimed("event_send_with_upcall", 300, "send, upcall into a stub, iret"),
    aimed("ipi_to_self_with_upcall", 300, "the same through an IPI port"),
    row("event_to_self_through_sdk", "the same through the SDK's handlers"),
    row("event_status", "status of a port"),
    row("event_alloc_and_close", "a port that comes and goes"),
    aimed("kernel_invalid_opcode", 220, "`ud2` in the kernel, stub, iret"),
    aimed("kernel_breakpoint", 220, "`int3` in the kernel, stub, iret"),
    aimed("kernel_page_fault", 220, "a load from nowhere in the kernel, stub, iret"),
    aimed("user_system_call", 220, "`syscall` in user mode, stub, iret"),
    row("user_int80", "`int 0x80` in user mode, stub, iret"),
    row("user_breakpoint", "`int3` in user mode, stub, iret"),
    row("user_page_fault", "a load from nowhere in user mode, stub, iret"),
    row("update_va_mapping", "an L1 entry by address"),
    row("update_va_mapping_and_invlpg", "and that address flushed here"),
    row("update_va_mapping_and_invlpg_all", "and that address flushed everywhere"),
    row("l1_update", "an L1 entry by `mmu_update`"),
    aimed("l1_update_in_batch_of_128_per_entry", 180, "one of a list of 128"),
    row("writable_page_table_write", "a store to a page table, emulated"),
    aimed("pin_and_unpin_of_a_full_l1", 45_000, "512 entries validated and let go"),
    row("pin_and_unpin_of_an_empty_l1", "512 empty entries"),
    row("pin_and_unpin_of_a_tree", "L4, L3, L2 and four full L1"),
    row("new_baseptr", "the other of two kernel roots"),
    row("new_baseptr_of_the_same", "the root that is loaded"),
    row("new_user_baseptr", "the other of two user roots"),
    row("new_user_baseptr_of_none", "no user root"),
    row("tlb_flush_local", "the whole TLB of this pcpu"),
    row("tlb_flush_all", "of all pcpus"),
    row("invlpg_local", "one address here"),
    row("invlpg_all", "one address everywhere"),
    row("clear_page", "a page by `mmuext_op`"),
    row("copy_page", "a page by `mmuext_op`"),
    row("task_switch_in_a_batch", "both roots, stack, three descriptors, FPU: one multicall"),
    row("set_gdt", "a table of one page"),
    row("update_descriptor", "one descriptor"),
    row("stack_switch", "the kernel's stack"),
    row("fpu_taskswitch", "set TS"),
    row("set_fs_base", "`set_segment_base`"),
    row("set_user_gs_base", "`set_segment_base`"),
    row("set_debugreg", "`set_debugreg`"),
    row("sched_yield", "with nobody else to run"),
    row("timer_set", "`set_timer_op`"),
    row("timer_set_and_stop", "each of the two"),
    row("timer_set_by_vcpu_op", "the one-shot timer of a vcpu"),
    row("runstate_read", "`get_runstate_info`"),
    row("clock_read", "the shared clock: no call at all"),
    row("reservation_populate_and_decrease", "a frame given back and taken"),
    row("reservation_populate_and_decrease_of_32_per_frame", "one of 32 in a call"),
    row("console_write_of_32_bytes", "`console_io`; depends on the line's reader"),
    aimed("grant_map_and_unmap", 800, "one page"),
    aimed("grant_map_and_unmap_of_32_per_page", 800, "one of 32 in a call"),
    aimed("grant_copy_of_4096_bytes", 900, "one page"),
    row("grant_copy_of_64_bytes", "a piece of a page"),
    aimed("grant_copy_of_32_pages_per_page", 900, "one of 32 in a call"),
    aimed("rdmsr", 350, "EFER, emulated"),
    row("wrmsr", "FS base, emulated"),
    row("cpuid", "with the prefix that forces emulation"),
    row("in", "a byte from port 0x80"),
    row("out", "a byte to port 0x80"),
    row("read_cr0", "emulated"),
    row("clts", "emulated"),
    row("pair_event_round_trip", "two domains poll for one another's event"),
    row("pair_ring_request", "64 bytes there and back, 32 for each event"),
    row("pair_grant_map_and_unmap", "another domain's page"),
    row("pair_grant_map_and_unmap_of_32_per_page", "one of 32 in a call"),
    row("pair_grant_copy_of_4096_bytes", "another domain's page"),
    row("pair_grant_copy_of_32_pages_per_page", "one of 32 in a call"),
    row("pair_switch_by_yield", "yield until the other domain has run"),
    row("pair_event_round_trip_on_2_pcpus", "each domain on a pcpu of its own"),
    row("pair_ring_request_on_2_pcpus", "each domain on a pcpu of its own"),
    row(
        "io_create_to_init",
        "from the command to the guest's first program, on a machine at rest; LZ4 kernel",
    ),
    row("io_idle_second", "a second of two guests that rest"),
    row("io_disk_direct_read_of_4096_bytes", "`dd` past the cache, one request at a time"),
    row("io_disk_direct_write_of_4096_bytes", "the same, written"),
    row("io_disk_sequential_read_of_1_MiB", "`dd` past the cache in pieces of 1 MiB"),
    row("io_disk_sequential_write_of_1_MiB", "the same, written"),
    row("io_network_send_of_1_MiB", "`iperf3`, TCP to the other guest"),
    row("io_network_receive_of_1_MiB", "`iperf3 -R`, TCP from the other guest"),
    row("io_network_ping", "`ping -A`, there and back"),
];

/// Rows that say nothing about the hypervisor: they are shown, but are no part of the mean.
const NOT_COUNTED: [&str; 2] = ["clock_read", "console_write_of_32_bytes"];

/// Aims of rows that do not have the common one, by how their names begin.
const OWN_RATIOS: [(&str, f64); 5] = [
    ("linux_boot_to_init", 0.6),
    ("linux_", 0.7),
    ("io_create_to_init", 0.6),
    // Twice as many operations per second.
    ("io_disk_direct_read", 0.5),
    ("io_", 1.0),
];

/// Whether the row's ratio is to be judged.
pub(crate) fn counts(name: &str) -> bool {
    !NOT_COUNTED.contains(&name)
}

/// What the ratio to Xen is to be at most.
pub(crate) fn most_ratio(name: &str) -> Option<f64> {
    if name.contains('@') || !counts(name) {
        return None;
    }
    let own = OWN_RATIOS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, ratio)| *ratio);
    Some(own.unwrap_or(MOST_RATIO))
}

/// What is known of a row.
pub(crate) fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|row| row.name == name)
}

/// Its place in the tables.
pub(crate) fn place(name: &str) -> usize {
    KNOWN.iter().position(|row| row.name == name).unwrap_or(KNOWN.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_there_twice() {
        assert!(KNOWN.iter().enumerate().all(|(at, row)| place(row.name) == at));
    }
}
