//! The ring protocol, both sides in one thread.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use core::sync::atomic::{AtomicU32, Ordering};

use pv_abi::io::blkif::{Blkif, BlkifRequest, BlkifRequestIndirect, BlkifResponse};
use pv_abi::io::console::XenconsInterface;
use pv_abi::io::netif::{NetifRx, NetifTx};
use pv_abi::io::ring::{BackRing, FrontRing, HEADER_WORDS, REQ_PROD, RSP_PROD, RingError, slots};

fn page() -> Vec<AtomicU32> {
    (0..1024).map(|_| AtomicU32::new(0xdead_beef)).collect()
}

fn pair(page: &[AtomicU32]) -> (FrontRing<Blkif>, BackRing<Blkif>) {
    (FrontRing::init(page).unwrap(), BackRing::attach(page).unwrap())
}

fn request(id: u64) -> BlkifRequest {
    BlkifRequest { operation: 1, id, ..Default::default() }
}

#[test]
fn a_page_holds_the_abi_s_number_of_slots() {
    assert_eq!(slots::<Blkif>(1024), Some(32));
    assert_eq!(slots::<Blkif>(16 * 1024), Some(512));
    assert_eq!(slots::<NetifTx>(1024), Some(256));
    assert_eq!(slots::<NetifRx>(1024), Some(256));
    assert_eq!(slots::<Blkif>(HEADER_WORDS), None);
    assert_eq!(slots::<Blkif>(3), None);
}

#[test]
fn requests_and_responses_pass_through() {
    let page = page();
    let (mut front, mut back) = pair(&page);
    assert_eq!(back.take_request(&page).unwrap(), None);
    for id in 0..5 {
        front.put_request(&page, &request(id)).unwrap();
    }
    assert_eq!(back.take_request(&page).unwrap(), None, "unpublished requests are invisible");
    assert!(front.push(&page).unwrap(), "an idle back end is notified");
    for id in 0..5 {
        assert_eq!(back.take_request(&page).unwrap().unwrap().id, id);
        back.put_response(&page, &BlkifResponse { id, status: -1, ..Default::default() }).unwrap();
    }
    assert!(back.push(&page).unwrap());
    for id in 0..5 {
        let response = front.take_response(&page).unwrap().unwrap();
        assert_eq!((response.id, response.status), (id, -1));
    }
    assert_eq!(front.take_response(&page).unwrap(), None);
    assert_eq!(front.free_requests(), 32);
}

#[test]
fn only_the_event_that_was_asked_for_notifies() {
    let page = page();
    let (mut front, mut back) = pair(&page);
    front.put_request(&page, &request(0)).unwrap();
    assert!(front.push(&page).unwrap());
    front.put_request(&page, &request(1)).unwrap();
    assert!(!front.push(&page).unwrap(), "the back end has not asked again");
    back.take_request(&page).unwrap().unwrap();
    assert!(back.final_check(&page).unwrap(), "one more waits, so there is no sleeping");
    back.take_request(&page).unwrap().unwrap();
    assert!(!back.final_check(&page).unwrap());
    front.put_request(&page, &request(2)).unwrap();
    assert!(front.push(&page).unwrap(), "the back end sleeps");
}

#[test]
fn a_full_ring_takes_no_more_and_indices_wrap() {
    let page = page();
    let (mut front, mut back) = pair(&page);
    for round in 0..200u64 {
        while front.put_request(&page, &request(round)).is_ok() {}
        assert_eq!(front.put_request(&page, &request(0)), Err(RingError::Full));
        front.push(&page).unwrap();
        while let Some(request) = back.take_request(&page).unwrap() {
            back.put_response(&page, &BlkifResponse { id: request.id, ..Default::default() }).unwrap();
        }
        assert_eq!(back.put_response(&page, &BlkifResponse::default()), Err(RingError::Full));
        back.push(&page).unwrap();
        let mut count = 0;
        while let Some(response) = front.take_response(&page).unwrap() {
            assert_eq!(response.id, round);
            count += 1;
        }
        assert_eq!(count, 32);
    }
}

#[test]
fn the_index_space_itself_wraps() {
    let page = page();
    let start = u32::MAX - 2;
    let mut front = FrontRing::<Blkif>::init(&page).unwrap();
    let mut back = BackRing::<Blkif>::attach_at(&page, start).unwrap();
    page[REQ_PROD].store(start.wrapping_add(5), Ordering::Relaxed);
    for _ in 0..5 {
        back.take_request(&page).unwrap().unwrap();
    }
    assert_eq!(back.take_request(&page).unwrap(), None);
    assert!(!back.final_check(&page).unwrap());
    // The front end never left index 0: a response index from another life is refused.
    back.put_response(&page, &BlkifResponse::default()).unwrap();
    back.push(&page).unwrap();
    assert_eq!(front.take_response(&page), Err(RingError::BadIndex));
}

#[test]
fn a_lying_producer_is_refused() {
    let page = page();
    let (mut front, mut back) = pair(&page);
    page[REQ_PROD].store(33, Ordering::Relaxed);
    assert_eq!(back.take_request(&page), Err(RingError::BadIndex));
    page[REQ_PROD].store(0u32.wrapping_sub(1), Ordering::Relaxed);
    assert_eq!(back.take_request(&page), Err(RingError::BadIndex));
    page[RSP_PROD].store(1, Ordering::Relaxed);
    assert_eq!(front.take_response(&page), Err(RingError::BadIndex), "an answer to nothing");
}

#[test]
fn an_indirect_request_survives_its_slot() {
    let request = BlkifRequestIndirect {
        operation: 6,
        indirect_op: 1,
        nr_segments: 300,
        id: 0x1122_3344_5566_7788,
        sector_number: 99,
        handle: 7,
        indirect_grefs: [1, 2, 3, 4, 5, 6, 7, 8],
        ..Default::default()
    };
    assert_eq!(BlkifRequest::from(request).as_indirect(), request);
    assert_eq!(BlkifRequest::from(request).id, request.id);
}

#[test]
fn a_byte_stream_wraps_and_refuses_lies() {
    let console = XenconsInterface::default();
    let out = console.output_ring();
    let text: Vec<u8> = (0..=255).cycle().take(1500).collect();
    for _ in 0..5 {
        assert_eq!(out.write(&text).unwrap(), 1500);
        assert_eq!(out.write(&text).unwrap(), 548);
        assert_eq!(out.write(&text).unwrap(), 0);
        let mut back = vec![0; 4000];
        assert_eq!(out.read(&mut back).unwrap(), 2048);
        assert_eq!(back[..1500], text[..]);
        assert_eq!(back[1500..2048], text[..548]);
    }
    console.out_prod.store(console.out_cons.load(Ordering::Relaxed).wrapping_add(2049), Ordering::Relaxed);
    assert_eq!(out.read(&mut [0; 1]), Err(RingError::BadIndex));
    assert_eq!(out.write(&[0]), Err(RingError::BadIndex));
}
