//! Structures of the control and device interfaces.

#[test]
fn sizes_and_offsets() {
    layout!(pv_abi::domctl::XenctlBitmap, 16, bitmap 0, nr_bits 8);
    layout!(pv_abi::domctl::XenArchDomainconfig, 8, emulation_flags 0, misc_flags 4);
    layout!(pv_abi::domctl::DomctlCreatedomain, 64,
        ssidref 0, handle 4, flags 20, iommu_opts 24, max_vcpus 28, max_evtchn_port 32, max_grant_frames 36,
        max_maptrack_frames 40, grant_opts 44, vmtrace_size 48, cpupool_id 52, arch 56
    );
    layout!(pv_abi::domctl::DomctlGetdomaininfo, 112,
        domain 0, pad1 2, flags 4, tot_pages 8, max_pages 16, outstanding_pages 24, shr_pages 32,
        paged_pages 40, shared_info_frame 48, cpu_time 56, nr_online_vcpus 64, max_vcpu_id 68, ssidref 72,
        handle 76, cpupool 92, gpaddr_bits 96, pad2 97, arch_config 104
    );
    layout!(pv_abi::domctl::DomctlMaxMem, 8, max_memkb 0);
    layout!(pv_abi::domctl::DomctlVcpucontext, 16, vcpu 0, ctxt 8);
    layout!(pv_abi::domctl::DomctlGetvcpuinfo, 24,
        vcpu 0, online 4, blocked 5, running 6, cpu_time 8, cpu 16
    );
    layout!(pv_abi::domctl::DomctlNodeaffinity, 16, nodemap 0);
    layout!(pv_abi::domctl::DomctlVcpuaffinity, 40, vcpu 0, flags 4, cpumap_hard 8, cpumap_soft 24);
    layout!(pv_abi::domctl::DomctlMaxVcpus, 4, max 0);
    layout!(pv_abi::domctl::DomctlSchedulerOp, 24, sched_id 0, cmd 4, weight 8, cap 10);
    layout!(pv_abi::domctl::DomctlSetdomainhandle, 16, handle 0);
    layout!(pv_abi::domctl::DomctlSetdebugging, 1, enable 0);
    layout!(pv_abi::domctl::DomctlIrqPermission, 8, pirq 0, allow_access 4, pad 5);
    layout!(pv_abi::domctl::DomctlIomemPermission, 24, first_mfn 0, nr_mfns 8, allow_access 16);
    layout!(pv_abi::domctl::DomctlIoportPermission, 12, first_port 0, nr_ports 4, allow_access 8);
    layout!(pv_abi::domctl::DomctlHypercallInit, 8, gmfn 0);
    layout!(pv_abi::domctl::DomctlSettimeoffset, 8, time_offset_seconds 0);
    layout!(pv_abi::domctl::DomctlAddressSize, 4, size 0);
    layout!(pv_abi::domctl::DomctlSendtrigger, 8, trigger 0, vcpu 4);
    layout!(pv_abi::domctl::DomctlSubscribe, 4, port 0);
    layout!(pv_abi::domctl::DomctlSetTarget, 2, target 0);
    layout!(pv_abi::domctl::DomctlTscInfo, 24,
        tsc_mode 0, gtsc_khz 4, incarnation 8, pad 12, elapsed_nsec 16
    );
    layout!(pv_abi::domctl::DomctlGetpageframeinfo3, 16, num 0, array 8);
    layout!(pv_abi::domctl::DomctlSetVirqHandler, 4, virq 0);
    layout!(pv_abi::domctl::DomctlPagingMempool, 8, size 0);
    layout!(pv_abi::domctl::DomctlCpuPolicy, 40,
        nr_leaves 0, nr_msrs 4, leaves 8, msrs 16, err_leaf 24, err_subleaf 28, err_msr 32
    );
    layout!(pv_abi::domctl::Domctl, 144, cmd 0, interface_version 4, domain 8, u 16);
    layout!(pv_abi::physdev::PhysdevEoi, 4, irq 0);
    layout!(pv_abi::physdev::PhysdevPirqEoiGmfn, 8, gmfn 0);
    layout!(pv_abi::physdev::PhysdevIrqStatusQuery, 8, irq 0, flags 4);
    layout!(pv_abi::physdev::PhysdevSetIopl, 4, iopl 0);
    layout!(pv_abi::physdev::PhysdevSetIobitmap, 16, bitmap 0, nr_ports 8);
    layout!(pv_abi::physdev::PhysdevApic, 16, apic_physbase 0, reg 8, value 12);
    layout!(pv_abi::physdev::PhysdevIrq, 8, irq 0, vector 4);
    layout!(pv_abi::physdev::PhysdevMapPirq, 40,
        domid 0, kind 4, index 8, pirq 12, bus 16, devfn 20, entry_nr 24, table_base 32
    );
    layout!(pv_abi::physdev::PhysdevUnmapPirq, 8, domid 0, pirq 4);
    layout!(pv_abi::physdev::PhysdevManagePci, 2, bus 0, devfn 1);
    layout!(pv_abi::physdev::PhysdevSetupGsi, 8, gsi 0, triggering 4, polarity 5);
    layout!(pv_abi::physdev::PhysdevGetFreePirq, 8, kind 0, pirq 4);
    layout!(pv_abi::physdev::PhysdevPciMmcfgReserved, 16,
        address 0, segment 8, start_bus 10, end_bus 11, flags 12
    );
    layout!(pv_abi::physdev::PhysdevPciDeviceAdd, 12,
        seg 0, bus 2, devfn 3, flags 4, physfn_bus 8, physfn_devfn 9
    );
    layout!(pv_abi::physdev::PhysdevPciDevice, 4, seg 0, bus 2, devfn 3);
    layout!(pv_abi::platform::XenpfSettime32, 16, secs 0, nsecs 4, system_time 8);
    layout!(pv_abi::platform::XenpfSettime64, 24, secs 0, nsecs 8, mbz 12, system_time 16);
    layout!(pv_abi::platform::XenpfFirmwareInfo, 40, kind 0, index 4, u 8);
    layout!(pv_abi::platform::XenpfPcpuinfo, 20, xen_cpuid 0, max_present 4, flags 8, apic_id 12, acpi_id 16);
    layout!(pv_abi::platform::XenpfPcpuVersion, 32,
        xen_cpuid 0, max_present 4, vendor_id 8, family 20, model 24, stepping 28
    );
    layout!(pv_abi::platform::XenpfCpuOl, 4, cpuid 0);
    layout!(pv_abi::platform::XenpfEnterAcpiSleep, 12, val_a 0, val_b 2, sleep_state 4, flags 8);
    layout!(pv_abi::platform::PlatformOp, 136, cmd 0, interface_version 4, u 8);
    layout!(pv_abi::sysctl::SysctlReadconsole, 24,
        clear 0, incremental 1, pad0 2, pad1 3, index 4, buffer 8, count 16
    );
    layout!(pv_abi::sysctl::SysctlPhysinfo, 112,
        threads_per_core 0, cores_per_socket 4, nr_cpus 8, max_cpu_id 12, nr_nodes 16, max_node_id 20,
        cpu_khz 24, capabilities 28, arch_capabilities 32, pad 36, total_pages 40, free_pages 48,
        scrub_pages 56, outstanding_pages 64, max_mfn 72, hw_cap 80
    );
    layout!(pv_abi::sysctl::SysctlSchedId, 4, sched_id 0);
    layout!(pv_abi::sysctl::SysctlGetdomaininfolist, 24,
        first_domain 0, max_domains 4, buffer 8, num_domains 16
    );
    layout!(pv_abi::sysctl::SysctlDebugKeys, 16, keys 0, nr_keys 8);
    layout!(pv_abi::sysctl::SysctlCpuinfo, 8, idletime 0);
    layout!(pv_abi::sysctl::SysctlGetcpuinfo, 24, max_cpus 0, info 8, nr_cpus 16);
    layout!(pv_abi::sysctl::SysctlAvailheap, 24, min_bitwidth 0, max_bitwidth 4, node 8, avail_bytes 16);
    layout!(pv_abi::sysctl::SysctlCputopo, 12, core 0, socket 4, node 8);
    layout!(pv_abi::sysctl::SysctlCputopoinfo, 16, num_cpus 0, cputopo 8);
    layout!(pv_abi::sysctl::SysctlMeminfo, 16, memsize 0, memfree 8);
    layout!(pv_abi::sysctl::SysctlNumainfo, 24, num_nodes 0, meminfo 8, distance 16);
    layout!(pv_abi::sysctl::SysctlCpupoolOp, 40,
        op 0, cpupool_id 4, sched_id 8, domid 12, cpu 16, n_dom 20, cpumap 24
    );
    layout!(pv_abi::sysctl::SysctlCpuPolicy, 32, index 0, nr_leaves 4, nr_msrs 8, leaves 16, msrs 24);
    layout!(pv_abi::sysctl::Sysctl, 136, cmd 0, interface_version 4, u 8);
}
