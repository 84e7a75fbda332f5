//! Structures of the calls that every guest makes, and of the pages it shares.

#[test]
fn sizes_and_offsets() {
    layout!(pv_abi::callback::CallbackRegister, 16, kind 0, flags 2, address 8);
    layout!(pv_abi::callback::CallbackUnregister, 4, kind 0);
    layout!(pv_abi::evtchn::EvtchnAllocUnbound, 8, dom 0, remote_dom 2, port 4);
    layout!(pv_abi::evtchn::EvtchnBindInterdomain, 12, remote_dom 0, remote_port 4, local_port 8);
    layout!(pv_abi::evtchn::EvtchnBindVirq, 12, virq 0, vcpu 4, port 8);
    layout!(pv_abi::evtchn::EvtchnBindPirq, 12, pirq 0, flags 4, port 8);
    layout!(pv_abi::evtchn::EvtchnBindIpi, 8, vcpu 0, port 4);
    layout!(pv_abi::evtchn::EvtchnClose, 4, port 0);
    layout!(pv_abi::evtchn::EvtchnSend, 4, port 0);
    layout!(pv_abi::evtchn::EvtchnStatus, 24, dom 0, port 4, status 8, vcpu 12, u0 16, u1 20);
    layout!(pv_abi::evtchn::EvtchnBindVcpu, 8, port 0, vcpu 4);
    layout!(pv_abi::evtchn::EvtchnUnmask, 4, port 0);
    layout!(pv_abi::evtchn::EvtchnReset, 2, dom 0);
    layout!(pv_abi::evtchn::EvtchnInitControl, 24, control_gfn 0, offset 8, vcpu 12, link_bits 16);
    layout!(pv_abi::evtchn::EvtchnExpandArray, 8, array_gfn 0);
    layout!(pv_abi::evtchn::EvtchnSetPriority, 8, port 0, priority 4);
    layout!(pv_abi::grant::GrantEntryV1, 8, flags 0, domid 2, frame 4);
    layout!(pv_abi::grant::GnttabMapGrantRef, 32,
        host_addr 0, flags 8, gref 12, dom 16, status 18, handle 20, dev_bus_addr 24
    );
    layout!(pv_abi::grant::GnttabUnmapGrantRef, 24, host_addr 0, dev_bus_addr 8, handle 16, status 20);
    layout!(pv_abi::grant::GnttabSetupTable, 24, dom 0, nr_frames 4, status 8, frame_list 16);
    layout!(pv_abi::grant::GnttabDumpTable, 4, dom 0, status 2);
    layout!(pv_abi::grant::GnttabTransfer, 24, mfn 0, domid 8, gref 12, status 16);
    layout!(pv_abi::grant::GnttabCopyPtr, 16, u 0, domid 8, offset 10);
    layout!(pv_abi::grant::GnttabCopy, 40, source 0, dest 16, len 32, flags 34, status 36);
    layout!(pv_abi::grant::GnttabQuerySize, 16, dom 0, nr_frames 4, max_nr_frames 8, status 12);
    layout!(pv_abi::grant::GnttabUnmapAndReplace, 24, host_addr 0, new_addr 8, handle 16, status 20);
    layout!(pv_abi::grant::GnttabSetVersion, 4, version 0);
    layout!(pv_abi::grant::GnttabGetStatusFrames, 16, nr_frames 0, dom 4, status 6, frame_list 8);
    layout!(pv_abi::grant::GnttabGetVersion, 8, dom 0, pad 2, version 4);
    layout!(pv_abi::grant::GnttabSwapGrantRef, 12, ref_a 0, ref_b 4, status 8);
    layout!(pv_abi::memory::XenMemoryReservation, 32,
        extent_start 0, nr_extents 8, extent_order 16, mem_flags 20, domid 24
    );
    layout!(pv_abi::memory::XenMemoryExchange, 72, in_ 0, out 32, nr_exchanged 64);
    layout!(pv_abi::memory::XenMemoryDomain, 2, domid 0);
    layout!(pv_abi::memory::XenMachphysMfnList, 24, max_extents 0, extent_start 8, nr_extents 16);
    layout!(pv_abi::memory::XenMachphysMapping, 24, v_start 0, v_end 8, max_mfn 16);
    layout!(pv_abi::memory::XenAddToPhysmap, 24, domid 0, size 2, space 4, idx 8, gpfn 16);
    layout!(pv_abi::memory::XenRemoveFromPhysmap, 16, domid 0, gpfn 8);
    layout!(pv_abi::memory::XenMemoryMap, 16, nr_entries 0, buffer 8);
    layout!(pv_abi::memory::XenForeignMemoryMap, 24, domid 0, map 8);
    layout!(pv_abi::memory::XenMemAcquireResource, 32,
        domid 0, kind 2, id 4, nr_frames 8, pad 12, frame 16, frame_list 24
    );
    layout!(pv_abi::memory::XenVmemrange, 24, start 0, end 8, flags 16, nid 20);
    layout!(pv_abi::memory::XenVnumaTopologyInfo, 40,
        domid 0, pad 2, nr_vnodes 4, nr_vcpus 8, nr_vmemranges 12, vdistance 16, vcpu_to_vnode 24,
        vmemrange 32
    );
    layout!(pv_abi::mmu::MmuUpdate, 16, ptr 0, val 8);
    layout!(pv_abi::mmu::MmuextOp, 24, cmd 0, arg1 8, arg2 16);
    layout!(pv_abi::mmu::MulticallEntry, 64, op 0, result 8, args 16);
    layout!(pv_abi::nmi::XennmiCallback, 16, handler_address 0, pad 8);
    layout!(pv_abi::sched::SchedShutdown, 4, reason 0);
    layout!(pv_abi::sched::SchedPoll, 24, ports 0, nr_ports 8, timeout 16);
    layout!(pv_abi::sched::SchedRemoteShutdown, 8, domain_id 0, reason 4);
    layout!(pv_abi::sched::SchedWatchdog, 8, id 0, timeout 4);
    layout!(pv_abi::sched::SchedPinOverride, 4, pcpu 0);
    layout!(pv_abi::shared_info::VcpuTimeInfo, 32,
        version 0, pad0 4, tsc_timestamp 8, system_time 16, tsc_to_system_mul 24, tsc_shift 28, flags 29,
        pad1 30
    );
    layout!(pv_abi::shared_info::ArchVcpuInfo, 16, cr2 0, pad 8);
    layout!(pv_abi::shared_info::VcpuInfo, 64,
        evtchn_upcall_pending 0, evtchn_upcall_mask 1, evtchn_pending_sel 8, arch 16, time 32
    );
    layout!(pv_abi::shared_info::ArchSharedInfo, 48,
        max_pfn 0, pfn_to_mfn_frame_list_list 8, nmi_reason 16, p2m_cr3 24, p2m_vaddr 32, p2m_generation 40
    );
    layout!(pv_abi::shared_info::SharedInfo, 3136,
        vcpu_info 0, evtchn_pending 2048, evtchn_mask 2560, wc_version 3072, wc_sec 3076, wc_nsec 3080,
        wc_sec_hi 3084, arch 3088
    );
    layout!(pv_abi::start_info::StartInfo, 1168,
        magic 0, nr_pages 32, shared_info 40, flags 48, store_mfn 56, store_evtchn 64, console_mfn 72,
        console_evtchn 80, pt_base 88, nr_pt_frames 96, mfn_list 104, mod_start 112, mod_len 120,
        cmd_line 128, first_p2m_pfn 1152, nr_p2m_frames 1160
    );
    layout!(pv_abi::trap::TrapInfo, 16, vector 0, flags 1, cs 2, address 8);
    layout!(pv_abi::trap::IretFrame, 72,
        rax 0, r11 8, rcx 16, flags 24, rip 32, cs 40, rflags 48, rsp 56, ss 64
    );
    layout!(pv_abi::trap::UserRegs, 200,
        r15 0, r14 8, r13 16, r12 24, rbp 32, rbx 40, r11 48, r10 56, r9 64, r8 72, rax 80, rcx 88, rdx 96,
        rsi 104, rdi 112, error_code 120, entry_vector 124, rip 128, cs 136, saved_upcall_mask 140,
        rflags 144, rsp 152, ss 160, es 168, ds 176, fs 184, gs 192
    );
    layout!(pv_abi::trap::VcpuGuestContext, 5168,
        fpu_ctxt 0, flags 512, user_regs 520, trap_ctxt 720, ldt_base 4816, ldt_ents 4824, gdt_frames 4832,
        gdt_ents 4960, kernel_ss 4968, kernel_sp 4976, ctrlreg 4984, debugreg 5048, event_callback_eip 5112,
        failsafe_callback_eip 5120, syscall_callback_eip 5128, vm_assist 5136, fs_base 5144,
        gs_base_kernel 5152, gs_base_user 5160
    );
    layout!(pv_abi::vcpu::VcpuRunstateInfo, 48, state 0, state_entry_time 8, time 16);
    layout!(pv_abi::vcpu::VcpuRegisterRunstateMemoryArea, 8, addr 0);
    layout!(pv_abi::vcpu::VcpuSetPeriodicTimer, 8, period_ns 0);
    layout!(pv_abi::vcpu::VcpuSetSingleshotTimer, 16, timeout_abs_ns 0, flags 8);
    layout!(pv_abi::vcpu::VcpuRegisterVcpuInfo, 16, mfn 0, offset 8, rsvd 12);
    layout!(pv_abi::vcpu::VcpuGetPhysid, 8, phys_id 0);
    layout!(pv_abi::vcpu::VcpuRegisterTimeMemoryArea, 8, addr 0);
    layout!(pv_abi::version::XenCompileInfo, 144,
        compiler 0, compile_by 64, compile_domain 80, compile_date 112
    );
    layout!(pv_abi::version::XenPlatformParameters, 8, virt_start 0);
    layout!(pv_abi::version::XenFeatureInfo, 8, submap_idx 0, submap 4);
    layout!(pv_abi::version::XenBuildId, 4, len 0);
}
