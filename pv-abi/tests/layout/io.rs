//! Structures of the shared rings. The block requests are those of a whole slot.

#[test]
fn sizes_and_offsets() {
    layout!(pv_abi::io::blkif::BlkifRequestSegment, 8, gref 0, first_sect 4, last_sect 5);
    layout!(pv_abi::io::blkif::BlkifRequest, 112,
        operation 0, nr_segments 1, handle 2, id 8, sector_number 16, seg 24
    );
    layout!(pv_abi::io::blkif::BlkifRequestDiscard, 112,
        operation 0, flag 1, handle 2, id 8, sector_number 16, nr_sectors 24
    );
    layout!(pv_abi::io::blkif::BlkifRequestIndirect, 112,
        operation 0, indirect_op 1, nr_segments 2, id 8, sector_number 16, handle 24, indirect_grefs 28
    );
    layout!(pv_abi::io::blkif::BlkifResponse, 16, id 0, operation 8, status 10);
    layout!(pv_abi::io::console::XenconsInterface, 3088,
        input 0, output 1024, in_cons 3072, in_prod 3076, out_cons 3080, out_prod 3084
    );
    layout!(pv_abi::io::netif::NetifTxRequest, 12, gref 0, offset 4, flags 6, id 8, size 10);
    layout!(pv_abi::io::netif::NetifTxResponse, 4, id 0, status 2);
    layout!(pv_abi::io::netif::NetifRxRequest, 8, id 0, pad 2, gref 4);
    layout!(pv_abi::io::netif::NetifRxResponse, 8, id 0, offset 2, flags 4, status 6);
    layout!(pv_abi::io::netif::NetifExtraInfo, 8, kind 0, flags 1, data 2);
    layout!(pv_abi::io::xenstore::XsdSockmsg, 16, kind 0, req_id 4, tx_id 8, len 12);
    layout!(pv_abi::io::xenstore::XenstoreDomainInterface, 2076,
        req 0, rsp 1024, req_cons 2048, req_prod 2052, rsp_cons 2056, rsp_prod 2060, server_features 2064,
        connection 2068, error 2072
    );
}
